"""What gets from one batch into the next, row by row (SC1808)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabcheck.check import Skip
from stabcheck.experiments.batch_independence import CHECK
from tests.experiments.dependence_cases import by_position, setup, texts

Make = Callable[..., Any]


class Stateful(nn.Module):
    """A recurrent language model that goes on where the batch before ended."""

    def __init__(self, kind: type[nn.RNNBase], *, keep: bool = True, as_buffer: bool = False) -> None:
        super().__init__()
        self.embedding, self.head, self.keep = nn.Embedding(20, 8), nn.Linear(16, 20), keep
        self.rnn = kind(8, 16, batch_first=True)  # type: ignore[call-arg]
        self.state: Any
        if as_buffer:
            self.register_buffer("state", torch.zeros(1, 16, 16))
        else:
            self.state = None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        outputs, state = self.rnn(self.embedding(ids), self.state if self.keep else None)
        self.state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        found: torch.Tensor = self.head(outputs)
        return found


class Queue(nn.Module):
    """Each output sees the samples of the batch before, all of them, on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.queue = nn.Linear(6, 4), torch.zeros(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.net(x)
        before, self.queue = self.queue, z.detach().mean(0)
        return z - before


def language(make: Callable[[], nn.Module], *, shuffle: bool = True) -> Any:
    ids = texts()
    loader = DataLoader(TensorDataset(ids[:, :-1], ids[:, 1:]), 16, shuffle=shuffle)
    return setup(make, ids, loss_fn=by_position, train_loader=loader)


def codes(make_bench: Make, entry: Any, seed: int = 0) -> dict[str, str]:
    try:
        return {f.code: f.message for f in CHECK.run(make_bench(entry, seed=seed)).findings}
    except Skip:
        return {}


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("seed", range(3))
def test_a_hidden_state_among_shuffled_rows(make_bench: Make, kind: type[nn.RNNBase], seed: int) -> None:
    found = codes(make_bench, language(lambda: Stateful(kind)), seed)
    assert "the model keeps state from" in found["SC1808"]


def test_a_hidden_state_in_a_buffer(make_bench: Make) -> None:
    assert "SC1808" in codes(make_bench, language(lambda: Stateful(nn.GRU, as_buffer=True)))


def test_a_state_that_is_not_used_or_rows_that_go_on(make_bench: Make) -> None:
    assert not codes(make_bench, language(lambda: Stateful(nn.GRU, keep=False)))
    assert not codes(make_bench, language(lambda: Stateful(nn.GRU), shuffle=False))


def test_a_queue_that_all_rows_see(make_bench: Make) -> None:
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(2))
    assert "SC1808" not in codes(make_bench, setup(Queue, x, torch.arange(96) % 4))
