"""Set-ups whose loss is right or wrong, for test_loss_contract."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.setups import blobs, classifier, mlp

Setup = Callable[[], dict[str, Any]]


def ending_in(*layers: nn.Module, outputs: int = 4) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs), *layers)


def with_targets(
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    loss_fn: Any,
    model: Callable[[], nn.Module] = mlp,
    **keys: Any,
) -> Setup:
    """`classifier` with other targets, made from inputs and labels."""

    def setup() -> dict[str, Any]:
        inputs, labels = blobs()
        data = TensorDataset(inputs, change(inputs, labels))
        loader = DataLoader(data, batch_size=32, shuffle=True)
        return {**classifier(model, loss_fn=loss_fn)(), "train_loader": loader, **keys}

    return setup


def pixels() -> nn.Module:
    """Scores of 3 classes at 4 × 5 pixels: (N, 3, 4, 5)."""
    return nn.Sequential(nn.Linear(16, 60), nn.Unflatten(1, (3, 4, 5)))


def per_pixel(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (inputs.repeat(1, 2)[:, :20] > 0).long().view(-1, 4, 5) + (labels > 1)[:, None, None]


def even(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (labels % 2).float()


def first(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return inputs[:, 0]


def images(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return inputs


def column() -> nn.Module:
    return ending_in(outputs=1)()


def flat() -> nn.Module:
    return ending_in(nn.Flatten(0), outputs=1)()


def computing(
    loss: Callable[[nn.Module, Any], torch.Tensor], model: Callable[[], nn.Module] = mlp, **keys: Any
) -> Setup:
    return lambda: {**classifier(model, **keys)(), "loss_fn": None, "compute_loss": loss}


def stepping(
    loss: Callable[[nn.Module, Any], torch.Tensor], model: Callable[[], nn.Module] = mlp, **keys: Any
) -> Setup:
    """The loss is known only inside the user's step."""

    def setup() -> dict[str, Any]:
        parts = {**classifier(model)(), "loss_fn": None, **keys}
        network, optimizer = parts["model"], parts["optimizer"]

        def train_step(batch: Any) -> float:
            optimizer.zero_grad()
            value = loss(network, batch)
            value.backward()
            optimizer.step()
            return float(value)

        return {**parts, "train_step": train_step}

    return setup


class Returns(nn.Module):
    """A model that returns its own loss."""

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.loss = mlp(), loss

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.net(inputs)
        return {"loss": self.loss(logits, labels), "logits": logits}


def returning(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Setup:
    return lambda: {**classifier(lambda: Returns(loss))(), "loss_fn": None}


# --- sequences

SYMBOLS, STEPS = 24, 12


def text(rows: int = 256, seed: int = 3) -> torch.Tensor:
    """Rows of symbols that mostly follow from the one before, 1 to SYMBOLS - 1."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randint(1, SYMBOLS, (rows, STEPS + 2), generator=generator)
    for step in range(1, STEPS + 2):
        jump = torch.rand(rows, generator=generator) < 0.7
        out[:, step] = torch.where(jump, (out[:, step - 1] * 5) % (SYMBOLS - 1) + 1, out[:, step])
    return out


class Attention(nn.Module):
    def __init__(self, causal: bool = True, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(SYMBOLS, width), nn.Embedding(STEPS + 2, width)
        self.causal = causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, SYMBOLS)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)))


class Recurrent(nn.Module):
    def __init__(self, time_first: bool = False) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(SYMBOLS, 32), nn.Linear(32, SYMBOLS)
        self.rnn = nn.GRU(32, 32, batch_first=not time_first)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.tokens(ids))[0])


class Squeezed(nn.Module):
    """An autoencoder of sequences through one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(SYMBOLS, 16), nn.Linear(32, STEPS * SYMBOLS)
        self.middle = nn.Linear(16 * STEPS, 32)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.middle(self.tokens(ids).flatten(1)))).view(len(ids), STEPS, SYMBOLS)


class Shifting(nn.Module):
    """Shifts the labels itself, as hub models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Attention()

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(input_ids)
        return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), "logits": logits}


def per_token(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def language(
    pair: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    model: Callable[[], nn.Module] = Attention,
    loss_fn: Any = per_token,
    collate: Any = None,
) -> Setup:
    def setup() -> dict[str, Any]:
        network = model()
        data = TensorDataset(*pair(text()))
        return {
            "model": network,
            "train_loader": DataLoader(data, batch_size=16, shuffle=True, collate_fn=collate),
            "loss_fn": loss_fn,
            "optimizer": torch.optim.Adam(network.parameters(), lr=3e-3),
            "max_steps": 300,
        }

    return setup


def shifted(by: int) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    return lambda ids: (ids[:, :STEPS], ids[:, by : STEPS + by])


def columns(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Time first."""
    return torch.stack([r[0] for r in rows], 1), torch.stack([r[1] for r in rows], 1)


def masked(ids: torch.Tensor, *, late: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Masked language modelling; `late` hides nothing of what is to be predicted."""
    ids = ids[:, :STEPS]
    hide = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.25
    labels = ids.masked_fill(~hide, -100)
    return (ids if late else ids.masked_fill(hide, 0)), labels


def padded(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.randint(2, STEPS // 2, (len(ids), 1), generator=torch.Generator().manual_seed(0))
    ids = ids.masked_fill(torch.arange(ids.shape[1]) >= lengths, 0)
    return ids[:, :STEPS], ids[:, 1 : STEPS + 1]


def tagged(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Most tags are 0, and the tokens are not padded."""
    ids = ids[:, :STEPS]
    return ids, torch.where(ids > SYMBOLS - 4, ids - SYMBOLS + 5, 0)


def ctc(rows: torch.Tensor) -> torch.Tensor:
    """Three equal steps in each of which one of four symbols may be said; symbols 1 and 2 are."""
    count = len(rows)
    targets = torch.tensor([[1, 2]]).expand(count, -1)
    return F.ctc_loss(rows.expand(3, -1, -1), targets, torch.full((count,), 3), torch.full((count,), 2))


# --- faulty: code -> set-ups

FAULTY: dict[str, list[Setup]] = {
    "SC1601": [
        classifier(ending_in(nn.Softmax(dim=1))),
        classifier(ending_in(nn.Softmax(dim=1)), loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1)),
        classifier(ending_in(nn.Sigmoid())),
        with_targets(even, lambda o, t: F.binary_cross_entropy_with_logits(o.squeeze(1), t), ending_in(nn.Sigmoid(), outputs=1)),
        computing(lambda m, b: F.cross_entropy(m(b[0]).softmax(-1), b[1])),
        computing(lambda m, b: F.nll_loss(F.log_softmax(m(b[0]).softmax(-1), 1), b[1])),
        computing(lambda m, b: -m(b[0]).softmax(-1).log_softmax(-1).gather(1, b[1][:, None]).mean()),
        computing(lambda m, b: F.cross_entropy((e := m(b[0]).exp()) / e.sum(1, keepdim=True), b[1])),
        stepping(lambda m, b: F.cross_entropy(torch.softmax(m(b[0]), 1), b[1])),
        returning(lambda o, y: nn.CrossEntropyLoss()(o.softmax(-1), y)),
        with_targets(lambda x, y: y.float(), lambda o, t: F.poisson_nll_loss(o.exp(), t), flat),
        with_targets(lambda x, y: y.float(), lambda o, t: F.poisson_nll_loss(F.softplus(o), t, True), flat),
    ],
    "SC1602": [
        classifier(loss_fn=F.nll_loss),
        classifier(ending_in(nn.Softmax(dim=1)), loss_fn=nn.NLLLoss()),
        stepping(lambda m, b: F.nll_loss(m(b[0]).softmax(1), b[1])),
        computing(lambda m, b: F.kl_div(m(b[0]).softmax(1), F.one_hot(b[1], 4).float(), reduction="batchmean")),
        with_targets(even, nn.BCELoss(), flat),
        with_targets(lambda x, y: y.float(), nn.PoissonNLLLoss(log_input=False), flat),
        with_targets(lambda x, y: y.float(), lambda o, t: F.poisson_nll_loss(o, t, False), flat),
        computing(lambda m, b: F.nll_loss(m(b[0]) / 2 + 1, b[1])),
        computing(lambda m, b: F.nll_loss(m(b[0]).exp(), b[1])),
        computing(lambda m, b: ctc(m(b[0]))),
        computing(lambda m, b: ctc(0.5 * m(b[0]))),
        computing(lambda m, b: ctc(m(b[0]).softmax(-1))),
        stepping(lambda m, b: ctc(m(b[0]))),
        returning(lambda o, y: ctc(o)),
    ],
    "SC1603": [
        with_targets(first, nn.MSELoss(), column),
        with_targets(lambda x, y: x[:, :1], nn.L1Loss(), flat),
        with_targets(first, lambda o, t: ((o - t) ** 2).mean(), column),
        with_targets(first, lambda o, t: (t - o).abs().mean(), column),
        with_targets(lambda x, y: x[:, :1], lambda o, t: (o[:, 0] - t).square().mean(), column),
        stepping(lambda m, b: F.smooth_l1_loss(m(b[0])[:, :1], b[0][:, 0])),
        computing(lambda m, b: F.huber_loss(m(b[0])[:, 0], b[0][:, 0].unsqueeze(1)) + 1e-4 * m[0].weight.square().sum()),
    ],
    "SC1604": [
        with_targets(lambda x, y: y + 1, F.cross_entropy),
        with_targets(lambda x, y: y - 1, nn.CrossEntropyLoss()),
        with_targets(lambda x, y: 2 * even(x, y) - 1, nn.BCEWithLogitsLoss(), flat),
        with_targets(lambda x, y: y.float(), nn.BCEWithLogitsLoss(), flat),
        with_targets(even, nn.SoftMarginLoss(), flat),
        stepping(lambda m, b: F.cross_entropy(m(b[0]), b[1] + 1)),
        with_targets(lambda x, y: y % 2, F.cross_entropy, column),
    ],
    "SC1605": [
        with_targets(lambda x, y: y.float(), F.cross_entropy),
        with_targets(lambda x, y: y[:, None], F.cross_entropy),
        with_targets(lambda x, y: F.one_hot(y, 4), nn.CrossEntropyLoss()),
        with_targets(even, nn.BCEWithLogitsLoss(), column),
    ],
    "SC1606": [
        classifier(ending_in(nn.LogSoftmax(dim=0)), loss_fn=nn.NLLLoss()),
        computing(lambda m, b: F.nll_loss(m(b[0]).softmax(0).log(), b[1])),
        with_targets(even, lambda o, t: F.binary_cross_entropy(o.squeeze(1), t), ending_in(nn.Softmax(dim=1), outputs=1)),
        with_targets(lambda x, y: 0 * y, F.cross_entropy, column),
        language(shifted(1), loss_fn=F.cross_entropy),
        with_targets(per_pixel, lambda o, t: F.cross_entropy(o.reshape(-1, 3), t.reshape(-1)), pixels),
        with_targets(per_pixel, lambda o, t: F.cross_entropy(o.float().view(-1, 3), t.view(-1)), pixels),
        lambda: {**language(lambda ids: (ids[:, :STEPS], ids[:, 1 : STEPS + 1] % STEPS), _narrow, F.cross_entropy)()},
    ],
    "SC1607": [
        classifier(loss_fn=lambda o, t: -F.cross_entropy(o, t)),
        classifier(loss_fn=lambda o, t: o.log_softmax(1).gather(1, t[:, None]).mean()),
        with_targets(images, lambda o, t: -((o - t) ** 2).mean(), lambda: nn.Linear(16, 16)),
        with_targets(even, lambda o, t: -F.binary_cross_entropy_with_logits(o, t), flat),
        computing(lambda m, b: m(b[0]).log_softmax(1)[torch.arange(len(b[1])), b[1]].mean()),
        stepping(lambda m, b: -F.cross_entropy(m(b[0]), b[1])),
        returning(lambda o, y: -F.cross_entropy(o, y)),
        classifier(optimizer=lambda p, lr: torch.optim.Adam(p, lr=lr, maximize=True)),
    ],
    "SC1609": [
        classifier(loss_fn=lambda o, t: F.cross_entropy(o, o.argmax(1))),
        with_targets(first, lambda o, t: F.mse_loss(o, torch.zeros_like(t)), flat),
    ],
    "SC1610": [
        with_targets(lambda x, y: torch.full_like(y, -100), F.cross_entropy),
        with_targets(lambda x, y: 0 * y, nn.CrossEntropyLoss(ignore_index=0)),
    ],
    "SC1612": [
        language(shifted(0)),
        language(shifted(0), Recurrent),
        language(shifted(0), lambda: Recurrent(True), collate=columns),
        language(shifted(0), loss_fn=lambda o, t: F.cross_entropy(o.transpose(1, 2), t)),
        language(lambda ids: masked(ids, late=True), lambda: Attention(False)),
    ],
    "SC1613": [
        language(shifted(2)),
        lambda: {**language(shifted(1), Shifting)(), "loss_fn": None},
    ],
    "SC1614": [
        computing(
            lambda m, b: F.ctc_loss(
                m(b[0]).log_softmax(-1).expand(3, -1, -1), torch.ones(len(b[1]), 3, dtype=torch.long),
                torch.full((len(b[1]),), 3), torch.full((len(b[1]),), 3),
            )
        ),
    ],
    "SC1615": [
        with_targets(even, lambda o, t: F.binary_cross_entropy(t, o.sigmoid()), flat),
    ],
}  # fmt: skip


def _narrow() -> nn.Module:
    network = Attention()
    network.head = nn.Linear(32, STEPS)
    return network


WARNED: dict[str, list[Setup]] = {
    "SC1601": [classifier(ending_in(nn.Tanh()))],
    "SC1607": [with_targets(images, lambda o, t: F.cosine_similarity(o, t).mean(), lambda: nn.Linear(16, 16))],
    "SC1611": [language(padded), language(padded, Recurrent)],
    "SC1612": [language(shifted(0), lambda: Attention(False))],
}


def _sgd(lr: float, loss_fn: Any) -> Setup:
    def setup() -> dict[str, Any]:
        parts = with_targets(images, loss_fn, lambda: nn.Linear(16, 16))()
        return {**parts, "optimizer": torch.optim.SGD(parts["model"].parameters(), lr=lr)}

    return setup


WARNED["SC1608"] = [_sgd(0.005, nn.MSELoss(reduction="sum"))]


# --- healthy


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(16, 8), nn.Linear(4, 16)

    def forward(self, x: torch.Tensor) -> Any:
        mean, spread = self.enc(x).chunk(2, 1)
        return self.dec(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread, x


def elbo(out: Any, _labels: torch.Tensor) -> torch.Tensor:
    again, mean, spread, x = out
    return ((again - x) ** 2).sum() - 0.5 * (1 + spread - mean**2 - spread.exp()).sum()


def contrastive(model: nn.Module, batch: Any) -> torch.Tensor:
    a, b = (F.normalize(model(batch[0] + 0.1 * torch.randn_like(batch[0])), dim=1) for _ in range(2))
    return F.cross_entropy(a @ b.T / 0.5, torch.arange(len(a)))


def views(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Contrastive, with the labels handed on but not needed."""
    z = F.normalize(outputs, dim=1)
    return F.cross_entropy(z @ z.roll(1, 1).T / 0.5, torch.arange(len(z)))


def pairwise(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Every difference of predictions against every difference of targets."""
    return (((outputs[:, None] - outputs[None]) - (targets[:, None] - targets[None])) ** 2).mean()


def quantiles(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    error = F.smooth_l1_loss(outputs.unsqueeze(2), targets[:, None, None].expand(-1, 1, 4), reduction="none")
    return error.mean()


def chamfer(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((outputs[:, None] - targets) ** 2).sum(-1).min(1).values.mean()


def gaussian(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    mean, width = outputs[:, 0], F.softplus(outputs[:, 1]) + 1e-3
    return -torch.distributions.Normal(mean, width).log_prob(0.01 * targets).mean()


def policy(model: nn.Module, batch: Any) -> torch.Tensor:
    """REINFORCE with costs: every return is negative."""
    actions, returns = batch[1], -1 - torch.rand(len(batch[1]))
    return (F.cross_entropy(model(batch[0]), actions, reduction="none") * returns).mean()


def adversarial(model: nn.Module, batch: Any) -> torch.Tensor:
    out = model(batch[0])
    return F.cross_entropy(out, batch[1]) - 0.1 * F.cross_entropy(out.roll(1, 1), batch[1])


def distilled(model: nn.Module, batch: Any) -> torch.Tensor:
    soft = F.softmax(F.one_hot(batch[1], 4).float() * 3, 1)
    out = model(batch[0])
    return F.kl_div(F.log_softmax(out / 2, 1), soft, reduction="batchmean") * 4 + 0.1 * F.cross_entropy(out, soft)


def mixture(model: nn.Module, batch: Any) -> torch.Tensor:
    """The logarithm of a mixture of two distributions."""
    p = 0.5 * model(batch[0]).softmax(1) + 0.5 * model(0.5 * batch[0]).softmax(1)
    return F.nll_loss((p + 1e-8).log(), batch[1])


def critic(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Wasserstein: real against fake."""
    return -(outputs * (2 * targets - 1)).mean()


def minmax(model: nn.Module, batch: Any) -> torch.Tensor:
    out = model(batch[0])[:, 0]
    return F.binary_cross_entropy_with_logits(out, even(*batch)) + 0.01 * F.mse_loss(out, torch.zeros_like(out))


def dice(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    p = outputs.sigmoid()
    return 1 - 2 * (p * targets).sum() / (p.sum() + targets.sum())


def margin_pairs(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Hadsell's contrastive loss: distances against equal or not."""
    d = outputs.abs()
    return (targets * d**2 + (1 - targets) * F.relu(1 - d) ** 2).mean()


def gradient_penalty(model: nn.Module, batch: Any) -> torch.Tensor:
    x = batch[0].clone().requires_grad_()
    out = model(x)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return F.cross_entropy(out, batch[1]) + 0.01 * slope.square().sum()


def multi_token(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Predicts the next token and the one after."""
    return per_token(outputs, targets) + F.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


def weighted_pads(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return (loss * (targets.flatten() != 0)).sum() / (targets != 0).sum()


def skipping(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Labels of -1 are not known, and do not count."""
    loss = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    return (loss * (targets >= 0)).mean()


def with_unknown(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return even(inputs, labels).masked_fill(inputs[:, 1] > 0, -1)


def without_padding(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=0)


def silent() -> nn.Module:
    """Its head starts at zero, so that every output is the same."""
    network = mlp()
    nn.init.zeros_(network[-1].weight)
    nn.init.zeros_(network[-1].bias)
    return network


HEALTHY: dict[str, Setup] = {
    "head that starts at zero": classifier(silent),
    "binary head that starts at zero": with_targets(
        even, lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t), silent
    ),
    "classes moved before they are flattened": with_targets(
        per_pixel, lambda o, t: F.cross_entropy(o.permute(0, 2, 3, 1).reshape(-1, 3), t.reshape(-1)), pixels
    ),
    "classes last and flattened": with_targets(
        per_pixel,
        lambda o, t: F.cross_entropy(o.reshape(-1, 3), t.reshape(-1)),
        lambda: nn.Sequential(nn.Linear(16, 60), nn.Unflatten(1, (4, 5, 3))),
    ),
    "hinge": with_targets(lambda x, y: 2 * even(x, y) - 1, lambda o, t: F.relu(1 - o * t).mean(), flat),
    "unknown labels skipped": with_targets(with_unknown, skipping, flat),
    "unknown labels of weight 0": with_targets(
        with_unknown, lambda o, t: F.binary_cross_entropy_with_logits(o, t, weight=(t >= 0).float()), flat
    ),
    "squeezed autoencoder without padding": language(
        lambda ids: (padded(ids)[0], padded(ids)[0]), Squeezed, without_padding
    ),
    "textbook": classifier(),
    "label smoothing": classifier(loss_fn=nn.CrossEntropyLoss(label_smoothing=0.2)),
    "class weights": classifier(loss_fn=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 1.0]))),
    "log_softmax and NLL": classifier(ending_in(nn.LogSoftmax(dim=1)), loss_fn=nn.NLLLoss()),
    "log_softmax and cross-entropy": classifier(ending_in(nn.LogSoftmax(dim=1))),
    "softmax, then logarithm": classifier(ending_in(nn.Softmax(dim=1)), loss_fn=lambda o, t: F.nll_loss(o.log(), t)),
    "softmax and squared error": classifier(
        ending_in(nn.Softmax(dim=1)), loss_fn=lambda o, t: F.mse_loss(o, F.one_hot(t, 4).float())
    ),
    "sigmoid and BCE": with_targets(even, nn.BCELoss(), ending_in(nn.Sigmoid(), nn.Flatten(0), outputs=1)),
    "binary logits": with_targets(even, nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0])), flat),
    "both columns": with_targets(lambda x, y: even(x, y)[:, None], nn.BCEWithLogitsLoss(), column),
    "noisy labels of a discriminator": with_targets(
        lambda x, y: even(x, y) * 0.9 + 0.25 * torch.rand(len(y)), nn.BCEWithLogitsLoss(), flat
    ),
    "soft margin": with_targets(lambda x, y: 2 * even(x, y) - 1, nn.SoftMarginLoss(), flat),
    "reserved class": with_targets(lambda x, y: y + 1, F.cross_entropy, ending_in(outputs=5)),
    "ctc": computing(lambda m, b: ctc(m(b[0]).log_softmax(-1))),
    "ctc of logarithms by hand": computing(lambda m, b: ctc(m(b[0]).softmax(-1).clamp_min(1e-6).log())),
    "ctc less a prior": computing(
        lambda m, b: ctc(m(b[0]).log_softmax(-1) - 0.3 * torch.tensor([-0.2, -1.0, -2.0, -3.0]))
    ),
    "cross-entropy in two parts": computing(lambda m, b: F.nll_loss(o := m(b[0]), b[1]) + o.logsumexp(1).mean()),
    "class probabilities": with_targets(lambda x, y: F.one_hot(y, 4).float(), F.cross_entropy),
    "some ignored": with_targets(lambda x, y: y.masked_fill(x[:, 0] > 0, -100), F.cross_entropy),
    "one output against one constant": with_targets(first, lambda o, t: F.mse_loss(o, t[:1]), flat),
    "autoencoder": with_targets(images, nn.MSELoss(), lambda: nn.Linear(16, 16)),
    "summed autoencoder": with_targets(images, nn.MSELoss(reduction="sum"), lambda: nn.Linear(16, 16)),
    "gentle summed descent": _sgd(1e-4, nn.MSELoss(reduction="sum")),
    "cosine": with_targets(images, lambda o, t: 1 - F.cosine_similarity(o, t).mean(), lambda: nn.Linear(16, 16)),
    "negative cosine": with_targets(images, lambda o, t: -F.cosine_similarity(o, t).mean(), lambda: nn.Linear(16, 16)),
    "variational": classifier(Vae, loss_fn=elbo),
    "contrastive": computing(contrastive),
    "contrastive with labels": classifier(ending_in(outputs=8), loss_fn=views),
    "pairwise": with_targets(first, pairwise, flat),
    "quantiles": with_targets(first, quantiles),
    "chamfer": with_targets(images, chamfer, lambda: nn.Linear(16, 16)),
    "gaussian": with_targets(first, gaussian),
    "poisson of rates": with_targets(
        lambda x, y: y.float(), lambda o, t: F.poisson_nll_loss(o.exp(), t, log_input=False), flat
    ),
    "poisson": with_targets(lambda x, y: y.float(), nn.PoissonNLLLoss(), flat),
    "policy gradient": computing(policy),
    "policy gradient in the step": stepping(policy),
    "adversarial": computing(adversarial),
    "distilled": computing(distilled),
    "mixture": computing(mixture),
    "critic": with_targets(even, critic, flat),
    "dice": with_targets(even, dice, flat),
    "margin of pairs": with_targets(even, margin_pairs, flat),
    "two tasks": computing(minmax),
    "gradient penalty": computing(gradient_penalty),
    "returns its loss": returning(F.cross_entropy),
    "own step": stepping(lambda m, b: F.cross_entropy(m(b[0]), b[1])),
    "maximised": classifier(
        loss_fn=lambda o, t: -F.cross_entropy(o, t), optimizer=lambda p, lr: torch.optim.Adam(p, lr=lr, maximize=True)
    ),
    "language model": language(shifted(1)),
    "recurrent language model": language(shifted(1), Recurrent),
    "time first": language(shifted(1), lambda: Recurrent(True), collate=columns),
    "classes in axis 1": language(shifted(1), loss_fn=lambda o, t: F.cross_entropy(o.transpose(1, 2), t)),
    "shifts the labels itself": lambda: {**language(shifted(0), Shifting)(), "loss_fn": None},
    "two tokens ahead": language(shifted(1), loss_fn=multi_token),
    "masked": language(masked, lambda: Attention(False)),
    "squeezed autoencoder": language(shifted(0), Squeezed),
    "padding ignored": language(
        padded, loss_fn=lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten(), ignore_index=0)
    ),
    "padding weighted away": language(padded, loss_fn=weighted_pads),
    "mostly one tag": language(tagged, lambda: Attention(False)),
    "tiny": computing(lambda m, b: 1e-8 * F.cross_entropy(m(b[0]), b[1])),
    "huge": computing(lambda m, b: 1e8 * F.cross_entropy(m(b[0]), b[1])),
    "unmixed scale": with_targets(lambda x, y: 1e6 * x[:, 0], nn.MSELoss(), flat),
    "entropy bonus": computing(
        lambda m, b: F.cross_entropy(o := m(b[0]), b[1]) + 0.01 * (o.softmax(1) * o.log_softmax(1)).sum(1).mean()
    ),
    "log of two": computing(lambda m, b: F.cross_entropy(m(b[0]), b[1]) / math.log(2)),
}
