"""The line of the user's that built an object."""

from __future__ import annotations

import gc
import inspect
from typing import Any

import pytest
import torch
from setups import classifier
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, ReduceLROnPlateau, SequentialLR, StepLR
from torch.utils.data import DataLoader

from stabcheck.check import Finding, Outcome, Rule, experiment
from stabcheck.judging import judge
from stabcheck.reading import called
from stabcheck.trial.constructions import Constructions
from stabcheck.userland import UserCodeError, blamed


class OwnOptimizer(torch.optim.SGD):
    def __init__(self, parameters: Any) -> None:
        rate = 0.1
        super().__init__(parameters, lr=rate)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)  # line of first


def line(text: str) -> int:
    """Number of the only line of this file that ends in `text`."""
    lines = inspect.getsource(inspect.getmodule(line)).splitlines()  # type: ignore[arg-type]
    (found,) = [number for number, one in enumerate(lines, start=1) if one.endswith(f"  # {text}")]
    return found


def build() -> dict[str, Any]:
    net = Net()  # line of net
    optimizer = OwnOptimizer(net.parameters())  # line of optimizer
    first = LinearLR(optimizer, total_iters=2)  # line of a part
    return {
        "net": net,
        "first": net.first,
        "optimizer": optimizer,
        "part": first,
        "sequence": SequentialLR(
            optimizer,
            [first, StepLR(optimizer, 2)],
            milestones=[2],
        ),
        "chain": ChainedScheduler([first]),  # line of chain
        "plateau": ReduceLROnPlateau(optimizer),  # line of plateau
        "loss": nn.CrossEntropyLoss(),  # line of loss
        "loader": DataLoader([1, 2]),  # type: ignore[arg-type]  # line of loader
    }


def test_each_object_is_at_the_line_of_the_call_that_built_it() -> None:
    built = Constructions()
    with built.noting():
        made = build()
    for key in ("net", "first", "optimizer", "chain", "plateau", "loss", "loader"):
        assert built.place(made[key]) == (__file__, line(f"line of {key}")), key
    assert built.place(made["part"]) == (__file__, line("line of a part"))


def test_what_is_built_by_a_library_is_where_the_user_called_it() -> None:
    built = Constructions()
    with built.noting():
        encoder = nn.TransformerEncoderLayer(8, 2)  # line of encoder
    assert built.place(encoder.self_attn) == (__file__, line("line of encoder"))


def test_nothing_is_said_of_what_was_built_elsewhere_or_is_gone() -> None:
    built = Constructions()
    before = nn.Linear(2, 2)
    with built.noting():
        nn.Linear(2, 2)
        copy = nn.Linear(2, 2)
    gc.collect()
    assert built.place(before) is None
    assert built.place(object()) is None
    assert len(built._places) == 1
    assert built.place(copy) is not None


def test_torch_is_as_before() -> None:
    before = nn.Module.__init__, torch.optim.Optimizer.__init__, DataLoader.__init__
    with pytest.raises(ZeroDivisionError), Constructions().noting():
        raise ZeroDivisionError
    assert (nn.Module.__init__, torch.optim.Optimizer.__init__, DataLoader.__init__) == before


def test_a_wrong_argument_stays_the_users_fault() -> None:
    with pytest.raises(ValueError, match="batch_size") as raised, Constructions().noting():
        DataLoader([1, 2], batch_size=-1)  # type: ignore[arg-type]
    assert blamed("setup()", raised.value).blame == "target"
    assert isinstance(blamed("setup()", raised.value), UserCodeError)


RULE = Rule("SC9901", "some-fault", "fail", "it is wrong", "mend it", about=("scheduler", "optimizer"))
OTHER = Rule("SC9902", "other-fault", "fail", "it is wrong", "mend it")


@pytest.mark.parametrize(
    ("finding", "part"),
    [(RULE.at(), "optimizer"), (OTHER.at(), "train_loader"), (OTHER.at(source=("mine.py", 3)), None)],
)
def test_a_finding_without_a_place_gets_that_of_what_its_rule_is_about(
    make_bench: Any, finding: Finding, part: str
) -> None:
    check = experiment(title="t", rules=(RULE, OTHER), about=("train_loader",))(lambda bench: Outcome("s", (finding,)))
    bench = make_bench(classifier())
    session = bench.session()
    (found,) = judge(check, bench, contained=False).result.findings
    assert found.source is not None
    wanted = bench.built.place(getattr(session.setup, part)) if part else ("mine.py", 3)
    assert (found.source.file, found.source.line) == wanted


def test_the_entry_function_is_the_last_resort(make_bench: Any) -> None:
    setup = classifier()
    check = experiment(title="t", rules=(OTHER,), about=("scheduler",))(lambda bench: Outcome("s", (OTHER.at(),)))
    bench = make_bench(setup)
    bench.session()
    (found,) = judge(check, bench, contained=False).result.findings
    assert found.source is not None
    assert found.source.line == setup.__code__.co_firstlineno  # type: ignore[attr-defined]


def test_a_finding_at_a_module_is_where_that_was_built(make_bench: Any) -> None:
    network = [lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))]  # line of network
    check = experiment(title="t", rules=(OTHER,))(lambda bench: Outcome("s", (OTHER.at("1"), OTHER.at("2.weight"))))
    bench = make_bench(classifier(network[0]))
    bench.session()
    found = judge(check, bench, contained=False).result.findings
    assert [one.source.line for one in found if one.source] == [line("line of network")] * 2
    assert called("1", bench.kinds) == "layer 1 (ReLU)"
    assert bench.kinds == {"0": "Linear", "1": "ReLU", "2": "Linear"}
