"""The order of events in a training loop that is not ours, and what each gradient consists of when it is used.

Everything is seen through functions of PyTorch that any loop calls. Nothing is changed: hooks return nothing, and a closure
is passed on as it is, only with its end noted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from stabcheck import stats
from stabcheck.trial import batches
from stabcheck.trial.loop.accounts import Account, Accounts
from stabcheck.trial.loop.events import Call, Clip, Use
from stabcheck.trial.loop.graphs import GraphLog, elements
from stabcheck.trial.loop.rivals import Rivals
from stabcheck.trial.loop_spy import replaced
from stabcheck.trial.modes import held_by
from stabcheck.trial.norms import norm, numbers
from stabcheck.userland import passed_on, users_line


class LoopTrace:
    """What the loop does to `model`, from `begin` to `end` of each call."""

    def __init__(self, model: nn.Module, scheduler: Any = None) -> None:
        self.model, self.scheduler = model, scheduler
        self.accounts = Accounts(model)
        self.graphs = GraphLog()
        self.rivals = Rivals()
        self.calls: list[Call] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.moved: set[str] = set()
        """Parameters that were different after some call."""
        self.touched: set[str] = set()
        """Parameters to which some backward pass brought a gradient, be it zero."""
        self._inside = self._stepping = 0
        self._fresh: dict[int, torch.Tensor] = {}
        self._scale, self._given = 1.0, 0
        self._handles: list[Any] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Observe everything that happens inside."""
        clip: Any = importlib.import_module("torch.nn.utils.clip_grad")
        scaler: Any = torch.amp.GradScaler
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove)
            stack.callback(register_optimizer_step_pre_hook(self._before_step).remove)
            stack.callback(register_optimizer_step_post_hook(self._after_step).remove)
            stack.callback(self.model.register_forward_pre_hook(self._note_inputs, with_kwargs=True).remove)
            stack.enter_context(replaced(torch.autograd, "backward", self._backward))
            stack.enter_context(replaced(clip, "_clip_grads_with_norm_", self._clip_norm))
            stack.enter_context(replaced(clip, "clip_grad_value_", self._clip_value))
            stack.enter_context(replaced(torch.nn.utils, "clip_grad_value_", self._clip_value))
            stack.enter_context(replaced(scaler, "scale", self._scaled))
            stack.enter_context(replaced(scaler, "unscale_", self._unscaled))
            stack.enter_context(replaced(scaler, "step", self._scaler_step))
            self._hook(self.accounts.by_id.values())
            yield

    def begin(self, samples: int) -> None:
        """The next call of the training step, for so many samples."""
        self._hook(self.accounts.refresh())
        self.calls.append(Call(len(self.calls), samples))
        self.graphs.begin()
        self._scale, self._given = 1.0, 0
        self._epoch = getattr(self.scheduler, "last_epoch", None)
        self._at_start = self._sample()
        self._changed_by_step = False

    def end(self, returned: float | None) -> None:
        """The call is over and gave this loss."""
        call = self.calls[-1]
        call.returned = returned
        moved = self._differing(self._at_start, self._sample())
        self.moved |= moved
        call.moved = bool(moved)
        call.stepped_then_undone = self._changed_by_step and not call.moved

    def reached(self) -> set[str]:
        """Parameters to which some backward pass brought a gradient other than zero."""
        return set().union(*(call.reached for call in self.calls))

    # --- backward

    def _hook(self, accounts: Any) -> None:
        for account in list(accounts):
            if account.parameter.requires_grad:
                key = id(account.parameter)
                self._handles.append(account.parameter.register_hook(functools.partial(self._bring, key)))

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _bring(self, key: int, gradient: torch.Tensor) -> None:
        if self._inside:
            self._fresh[key] = norm(gradient)

    def _note_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.calls or not torch.is_grad_enabled():
            return
        self._given += batches.size([*args, *kwargs.values()])
        if any(t.requires_grad and t.is_leaf for t in batches.tensors([*args, *kwargs.values()])):
            self.calls[-1].attacked = True

    def _backward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._inside or not self.calls:  # a checkpoint's backward within ours
            return passed_on(original, *args, **kwargs)
        call = self.calls[-1]
        before = self.accounts.norms()
        roots = args[0] if args else kwargs.get("tensors")
        root = roots if isinstance(roots, torch.Tensor) else next(iter(roots or ()), None)
        if isinstance(root, torch.Tensor):
            call.roots_without_history += root.grad_fn is None
            nodes, oldest = self.graphs.look(root)
            call.nodes = max(call.nodes, nodes)
            if oldest is not None:
                call.oldest = min(oldest, call.oldest if call.oldest is not None else oldest)
        self._fresh = {}
        self._inside += 1
        try:
            result = passed_on(original, *args, **kwargs)
        finally:
            self._inside -= 1
        fresh = {k: v or 0.0 for k, v in zip(self._fresh, numbers(list(self._fresh.values())), strict=True)}
        self.accounts.add(call.index, before, fresh)
        self.touched |= {self.accounts.by_id[key].name for key in fresh}
        call.reached |= {self.accounts.by_id[key].name for key, value in fresh.items() if value}
        call.backwards.append(float(root.detach()) if isinstance(root, torch.Tensor) and root.numel() == 1 else 0.0)
        call.parts.append(self._given)
        self._given = 0
        return result

    # --- optimizers

    def _ours(self, optimizer: torch.optim.Optimizer) -> set[int]:
        return held_by(optimizer) & self.accounts.by_id.keys()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        if not self.calls:
            return None
        self._stepping += 1
        if self._stepping > 1 or not self._ours(optimizer):
            return None
        if not any(known is optimizer for known in self.optimizers):
            self.optimizers.append(optimizer)
        self._before = self._sample()
        self._closures = 0
        closure = kwargs.get("closure") if kwargs.get("closure") is not None else next(iter(args[1:]), None)
        if not callable(closure):
            self._use(optimizer, in_closure=False)
            self.rivals.before(self.calls[-1].index, self.optimizers, self._index(optimizer))
            return None

        def noting() -> Any:
            value = passed_on(closure)
            self._use(optimizer, in_closure=True)
            self.accounts.close(self._ours(optimizer), self.calls[-1].index)
            return value

        if "closure" in kwargs:
            return args, {**kwargs, "closure": noting}
        return (args[0], noting, *args[2:]), kwargs

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self.calls or not self._stepping:
            return
        self._stepping -= 1
        if self._stepping or not self._ours(optimizer):
            return
        self._changed_by_step |= bool(self._differing(self._before, self._sample()))
        self.rivals.after(self.optimizers, self._index(optimizer))
        self.accounts.close(self._ours(optimizer), self.calls[-1].index)

    def _index(self, optimizer: torch.optim.Optimizer) -> int:
        return next(i for i, known in enumerate(self.optimizers) if known is optimizer)

    def _use(self, optimizer: torch.optim.Optimizer, *, in_closure: bool) -> None:
        call, held = self.calls[-1], self._ours(optimizer)
        seen = self.accounts.norms(held)
        mine = [self.accounts.by_id[key] for key in held]
        live = [a for a in mine if seen.get(id(a.parameter))]
        spared = [a for a in live if a.name not in call.clipped]
        call.uses.append(
            Use(
                call=call.index,
                optimizer=self._index(optimizer),
                norm=stats.joint_norm(seen.values()) or 0.0,
                raw=stats.joint_norm([a.after for a in mine if a.passes]) or 0.0,
                backwards=max((a.passes for a in mine), default=0),
                kept=max((a.kept for a in live), default=0),
                # A step from within a backward pass, as hooks take it, comes after that pass.
                before_backward=not self._inside
                and -1 < max((a.origin for a in mine if a.passes), default=-1) < call.index,
                scheduled_before=self._epoch is not None and self.scheduler.last_epoch != self._epoch,
                leftovers=tuple(a.share for a in live if a.share is not None),
                twice=tuple(a.name for a in live if not in_closure and self._is_second(a, seen)),
                line=users_line(sys._getframe()),
                in_closure=in_closure,
                unclipped=stats.joint_norm([seen[id(a.parameter)] for a in spared]) or 0.0 if spared != live else None,
            )
        )

    def _is_second(self, account: Account, seen: dict[int, float]) -> bool:
        same = account.used is not None and seen.get(id(account.parameter)) == account.used
        return same and account.used_call == self.calls[-1].index and not account.passes

    # --- clipping and scaling

    def _clip_norm(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.calls and len(args) >= 3:
            self._note_clip(args[0], float(args[1]), float(args[2]), by_value=False)
        return passed_on(original, *args, **kwargs)

    def _clip_value(self, original: Callable[..., Any], parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        threshold = args[0] if args else kwargs.get("clip_value")
        if self.calls and threshold is not None:
            there = [p.grad for p in parameters if p.grad is not None]
            largest = max((float(g.abs().max()) for g in there if g.numel() and not g.is_sparse), default=0.0)
            self._note_clip(parameters, float(threshold), largest, by_value=True)
        return passed_on(original, parameters, *args, **kwargs)

    def _note_clip(self, parameters: Any, threshold: float, norm: float, *, by_value: bool) -> None:
        parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        mine = [a for p in parameters if (a := self.accounts.by_id.get(id(p))) is not None]
        now = self.accounts.norms({id(a.parameter) for a in mine})
        # A loop may also undo the scale by hand: then the norms are not those that backward left.
        scaled = self._scale if any(a.kept and now.get(id(a.parameter)) == a.after for a in mine) else 1.0
        self.calls[-1].clipped |= {a.name for a in mine}
        self.calls[-1].clips.append(
            Clip(
                call=self.calls[-1].index,
                threshold=threshold,
                norm=norm,
                given=sum(p.grad is not None for p in parameters),
                # What is not the model's is not followed.
                fresh=any(a.kept for a in mine) or (bool(parameters) and not mine),
                scale=scaled,
                by_value=by_value,
            )
        )

    def _scaled(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = passed_on(original, *args, **kwargs)
        if args[0].is_enabled():
            self._scale = float(args[0].get_scale())
        return result

    def _unscaled(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._scale = 1.0
        return passed_on(original, *args, **kwargs)

    def _scaler_step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.calls:
            self.calls[-1].scaler_steps += 1
        return passed_on(original, *args, **kwargs)

    # --- weights

    def _sample(self) -> dict[int, torch.Tensor]:
        """Some elements of each parameter, as they are now."""
        return {key: elements(a.parameter) for key, a in self.accounts.by_id.items() if a.parameter.requires_grad}

    def _differing(self, before: dict[int, torch.Tensor], after: dict[int, torch.Tensor]) -> set[str]:
        apart = [key for key, value in before.items() if key in after and not torch.equal(value, after[key])]
        return {self.accounts.by_id[key].name for key in apart}
