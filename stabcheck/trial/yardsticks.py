"""Levels of the user's own loss that give every rule its scale.

* constant: the loss of the best constant prediction, found by minimising over one prediction shared by
  all samples. A model that has learnt nothing about its inputs cannot do better.
* zero: the loss of an all-zero prediction.
* oracle: the lowest the loss can reach when every prediction is free. It is above zero for label smoothing,
  soft targets or contrastive losses.

With a loss_fn the predictions are its argument. Otherwise they are the outputs of the *heads*: the
modules whose outputs reach the loss without passing through another module with parameters; these
outputs are replaced inside the forward.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stabcheck.recording import Yardsticks
from stabcheck.trial.autograd_graph import nodes_behind
from stabcheck.trial.batches import map_tensors, tensors
from stabcheck.trial.hooks import attached
from stabcheck.trial.losses import scalar, split
from stabcheck.trial.minimise import FORWARD_EFFORT, Lowest, minimise
from stabcheck.trial.modes import undisturbed
from stabcheck.trial.probes import own_parameters
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError, userland

ONLY_IN_STEP = "the loss is known only inside train_step: give 'loss_fn' or 'compute_loss' too"
Levels = tuple[float | None, float | None, float | None]
"""(constant, zero, oracle)"""
Shapes = Callable[[torch.Tensor], list[torch.Tensor]]


def measure(session: Session, batches: list[Any], seed: int, *, shapes: Shapes | None = None) -> Yardsticks:
    """The yardsticks over these batches together; one constant serves them all. Batch i sees the randomness of `seed` + i.
    With a loss_fn, `shapes` are those that a constant prediction may have, instead of `constants`.

    The model keeps its weights, buffers, modes and gradients, and every generator its state.
    """
    setup = session.setup
    with undisturbed(session.model), kept_rng():
        try:
            if setup.loss_fn:
                levels = _of_outputs(session, batches, seed, shapes or constants)
            else:
                levels = _of_forward(session, batches, seed)
        except (UserCodeError, RuntimeError, ValueError, TypeError, IndexError) as error:
            if setup.train_step and not (setup.loss_fn or setup.compute_loss):
                return Yardsticks(None, None, None, ONLY_IN_STEP)
            return Yardsticks(None, None, None, f"the loss cannot be probed ({' '.join(str(error).split())[:200]})")
    constant, zero, oracle = (v if v is not None and math.isfinite(v) else None for v in levels)
    what = "predictions set free" if setup.loss_fn else "outputs of the last modules held constant"
    return Yardsticks(constant, zero, oracle, f"{what}, on {len(batches)} batch{'es' * (len(batches) > 1)}")


def zero_level(session: Session, batch: Any, seed: int) -> float | None:
    """The loss without a loss_fn when all heads give zeros, at the present weights; None if it has no heads, or cannot be had."""
    try:
        heads = _heads(session, batch, seed)
        zeros = {m: torch.zeros_like(c) for m, c in _shared(heads).items()}
        hooks = (m.register_forward_hook(_holding(itertools.repeat(zero))) for m, zero in zeros.items())
        with attached(hooks), torch.enable_grad(), kept_rng(seed):
            return float(session.loss(batch).detach()) if heads else None
    except (UserCodeError, RuntimeError, ValueError, TypeError, IndexError):
        return None


def constants(outputs: torch.Tensor) -> list[torch.Tensor]:
    """Shapes that a constant prediction can have, each filled with the mean: shared by all samples, and for more
    than two axes by all positions, so that it has few numbers to fit. Channels may be axis 1 or the last."""
    values = _finite(outputs)
    if values.dim() < 3:
        return [values.mean(0, keepdim=True) if values.dim() else values]
    axes = {1, values.dim() - 1}
    return [values.mean([i for i in range(values.dim()) if i != axis], keepdim=True) for axis in sorted(axes)]


# --- with a loss_fn


def one_for_all(outputs: torch.Tensor) -> list[torch.Tensor]:
    """The widest constant: one prediction for all samples, every element of it free."""
    return [_finite(outputs).mean(0, keepdim=True)]


def _of_outputs(session: Session, batches: list[Any], seed: int, shapes: Shapes) -> Levels:
    loss_fn = session.setup.loss_fn
    assert loss_fn is not None
    with torch.no_grad(), kept_rng(seed):
        pairs = [(session.outputs(batch), split(session.placed(batch))[1]) for batch in batches]
    per_batch = [[t for t in tensors(outputs) if t.is_floating_point()] for outputs, _ in pairs]
    floats = per_batch[0]
    if not floats:
        return None, None, None
    domains = [domain_of(t) for t in floats]

    def evaluate(free: list[torch.Tensor], which: range) -> torch.Tensor:
        losses = []
        for index in which:
            outputs, targets = pairs[index]
            shaped = [domain(f.expand_as(t)) for domain, f, t in zip(domains, free, per_batch[index], strict=True)]
            values = iter(shaped)
            given = map_tensors(outputs, _taking(values))
            with userland("loss_fn"), kept_rng(seed + index):
                losses.append(scalar(loss_fn(given, targets), "loss_fn").float())
        return torch.stack(losses).mean()

    everything, first = range(len(pairs)), range(1)
    with torch.no_grad():
        zero = float(evaluate([torch.zeros_like(shapes(t)[0]) for t in floats], everything))
    inside = [domain is not _identity for domain in domains]
    lowest: list[Lowest] = []
    for variant in range(max(len(shapes(t)) for t in floats)):
        filled = [shapes(t)[min(variant, len(shapes(t)) - 1)] for t in floats]
        start = [torch.zeros_like(c) if mapped else c for c, mapped in zip(filled, inside, strict=True)]
        try:
            found = minimise(lambda free: evaluate(free, everything), start)
            if found.value is None or found.value >= zero:  # from far away the line search may not find the way back
                found = minimise(lambda free: evaluate(free, everything), [torch.zeros_like(t) for t in start])
        except RuntimeError:  # batches of different length do not share this shape
            continue
        lowest += [found] if found.value is not None else []
    best = min(lowest, key=lambda one: one.value or 0.0, default=Lowest(None, []))
    constant = _lower(best.value, zero)
    start = [torch.zeros_like(t, dtype=torch.float32) if m else _finite(t) for t, m in zip(floats, inside, strict=True)]
    oracle = minimise(lambda free: evaluate(free, first), start, enough=_enough(constant)).value
    if best.point and (oracle is None or oracle >= _barely_below(constant)):
        # Outputs of another size than the targets are far away; the best constant has the size of the targets.
        near = [c.expand_as(t).clone() for c, t in zip(best.point, floats, strict=True)]
        oracle = _lower(minimise(lambda free: evaluate(free, first), near, enough=_enough(constant)).value, oracle)
    return constant, zero, _lower(oracle, constant)


def _taking(values: Iterator[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Replaces floating tensors by the next of `values`."""
    return lambda tensor: next(values) if tensor.is_floating_point() else tensor


def _lower(level: float | None, bound: float | None) -> float | None:
    """The lower of a level and one that is known to be reachable."""
    there = [v for v in (level, bound) if v is not None and math.isfinite(v)]
    return min(there, default=None)


def _enough(constant: float | None) -> float:
    """A level so near to zero that a floor of zero may be taken."""
    return 1e-3 * constant if constant is not None and constant > 0 else -math.inf


def _barely_below(constant: float | None) -> float:
    return constant - 1e-2 * abs(constant) if constant is not None else math.inf


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(tensor.detach().float(), nan=0.0, posinf=0.0, neginf=0.0)


def domain_of(outputs: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A map onto the set in which the model's outputs live, so that free outputs stay in it."""
    values = outputs.detach().float()
    if values.dim() < 2 or not torch.isfinite(values).all():
        return _identity
    last = values.shape[-1]
    if last > 1 and float(values.min()) >= 0 and torch.allclose(values.sum(-1), torch.ones(()).to(values), atol=1e-4):
        return lambda free: F.softmax(free, -1)
    if last > 1 and torch.allclose(values.logsumexp(-1), torch.zeros(()).to(values), atol=1e-4):
        return lambda free: F.log_softmax(free, -1)
    if last > 1 and torch.allclose(values.norm(dim=-1), torch.ones(()).to(values), atol=1e-4):
        return lambda free: F.normalize(free + 1e-6, dim=-1)
    if float(values.min()) > 0 and float(values.max()) < 1:
        return torch.sigmoid
    return _identity


def _identity(free: torch.Tensor) -> torch.Tensor:
    return free


# --- without one


def _of_forward(session: Session, batches: list[Any], seed: int) -> Levels:
    """The levels by replacing the heads' outputs inside the forward, each call of a head on its own for the oracle."""
    heads = _heads(session, batches[0], seed)
    if not heads:
        return None, None, None
    shared = _shared(heads)
    own = [call.detach().float() for calls in heads.values() for call in calls]

    def loss_with(hooks: dict[nn.Module, Any], which: list[Any]) -> torch.Tensor:
        losses = []
        with attached(module.register_forward_hook(hook) for module, hook in hooks.items()):
            for index, batch in enumerate(which):
                with kept_rng(seed + index):
                    losses.append(session.loss(batch).float())
        return torch.stack(losses).mean()

    def constant_loss(free: list[torch.Tensor]) -> torch.Tensor:
        return loss_with({m: _holding(itertools.repeat(f)) for m, f in zip(shared, free, strict=True)}, batches)

    def free_loss(free: list[torch.Tensor]) -> torch.Tensor:
        values = iter(free)
        hooks = {m: _holding(iter([next(values) for _ in calls])) for m, calls in heads.items()}
        return loss_with(hooks, batches[:1])

    zeros = [torch.zeros_like(c) for c in shared.values()]
    with torch.enable_grad():
        zero = float(constant_loss(zeros).detach())
    constant = _lower(minimise(constant_loss, [*shared.values()], FORWARD_EFFORT).value, zero)
    if constant == zero and math.isfinite(zero):
        constant = _lower(minimise(constant_loss, zeros, FORWARD_EFFORT).value, zero)
    oracle = minimise(free_loss, own, FORWARD_EFFORT, enough=_enough(constant)).value
    return constant, zero, _lower(oracle, constant)


def _heads(session: Session, batch: Any, seed: int) -> dict[nn.Module, list[torch.Tensor]]:
    """The modules whose outputs the autograd graph of the loss meets first, with their first output at each call."""
    owner: dict[Any, nn.Module] = {}
    calls: dict[nn.Module, list[torch.Tensor]] = {}
    alive: list[torch.Tensor] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        floats = [t for t in tensors(output) if t.is_floating_point()]
        if floats and floats[0].dim():
            calls.setdefault(module, []).append(floats[0])
        for tensor in floats:
            if tensor.grad_fn is not None:
                owner[tensor.grad_fn] = module
                alive.append(tensor)

    hooks = (m.register_forward_hook(note) for m in session.model.modules() if own_parameters(m))
    with attached(hooks), torch.enable_grad(), kept_rng(seed):
        loss = session.loss(batch)
    owners = (owner[node] for node in nodes_behind(loss, stop=owner.__contains__) if node in owner)
    found = dict.fromkeys(owners)
    return {module: calls[module] for module in found if module in calls}


def _shared(heads: dict[nn.Module, list[torch.Tensor]]) -> dict[nn.Module, torch.Tensor]:
    """A constant output of each head, of the shape in which it serves all samples."""
    return {m: constants(calls[0])[0 if "Conv" in type(m).__name__ else -1] for m, calls in heads.items()}


def _holding(values: Iterator[torch.Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
    """A forward hook that puts the next of `values` in the place of the module's first output."""

    def hold(module: nn.Module, args: Any, output: Any) -> Any:
        value = next(values, None)
        done = False

        def replace(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal done
            if done or value is None or not tensor.is_floating_point() or not _fits(value, tensor):
                return tensor
            done = True
            # Adding nothing of the output keeps it in the graph, for losses that differentiate by their inputs.
            return value.to(tensor.dtype).expand_as(tensor) + 0.0 * torch.nan_to_num(tensor)

        return map_tensors(output, replace)

    return hold


def _fits(value: torch.Tensor, tensor: torch.Tensor) -> bool:
    sizes = zip(value.shape, tensor.shape, strict=False)
    return value.dim() == tensor.dim() and all(v in {1, t} for v, t in sizes)
