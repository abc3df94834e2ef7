"""Training steps, right and wrong, for tests to build set-ups from: each takes a set-up's parts and returns its train_step."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.setups import classifier, mlp

Step = Callable[[Any], Any]
Maker = Callable[[nn.Module, Any], Step]


def stepping(maker: Maker, model: Callable[[], nn.Module] = mlp, **keys: Any) -> Callable[[], dict[str, Any]]:
    """An entry function whose train_step `maker` makes from the model and its optimizer."""
    build = classifier(model, **keys)

    def setup() -> dict[str, Any]:
        parts = build()
        return {**parts, "train_step": maker(parts["model"], parts["optimizer"])}

    return setup


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


# --- right


def textbook(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss

    return step


def zeros_kept(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return loss.item()

    return step


def two_losses(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        model.zero_grad()
        loss = loss_of(model, batch)
        loss.backward(retain_graph=True)
        (1e-3 * loss + 1e-4 * sum(p.square().sum() for p in model.parameters())).backward()
        optimizer.step()
        return loss.detach()

    return step


def decayed_gradients(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        for p in model.parameters():
            if p.grad is not None:
                p.grad.mul_(0.5)  # momentum kept in .grad, on purpose
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def attack_first(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        inputs = batch[0].clone().requires_grad_()
        loss_of(model, (inputs, batch[1])).backward()
        assert inputs.grad is not None
        optimizer.zero_grad()
        loss = loss_of(model, (batch[0] + 0.01 * inputs.grad.sign(), batch[1]))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def sharpness_aware(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        loss = loss_of(model, batch)
        loss.backward()
        moves = [0.05 * p.grad for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            torch._foreach_add_(list(model.parameters()), moves)
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        with torch.no_grad():
            torch._foreach_sub_(list(model.parameters()), moves)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def closure(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        def evaluate() -> Any:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        return optimizer.step(evaluate)

    return step


def averaged_teacher(model: nn.Module, optimizer: Any) -> Step:
    teacher = copy.deepcopy(model)

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch) + F.mse_loss(model(batch[0]), teacher(batch[0]).detach())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(teacher.parameters(), model.parameters(), strict=True):
                p.lerp_(q, 0.01)
        return loss.item()

    return step


def last_losses(model: nn.Module, optimizer: Any) -> Step:
    recent: deque[torch.Tensor] = deque(maxlen=10)

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        recent.append(loss)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def scaled_and_clipped(model: nn.Module, optimizer: Any) -> Step:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def seldom_second_optimizer(model: nn.Module, optimizer: Any) -> Step:
    """The last layer has an optimizer of its own that steps once in a hundred calls."""
    last = list(model.parameters())[-2:]
    optimizer.param_groups[0]["params"] = [
        p for p in optimizer.param_groups[0]["params"] if not any(p is q for q in last)
    ]
    other, count = torch.optim.SGD(last, lr=0.1), [0]

    def step(batch: Any) -> Any:
        model.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        count[0] += 1
        if count[0] % 100 == 0:
            other.step()
        return loss.item()

    return step


def new_optimizer_without_a_past(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        anew = torch.optim.SGD(model.parameters(), lr=0.1)
        anew.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        anew.step()
        return loss.item()

    return step


def rehearsed(model: nn.Module, optimizer: Any) -> Step:
    """Continual learning: the first batch beside each new one."""
    memory: list[Any] = []

    def step(batch: Any) -> Any:
        memory.extend([] if memory else [batch])
        optimizer.zero_grad()
        loss = loss_of(model, batch) + loss_of(model, memory[0])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def prefetched(model: nn.Module, optimizer: Any) -> Step:
    """Each batch one call late."""
    waiting: list[Any] = []

    def step(batch: Any) -> Any:
        waiting.append(batch)
        optimizer.zero_grad()
        loss = loss_of(model, waiting[max(0, len(waiting) - 2)])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


RIGHT = {
    maker.__name__: maker
    for maker in (
        textbook, zeros_kept, two_losses, decayed_gradients, attack_first, sharpness_aware, closure, averaged_teacher,
        last_losses, scaled_and_clipped, seldom_second_optimizer, new_optimizer_without_a_past, rehearsed, prefetched,
    )
}  # fmt: skip


# --- wrong


def no_zero_grad(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def another_loss_after_the_step(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss_of(model, batch).backward()  # for the log; the next step adds it to its own
        return loss.item()

    return step


def closure_without_zero_grad(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        def evaluate() -> Any:
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        return optimizer.step(evaluate)

    return step


def cleared_before_step(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    return step


def cleared_stepped_then_backward(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        optimizer.step()
        loss.backward()
        return loss.item()

    return step


def stepped_before_backward(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.step()
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss.item()

    return step


def never_stepped(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss.item()

    return step


def never_backward(model: nn.Module, optimizer: Any) -> Step:
    return lambda batch: loss_of(model, batch).item()


def clipped_head(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(list(model.parameters())[-2:], 0.1)
        optimizer.step()
        return loss.item()

    return step


def clipped_in_groups(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        parameters = list(model.parameters())
        for part in (parameters[:1], parameters[1:3], parameters[3:]):
            nn.utils.clip_grad_norm_(part, 0.1)
        optimizer.step()
        return loss.item()

    return step


def clipped_after_step(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        return loss.item()

    return step


def clipped_by_spent_generator(model: nn.Module, optimizer: Any) -> Step:
    parameters = model.parameters()

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1e-3)
        optimizer.step()
        return loss.item()

    return step


def clipped_before_unscale(model: nn.Module, optimizer: Any) -> Step:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return step


def loss_made_anew(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = torch.tensor(loss_of(model, batch).item(), requires_grad=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def another_model(model: nn.Module, optimizer: Any) -> Step:
    other = copy.deepcopy(model)
    mine = torch.optim.Adam(other.parameters())

    def step(batch: Any) -> Any:
        mine.zero_grad()
        loss = loss_of(other, batch)
        loss.backward()
        mine.step()
        return loss.item()

    return step


def losses_summed_with_graph(model: nn.Module, optimizer: Any) -> Step:
    total = [torch.zeros(())]

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        total[0] = total[0] + loss
        return loss.item()

    return step


def average_in_the_loss(model: nn.Module, optimizer: Any) -> Step:
    memory: list[torch.Tensor] = []
    bias = list(model.parameters())[-1]

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        memory.append(bias.sum() * 1.0)  # not detached: each loss reaches back to the first step
        loss = loss_of(model, batch) + 1e-3 * torch.stack(memory).mean()
        loss.backward(retain_graph=True)
        optimizer.step()
        return loss.item()

    return step


def weights_loaded_back(model: nn.Module, optimizer: Any) -> Step:
    start = copy.deepcopy(model.state_dict())

    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        model.load_state_dict(start)
        return loss.item()

    return step


def stepped_twice(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.step()
        return loss.item()

    return step


def optimizer_of_its_own_each_time(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        anew = torch.optim.Adam(model.parameters(), lr=1e-3)
        anew.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        anew.step()
        return loss.item()

    return step


def first_batch_again(model: nn.Module, optimizer: Any) -> Step:
    first: list[Any] = []

    def step(batch: Any) -> Any:
        first.extend([] if first else [batch])
        optimizer.zero_grad()
        loss = loss_of(model, first[0])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def minus_the_loss(model: nn.Module, optimizer: Any) -> Step:
    def step(batch: Any) -> Any:
        optimizer.zero_grad()
        loss = -loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


WRONG: dict[str, tuple[Maker, str]] = {
    maker.__name__: (maker, code)
    for maker, code in (
        (no_zero_grad, "SC1501"),
        (another_loss_after_the_step, "SC1501"),
        (closure_without_zero_grad, "SC1501"),
        (cleared_before_step, "SC1502"),
        (cleared_stepped_then_backward, "SC1502"),
        (stepped_before_backward, "SC1503"),
        (never_stepped, "SC1504"),
        (never_backward, "SC1504"),
        (stepped_twice, "SC1507"),
        (clipped_after_step, "SC1508"),
        (clipped_by_spent_generator, "SC1508"),
        (clipped_before_unscale, "SC1509"),
        (loss_made_anew, "SC1510"),
        (another_model, "SC1510"),
        (average_in_the_loss, "SC1511"),
        (losses_summed_with_graph, "SC1512"),
        (weights_loaded_back, "SC1513"),
        (optimizer_of_its_own_each_time, "SC1519"),
        (first_batch_again, "SC1520"),
        (minus_the_loss, "SC1518"),
    )
}
