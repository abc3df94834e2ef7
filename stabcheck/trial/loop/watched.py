"""A few calls of the training step under observation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from stabcheck.check import Skip
from stabcheck.trial import batches
from stabcheck.trial.bench import Bench
from stabcheck.trial.hooks import attached
from stabcheck.trial.loop.events import Call, Use
from stabcheck.trial.loop.fed import Fed
from stabcheck.trial.loop.graphs import elements
from stabcheck.trial.loop.hidden import Hidden, hidden
from stabcheck.trial.loop.left_out import LeftOut, left_out
from stabcheck.trial.loop.ownership import (
    Orphan,
    alive_optimizers,
    foreign_tensors,
    modules_of,
    orphans,
    replaced_by,
    without_optimizer,
)  # fmt: skip
from stabcheck.trial.loop.rivals import CALLS as RIVAL_CALLS
from stabcheck.trial.loop.rivals import Rivalry, passes_through
from stabcheck.trial.loop.trace import LoopTrace
from stabcheck.trial.modes import held_by, undisturbed
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import UserCodeError

CALLS = 6
"""Calls of the training step that are watched: what is said of all of them is no accident of one."""
WINDOWS = 2
"""Windows of accumulation that are watched at least."""
MOST_CALLS = 64
"""Calls after which an optimizer that has not stepped, or a graph that is still alive, is believed to stay so."""
SECONDS = 10.0
"""Time after which no further call is made, once four have been."""
FEWEST = 4
ALIKE = 0.5
"""Cosine of some elements of two tensors: independent draws of ten or more seldom come to it."""
SAME = 1e-4
"""Relative difference of two losses of one batch, under the same random numbers, that rounding makes."""


@dataclass(frozen=True)
class Watched:
    """What was seen."""

    session: Session
    calls: tuple[Call, ...]
    optimizers: tuple[str, ...]
    """Class names of the optimizers that stepped."""
    holds: tuple[int, ...]
    """How many of the model's parameters each of them holds."""
    stalled: bool
    """In all these calls, more than enough of them, no optimizer stepped."""
    graphs_alive: int
    doubled: tuple[str, ...]
    """Parameters that one parameter group lists more than once."""
    foreign: tuple[str, ...]
    """Parameters with a gradient but no optimizer, in whose place an optimizer holds others of the same shape."""
    foreign_held: int
    """Tensors in the optimizer that get no gradient."""
    unheld: int
    """Parameters with a gradient that no optimizer holds."""
    held: int
    """Parameters with a gradient that an optimizer holds."""
    orphans: tuple[Orphan, ...]
    trained_modules: int
    """Modules all of whose trainable parameters have an optimizer."""
    loss_parameters: tuple[str, ...]
    """Parameters of loss_fn's own that get a gradient but have no optimizer."""
    hidden: tuple[Hidden, ...]
    """Weights that the model does not list, and nobody trains."""
    remembers: bool
    """Every optimizer that stepped keeps something from one step to the next."""
    climbs: tuple[float, float] | None
    """The value that backward() was called on and the set-up's loss, where they are the same but for the sign."""
    left_out: LeftOut | None
    """Parameters that the set-up's own loss reaches, and the step never does."""
    stale: int
    """Calls that were given a new batch, and fed the model the one of the first call; 0 if it was any other way in any."""

    rivalry: Rivalry | None
    """Two optimizers that move the same parameters against each other."""
    made_anew: tuple[tuple[int, ...], ...]
    """Shapes of the random weights that each call makes for itself, and that get a gradient before they are thrown away."""

    @property
    def uses(self) -> list[Use]:
        """Every use of gradients, in order."""
        return [use for call in self.calls for use in call.uses]


def watch(bench: Bench) -> Watched:
    """Take some training steps of a fresh set-up and look.

    Raises:
        Skip: the set-up does not say how it trains.
        UserCodeError: the step raised.
    """
    session = bench.session()
    setup = session.setup
    trace, fed = LoopTrace(session.model, setup.scheduler), Fed()
    iterator = session.train_batches()
    every = setup.accumulate_steps
    started = time.monotonic()

    def take(count: int, until: Callable[[], bool] = lambda: False) -> Any:
        batch = None
        for _ in range(count):
            enough = len(trace.calls) >= FEWEST and time.monotonic() - started > SECONDS
            if until() or enough or bench.remaining() < 0:
                break
            _, batch = next(iterator)
            trace.begin(batches.size(batch))
            fed.begin(batch)
            trace.end(session.step(batch))
            bench.tell(None, f"watching call {len(trace.calls)} of your training step")
        return batch

    with trace.watching(), attached([session.model.register_forward_pre_hook(fed.note, with_kwargs=True)]):
        take(max(CALLS, min(WINDOWS * every, MOST_CALLS)))
        kept_alive = trace.graphs.alive()
        if not any(call.uses for call in trace.calls):
            take(max(MOST_CALLS, WINDOWS * every) - len(trace.calls), lambda: bool(trace.calls[-1].uses))
        elif kept_alive >= len(trace.calls) - 1:
            take(MOST_CALLS - len(trace.calls))
            kept_alive = trace.graphs.alive()
        if trace.rivals.any:
            take(RIVAL_CALLS - len(trace.calls))
        rivalry = trace.rivals.found(trace.optimizers, {key: a.name for key, a in trace.accounts.by_id.items()})
        climbs = _climbs(session, trace, next(iterator)[1], bench.seed)
        part = left_out(session, trace, next(iterator)[1], bench.seed, bench.recording)
    suspects = _strays(session, trace)
    members = _members(session, trace, iterator)
    return Watched(
        session=session,
        calls=tuple(trace.calls),
        optimizers=tuple(type(o).__name__ for o in trace.optimizers),
        holds=tuple(len(held_by(o) & trace.accounts.by_id.keys()) for o in trace.optimizers),
        stalled=not any(call.uses for call in trace.calls) and len(trace.calls) >= max(FEWEST, WINDOWS * every),
        graphs_alive=kept_alive,
        hidden=tuple(hidden(session, next(iterator)[1], suspects)) if suspects else (),
        rivalry=rivalry if rivalry and passes_through(session, next(iterator)[1], rivalry) else None,
        made_anew=_made_anew(session.model, trace),
        remembers=all(any(o.state.values()) for o in trace.optimizers),
        stale=fed.stale(),
        climbs=climbs,
        left_out=part,
        **members,
    )


def _climbs(session: Session, trace: LoopTrace, batch: Any, seed: int) -> tuple[float, float] | None:
    """One more call, on a batch whose loss is known under the same random numbers."""
    setup = session.setup
    ascends = any(group.get("maximize") for o in trace.optimizers for group in o.param_groups)
    if setup.train_step is None or (setup.loss_fn is None and setup.compute_loss is None) or ascends:
        return None
    if any(len(call.backwards) != 1 or call.attacked or call.backwards[0] > 0 for call in trace.calls):
        return None
    try:
        with undisturbed(session.model), kept_rng(seed):
            loss = session.validation_loss(batches.clone(batch))
    except (UserCodeError, Skip):
        return None
    trace.begin(batches.size(batch))
    with kept_rng(seed):
        trace.end(session.step(batch))
    roots = trace.calls[-1].backwards
    turned = len(roots) == 1 and loss > 0 and math.isclose(roots[0], -loss, rel_tol=SAME)
    return (roots[0], loss) if turned else None


def _members(session: Session, trace: LoopTrace, iterator: Any) -> dict[str, Any]:
    model, setup = session.model, session.setup
    own = {id(p) for p in model.parameters()}
    known = [*trace.optimizers, *([setup.optimizer] if setup.optimizer is not None else [])]
    reached = trace.reached() - _moved_by_hand(trace)
    missing = without_optimizer(model, reached, known)
    loss_missing = _loss_parameters(setup.loss_fn, known)
    if missing or loss_missing:
        known = [*known, *(o for o in alive_optimizers() if not any(o is k for k in known))]
        missing = without_optimizer(model, reached, known)
        loss_missing = _loss_parameters(setup.loss_fn, known)
    held = held_by(*known) & own
    trained = [name for name, p in model.named_parameters() if name in reached and id(p) in held]
    names = {id(p): name for name, p in model.named_parameters()}
    doubled = [names[key] for o in known for group in o.param_groups for key in _repeated(group) if key in names]
    foreign: list[str] = []
    old = foreign_tensors(model, setup.optimizer or known[0]) if missing and known else []
    if missing:
        foreign = replaced_by(model, missing, old) if trained else list(missing)
    rest = [name for name in missing if name not in foreign]
    found = orphans(session, next(iterator)[1], rest, held) if rest and trained else []
    return {
        "doubled": tuple(dict.fromkeys(doubled)),
        "foreign": tuple(foreign),
        "foreign_held": len(old) if trained else len(held_by(*known)),
        "unheld": len(missing),
        "held": len(trained),
        "orphans": tuple(found),
        "trained_modules": modules_of(model, held),
        "loss_parameters": tuple(loss_missing),
    }


def _strays(session: Session, trace: LoopTrace) -> list[torch.Tensor]:
    """Leaves of the graphs that stay as they are, and that neither the model nor the loss nor any optimizer has."""
    if not trace.moved:
        return []
    setup = session.setup
    known = {id(p) for m in (setup.model, setup.loss_fn) if isinstance(m, nn.Module) for p in m.parameters()}
    strays = [t for t in trace.graphs.unmoved() if id(t) not in known]
    held = held_by(*alive_optimizers(), setup.optimizer) if strays else set()
    return [t for t in strays if id(t) not in held]


def _made_anew(model: nn.Module, trace: LoopTrace) -> tuple[tuple[int, ...], ...]:
    """Copies of the model's own weights are made on purpose, as in meta-learning; what is constant does nothing."""
    own = [(tuple(p.shape), elements(p)) for p in model.parameters() if not is_lazy(p)]
    return tuple(
        one.shape
        for one in trace.graphs.made_anew()
        if not bool((one.leaf.first == one.leaf.first[:1]).all())
        and not any(shape == one.shape and _alike(one.leaf.first, mine) for shape, mine in own)
    )


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float(torch.cosine_similarity(a.double(), b.double(), 0).abs()) > ALIKE


def _moved_by_hand(trace: LoopTrace) -> set[str]:
    """Parameters that changed though no optimizer that was seen holds them."""
    return trace.moved - {a.name for o in trace.optimizers for p in held_by(o) if (a := trace.accounts.by_id.get(p))}


def _repeated(group: dict[str, Any]) -> set[int]:
    ids = [id(p) for p in group["params"]]
    return {key for key in ids if ids.count(key) > 1} if len(set(ids)) < len(ids) else set()


def _loss_parameters(loss_fn: Any, optimizers: list[Any]) -> list[str]:
    held = held_by(*optimizers)
    named = loss_fn.named_parameters(recurse=False) if hasattr(loss_fn, "named_parameters") else ()
    return [n for n, p in named if p.requires_grad and id(p) not in held and p.grad is not None and bool(p.grad.any())]
