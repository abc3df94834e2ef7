"""Models that mix up samples, positions or inputs, and their nearest healthy relatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

SAMPLES, POSITIONS, FEATURES = 16, 12, 6
Setup = Callable[[], dict[str, Any]]


class Model(nn.Module):
    """`function(model, *inputs)` as a model with some layers."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def sequences(count: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, POSITIONS, FEATURES) with one of three labels."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return torch.randn(count, POSITIONS, FEATURES, generator=generator) + labels[:, None, None], labels


def texts(count: int = 96, vocabulary: int = 20, length: int = POSITIONS + 1) -> torch.Tensor:
    return torch.randint(0, vocabulary, (count, length), generator=torch.Generator().manual_seed(4))


def setup(make: Callable[[], nn.Module], *data: torch.Tensor, loss_fn: Any = F.cross_entropy, **keys: Any) -> Setup:
    """An entry function for a model on tensors (sequences and their labels by default)."""

    def build() -> dict[str, Any]:
        model = make()
        loader = DataLoader(TensorDataset(*(data or sequences())), batch_size=SAMPLES, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        losses = {} if "compute_loss" in keys else {"loss_fn": loss_fn}
        return {"model": model, "train_loader": loader, "optimizer": optimizer, "max_steps": 100, **losses, **keys}

    return build


def by_position(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


class Language(nn.Module):
    """Predicts a token at each position; `mix` brings positions (samples, positions, 24) together."""

    def __init__(self, mix: nn.Module) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(20, 24), mix, nn.Linear(24, 20)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.mix(self.embedding(ids)))


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.attention, self.causal = nn.MultiheadAttention(24, 2, batch_first=True), causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        return x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class Convolution(nn.Module):
    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.convolution, self.padding = nn.Conv1d(24, 24, 1 + left + right), (left, right)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.convolution(F.pad(x.transpose(1, 2), self.padding)).transpose(1, 2)


class OverTime(nn.Module):
    """A norm whose statistics run over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.gru = nn.GRU(24, 12 if bidirectional else 24, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


def language(mix: Callable[[], nn.Module]) -> Setup:
    """A language model whose batches are pairs of ids and the ids one further on."""
    ids = texts()
    return setup(lambda: Language(mix()), ids[:, :-1], ids[:, 1:], loss_fn=by_position)


class Reader(nn.Module):
    """Classifies padded texts by attention, with everything that can be got wrong about masks."""

    def __init__(self, mask: str, pooling: str) -> None:
        super().__init__()
        self.mask, self.pooling = mask, pooling
        self.embedding = nn.Embedding(30, 16, padding_idx=0)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        real = (ids != 0) if mask is None else mask.bool()
        x = self.embedding(ids)
        hidden = {"right": ~real, "inverted": real, "none": None}[self.mask]
        x = x + self.attention(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
        if self.pooling == "first":
            return self.head(x[:, 0])
        weights = real.float() if self.pooling == "masked" else torch.ones_like(real, dtype=torch.float32)
        return self.head((x * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))


def padded(mask: str, pooling: str, *, given: bool) -> Setup:
    """A Reader on texts of 4 to 12 tokens, the longest with one padding token; the mask is given to it, or not."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(4, POSITIONS + 1, (96,), generator=generator)
    ids = torch.randint(1, 30, (96, POSITIONS + 1), generator=generator)
    real = torch.arange(POSITIONS + 1) < lengths[:, None]
    labels = ids[:, 0] % 3

    def compute_loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return F.cross_entropy(model(batch[0], batch[1]) if given else model(batch[0]), batch[2])

    return setup(lambda: Reader(mask, pooling), ids * real, real.long(), labels, compute_loss=compute_loss)
