"""The file that `stabcheck init` writes: from seventy scripts of all shapes that are executed, and from odd ones."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stabcheck.setup import KEYS, TrainingSetup, as_setup
from stabcheck.starter import writing
from stabcheck.starter.script import ScriptError, read
from tests.starter.scripts import BROKEN, LOOPS, ODD, SHAPES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["stabcheck", "init"])
    yield
    sys.modules.pop("my_train", None)


def drafted(text: str | bytes, folder: Path, name: str = "my_train.py") -> writing.Draft:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return writing.draft(read(path))


def built(draft: writing.Draft) -> TrainingSetup:
    space: dict[str, Any] = {}
    exec(compile(draft.text, "entry", "exec"), space)
    return as_setup(space["setup"]())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loop", LOOPS)
def test_the_written_set_up_trains_as_the_script_does(shape: str, loop: str, tmp_path: Path, capsys: Any) -> None:
    code, keys = LOOPS[loop]
    draft = drafted(SHAPES[shape](code), tmp_path)
    setup = built(draft)

    assert capsys.readouterr().out == ""
    assert draft.can_run
    assert {"model", "train_loader", "val_loader", "optimizer", "scheduler"} | keys <= set(draft.wired)
    assert type(setup.model).__name__ == "Net"
    assert (len(setup.train_loader.dataset), len(setup.val_loader.dataset)) == (64, 32)
    assert setup.max_epochs == 3
    assert setup.scheduler_interval == ("step" if loop == "schedule per batch" else "epoch")
    assert (setup.clip_grad_norm, setup.accumulate_steps, setup.precision) == (
        1.0 if loop == "clipped" else None,
        4 if loop == "accumulated" else 1,
        "bf16" if loop == "autocast" else "fp32",
    )
    loss = _loss(setup)
    loss.backward()
    assert 0.2 < loss.item() < 3
    held = {id(p) for group in setup.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in setup.model.parameters()}


def _loss(setup: TrainingSetup) -> torch.Tensor:
    batch = next(iter(setup.train_loader))
    if setup.compute_loss is not None:
        value = setup.compute_loss(setup.model, batch)
    else:
        assert setup.loss_fn is not None
        value = setup.loss_fn(setup.model(batch[0]), batch[1])
    assert isinstance(value, torch.Tensor)
    return value


def test_a_second_set_up_shares_nothing_with_the_first(tmp_path: Path) -> None:
    draft = drafted(SHAPES["guard"](LOOPS["plain"][0]), tmp_path)
    first, second = built(draft), built(draft)

    assert first.model is not second.model
    assert first.train_loader.dataset is not second.train_loader.dataset


def test_functions_of_the_users_own_are_wired_in(tmp_path: Path) -> None:
    draft = drafted(SHAPES["train function"](LOOPS["plain"][0]), tmp_path)
    setup = built(draft)

    assert draft.wired["validate"] == "lambda: evaluate(model, val_loader, criterion)"
    assert setup.validate is not None
    assert setup.validate() > 0


OWN = """
import torch
from torch import nn
model_path = "last.pt"
def train_step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()
def save_checkpoint(model, optimizer, path=model_path):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
def load_checkpoint(path, model, optimizer):
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
def validate(model, mystery):
    for x in mystery:
        model(x)
if __name__ == "__main__":
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    train_loader = [(torch.ones(4, 2), torch.ones(4, 1))]
    for x, y in train_loader:
        train_step(model, optimizer, x, y)
    save_checkpoint(model, optimizer)
"""


def test_step_save_and_load_do_what_they_do(tmp_path: Path) -> None:
    draft = drafted(OWN, tmp_path)
    setup = built(draft)
    assert setup.train_step is not None
    assert setup.save is not None
    assert setup.load is not None
    before = setup.model.weight.clone()
    setup.save(tmp_path / "a.pt")
    setup.train_step(setup.train_loader[0])
    after = setup.model.weight.clone()
    setup.load(tmp_path / "a.pt")

    assert not torch.equal(before, after)
    assert torch.equal(setup.model.weight, before)
    assert "what is its 'mystery'?" in draft.gaps["validate"]


def test_a_checkpoint_writer_without_a_reader_is_a_gap(tmp_path: Path) -> None:
    text = OWN.replace("def load_checkpoint", "def unrelated")
    draft = drafted(text, tmp_path)

    assert not {"save", "load"} & set(draft.wired)
    assert "your save() was found, but not its counterpart" in draft.gaps["save"]
    assert built(draft).save is None


def test_a_function_that_leans_on_what_is_built_goes_along(tmp_path: Path) -> None:
    text = OWN.replace(
        "def validate(model, mystery):\n    for x in mystery:", "def validate():\n    for x, _ in train_loader:"
    )
    setup = built(drafted(text, tmp_path))

    assert setup.validate is not None
    assert setup.validate() is None


def test_a_script_that_trains_on_import_is_copied_and_said_so(tmp_path: Path) -> None:
    draft = drafted(SHAPES["bare"](LOOPS["plain"][0]), tmp_path)

    assert "import Net" not in draft.text
    assert "class Net(Base):" in draft.text
    assert any("trains when it is imported" in note for note in draft.notes)


def test_a_script_that_does_not_is_imported(tmp_path: Path) -> None:
    draft = drafted(SHAPES["main"](LOOPS["plain"][0]), tmp_path)

    assert "from my_train import BATCH_SIZE, EPOCHS, Net, make_data" in draft.text
    assert "class Net" not in draft.text


def test_a_name_that_cannot_be_imported(tmp_path: Path) -> None:
    draft = drafted(SHAPES["main"](LOOPS["plain"][0]), tmp_path, name="01-train.py")

    assert built(draft).max_epochs == 3
    assert any("cannot be imported by its name" in note for note in draft.notes)


@pytest.mark.parametrize("name", ODD)
def test_odd_scripts_give_valid_files(name: str, tmp_path: Path) -> None:
    draft = drafted(ODD[name], tmp_path)
    tree = ast.parse(draft.text)

    assert any(isinstance(node, ast.FunctionDef) and node.name == "setup" for node in tree.body)
    assert set(draft.wired) <= set(KEYS)
    assert draft.gaps


def test_a_star_import_stays_at_the_top(tmp_path: Path) -> None:
    assert "\nfrom models import *\n" in drafted(ODD["star imports"], tmp_path).text


def test_what_returns_in_between_is_left_out_and_said(tmp_path: Path) -> None:
    draft = drafted(ODD["returns in between"], tmp_path)

    assert "return\n" not in draft.text
    assert draft.wired["model"] == "model"
    assert "train_loader" in draft.gaps


def test_names_from_nowhere_are_asked_for(tmp_path: Path) -> None:
    draft = drafted(
        "import torch\nmodel = build(cfg)\nopt = torch.optim.SGD(model.parameters(), lr=1)\nloss.backward()\n", tmp_path
    )

    assert any("where do these come from: build, cfg?" in note for note in draft.notes)
    assert f"{writing.GAP}: where does 'cfg' come from?" in draft.text


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_python_is_one_line(name: str, tmp_path: Path) -> None:
    data, message = BROKEN[name]
    with pytest.raises(ScriptError) as caught:
        drafted(data, tmp_path)

    assert len(str(caught.value).splitlines()) == 1
    assert message in str(caught.value)
    assert "my_train.py" in str(caught.value)


def test_scripts_of_this_repository() -> None:
    files = [
        path
        for folder in ("sample_models", "stabcheck/trial", "tests/hostile")
        for path in (ROOT / folder).glob("*.py")
    ]

    assert len(files) > 50
    for path in files:
        ast.parse(writing.draft(read(path)).text)


@given(st.lists(st.sampled_from([line for code, _ in LOOPS.values() for line in code.splitlines()]), max_size=25))
@settings(max_examples=100, deadline=None)
def test_whatever_is_valid_python_gives_valid_python(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("script")
    try:
        draft = drafted("\n".join(lines), folder)
    except ScriptError:
        return

    ast.parse(draft.text)


def test_the_template_names_every_gap() -> None:
    draft = writing.template()

    assert not draft.can_run
    assert all(f'# "{key}": ...,' in draft.text for key in writing.WANTED)
    ast.parse(draft.text)


TRAINER = """
import torch
from torch import nn
class Trainer:
    def __init__(self, model, epochs):
        self.model, self.epochs = model, epochs
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        self.criterion = nn.MSELoss()
        self.train_loader = self.loader()
    def loader(self):
        return [(torch.ones(4, 2), torch.ones(4, 1))]
    def fit(self):
        for epoch in range(self.epochs):
            for x, y in self.train_loader:
                loss = self.criterion(self.model(x), y)
                self.optimizer.zero_grad(); loss.backward(); self.optimizer.step()
if __name__ == "__main__":
    model = nn.Linear(2, 1)
    trainer = Trainer(model, 7)
    trainer.fit()
"""


def test_what_a_trainer_of_the_users_own_holds(tmp_path: Path) -> None:
    draft = drafted(TRAINER, tmp_path)
    setup = built(draft)

    assert draft.wired["optimizer"] == "trainer.optimizer"
    assert draft.wired["loss_fn"] == "trainer.criterion"
    assert draft.wired["train_loader"] == "trainer.train_loader"
    assert setup.max_epochs == 7
    assert not any("trainer" in note.lower() for note in draft.notes)


WHOLE = """
import torch
from torch import nn
class Trainer:
    def __init__(self, epochs=3, lr=0.1):
        self.epochs = epochs
        self._build(lr)
        self.train_loader = self.loader(64)
        self.val_loader = self.loader(32)
        self.loss_fn = nn.MSELoss()
    def _build(self, lr):
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2)
    def loader(self, count):
        return [(torch.ones(4, 2), torch.ones(4, 1))] * (count // 4)
    def train_step(self, batch):
        x, y = batch
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()
        self.scheduler.step()
        return loss
    @torch.no_grad()
    def validate(self):
        for x, y in self.val_loader:
            last = self.loss_fn(self.model(x), y)
        return last
    def save(self, path, note=""):
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
    def load(self, path):
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
    def fit(self):
        for epoch in range(self.epochs):
            for batch in self.train_loader:
                self.train_step(batch)
"""

STARTS = {
    "in one statement": 'if __name__ == "__main__":\n    Trainer(epochs=5).fit()\n',
    "in main": "def main():\n    Trainer(epochs=5).fit()\nif __name__ == '__main__':\n    main()\n",
    "nowhere": "",
}


@pytest.mark.parametrize("start", STARTS)
def test_a_trainer_that_holds_everything(start: str, tmp_path: Path) -> None:
    draft = drafted(WHOLE + STARTS[start], tmp_path)
    setup = built(draft)

    assert not draft.gaps
    assert (setup.max_epochs, setup.scheduler_interval, setup.clip_grad_norm) == (
        5 if STARTS[start] else 3,
        "step",
        0.5,
    )
    assert draft.wired["train_step"] == "trainer.train_step"
    assert (len(setup.train_loader), len(setup.val_loader)) == (16, 8)
    assert setup.train_step is not None
    before = setup.model.weight.clone()
    setup.train_step(setup.train_loader[0])
    assert not torch.equal(before, setup.model.weight)


def test_what_a_trainer_needs_is_asked_for(tmp_path: Path) -> None:
    text = WHOLE.replace("epochs=3, lr=0.1", "config, lr=0.1").replace("epochs = epochs", "epochs = config.epochs")
    draft = drafted(text, tmp_path)

    assert "trainer = Trainer(config)" in draft.text
    assert "# GAP: where does 'config' come from?" in draft.text


def test_a_trainer_of_hugging_face_gives_what_it_has(tmp_path: Path) -> None:
    draft = drafted(ODD["hugging face"].replace("data)", "data, eval_dataset=more)"), tmp_path)

    assert draft.can_run
    assert draft.wired["model"] == "trainer.model"
    assert draft.wired["train_loader"] == "trainer.get_train_dataloader()"
    assert draft.wired["val_loader"] == "trainer.get_eval_dataloader()"
    assert "trainer.create_optimizer_and_scheduler(num_training_steps=steps)" in draft.text
    assert "loss_fn" not in {**draft.wired, **draft.gaps}


def test_the_loss_of_a_trainer_made_from_that_of_hugging_face(tmp_path: Path) -> None:
    own = "class Mine(Trainer):\n    def compute_loss(self, model, inputs):\n        return 0\n"
    text = ODD["hugging face"].replace("trainer = Trainer(", own + "trainer = Mine(")

    wired = drafted(text, tmp_path).wired

    assert wired["compute_loss"] == "trainer.compute_loss"
    assert "val_loader" not in wired


def test_a_trainer_of_another_library_is_not_taken_for_it(tmp_path: Path) -> None:
    assert "get_train_dataloader" not in drafted(ODD["lightning"], tmp_path).text


def test_the_command_line_is_a_matter_only_where_it_is_read(tmp_path: Path) -> None:
    nothing = "import argparse\nparser = argparse.ArgumentParser()\nargs = parser.parse_args()\n"
    required = nothing.replace("args =", "parser.add_argument('-d', '--data', required=True)\nargs =")
    required += "model = Net(args.data)\n"

    assert not any("sys.argv" in note for note in drafted(nothing, tmp_path).notes)
    assert "# the arguments of your run: add them here; it requires --data" in drafted(required, tmp_path).text


def test_several_optimizers_are_pointed_out(tmp_path: Path) -> None:
    text = OWN.replace("    train_loader =", "    opt_head = torch.optim.Adam(model.parameters())\n    train_loader =")

    assert any("several optimizers (optimizer, opt_head)" in note for note in drafted(text, tmp_path).notes)


@pytest.mark.parametrize("method", ["fit", "go"])
def test_the_training_itself_is_never_taken_over(method: str, tmp_path: Path) -> None:
    text = TRAINER.replace("def fit", f"def {method}").replace("trainer.fit()", f"trainer.{method}()")
    draft = drafted(text.replace("trainer", "boss"), tmp_path)

    assert f".{method}()" not in draft.text
    assert built(draft).optimizer.state == {}


def test_a_scaler_that_is_fitted_is_no_training(tmp_path: Path) -> None:
    scaler = "class Scaler:\n    def fit(self, x):\n        self.mean = x.mean(0)\n\n\n"
    script = SHAPES["guard"](LOOPS["plain"][0]).replace("if __name__", f"{scaler}if __name__")
    draft = drafted(
        script.replace(
            "train_set, val_set =", "scaler = Scaler()\n    scaler.fit(torch.ones(4, 4))\n    train_set, val_set ="
        ),
        tmp_path,
    )

    assert draft.can_run
    assert built(draft).max_epochs == 3
