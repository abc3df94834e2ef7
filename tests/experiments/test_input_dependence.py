from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Finding, Outcome, Skip
from stabcheck.experiments.input_dependence import CHECK
from stabcheck.trial.dependence.information import told
from tests.experiments.dependence_cases import Model, padded, sequences, setup, texts
from tests.recorded import recorded
from tests.setups import classifier

Make = Callable[..., Any]


def run(make_bench: Make, entry: Any, seed: int = 0) -> Outcome:
    return CHECK.run(make_bench(entry, seed=seed))


def only(outcome: Outcome) -> Finding:
    (finding,) = outcome.findings
    return finding


def masked(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.head(x.mean(1).masked_fill(~model.keep, 0.0))


def nothing_kept() -> nn.Module:
    model = Model(masked, head=nn.Linear(6, 3))
    model.register_buffer("keep", torch.zeros(6, dtype=torch.bool))
    return model


UNUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "left behind": (lambda: Model(lambda m, x: m.head(torch.zeros_like(x[:, 0])), head=nn.Linear(6, 3)), "zeros_like"),
    "softmax over one": (
        lambda: Model(
            lambda m, x: m.head(F.softmax(m.score(x.mean(1)), -1)), score=nn.Linear(6, 1), head=nn.Linear(1, 3)
        ),
        "softmax(dim=-1)",
    ),
    "empty slice": (lambda: Model(lambda m, x: m.head(x[:, :0].sum(1)), head=nn.Linear(6, 3)), "getitem"),
    "mask of everything": (nothing_kept, "masked_fill"),
    "never used": (
        lambda: Model(lambda m, x: m.head(torch.ones(len(x), 6)), head=nn.Linear(6, 3)),
        "forward() never uses them",
    ),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", UNUSED)
def test_inputs_that_reach_nothing(name: str, seed: int, make_bench: Make) -> None:
    make, words = UNUSED[name]
    finding = only(run(make_bench, setup(make), seed))
    assert (finding.code, finding.severity) == ("SC1901", "fail")
    assert words in finding.message


def zero_head() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.zeros_(model[3].weight)
    nn.init.zeros_(model[3].bias)
    return model


def one_unit_open() -> nn.Module:
    model = nothing_kept()
    model.keep[2] = True
    return model


@pytest.mark.parametrize("make", [zero_head, one_unit_open])
def test_a_closed_gate_or_a_narrow_one_is_no_fault(make: Callable[[], nn.Module], make_bench: Make) -> None:
    assert run(make_bench, setup(make)).findings == ()


def unbounded_flow() -> nn.Module:
    """A scale that is an exponential of what starts at zero."""
    model = Model(lambda m, x: x.mean(1) * m.scale(x.mean(1) * 1e5).exp(), scale=nn.Linear(6, 6))
    nn.init.zeros_(model.scale.weight)
    nn.init.zeros_(model.scale.bias)
    return model


def test_gates_are_opened_less_where_exponentials_overflow(make_bench: Make) -> None:
    outcome = run(make_bench, setup(unbounded_flow))
    assert outcome.findings == ()
    assert outcome.measurements["inputs"] == ["inputs"]
    assert outcome.measurements["without_effect"] == []


def dead() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.constant_(model[1].bias, -100.0)
    return model


def faded() -> nn.Module:
    hidden = [layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), *hidden, nn.Linear(16, 3))


def tiny() -> nn.Module:
    """Without biases the signal keeps its variety while it shrinks below what the last bias lets through."""
    hidden = [layer for _ in range(12) for layer in (nn.Linear(16, 16, bias=False), nn.ReLU())]
    for layer in hidden[::2]:
        nn.init.normal_(layer.weight, std=0.05)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 16, bias=False), *hidden, nn.Linear(16, 3))


@pytest.mark.parametrize("make", [dead, faded, tiny])
def test_a_signal_that_dies_in_its_units_is_left_to_other_checks(
    make: Callable[[], nn.Module], make_bench: Make
) -> None:
    with pytest.raises(Skip, match="their signal dies in"):
        run(make_bench, setup(make))


class TwoInputs(nn.Module):
    def __init__(self, strength: float | None) -> None:
        super().__init__()
        self.image, self.audio = nn.Linear(6, 3), nn.Linear(6, 3)
        self.gate = nn.Parameter(torch.zeros(1)) if strength is None else strength

    def forward(self, image: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        return self.image(image) + self.gate * self.audio(audio)


def two_inputs(strength: float | None) -> Any:
    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0][:, 0], batch[0][:, 1]), batch[1])

    return setup(lambda: TwoInputs(strength), compute_loss=compute_loss)


def test_a_second_input_without_effect_is_a_warning(make_bench: Make) -> None:
    finding = only(run(make_bench, two_inputs(0.0)))
    assert (finding.code, finding.severity) == ("SC1904", "warn")
    assert "audio (16, 6)" in finding.message


@pytest.mark.parametrize("strength", [None, 1e-4])
def test_a_second_input_behind_a_gate_is_none(strength: float | None, make_bench: Make) -> None:
    assert run(make_bench, two_inputs(strength)).findings == ()


def test_an_input_read_in_training_only_counts(make_bench: Make) -> None:
    class Forced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
            first = self.head(x)
            return torch.stack([first, self.head(following if self.training else first)], 1)

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0][:, 0], batch[0][:, 1]), batch[0][:, 1:3])

    assert run(make_bench, setup(Forced, compute_loss=compute_loss)).findings == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("given", [False, True])
def test_an_inverted_mask_is_found(given: bool, seed: int, make_bench: Make) -> None:
    finding = only(run(make_bench, padded("inverted", "first", given=given), seed))
    assert (finding.code, finding.severity) == ("SC1902", "fail")
    assert finding.evidence["from_real"] == 0.0
    assert finding.evidence["from_padding"] > 0.01


@pytest.mark.parametrize("pooling", ["first", "masked"])
@pytest.mark.parametrize("given", [False, True])
def test_a_mask_that_is_right_passes(given: bool, pooling: str, make_bench: Make) -> None:
    outcome = run(make_bench, padded("right", pooling, given=given))
    assert outcome.findings == ()
    reactions = outcome.measurements["reactions"]
    assert reactions["output to padding of ids"] == 0.0
    assert reactions["output to the rest of ids"] > 0.0


def test_a_mask_that_is_ignored_is_a_warning_where_padding_shows(make_bench: Make) -> None:
    finding = only(run(make_bench, padded("none", "all", given=True)))
    assert (finding.code, finding.severity) == ("SC1903", "warn")
    assert finding.evidence["masks"] == "mask"
    # Used for pooling it is heeded, and with none given there is none to heed.
    assert run(make_bench, padded("none", "masked", given=True)).findings == ()
    assert run(make_bench, padded("none", "all", given=False)).findings == ()


def lengths_of(model: Any, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return model.head(model.rnn(packed)[1][-1])


def last_position(model: Any, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.head(model.rnn(x)[0][:, -1])


@pytest.mark.parametrize(("forward", "codes"), [(lengths_of, []), (last_position, ["SC1903"])])
def test_lengths_of_feature_sequences(forward: Any, codes: list[str], make_bench: Make) -> None:
    inputs, labels = sequences()
    lengths = torch.arange(len(inputs)) % 9 + 4
    inputs = inputs * (torch.arange(12) < lengths[:, None])[..., None]

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0], batch[1]), batch[2])

    make = lambda: Model(forward, rnn=nn.GRU(6, 8, batch_first=True), head=nn.Linear(8, 3))  # noqa: E731
    outcome = run(make_bench, setup(make, inputs, lengths.clamp(max=12), labels, compute_loss=compute_loss))
    assert [f.code for f in outcome.findings] == codes


def bag(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return model.head(model.embedding(ids).mean(1))


def test_tokens_that_are_all_unknown(make_bench: Make) -> None:
    lengths = torch.arange(96) % 9 + 4
    ids = (torch.arange(13) < lengths[:, None]).long()
    make = lambda: Model(bag, embedding=nn.Embedding(20, 8), head=nn.Linear(8, 3))  # noqa: E731
    finding = only(run(make_bench, setup(make, ids, torch.arange(96) % 3)))
    assert (finding.code, finding.evidence["value"], finding.evidence["samples"]) == ("SC1905", "1", 48)
    ids[5:90:16, 0] = 7  # a few are known
    assert run(make_bench, setup(make, ids, torch.arange(96) % 3)).findings == ()


def test_rows_that_are_all_equal(make_bench: Make) -> None:
    labels = torch.arange(96) % 3
    make = lambda: nn.Linear(6, 3)  # noqa: E731
    assert only(run(make_bench, setup(make, torch.ones(96, 6), labels))).code == "SC1905"
    with pytest.raises(Skip, match="differs between the samples"):  # no fault where there is nothing to tell apart
        run(make_bench, setup(make, torch.ones(96, 6), torch.zeros(96, dtype=torch.long)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blank_batches_of_a_step_that_hides_the_call(seed: int, make_bench: Make) -> None:
    """The batches are looked at where the model's call is not seen."""
    lengths = torch.arange(96) % 9 + 4
    words = (torch.arange(13) < lengths[:, None]).long()
    bits = torch.randint(0, 2, (96, 13), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(96) % 3

    def hidden(ids: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        made = setup(lambda: Model(bag, embedding=nn.Embedding(20, 8), head=nn.Linear(8, 3)), ids, labels)()
        model, optimizer = made["model"], made["optimizer"]

        def train_step(batch: Any) -> float:
            loss = F.cross_entropy(model(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return {**{key: item for key, item in made.items() if key != "loss_fn"}, "train_step": train_step}

    outcome = run(make_bench, lambda: hidden(words, labels), seed)

    evidence = {"what": "number", "name": "batch[0]", "value": "1 (or 0, which fills up)", "samples": 96}
    assert only(outcome).code == "SC1905"
    assert evidence.items() <= only(outcome).evidence.items()
    for ids, kinds in ((bits, labels), (words, torch.zeros(96, dtype=torch.long))):
        with pytest.raises(Skip, match="outside train_step"):
            run(make_bench, lambda given=(ids, kinds): hidden(*given), seed)


def test_masks_and_identifiers_that_nobody_reads_are_no_fault(make_bench: Make) -> None:
    ids = texts()

    class Tagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(ids).mean(1))

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0], batch[1], batch[2]), batch[0][:, 0] % 3)

    mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    outcome = run(make_bench, setup(Tagged, ids, mask, torch.arange(96), compute_loss=compute_loss))
    assert outcome.findings == ()
    assert outcome.measurements["without_effect"] == ["mask", "index"]


def test_a_dict_of_labels_and_inputs(make_bench: Make) -> None:
    class WithLoss(nn.Module):
        def __init__(self, read: bool) -> None:
            super().__init__()
            self.head, self.read = nn.Linear(6, 3), read

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.head(x if self.read else torch.zeros_like(x))
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def collate(items: Any) -> dict[str, torch.Tensor]:
        return {"x": torch.stack([x[0] for x, _ in items]), "labels": torch.stack([y for _, y in items])}

    for read, codes in ((True, []), (False, ["SC1901"])):
        loader = DataLoader(TensorDataset(*sequences()), batch_size=16, collate_fn=collate)
        entry = setup(lambda read=read: WithLoss(read), loss_fn=None, train_loader=loader)  # type: ignore[misc]
        assert [f.code for f in run(make_bench, entry).findings] == codes


def shrinking(depth: int = 14, act: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layers = [nn.Linear(72 if i == 0 else 16, 16) for i in range(depth)]
        for layer in layers:
            nn.init.normal_(layer.weight, 0, 0.02)
            nn.init.zeros_(layer.bias)

        def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            for layer in model.layers:
                x = act(layer(x))
            return model.head(x)

        return Model(forward, layers=nn.ModuleList(layers), head=nn.Linear(16, 3))

    return make


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("act", [torch.relu, torch.tanh, F.gelu, lambda x: x])
def test_a_signal_that_shrinks_until_rounding_swallows_it_is_left_to_other_checks(
    act: Callable[[torch.Tensor], torch.Tensor], seed: int, make_bench: Make
) -> None:
    with pytest.raises(Skip, match="their signal dies in linear in "):
        run(make_bench, setup(shrinking(act=act)), seed)


def test_a_mask_that_hides_everything_by_a_huge_number_is_wiring(make_bench: Make) -> None:
    def hidden(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.head(x.masked_fill(torch.ones_like(x, dtype=torch.bool), -1e9).amax(1))

    assert only(run(make_bench, setup(lambda: Model(hidden, head=nn.Linear(6, 3))))).code == "SC1901"


class Translator(nn.Module):
    """Source tokens are encoded and `context(model, encoded, state)` is what the decoder gets of them."""

    def __init__(self, context: Callable[..., torch.Tensor], *, loses: bool = False) -> None:
        super().__init__()
        self.context, self.loses = context, loses
        self.words, self.encoder = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True)
        self.decoder, self.head = nn.GRU(16, 8, batch_first=True), nn.Linear(8, 20)
        self.register_buffer("open", torch.zeros(()))

    def forward(self, source: torch.Tensor, following: torch.Tensor) -> Any:
        encoded, _ = self.encoder(self.words(source))
        words = self.words(following[:, :-1])
        context = self.context(self, encoded, words)
        logits = self.head(self.decoder(torch.cat([words, context.expand(-1, words.shape[1], -1)], 2))[0])
        return F.cross_entropy(logits.flatten(0, 1), following[:, 1:].flatten()) if self.loses else logits


def translating(context: Callable[..., torch.Tensor], how: str = "loss") -> Any:
    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        out = model(*batch)
        return out if how == "model" else F.cross_entropy(out.flatten(0, 1), batch[1][:, 1:].flatten())

    def open_up(setup: dict[str, Any]) -> dict[str, Any]:
        def train_step(batch: Any) -> float:
            setup["optimizer"].zero_grad()
            loss = compute_loss(setup["model"], batch)
            loss.backward()
            setup["optimizer"].step()
            setup["model"].open += 0.1
            return loss.item()

        return {**setup, "train_step": train_step}

    def make() -> nn.Module:
        return Translator(context, loses=how == "model")

    build = setup(make, texts(), texts()[:, 4:], compute_loss=compute_loss)
    return (lambda: open_up(build())) if how == "opening" else build


def over_nothing(model: Any, encoded: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return (encoded.softmax(1) * torch.zeros_like(encoded)).sum(1, keepdim=True)


def left_out(model: Any, encoded: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(words), 1, 8)


def of_one_state(model: Any, encoded: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return encoded[:, -1:, :1].softmax(2).expand(-1, -1, 8)


def behind_a_gate(model: Any, encoded: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return model.open * encoded[:, -1:]


def last_state(model: Any, encoded: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return encoded[:, -1:]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("how", ["loss", "model", "opening"])
@pytest.mark.parametrize(
    ("context", "words"),
    [
        (over_nothing, "mul in Translator makes of it what does not depend on it"),
        (left_out, "gru in encoder (GRU) is the last of it, and its result is used nowhere"),
        (of_one_state, "softmax(dim=2) in Translator makes of it what does not depend on it"),
    ],
)
def test_a_source_that_is_encoded_and_never_decoded(
    context: Any, words: str, how: str, seed: int, make_bench: Make
) -> None:
    finding = only(run(make_bench, translating(context, how), seed))
    assert (finding.code, finding.severity, finding.evidence["name"]) == ("SC1906", "fail", "source")
    assert words in finding.message


@pytest.mark.parametrize(("context", "how"), [(last_state, "loss"), (last_state, "model"), (behind_a_gate, "opening")])
def test_a_source_that_is_decoded_sooner_or_later(context: Any, how: str, make_bench: Make) -> None:
    outcome = run(make_bench, translating(context, how))
    assert "SC1906" not in {f.code for f in outcome.findings}


def test_a_source_that_is_never_read_is_a_warning(make_bench: Make) -> None:
    def decoded(model: Any, source: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return model.head(model.words(following[:, :-1]))

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

        def forward(self, source: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
            return decoded(self, source, following)

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(*batch).flatten(0, 1), batch[1][:, 1:].flatten())

    finding = only(run(make_bench, setup(Reader, texts(), texts()[:, 4:], compute_loss=compute_loss)))
    assert (finding.code, finding.severity, finding.evidence["name"]) == ("SC1904", "warn", "source")


def test_labels_that_the_model_is_given_and_leaves_to_the_loss_are_no_input(make_bench: Make) -> None:
    class Generous(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.head(self.words(x))

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0], batch[1]).flatten(0, 1), batch[1].flatten())

    assert run(make_bench, setup(Generous, texts(), texts().flip(1), compute_loss=compute_loss)).findings == ()


ROWS = 1200


def table(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eight measured columns, a category of nine, and a target that depends on columns 0, 1 and 7 and on the category."""
    generator = torch.Generator().manual_seed(20 + seed)
    x, category = torch.randn(ROWS, 8, generator=generator), torch.randint(0, 9, (ROWS,), generator=generator)
    noise = 0.3 * torch.randn(ROWS, generator=generator)
    return x, category, x[:, 0] + x[:, 1] + x[:, 7] + 0.5 * (category - 4.0) + noise


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(outputs.squeeze(-1), targets)


def of_two(model: nn.Module, batch: Any) -> torch.Tensor:
    return squared(model(batch[0], batch[1]), batch[2])


def deep(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_columns_that_tell_of_the_target_and_are_left_out(seed: int, make_bench: Make) -> None:
    x, category, y = table(seed)
    keep = torch.tensor([1.0] * 7 + [0.0])
    masked_column = setup(lambda: Model(lambda m, x: m.h(x * keep), h=deep(8)), x, y, loss_fn=squared)
    finding = only(run(make_bench, masked_column, seed))
    assert (finding.code, finding.severity, finding.evidence["what"]) == ("SC1907", "fail", "column 7 of inputs")
    assert "mul in Model is the last" in finding.message
    cut = setup(lambda: Model(lambda m, x: m.h(x[:, :7]), h=deep(7)), x, y, loss_fn=squared)
    assert only(run(make_bench, cut, seed)).code == "SC1907"

    def with_category(model: Any, x: torch.Tensor, category: torch.Tensor) -> torch.Tensor:
        return model.h(torch.cat([x, model.words(category // 9)], 1))

    divided = setup(
        lambda: Model(with_category, words=nn.Embedding(9, 4), h=deep(12)), x, category, y, compute_loss=of_two
    )
    finding = only(run(make_bench, divided, seed))
    assert (finding.code, finding.severity, finding.location) == ("SC1907", "fail", "words")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_columns_that_may_be_left_out(seed: int, make_bench: Make) -> None:
    x, _, y = table(seed)
    order = y.argsort()
    rows = torch.arange(ROWS, dtype=torch.float32)[:, None]
    person = torch.randint(0, 60, (ROWS,), generator=torch.Generator().manual_seed(seed))
    effect = torch.randn(60, generator=torch.Generator().manual_seed(seed))
    without_first = lambda m, x: m.h(x[:, 1:])  # noqa: E731
    without_last = lambda m, x: m.h(x[:, :8])  # noqa: E731
    healthy = [
        # Row numbers of sorted data tell all about the target.
        setup(lambda: Model(without_first, h=deep(8)), torch.cat([rows, x[order]], 1), y[order], loss_fn=squared),
        setup(lambda: Model(without_first, h=deep(8)), torch.cat([rows / 7, x[order]], 1), y[order], loss_fn=squared),
        # The same quantity in another unit, and one that tells nothing.
        setup(lambda: Model(without_last, h=deep(8)), torch.cat([x, x[:, :1] * 1.8 + 32], 1), y, loss_fn=squared),
        setup(lambda: Model(without_last, h=deep(8)), torch.cat([x, x[:, 2:3].roll(1, 0)], 1), y, loss_fn=squared),
        # A weight, and the target itself, which only the loss reads.
        setup(
            lambda: Model(without_last, h=deep(8)),
            torch.cat([x, y[:, None]], 1),
            compute_loss=lambda m, b: squared(m(b[0]), b[0][:, 8]),
        ),
        # Whose measurement it is: such a model is for people to come.
        setup(lambda: Model(lambda m, x, who: m.h(x), h=deep(8)), x, person, y + effect[person], compute_loss=of_two),
    ]
    for entry in healthy:
        assert run(make_bench, entry, seed).findings == ()


def noised(model: nn.Module, batch: Any) -> torch.Tensor:
    time, noise = torch.rand(len(batch[0])), torch.randn_like(batch[0])
    return F.mse_loss(model(batch[0] * (1 - time[:, None]) + noise * time[:, None], time), noise)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("hint", "code"),
    [
        (lambda m, t: m.table((t * 0).long()), "SC1908"),
        (lambda m, t: 0, "SC1908"),
        (lambda m, t: m.line(t[:, None]) * 0, "SC1906"),
        (lambda m, t: m.line(t[:, None]), None),
        (lambda m, t: m.table((t * 5).long()), None),
    ],
)
def test_a_time_that_the_loss_draws_must_matter(hint: Any, code: str | None, seed: int, make_bench: Make) -> None:
    def make() -> nn.Module:
        layers = {"line": nn.Linear(1, 16), "table": nn.Embedding(5, 16)}
        return Model(
            lambda m, x, t: m.out(F.silu(m.first(x) + hint(m, t))),
            first=nn.Linear(8, 16),
            out=nn.Linear(16, 8),
            **layers,
        )

    outcome = run(make_bench, setup(make, table(seed)[0], compute_loss=noised), seed)
    assert [(f.code, f.severity) for f in outcome.findings] == ([(code, "fail")] if code else [])


def test_a_time_that_no_layer_waits_for_is_a_warning(make_bench: Make) -> None:
    model = lambda: Model(lambda m, x, t: m.h(x), h=nn.Linear(8, 8))  # noqa: E731
    finding = only(run(make_bench, setup(model, table(0)[0], compute_loss=noised)))
    assert (finding.code, finding.severity) == ("SC1908", "warn")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("reads", [False, True])
def test_tokens_that_are_only_counted(reads: bool, seed: int, make_bench: Make) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 11, (96, 1), generator=generator)
    ids = torch.randint(1, 20, (96, 12), generator=generator) * (torch.arange(12) < lengths)

    def forward(model: Any, ids: torch.Tensor) -> torch.Tensor:
        real = (ids != 0)[..., None]
        vectors = model.words(ids if reads else ids.clamp(max=1))
        return model.head((model.rnn(vectors)[0] * real).sum(1) / real.sum(1))

    make = lambda: Model(  # noqa: E731
        forward,
        words=nn.Embedding(20, 8, padding_idx=0),
        rnn=nn.GRU(8, 8, batch_first=True),
        head=nn.Linear(8, 3),
    )
    findings = run(make_bench, setup(make, ids, ids[:, 0] % 3), seed).findings
    assert [finding.code for finding in findings] == ([] if reads else ["SC1909"])


def latent(of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], nn.Module]:
    def forward(model: Any, x: torch.Tensor) -> Any:
        mean = model.encoder(x)
        return model.decoder(of(mean)), mean

    return lambda: Model(forward, encoder=nn.Linear(8, 3), decoder=nn.Linear(3, 8))


def reconstruction(model: nn.Module, batch: Any) -> torch.Tensor:
    output, mean = model(batch[0])
    return F.mse_loss(output, batch[0]) + mean.square().mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("of", "codes"),
    [
        (torch.randn_like, ["SC1910"]),
        (torch.zeros_like, ["SC1910"]),
        (lambda mean: mean + torch.randn_like(mean), []),
        # What all samples choose alike is asked for all the same.
        (lambda mean: (mean > 1e3).float(), []),
        (lambda mean: F.one_hot((mean + torch.tensor([99.0, 0.0, 0.0])).argmax(-1), 3).float(), []),
        (lambda mean: (mean / 1e3).round(), []),
    ],
)
def test_a_decoder_that_is_given_something_else(of: Any, codes: list[str], seed: int, make_bench: Make) -> None:
    entry = setup(latent(of), table(seed)[0], compute_loss=reconstruction)
    assert [finding.code for finding in run(make_bench, entry, seed).findings] == codes


def test_outputs_that_need_no_input(make_bench: Make) -> None:
    def adversarial(model: nn.Module, batch: Any) -> torch.Tensor:
        real, fake = model(batch[0])
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def both(model: Any, x: torch.Tensor) -> Any:
        return model.judge(x), model.judge(model.maker(torch.randn(len(x), 4)))

    def spread(model: nn.Module, batch: Any) -> torch.Tensor:
        mean, log = model(batch[0])
        return (log + 0.5 * ((batch[0] - mean) / log.exp()).square()).mean()

    in_one = lambda: Model(both, judge=deep(8), maker=nn.Linear(4, 8))  # noqa: E731
    with_spread = lambda: Model(  # noqa: E731
        lambda m, x: (m.h(x), m.log.weight.expand_as(x)), h=nn.Linear(8, 8), log=nn.Embedding(1, 8)
    )
    for make, loss in ((in_one, adversarial), (with_spread, spread)):
        assert run(make_bench, setup(make, table(0)[0], compute_loss=loss)).findings == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_a_column_tells_is_the_variance_between_its_categories(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    column = torch.randint(0, 6, (1500,), generator=generator)
    targets = column.double().sin() + torch.randn(1500, generator=generator, dtype=torch.double)
    found = told(column, [], targets, seed)
    assert found is not None
    groups = [targets[column == k] for k in range(6)]
    between = sum(len(group) * (group.mean() - targets.mean()) ** 2 for group in groups)
    # By chance five degrees of freedom tell 5 / 1499 of what is left.
    assert found.share == pytest.approx(float(between / targets.var() / 1499) - 5 / 1499, abs=2e-3)
    assert found.is_telling
    unrelated = told(column.roll(1), [], targets, seed)
    assert unrelated is not None
    assert not unrelated.is_telling
    assert told(torch.arange(1500), [], targets, seed) is None
    assert told(column, [column], targets, seed) is None


class Pooled(nn.Module):
    """Sets of rows, laid end to end: `owner` says which set a row is of. The targets come along in the same mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.out = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        sums = torch.zeros(batch["sets"], 8).index_add(0, batch["owner"], torch.tanh(self.row(batch["rows"])))
        return self.out(sums)[:, 0]


@pytest.mark.parametrize("target", ["y", "score"])
def test_sets_of_many_sizes_are_not_judged_by_the_targets_beside_them(target: str, make_bench: Make) -> None:
    def joined(sets: list[tuple[torch.Tensor, float]]) -> dict[str, Any]:
        owner = [torch.full((len(rows),), index) for index, (rows, _) in enumerate(sets)]
        rows = torch.cat([rows for rows, _ in sets])
        return {"rows": rows, "owner": torch.cat(owner), target: torch.tensor([y for _, y in sets]), "sets": len(sets)}

    def entry() -> dict[str, Any]:
        drawn = [torch.randn(2 + index % 4, 3) for index in range(64)]
        model = Pooled()
        return {
            "model": model,
            "train_loader": DataLoader([(rows, float(rows.sum())) for rows in drawn], batch_size=16, collate_fn=joined),
            "compute_loss": lambda model, batch: F.mse_loss(model(batch), batch[target]),
            "optimizer": torch.optim.Adam(model.parameters(), lr=1e-2),
        }

    with pytest.raises(Skip):
        run(make_bench, entry)


def test_what_a_dead_rectifier_keeps_back_is_not_blamed_on_the_wiring(make_bench: Make) -> None:
    class ByHand(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (x > 0)

    def model(bias: float) -> nn.Module:
        first = nn.Linear(16, 32)
        nn.init.constant_(first.bias, bias)
        return nn.Sequential(first, ByHand(), nn.Linear(32, 4))

    assert CHECK.run(recorded(make_bench, classifier(functools.partial(model, 0.0)))).findings == ()
    with pytest.raises(Skip, match=r"their signal dies in mul in 1 \(ByHand\), which other checks judge"):
        CHECK.run(recorded(make_bench, classifier(functools.partial(model, -50.0))))
