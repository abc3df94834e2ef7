from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Finding, Outcome, Skip
from stabcheck.experiments.batch_independence import CHECK
from stabcheck.trial.dependence.torn import torn_axis
from tests.experiments.dependence_cases import (
    Attention,
    Convolution,
    Language,
    Model,
    OverTime,
    Recurrent,
    language,
    sequences,
    setup,
    texts,
)

Make = Callable[..., Any]


def head(features: int = 16) -> nn.Linear:
    return nn.Linear(features, 3)


def centred(model: Any, x: torch.Tensor) -> torch.Tensor:
    h = model.first(x.mean(1))
    return model.head(h - h.mean(0))


def viewed(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.rnn(x.view(x.shape[1], x.shape[0], -1))[0][-1])


def transposed(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.rnn(x.transpose(0, 1))[0][-1])


def flattened_late(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.rnn(x.transpose(0, 1))[0].reshape(len(x), -1))


def last_state(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.head(model.rnn(x)[0][:, -1])


def over_samples(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model.head((F.softmax(model.first(x), dim=0) * x).sum(1))


def among_samples(model: Any, x: torch.Tensor) -> torch.Tensor:
    h = model.first(x.mean(1))
    return model.head(F.softmax(h @ h.t(), dim=-1) @ h)


def rezero() -> nn.Module:
    def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
        h = model.first(x.mean(1))
        return model.head(h + model.gate(h - h.mean(0)))

    gate = nn.Linear(16, 16, bias=False)
    nn.init.zeros_(gate.weight)
    return Model(forward, first=nn.Linear(6, 16), gate=gate, head=head())


MIXED: dict[str, tuple[Callable[[], nn.Module], str | None, str]] = {
    "mean over samples": (lambda: Model(centred, first=nn.Linear(6, 16), head=head()), "", "mean(dim=0)"),
    "behind a closed gate": (rezero, "", "mean(dim=0)"),
    "time axis": (lambda: Model(last_state, rnn=nn.LSTM(6, 16), head=head()), "rnn", "lstm"),
    "view": (lambda: Model(viewed, rnn=nn.GRU(6, 16), head=head()), "", "view of (16, 12, 6) as (12, 16, 6)"),
    "reshape": (lambda: Model(flattened_late, rnn=nn.GRU(6, 10), head=head(120)), "", "reshape of (12, 16, 10)"),
    "softmax": (lambda: Model(over_samples, first=nn.Linear(6, 1), head=head(6)), "", "softmax(dim=0)"),
    "attention": (lambda: Model(among_samples, first=nn.Linear(6, 16), head=head()), "", "matmul"),
    "flip": (lambda: Model(lambda m, x: m.head(x.mean(1)).flip(0), head=head(6)), None, "1 other changes"),
}


def run(make_bench: Make, entry: Any, seed: int = 0) -> Outcome:
    return CHECK.run(make_bench(entry, seed=seed))


def only(outcome: Outcome) -> Finding:
    (finding,) = outcome.findings
    return finding


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", MIXED)
def test_mixed_samples_are_found_with_the_operation(name: str, seed: int, make_bench: Make) -> None:
    make, location, words = MIXED[name]
    finding = only(run(make_bench, setup(make), seed))
    assert (finding.code, finding.severity, finding.location) == ("SC1801", "fail", location)
    assert words in finding.message


def test_the_remedy_names_the_axes_that_the_module_reads(make_bench: Make) -> None:
    reads_time_first = only(run(make_bench, setup(lambda: Model(last_state, rnn=nn.LSTM(6, 16), head=head()))))
    assert "(time, batch, features)" in reads_time_first.fix
    assert "batch_first=True" in reads_time_first.fix
    rnn = nn.LSTM(6, 16, batch_first=True)
    assert "batch_first=False" in only(run(make_bench, setup(lambda: Model(transposed, rnn=rnn, head=head())))).fix


def test_the_users_line_is_named(make_bench: Make) -> None:
    source = only(run(make_bench, setup(MIXED["softmax"][0]))).source
    assert source is not None
    line = linecache.getline(*source)
    assert "softmax(model.first(x), dim=0)" in line


def test_the_change_is_that_of_the_outputs(make_bench: Make) -> None:
    bench = make_bench(setup(MIXED["mean over samples"][0]))
    evidence = only(CHECK.run(bench)).evidence
    model = bench.shared().model
    from stabcheck.trial.rng import kept_rng

    with kept_rng(bench.seed), torch.no_grad():
        inputs = bench.shared().first_batch()[0]
        other = inputs.clone()
        other[8] = inputs[7]
        before, after = model(inputs), model(other)
    rest = [i for i in range(16) if i != 8]
    expected = (before - after)[rest].abs().max() / before.square().mean().sqrt()
    assert evidence["sample"] == 8
    assert evidence["others"] == 15
    assert evidence["change"] == pytest.approx(float(expected), rel=1e-4)


def windows(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Attention within windows of four positions, folded into the axis of samples and back."""
    parts = model.first(x).reshape(len(x) * 3, 4, 16)
    return model.head(model.attention(parts, parts, parts)[0].reshape(len(x), 12, 16).mean(1))


class Experts(nn.Module):
    """Each expert takes its first three samples: samples compete, by a decision."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts, self.head = nn.Linear(6, 2), nn.ModuleList([nn.Linear(6, 6) for _ in "ab"]), head(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean(1)
        share, choice = F.softmax(self.router(x), -1).max(-1)
        chosen = F.one_hot(choice, 2)
        fits = (chosen.cumsum(0) * chosen).sum(1) <= 3
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mine = (choice == index) & fits
            out[mine] = expert(x[mine]) * share[mine, None]
        return self.head(x + out)


class ActNorm(nn.Module):
    """Takes its scale from the first batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(16))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.ready:
            with torch.no_grad():
                self.shift.copy_(x.mean(0))
                self.ready.fill_(True)
        return x - self.shift


HEALTHY: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.BatchNorm1d(16), nn.ReLU(), head()),
    "time first": lambda: Model(transposed, rnn=nn.GRU(6, 16), head=head()),
    "batch first": lambda: Model(last_state, rnn=nn.GRU(6, 16, batch_first=True), head=head()),
    "windows": lambda: Model(
        windows, first=nn.Linear(6, 16), attention=nn.MultiheadAttention(16, 2, batch_first=True), head=head()
    ),
    "experts": Experts,
    "first batch": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 16), ActNorm(), head()),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3)),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_are_let_pass(name: str, seed: int, make_bench: Make) -> None:
    assert run(make_bench, setup(HEALTHY[name]), seed).findings == ()


def test_experts_that_run_out_of_places_are_named_as_not_checked(make_bench: Make) -> None:
    whys = [item.why for seed in range(12) for item in run(make_bench, setup(Experts), seed).not_checked]
    assert any("a decision that no gradient passes" in why for why in whys)
    assert all(not run(make_bench, setup(Experts), seed).findings for seed in range(12))


def test_samples_may_be_as_many_as_positions(make_bench: Make) -> None:
    inputs = torch.randn(64, 16, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 3
    healthy = setup(lambda: Model(transposed, rnn=nn.GRU(6, 16), head=head()), inputs, labels)
    assert run(make_bench, healthy).measurements["outputs"] == ["output"]
    faulty = setup(lambda: Model(last_state, rnn=nn.GRU(6, 16), head=head()), inputs, labels)
    assert only(run(make_bench, faulty)).code == "SC1801"


def test_a_table_of_all_pairs_is_no_mixing(make_bench: Make) -> None:
    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0][:, 0], batch[0][:, 1]), torch.arange(len(batch[0])))

    model = Model(lambda m, a, b: m.left(a) @ m.right(b).t(), left=nn.Linear(6, 8), right=nn.Linear(6, 8))
    assert run(make_bench, setup(lambda: model, compute_loss=compute_loss)).findings == ()


def test_a_graph_in_one_batch_is_not_judged(make_bench: Make) -> None:
    inputs, labels = sequences(16)
    outcome = run(make_bench, setup(MIXED["mean over samples"][0], inputs, labels))
    assert outcome.findings == ()
    assert "one set or graph" in outcome.not_checked[0].why


def test_words_of_all_texts_in_one_row_are_not_judged(make_bench: Make) -> None:
    def collate(items: Any) -> Any:
        ids = torch.cat([text[: 3 + label] for text, label in items])
        starts = torch.tensor([0] + [3 + label for _, label in items[:-1]]).cumsum(0)
        return {"ids": ids, "starts": starts, "y": torch.stack([label for _, label in items])}

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch["ids"], batch["starts"]), batch["y"])

    loader = DataLoader(TensorDataset(texts(), torch.arange(96) % 3), batch_size=16, collate_fn=collate)
    model = lambda: Model(lambda m, i, s: m.bag(i, s), bag=nn.EmbeddingBag(20, 3))  # noqa: E731
    with pytest.raises(Skip, match="follow one another"):
        run(make_bench, setup(model, compute_loss=compute_loss, train_loader=loader))


def test_batch_statistics_that_sway_predictions_fail(make_bench: Make) -> None:
    def make() -> nn.Module:
        norm = nn.BatchNorm1d(16, track_running_stats=False)
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 16), norm, head())

    finding = only(run(make_bench, setup(make)))
    assert (finding.code, finding.severity, finding.location) == ("SC1802", "fail", "2")


FUTURE: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "attention": (lambda: Attention(causal=False), "mix.attention", "fail"),
    "convolution": (lambda: Convolution(1, 1), "mix.convolution", "fail"),
    "backwards": (lambda: Recurrent(bidirectional=True), "mix.gru", "fail"),
    "norm": (OverTime, "mix.norm", "warn"),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", FUTURE)
def test_a_language_model_that_sees_the_next_token(name: str, seed: int, make_bench: Make) -> None:
    mix, location, severity = FUTURE[name]
    finding = only(run(make_bench, language(mix), seed))
    assert (finding.code, finding.severity, finding.location) == ("SC1803", severity, location)


@pytest.mark.parametrize(
    "mix", [lambda: Attention(causal=True), lambda: Convolution(2, 0), lambda: Recurrent(bidirectional=False)]
)
def test_a_causal_language_model_passes(mix: Callable[[], nn.Module], make_bench: Make) -> None:
    outcome = run(make_bench, language(mix))
    assert outcome.findings == ()
    assert outcome.measurements["predicts_next"] == ["ids"]


def shifted_inside(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0])[:, :-1].transpose(1, 2), batch[0][:, 1:], label_smoothing=0.1)


def shifted_outside(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0][:, :-1]).transpose(1, 2), batch[0][:, 1:])


@pytest.mark.parametrize("compute_loss", [shifted_inside, shifted_outside])
def test_the_objective_is_seen_wherever_targets_are_shifted(compute_loss: Any, make_bench: Make) -> None:
    faulty = setup(lambda: Language(Attention(causal=False)), texts(), compute_loss=compute_loss)
    assert only(run(make_bench, faulty)).code == "SC1803"
    healthy = setup(lambda: Language(Attention(causal=True)), texts(), compute_loss=compute_loss)
    assert run(make_bench, healthy).measurements["predicts_next"] == ["ids"]


def test_taggers_and_masked_models_may_look_both_ways(make_bench: Make) -> None:
    ids = texts()
    tagger = setup(lambda: Language(Attention(causal=False)), ids, ids % 3, loss_fn=by_position_of_three)
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    masked = setup(
        lambda: Language(Attention(causal=False)),
        ids.masked_fill(hidden, 19),
        ids.masked_fill(~hidden, -100),
        loss_fn=by_position_of_three,
    )
    for entry in (tagger, masked):
        outcome = run(make_bench, entry)
        assert outcome.findings == ()
        assert outcome.measurements["predicts_next"] == []


def by_position_of_three(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def forecast(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.mse_loss(model(batch[0][:, :-1]), batch[0][:, 1:])


def test_a_forecast_of_each_next_value_that_sees_it(make_bench: Make) -> None:
    def make(left: int, right: int) -> Callable[[], nn.Module]:
        def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
            return model.convolution(F.pad(x.transpose(1, 2), (left, right))).transpose(1, 2)

        return lambda: Model(forward, convolution=nn.Conv1d(6, 6, 3))

    series = torch.randn(96, 20, 6, generator=torch.Generator().manual_seed(0)).cumsum(1)
    assert only(run(make_bench, setup(make(1, 1), series, compute_loss=forecast))).code == "SC1803"
    healthy = run(make_bench, setup(make(2, 0), series, compute_loss=forecast))
    assert healthy.findings == ()
    assert healthy.measurements["predicts_next"] == ["inputs"]


def test_an_autoencoder_of_sequences_is_no_forecast(make_bench: Make) -> None:
    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.mse_loss(model(batch[0]), batch[0])

    entry = setup(lambda: Model(lambda m, x: m.all(x), all=nn.Linear(6, 6)), compute_loss=compute_loss)
    assert run(make_bench, entry).measurements["predicts_next"] == []


def test_the_shared_session_is_left_as_it_was(make_bench: Make) -> None:
    bench = make_bench(setup(rezero))
    model = bench.shared().model
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    CHECK.run(bench)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_state_that_goes_on_in_the_given_order_is_not_judged(make_bench: Make) -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head, self.state = nn.GRU(6, 16, batch_first=True), head(), None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out, state = self.rnn(x, self.state)
            self.state = state.detach()
            return self.head(out[:, -1])

    in_order = DataLoader(TensorDataset(*sequences()), batch_size=16)
    with pytest.raises(Skip, match="differ from one call to the next"):
        run(make_bench, setup(Stateful, train_loader=in_order))


class ClassToken(nn.Module):
    """Only the row of a learnt token is read: nothing but attention brings anything of the input there."""

    def __init__(self, batch_first: bool, *, attends: bool = True) -> None:
        super().__init__()
        self.embed, self.token = nn.Linear(6, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=batch_first), head()
        self.attends = attends

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head((h + self.attention(h, h, h)[0] if self.attends else h)[:, 0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_attention_over_the_batch_beside_a_class_token(seed: int, make_bench: Make) -> None:
    finding = only(run(make_bench, setup(lambda: ClassToken(False)), seed))
    assert (finding.code, finding.severity, finding.location) == ("SC1804", "fail", "attention")
    assert "batch_first=True" in finding.fix
    assert run(make_bench, setup(lambda: ClassToken(True)), seed).findings == ()


def test_a_class_token_that_sees_nothing_is_no_matter_of_the_batch(make_bench: Make) -> None:
    with pytest.raises(Skip, match="no output reacts"):
        run(make_bench, setup(lambda: ClassToken(True, attends=False)))


class Heads(nn.Module):
    """Attention written by hand, its heads split and joined as `split` and `join` do."""

    def __init__(self, split: str, join: str) -> None:
        super().__init__()
        self.three, self.split, self.join = nn.Linear(24, 72), split, join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, length, width = x.shape
        heads = [
            h.view(count, length, 4, 6).transpose(1, 2) if self.split == "transpose" else h.reshape(count, 4, length, 6)
            for h in self.three(x).chunk(3, -1)
        ]
        out = F.scaled_dot_product_attention(*heads, is_causal=True)
        joined = out.transpose(1, 2) if self.join == "transpose" else out
        return x + joined.reshape(count, length, width)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("split", "join"), [("view", "transpose"), ("transpose", "view"), ("view", "view")])
def test_heads_that_are_cut_out_of_memory(split: str, join: str, seed: int, make_bench: Make) -> None:
    finding = only(run(make_bench, language(lambda: Heads(split, join)), seed))
    # Where the cut lets later positions through, that is what matters most.
    assert finding.code in {"SC1805", "SC1803"}
    assert finding.location == "mix"
    assert run(make_bench, language(lambda: Heads("transpose", "transpose")), seed).findings == ()


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return torch.rand(96, 10, 8, 3, generator=generator), torch.randint(0, 3, (96,), generator=generator)


def convolved(exchange: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], nn.Module]:
    def forward(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.head(model.body(exchange(x)).mean((2, 3)))

    return lambda: Model(forward, body=nn.Conv2d(3, 16, 3), head=head())


def patched(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Patches as rows by splitting and merging neighbours around a permutation."""
    parts = x.reshape(len(x), 5, 2, 4, 2, 3).permute(0, 1, 3, 2, 4, 5).reshape(len(x), 20, 12)
    return model.head(model.first(parts).mean(1))


def shifted(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Scores of relative positions are brought to their places by padding, cutting anew and dropping what is left over."""
    h = model.first(x.flatten(2))
    scores = F.pad(h @ h.transpose(1, 2), (1, 0))
    moved = scores.reshape(len(x), scores.shape[2], scores.shape[1])[:, 1:].reshape(len(x), 10, 10)
    return model.head(moved.softmax(-1) @ h).mean(1)


TORN: dict[str, Callable[[], nn.Module]] = {
    "channels last to first": convolved(lambda x: x.reshape(len(x), 3, 10, 8)),
    "flat in between": convolved(lambda x: x.reshape(len(x), 8, 3, 10).permute(0, 2, 3, 1)),
    "positions before channels": lambda: Model(
        lambda m, x: m.head(m.rnn(m.body(x.permute(0, 3, 1, 2)).reshape(len(x), 48, 16))[0][:, -1]),
        body=nn.Conv2d(3, 16, 3),
        rnn=nn.GRU(16, 16, batch_first=True),
        head=head(),
    ),
}
WHOLE: dict[str, Callable[[], nn.Module]] = {
    "permuted": convolved(lambda x: x.permute(0, 3, 1, 2)),
    "patches": lambda: Model(patched, first=nn.Linear(12, 16), head=head()),
    "relative positions": lambda: Model(shifted, first=nn.Linear(24, 16), head=head()),
    "flat": lambda: nn.Sequential(nn.Flatten(), nn.Linear(240, 48), nn.Unflatten(1, (3, 4, 4)), nn.Flatten(), head(48)),
    "positions before channels": lambda: Model(
        lambda m, x: m.head(m.rnn(m.body(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))[0][:, -1]),
        body=nn.Conv2d(3, 16, 3),
        rnn=nn.GRU(16, 16, batch_first=True),
        head=head(),
    ),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", TORN)
def test_a_view_in_place_of_a_transpose(name: str, seed: int, make_bench: Make) -> None:
    finding = only(run(make_bench, setup(TORN[name], *pictures()), seed))
    assert (finding.code, finding.severity) == ("SC1805", "fail")
    assert "shape of (16, " in finding.message


@pytest.mark.parametrize("name", WHOLE)
def test_reshapes_that_tear_nothing(name: str, make_bench: Make) -> None:
    assert run(make_bench, setup(WHOLE[name], *pictures())).findings == ()


@pytest.mark.parametrize(
    ("before", "after", "length"),
    [
        ((32, 48), (4, 32, 12), 32),
        ((4, 32, 12), (32, 48), 32),
        ((28, 28, 3), (3, 28, 28), 28),
        ((64, 25), (25, 64), 64),
        ((16, 4, 25), (25, 64), 25),
        ((32, 48), (32, 4, 12), None),
        ((64, 7, 7), (64, 49), None),
        ((32, 48), (16, 96), None),
        ((8, 2, 8, 2, 3), (16, 16, 3), None),
        ((10, 1), (1, 10), None),
        ((64, 8, 8), (64, 4, 2, 4, 2), None),
    ],
)
def test_torn_axes_are_those_that_keep_their_length_and_not_their_place(
    before: tuple[int, ...], after: tuple[int, ...], length: int | None
) -> None:
    assert torn_axis(before, after) == length


class Decoder(nn.Module):
    """Writes one sequence from another, given what it is to write up to there."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 24, padding_idx=0)
        self.core, self.causal = nn.Transformer(24, 2, 1, 1, 32, 0.0, batch_first=True), causal
        self.head = nn.Linear(24, 20)

    def forward(self, source: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(written.shape[1]) if self.causal else None
        return self.head(self.core(self.words(source), self.words(written), tgt_mask=mask))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_decoder_that_is_given_its_answer_must_not_see_it_ahead_of_time(seed: int, make_bench: Make) -> None:
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(4, 8, (96,), generator=generator)[:, None]
    places = torch.arange(10)
    words = torch.randint(3, 20, (96, 10), generator=generator)
    # It begins with 1 and ends with 2, which the decoder is not given: what follows the last word is not in its input.
    answers = torch.where(places < lengths, words, torch.where(places == lengths, 2, 0))
    given = torch.cat([torch.ones(96, 1, dtype=torch.long), answers.masked_fill(answers == 2, 0)[:, :-1]], 1)

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0], batch[1]).transpose(1, 2), batch[2], ignore_index=0)

    def entry(causal: bool) -> Any:
        return setup(lambda: Decoder(causal), words, given, answers, compute_loss=compute_loss)

    finding = only(run(make_bench, entry(False), seed))
    assert (finding.code, finding.severity) == ("SC1803", "fail")
    healthy = run(make_bench, entry(True), seed)
    assert healthy.findings == ()
    assert healthy.measurements["predicts_next"] == ["written"]


class Pooled(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.words, self.rnn, self.head = nn.Embedding(20, 16, padding_idx=0), nn.GRU(16, 16, batch_first=True), head()
        self.bend, self.way = nn.Conv1d(16, 16, 3, padding=1), way

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        lengths, vectors = (ids != 0).sum(1), self.words(ids)
        if self.way == "packed":
            packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
            return self.head(self.rnn(packed)[1][0])
        if self.way == "largest":
            return self.head(F.relu(self.bend(vectors.transpose(1, 2))).amax(2))
        if self.way == "last":
            return self.head(self.rnn(vectors)[0][:, -1])
        return self.head(vectors.sum(1) / (lengths[:, None] if self.way == "mean of words" else ids.shape[1]))


def words_padded_to(width: int | None, way: str) -> Any:
    """Texts of 4 to 20 words, a batch padded as far as its longest, or to `width`."""
    generator = torch.Generator().manual_seed(8)
    lengths = torch.randint(4, 21, (96,), generator=generator).tolist()
    rows = [(torch.randint(1, 20, (length,), generator=generator), length % 3) for length in lengths]

    def collate(items: Any) -> Any:
        ids = pad_sequence([row for row, _ in items], batch_first=True)
        return F.pad(ids, (0, (width or ids.shape[1]) - ids.shape[1])), torch.tensor([label for _, label in items])

    loader = DataLoader(rows, batch_size=12, collate_fn=collate, shuffle=True)  # type: ignore[arg-type]
    return setup(lambda: Pooled(way), train_loader=loader)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_padding_that_others_make_necessary(seed: int, make_bench: Make) -> None:
    for way in ("last", "mean"):
        finding = only(run(make_bench, words_padded_to(None, way), seed))
        assert (finding.code, finding.evidence["name"]) == ("SC1806", "ids")
        assert finding.severity == ("fail" if finding.evidence["sway"] >= 0.5 else "warn")
    for way in ("packed", "largest", "mean of words"):
        assert run(make_bench, words_padded_to(None, way), seed).findings == ()
    # What is padded always as far depends on nobody else.
    for way in ("last", "mean"):
        assert run(make_bench, words_padded_to(22, way), seed).findings == ()
