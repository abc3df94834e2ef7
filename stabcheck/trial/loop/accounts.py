"""Where the gradient of each parameter comes from: which backward passes are in it, and whether it was used before."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.parameter import is_lazy

from stabcheck.trial.loop.events import Share
from stabcheck.trial.norms import norms, numbers


@dataclass
class Account:
    """One parameter's gradient. Norms are compared exactly: a gradient that anything touched has another one."""

    name: str
    parameter: nn.Parameter
    used: float | None = None
    """Its norm when an optimizer had last used it."""
    used_call: int = -1
    kept: int = 0
    """Backward passes since then that are still in it."""
    passes: int = 0
    """Backward passes since then, cleared ones included."""
    origin: int = -1
    """The call of the newest of them."""
    after_use: bool = False
    """An optimizer had used the gradient in that call before."""
    share: Share | None = None
    """What is in it beside the fresh part."""
    after: float = 0.0
    """Its norm after the last backward pass."""


class Accounts:
    """The accounts of all parameters of a model, by `id`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.by_id: dict[int, Account] = {}
        self.refresh()

    def refresh(self) -> list[Account]:
        """Take in parameters that are new; returns these."""
        new = [
            Account(name, p)
            for name, p in self._model.named_parameters()
            if not is_lazy(p) and (id(p) not in self.by_id or self.by_id[id(p)].parameter is not p)
        ]
        self.by_id.update({id(a.parameter): a for a in new})
        return new

    def norms(self, held: set[int] | None = None) -> dict[int, float]:
        """Norm of each gradient that is there, of all parameters or those in `held`."""
        there = [
            a.parameter
            for key, a in self.by_id.items()
            if a.parameter.grad is not None and (held is None or key in held)
        ]
        values = numbers(norms([p.grad for p in there if p.grad is not None]))
        return {id(p): value or 0.0 for p, value in zip(there, values, strict=True)}

    def add(self, call: int, before: dict[int, float], fresh: dict[int, float]) -> None:
        """A backward pass brought `fresh` to gradients that had norms `before`."""
        after = self.norms(set(fresh))
        for key, brought in fresh.items():
            account, old = self.by_id[key], before.get(key, 0.0)
            if not old:
                account.kept, account.share = 0, None
            elif account.kept == 0 and old == account.used:
                account.share = Share(account.name, old, brought, after.get(key, 0.0), used_before=True)
            elif account.kept and account.share is None and account.origin < call and account.after_use:
                account.share = Share(account.name, old, brought, after.get(key, 0.0), used_before=False)
            if account.kept == 0:
                account.after_use = account.used_call == call
            account.kept += 1
            account.passes += 1
            account.origin = call
            account.after = after.get(key, 0.0)

    def close(self, held: set[int], call: int) -> None:
        """An optimizer has used the gradients of `held`."""
        now = self.norms(held)
        for key in held & self.by_id.keys():
            account = self.by_id[key]
            account.used, account.used_call = now.get(key), call
            account.kept = account.passes = 0
            account.share, account.after_use, account.after = None, False, 0.0
