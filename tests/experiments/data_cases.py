"""Set-ups whose data is at fault in one way, and sound ones that look much like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from tests.setups import blobs, mlp

Entry = Callable[[], dict[str, Any]]
Tensors = tuple[torch.Tensor, torch.Tensor]


def data(count: int = 640, seed: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Standardised blobs: training inputs and labels, validation inputs and labels."""
    inputs, labels = blobs(count, seed=seed)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    cut = count * 3 // 4
    return inputs[:cut], labels[:cut], inputs[cut:], labels[cut:]


def run(train: Any, val: Any = None, model: nn.Module | None = None, **keys: Any) -> dict[str, Any]:
    model = mlp() if model is None else model
    train = train if not isinstance(train, tuple) else loader(train, shuffle=True)
    val = val if not isinstance(val, tuple) else loader(val)
    made = {"model": model, "train_loader": train, "val_loader": val, "loss_fn": F.cross_entropy, "max_epochs": 10}
    return {**made, "optimizer": torch.optim.Adam(model.parameters(), lr=3e-3), **keys}


def loader(tensors: Tensors, **keys: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), **{"batch_size": 32, **keys})


# --- values


def nan_in_a_late_batch(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    x[-1, 3] = np.nan
    return run(loader((x, y)), (vx, vy))


def infinite_target(seed: int) -> dict[str, Any]:
    x, y = curve(seed)
    y[17] = np.inf
    return run((x, y), None, regressor(), loss_fn=F.mse_loss)


def nan_in_validation(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    vx[50:60] = np.nan
    return run((x, y), (vx, vy))


class Cleans(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(torch.nan_to_num(x))


def nan_that_the_model_replaces(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    x[::9, 3] = np.nan
    return run((x, y), (vx, vy), Cleans())


def nan_targets_that_the_loss_leaves_out(seed: int) -> dict[str, Any]:
    x, y = curve(seed)
    y[::5] = np.nan

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        there = ~targets.isnan()
        return F.mse_loss(outputs[there], targets[there])

    return run((x, y), None, regressor(), loss_fn=loss)


class Words(nn.Module):
    def __init__(self, words: int = 50, classes: int = 4) -> None:
        super().__init__()
        self.embed, self.out = nn.EmbeddingBag(words, 16), nn.Linear(16, classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(ids))


def sentences(seed: int, count: int = 400) -> Tensors:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, count)
    ids = np.where(
        rng.random((count, 9)) < 0.4,
        10 * kinds[:, None] + rng.integers(0, 10, (count, 9)),
        rng.integers(1, 50, (count, 9)),
    )
    return torch.as_tensor(np.maximum(ids, 1)), torch.as_tensor(kinds)


def id_beyond_the_table(seed: int) -> dict[str, Any]:
    ids, kinds = sentences(seed)
    ids[333, 4] = 50
    return run(loader((ids, kinds)), None, Words())


def class_beyond_the_outputs(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    y[400] = 4
    return run(loader((x, y)), (vx, vy))


def class_of_minus_one(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    vy[90] = -1
    return run((x, y), (vx, vy))


def one_sample_left_for_batch_norm(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    return run((x[:321], y[:321]), (vx, vy), model)


def one_sample_left_that_the_step_leaves_out(seed: int) -> dict[str, Any]:
    made = one_sample_left_for_batch_norm(seed)
    model, optimizer = made["model"], made["optimizer"]

    def train_step(batch: Any) -> float | None:
        x, y = batch
        if len(x) < 2:
            return None
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return float(loss)

    return {**made, "train_step": train_step}


def three_samples_left_for_batch_norm(seed: int) -> dict[str, Any]:
    made = one_sample_left_for_batch_norm(seed)
    x, y, *_ = data(seed=seed)
    return {**made, "train_loader": loader((x[:323], y[:323]), shuffle=True)}


def padded_to(width: int, *, left: bool = False) -> Callable[[int], dict[str, Any]]:
    """Sentences of 9 to 20 words, padded to one width, which the longest need not reach."""

    def entry(seed: int) -> dict[str, Any]:
        ids, kinds = sentences(seed)
        longer = torch.cat([ids, ids.flip(1), ids[:, :2]], 1)
        longer[torch.arange(20)[None] >= 9 + torch.arange(len(ids))[:, None] % 12] = 0
        ids = F.pad(longer, (0, width - 20))
        return run((ids.flip(1) if left else ids, kinds), None, Words())

    return entry


def parity(seed: int) -> dict[str, Any]:
    bits = torch.randint(0, 2, (400, 9), generator=torch.Generator().manual_seed(seed))
    return run((bits, bits.sum(1) % 2), None, Words())


def one_label(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    return run((x, torch.full_like(y, 2)), (vx, vy))


def labels_that_nobody_reads(seed: int) -> dict[str, Any]:
    x, *_ = data(seed=seed)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16))
    return run(
        (x, torch.zeros(len(x), dtype=torch.long)),
        None,
        model,
        loss_fn=None,
        compute_loss=lambda m, batch: F.mse_loss(m(batch[0]), batch[0]),
    )


def code_for_missing(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    x[torch.rand(len(x)) < 0.1, 5] = -999.0
    return run((x, y), (vx, vy))


class Knows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(features=32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        missing = x == -999
        return self.net(torch.cat([x.masked_fill(missing, 0), missing.float()], 1))


def code_that_the_model_knows(seed: int) -> dict[str, Any]:
    return {**(made := code_for_missing(seed)), **run(made["train_loader"], made["val_loader"], Knows())}


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(2, 16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        there = (x[..., :1] > -500).float()
        return self.out((torch.relu(self.inner(x * there)) * there).sum(1) / there.sum(1))


def padding_that_the_model_knows(seed: int) -> dict[str, Any]:
    x = torch.randn(400, 8, 2, generator=torch.Generator().manual_seed(seed))
    labels = (x[:, 0, 0] > 0).long()
    x[torch.arange(8)[None] >= torch.randint(3, 9, (400, 1))] = -999.0
    return run((x, labels), None, Pools())


def rare_flags(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    x[:, 5] = (torch.rand(len(x)) < 0.02).float()
    x[:, 6] = torch.poisson(torch.full((len(x),), 0.05))
    return run((x, y), (vx, vy))


def target_among_inputs(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    x, vx = (torch.cat([a, 0.5 * b[:, None].float() - 1], 1) for a, b in ((x, y), (vx, vy)))
    return run((x, y), (vx, vy), mlp(features=17))


# --- training


def curve(seed: int, count: int = 400) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return x, (x[:, :1] * x[:, 1:2]).tanh() + x[:, 2:3] + 0.1 * torch.randn(count, 1, generator=generator)


def regressor(features: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 32), nn.Tanh(), nn.Linear(32, 1))


def sorted_by_class(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    order = y.argsort(stable=True)
    return run(loader((x[order], y[order])), (vx, vy))


def sorted_by_target(seed: int) -> dict[str, Any]:
    x, y = curve(seed)
    order = y[:, 0].argsort()
    model = regressor()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return run(loader((x[order], y[order]), batch_size=8), None, model, loss_fn=F.mse_loss, optimizer=optimizer)


def sorted_list_of_batches(seed: int) -> dict[str, Any]:
    made = sorted_by_class(seed)
    return {**made, "train_loader": list(made["train_loader"])}


def sorted_but_shuffled(seed: int) -> dict[str, Any]:
    made = sorted_by_class(seed)
    return {**made, "train_loader": loader(made["train_loader"].dataset.tensors, shuffle=True)}


def unsorted_and_not_shuffled(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    return run(loader((x, y)), (vx, vy))


def sorted_for_a_sum_over_all_batches(seed: int) -> dict[str, Any]:
    made = sorted_by_class(seed)
    model = made["model"]
    return {
        **made,
        "accumulate_steps": len(made["train_loader"]),
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-2),
    }


def inputs_permuted_in_collate(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)

    def collate(rows: Any) -> Any:
        a, b = (torch.stack(part) for part in zip(*rows, strict=True))
        return a[torch.randperm(len(a))], b

    return run(loader((x, y), shuffle=True, collate_fn=collate), (vx, vy))


class OtherLabels(TensorDataset):
    """The label of some sample, and not of the one that is asked for."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        inputs, labels = self.tensors
        return inputs[index], labels[torch.randint(len(labels), ())]


def labels_of_other_samples(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    return run(DataLoader(OtherLabels(x, y), 32, shuffle=True), (vx, vy))


def one_label_in_ten_redrawn(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)

    def collate(rows: Any) -> Any:
        a, b = (torch.stack(part) for part in zip(*rows, strict=True))
        return a, torch.where(torch.rand(len(b)) < 0.1, torch.randint(0, 4, (len(b),)), b)

    return run(loader((x, y), shuffle=True, collate_fn=collate), (vx, vy))


class Timesteps(Dataset[Any]):
    """A denoiser's samples: the second part is drawn anew, and is no label."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index], int(torch.randint(0, 10, ()))


def timesteps(seed: int) -> dict[str, Any]:
    x, *_ = data(seed=seed)
    model = nn.Linear(17, 16)

    def loss(m: nn.Module, batch: Any) -> torch.Tensor:
        rows, step = batch
        share = step[:, None] / 10
        noise = torch.randn_like(rows)
        return F.mse_loss(m(torch.cat([(1 - share) * rows + share * noise, share], 1)), noise)

    return run(DataLoader(Timesteps(x), batch_size=32, shuffle=True), None, model, loss_fn=None, compute_loss=loss)


class Noisy(Dataset[Any]):
    def __init__(self, x: torch.Tensor, y: torch.Tensor, how: str) -> None:
        self.x, self.y, self.how = x, y, how
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        x = self.x[index]
        if self.how == "reseeded":
            torch.manual_seed(0)
        if self.how == "by index":
            torch.manual_seed(index)
        noise = torch.as_tensor(self.rng.normal(size=x.shape)).float() if self.how == "own" else torch.randn(x.shape)
        return x + 0.1 * noise, self.y[index]


def noisy(seed: int, how: str, **keys: Any) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    return run(DataLoader(Noisy(x, y, how), batch_size=32, shuffle=True, **keys), (vx, vy))


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def pixels_up_to_255(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    model = mlp(depth=3)
    return run((127 + 40 * x, y), (127 + 40 * vx, vy), model, optimizer=sgd(model, 0.02))


def one_column_in_millions(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    scale = torch.ones(16)
    scale[3] = 1e6
    model = mlp()
    return run((x * scale, y), (vx * scale, vy), model, optimizer=sgd(model, 0.02))


def pixels_under_batch_norm(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    model = nn.Sequential(nn.BatchNorm1d(16), mlp())
    return run((127 + 40 * x, y), (127 + 40 * vx, vy), model, optimizer=sgd(model, 0.02))


def targets_in_millions(seed: int) -> dict[str, Any]:
    x, y = curve(seed)
    return run((x, 1e6 * y + 3e6), None, regressor(), loss_fn=F.mse_loss)


def slow_on_pixels_up_to_255(seed: int) -> dict[str, Any]:
    """Slower than a few dozen steps in any units."""
    x, y, vx, vy = data(seed=seed)
    model = mlp(depth=3)
    return run((1270 + 400 * x, y), (1270 + 400 * vx, vy), model, optimizer=sgd(model, 0.004))


def slow_in_standard_units(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    model = mlp(depth=3)
    return run((x, y), (vx, vy), model, optimizer=sgd(model, 0.004))


def inputs_and_targets_in_thousands(seed: int) -> dict[str, Any]:
    """Neither of them alone is mended by being standardised."""
    x, y = curve(seed)
    return run((1e3 * x + 5e3, 1e4 * y + 3e4), None, regressor(), loss_fn=F.l1_loss)


def targets_scaled_inside_the_model(seed: int) -> dict[str, Any]:
    x, y = curve(seed)
    model = Affine(regressor())
    return run((x, 100 * y + 300), None, model, loss_fn=lambda o, t: F.mse_loss(o / 100, t / 100))


def targets_out_of_reach_of(activation: nn.Module) -> Callable[[int], dict[str, Any]]:
    def out_of_reach(seed: int) -> dict[str, Any]:
        x, y = curve(seed)
        return run((x, 1e3 * y + 3e3), None, nn.Sequential(regressor(), activation), loss_fn=F.mse_loss)

    return out_of_reach


class Affine(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 100 * self.net(x) + 300


def nearly_one_class(seed: int) -> dict[str, Any]:
    x, _ = blobs(4000, seed=seed)
    rare = (torch.arange(4000) % 250 == 0).long()
    return run((x + 2 * rare[:, None], rare), None)


def nearly_one_class_but_drawn_evenly(seed: int) -> dict[str, Any]:
    made = nearly_one_class(seed)
    tensors = made["train_loader"].dataset.tensors
    weights = torch.where(tensors[1] == 1, 249.0, 1.0)
    return {**made, "train_loader": loader(tensors, sampler=WeightedRandomSampler(weights, 4000))}


def few_of_one_kind(seed: int) -> Tensors:
    x, _ = blobs(1000, seed=seed)
    rare = (torch.arange(1000) % 12 == 0).long()
    return x + 2 * rare[:, None], rare


def drawn_by_count(seed: int, inverse: bool = False) -> dict[str, Any]:
    x, y = few_of_one_kind(seed)
    counts = torch.bincount(y).float()
    weights = (1 / counts if inverse else counts)[y]
    return run(loader((x, y), sampler=WeightedRandomSampler(weights, 1000)), None)


def drawn_by_inverse_count(seed: int) -> dict[str, Any]:
    return drawn_by_count(seed, inverse=True)


def drawn_by_worth(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    worth = torch.where(torch.rand(1000, generator=generator) > 0.5, 3.0, 1.0)
    return run(loader(few_of_one_kind(seed), sampler=WeightedRandomSampler(worth, 1000)), None)


def weighed(weight: list[float]) -> Callable[[int], dict[str, Any]]:
    """Two classes, the second one rare, under a loss with these weights."""
    loss = nn.CrossEntropyLoss(torch.tensor(weight))
    return lambda seed: run(few_of_one_kind(seed), None, nn.Linear(16, 2), loss_fn=loss)


def weighed_positives(weight: float) -> Callable[[int], dict[str, Any]]:
    """The same as one output."""
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight))

    def entry(seed: int) -> dict[str, Any]:
        x, y = few_of_one_kind(seed)
        return run((x, y.float()[:, None]), None, nn.Linear(16, 1), loss_fn=loss)

    return entry


# --- both sides


def digits(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flat 8x8 images in 0..1 and labels, training and validation."""
    with np.load(Path(__file__).parents[2] / "sample_models" / "data" / "digits.npz") as file:
        images, labels = (
            torch.from_numpy(file["images"]).float().flatten(1) / 16,
            torch.from_numpy(file["labels"]).long(),
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


def reader(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes))


def validation_times_255(seed: int) -> dict[str, Any]:
    x, y, vx, vy = digits(seed)
    return run((x - 0.3, y), (255 * vx, vy), reader())


def validation_not_standardised(seed: int) -> dict[str, Any]:
    inputs, labels = blobs(640, seed=seed)
    inputs = inputs * torch.logspace(-1, 2, 16) + 5
    x, vx = inputs[:480], inputs[480:]
    return run(((x - x.mean(0)) / x.std(0), labels[:480]), (vx, labels[480:]))


def validation_standardised_twice(seed: int) -> dict[str, Any]:
    x, y, vx, vy = digits(seed)
    mean, spread = x.mean(), x.std()
    once = [(t - mean) / spread for t in (x, vx)]
    return run((once[0], y), ((once[1] - mean) / spread, vy), reader())


def validation_under_a_norm_of_each_sample(seed: int) -> dict[str, Any]:
    x, y, vx, vy = digits(seed)
    return run((x, y), (255 * vx, vy), nn.Sequential(nn.LayerNorm(64, elementwise_affine=False), reader()))


def series_that_grows(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    time = np.arange(1500)
    series = np.exp(time / 400) * (3 + np.sin(time / 7) + 0.1 * rng.normal(size=1500))
    series = (series - series[:1000].mean()) / series[:1000].std()
    windows = torch.as_tensor(np.stack([series[i : i + 24] for i in range(1470)]), dtype=torch.float32)[:, :, None]
    targets = torch.as_tensor(series[24:1494], dtype=torch.float32)[:, None]
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 1))
    sides = (windows[:970], targets[:970]), (windows[1000:], targets[1000:])
    return run(*sides, model, loss_fn=F.mse_loss)


def validation_of_later_days(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    drift = torch.zeros(16)
    drift[:5] = torch.randn(5, generator=torch.Generator().manual_seed(seed))
    return run((x, y), (1.3 * vx + drift, vy))


def training_labels_in_another_order(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    return run((x, y[torch.randperm(len(y))]), (vx, vy))


def validation_labels_in_another_order(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(1280, seed=seed)
    return run((x, y), (vx, vy.flip(0)))


def unrelated_on_both_sides(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(1280, seed=seed)
    return run((x, y[torch.randperm(len(y))]), (vx, vy[torch.randperm(len(vy))]), max_epochs=60)


def rule_that_neighbours_miss(seed: int) -> dict[str, Any]:
    x = torch.randn(1600, 16, generator=torch.Generator().manual_seed(seed))
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()
    return run((x[:1200], y[:1200]), (x[1200:], y[1200:]), max_epochs=60)


def validation_classes_renumbered(seed: int) -> dict[str, Any]:
    x, y, vx, vy = data(seed=seed)
    return run((x, y), (vx, torch.tensor([2, 3, 1, 0])[vy]))


def classes_never_trained(seed: int) -> dict[str, Any]:
    x, y = blobs(640, seed=seed)
    return run((x[y < 3], y[y < 3]), (x[y >= 2], y[y >= 2]))


def validation_in_other_units_unlike_any_map(seed: int) -> dict[str, Any]:
    inputs, labels = blobs(640, seed=seed)
    inputs = inputs * torch.logspace(0, 1.5, 16)
    scale, offset = torch.logspace(1.5, 0, 16), 100 * torch.randn(16, generator=torch.Generator().manual_seed(seed))
    return run((inputs[:480], labels[:480]), (inputs[480:] * scale + offset, labels[480:]))


def drawn(how: str, **keys: Any) -> Callable[[int], dict[str, Any]]:
    return lambda seed: noisy(seed, how, **keys)


def rare_under(loss_fn: Any) -> Callable[[int], dict[str, Any]]:
    return lambda seed: {**nearly_one_class(seed), "loss_fn": loss_fn}


def own_mean(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, labels, reduction="none").mean()


def weighed_by_class(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (F.cross_entropy(outputs, labels, reduction="none") * torch.where(labels == 1, 100.0, 1.0)).mean()


def focal(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    losses = F.cross_entropy(outputs, labels, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def hardest(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, labels, reduction="none").topk(len(labels) // 4).values.mean()


def smoothed(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.CrossEntropyLoss(label_smoothing=0.05)(outputs, labels) + 1e-4 * outputs.square().mean()


# --- redundant


def columns_a_join_left_empty(seed: int) -> dict[str, Any]:
    x, y = curve(seed)
    x[:, 2:5] = -1.0
    return run((x, y), None, regressor(), loss_fn=F.mse_loss)


def a_column_of_ones(seed: int) -> dict[str, Any]:
    x, y = curve(seed)
    x[:, 2] = 1.0
    return run((x, y), None, regressor(), loss_fn=F.mse_loss)


def borders_of_pictures(seed: int) -> dict[str, Any]:
    """Half of the columns are black throughout, the others wherever no ink is."""
    x, y, _vx, _vy = data(seed=seed)
    ink, black = x.clamp(min=0.0), torch.zeros_like(x)
    return run((torch.cat([ink, black], 1), y), None, mlp(features=2 * x.shape[1]))


class NextToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(30, 16), nn.Linear(16, 30)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.embed(ids))


def text(seed: int, times: int) -> dict[str, Any]:
    """Windows of a random walk over 30 tokens, as (ids, next ids), the whole text `times` over."""
    steps = torch.randint(-2, 3, (24 * 120 + 1,), generator=torch.Generator().manual_seed(seed))
    walk = steps.cumsum(0) % 30
    ids, following = walk[:-1].view(-1, 24).repeat(times, 1), walk[1:].view(-1, 24).repeat(times, 1)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return run((ids, following), None, NextToken(), loss_fn=loss)


def text_read_three_times(seed: int) -> dict[str, Any]:
    return text(seed, 3)


def text_read_once(seed: int) -> dict[str, Any]:
    return text(seed, 1)


FAULTY: dict[str, tuple[str, str, Callable[[int], dict[str, Any]]]] = {
    function.__name__: (code, severity, function)
    for code, severity, function in (
        ("SC1701", "fail", nan_in_a_late_batch), ("SC1701", "fail", infinite_target), ("SC1701", "fail", nan_in_validation),
        ("SC1702", "fail", id_beyond_the_table), ("SC1702", "fail", class_beyond_the_outputs),
        ("SC1702", "fail", class_of_minus_one), ("SC1703", "fail", one_sample_left_for_batch_norm),
        ("SC1704", "fail", sorted_by_class), ("SC1704", "fail", sorted_by_target),
        ("SC1704", "fail", sorted_list_of_batches), ("SC1705", "fail", labels_of_other_samples),
        ("SC1724", "fail", inputs_permuted_in_collate),
        ("SC1707", "fail", one_label),
        ("SC1708", "fail", pixels_up_to_255), ("SC1708", "fail", one_column_in_millions),
        ("SC1708", "fail", slow_on_pixels_up_to_255),
        ("SC1709", "fail", targets_in_millions), ("SC1710", "fail", validation_times_255),
        ("SC1710", "fail", validation_not_standardised), ("SC1710", "fail", validation_standardised_twice),
        ("SC1711", "fail", training_labels_in_another_order), ("SC1711", "fail", validation_labels_in_another_order),
        ("SC1712", "fail", validation_classes_renumbered), ("SC1713", "fail", code_for_missing),
        ("SC1715", "fail", target_among_inputs), ("SC1716", "fail", classes_never_trained),
        ("SC1717", "warn", nearly_one_class), ("SC1718", "warn", validation_in_other_units_unlike_any_map),
        ("SC1719", "warn", unrelated_on_both_sides),
        ("SC1721", "warn", columns_a_join_left_empty), ("SC1722", "warn", text_read_three_times),
    )
}  # fmt: skip
for plain_loss in (own_mean, smoothed):
    FAULTY[f"one class under {plain_loss.__name__}"] = ("SC1717", "warn", rare_under(plain_loss))
FAULTY |= {
    "padded to ten times the need": ("SC1723", "warn", padded_to(200)),
    "padded to ten times the need on the left": ("SC1723", "warn", padded_to(200, left=True)),
    "drawn by count": ("SC1720", "warn", drawn_by_count),
    "weighed by share": ("SC1720", "warn", weighed([0.92, 0.08])),
    "rare positives weighed down": ("SC1720", "warn", weighed_positives(1 / 11)),
}
FAULTY["reseeded"] = ("SC1714", "fail", drawn("reseeded"))
FAULTY["cloned"] = ("SC1714", "fail", drawn("own", num_workers=2))

HEALTHY: dict[str, Callable[[int], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        nan_that_the_model_replaces, nan_targets_that_the_loss_leaves_out, one_sample_left_that_the_step_leaves_out,
        three_samples_left_for_batch_norm, parity, labels_that_nobody_reads, code_that_the_model_knows, rare_flags,
        padding_that_the_model_knows,
        sorted_but_shuffled, unsorted_and_not_shuffled, sorted_for_a_sum_over_all_batches, one_label_in_ten_redrawn,
        timesteps, pixels_under_batch_norm, slow_in_standard_units,
        targets_scaled_inside_the_model, nearly_one_class_but_drawn_evenly,
        validation_of_later_days, rule_that_neighbours_miss, validation_under_a_norm_of_each_sample, series_that_grows,
        a_column_of_ones, borders_of_pictures, text_read_once,
    )
}  # fmt: skip
HEALTHY |= {"drawn": drawn("global"), "drawn by index": drawn("by index"), "drawn in one process": drawn("own")}
for activation in (nn.Tanh(), nn.Sigmoid(), nn.LogSigmoid()):
    HEALTHY[f"targets out of reach of {activation}"] = targets_out_of_reach_of(activation)
for countering in (weighed_by_class, focal, hardest):
    HEALTHY[f"one class under {countering.__name__}"] = rare_under(countering)
HEALTHY |= {
    "padded to the longest": padded_to(20),
    "padded to half as much again": padded_to(30),
    "drawn by inverse count": drawn_by_inverse_count,
    "drawn by worth": drawn_by_worth,
    "weighed by inverse share": weighed([0.08, 0.92]),
    "weighed a little": weighed([1.0, 0.7]),
    "rare positives weighed up": weighed_positives(11.0),
}
HEALTHY["one class under weights"] = rare_under(nn.CrossEntropyLoss(torch.tensor([1.0, 100.0])))
HEALTHY["drawn in workers"] = drawn("global", num_workers=2)
