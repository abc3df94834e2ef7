"""Watching a training loop that is not ours, through the functions of PyTorch that every loop calls.

`LoopSpy` sees each backward pass, each optimizer step, gradient clipping and loss scaling, whoever
calls them and under whatever name they were imported. It keeps norms on the device and changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from stabcheck.trial.modes import held_by
from stabcheck.trial.norms import norms
from stabcheck.userland import passed_on


class LoopSpy:
    """What the loop did since `begin`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizers: list[torch.optim.Optimizer] = []
        self.clip_threshold: float | None = None
        self.autocast: dict[str, None] = {}
        """Half-precision types of the autocast regions that were entered, in order."""
        self._in_scaler = False
        self._left = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        self._reached: set[str] = set()
        self._hooked: set[int] = set()
        self._handles: list[Any] = []
        self._is_watching = False
        self.on_backward: Callable[[torch.Tensor], None] | None = None
        """Called with the root of each backward pass, before it, while the graph is alive."""
        self.begin()

    def begin(self) -> None:
        """Forget the last step."""
        self.raw: dict[str, torch.Tensor] = {}
        """Parameter name -> norm of its gradient after the last backward."""
        self.seen: dict[str, torch.Tensor] = {}
        """Parameter name -> norm of its gradient as the optimizer found it."""
        self.rates: tuple[float, ...] = ()
        self.stepped = False
        self.root: torch.Tensor | None = None
        self.scale: torch.Tensor | float = 1.0
        self.skipped = False
        """A GradScaler kept the optimizer from stepping."""
        self.around_scaler = False
        """The loss was scaled, and the optimizer stepped without the GradScaler."""
        if self._is_watching:
            self._hook()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Observe everything that happens inside."""
        autograd: Any = torch.autograd
        clip: Any = importlib.import_module("torch.nn.utils.clip_grad")
        scaler: Any = torch.amp.GradScaler
        hook = register_optimizer_step_pre_hook(self._before_step)
        with contextlib.ExitStack() as stack:
            stack.callback(hook.remove)
            stack.callback(self._unhook)
            self._is_watching = True
            self._hook()
            stack.enter_context(replaced(autograd, "backward", self._backward))
            stack.enter_context(replaced(clip, "_clip_grads_with_norm_", self._clip))
            stack.enter_context(replaced(scaler, "scale", self._scale))
            stack.enter_context(replaced(scaler, "step", self._scaler_step))
            stack.enter_context(replaced(torch.autocast, "__enter__", self._enter_autocast))
            yield

    def _backward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        roots = args[0] if args else kwargs.get("tensors")
        root = roots if isinstance(roots, torch.Tensor) else next(iter(roots or ()), None)
        if isinstance(root, torch.Tensor):
            self.root = root.detach()
            if self.on_backward is not None:
                self.on_backward(root)
        result = passed_on(original, *args, **kwargs)
        self.raw.update(self._gradients(self.model.named_parameters()))
        return result

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        held = held_by(optimizer)
        ours = [(name, p) for name, p in self.model.named_parameters() if id(p) in held]
        if not ours:
            return
        if not any(known is optimizer for known in self.optimizers):
            self.optimizers.append(optimizer)
        self.seen.update(self._gradients(iter(ours)))
        self.rates = tuple(float(r) for group in optimizer.param_groups if (r := group.get("lr")) is not None)
        self.stepped = True
        self.around_scaler |= isinstance(self.scale, torch.Tensor) and not self._in_scaler

    def _clip(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        threshold = args[1] if len(args) > 1 else kwargs.get("max_norm")
        self.clip_threshold = float(threshold) if threshold is not None else None
        return passed_on(original, *args, **kwargs)

    def _scale(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = passed_on(original, *args, **kwargs)
        scale = getattr(args[0], "_scale", None)
        self.scale = scale.detach().clone() if isinstance(scale, torch.Tensor) else 1.0
        return result

    def _scaler_step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before, self.stepped, self._in_scaler = self.stepped, False, True
        try:
            return passed_on(original, *args, **kwargs)
        finally:
            self.skipped |= not self.stepped
            self.stepped, self._in_scaler = self.stepped or before, False

    def _enter_autocast(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        region = args[0]
        if getattr(region, "_enabled", False) and region.fast_dtype in {torch.float16, torch.bfloat16}:
            self.autocast[str(region.fast_dtype).removeprefix("torch.")] = None
        return passed_on(original, *args, **kwargs)

    def _hook(self) -> None:
        """Notes which parameters backward reaches: what it does not reach may still hold the gradient of a training that
        ended before."""
        for name, p in self.model.named_parameters():
            if name in self._left and p.requires_grad and id(p) not in self._hooked:
                self._hooked.add(id(p))
                self._handles.append(p.register_hook(functools.partial(self._bring, name)))

    def _unhook(self) -> None:
        self._is_watching = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooked.clear()

    def _bring(self, name: str, gradient: torch.Tensor) -> None:
        self._reached.add(name)

    def _is_old(self, name: str, gradient: torch.Tensor) -> bool:
        return self._left.get(name) is gradient and name not in self._reached

    def _gradients(self, parameters: Iterator[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        there = [(name, p.grad) for name, p in parameters if p.grad is not None and not self._is_old(name, p.grad)]
        return dict(zip([name for name, _ in there], norms([grad for _, grad in there]), strict=True))


@contextlib.contextmanager
def replaced(owner: Any, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """`owner.name` calls `wrapper(original, ...)` inside; nothing happens if this torch has no such name."""
    original = getattr(owner, name, None)
    if original is None:
        yield
        return

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)
