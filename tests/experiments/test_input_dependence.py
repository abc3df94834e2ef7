from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Finding, Outcome, Skip
from stabcheck.experiments.input_dependence import CHECK
from tests.experiments.dependence_cases import Model, padded, sequences, setup, texts

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
    outcome = run(make_bench, setup(make))
    assert outcome.findings == ()
    assert "their signal dies in" in outcome.not_checked[0].why


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
    outcome = run(make_bench, setup(shrinking(act=act)), seed)
    assert outcome.findings == ()
    assert "their signal dies in linear in " in outcome.not_checked[0].why


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
