"""How the set-up calls its model: the arguments of one forward and what came out, for any form of set-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stabcheck.check import Skip
from stabcheck.trial.hooks import attached
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.userland import userland


@dataclass(frozen=True)
class Call:
    """One call of the whole model while the loss of a batch was computed."""

    session: Session
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    loss: torch.Tensor
    """The loss of the batch, with its graph."""
    calls: int
    """How often the model was called for this one loss."""

    def again(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output for other arguments, in the set-up's precision and in whatever mode the model is now.

        Raises:
            UserCodeError: the model raised.
        """
        with self.session.autocast(), userland("model"):
            return self.session.model(*args, **kwargs)


def watched_call(session: Session, batch: Any, seed: int | None = None) -> Call:
    """Compute the loss of `batch` and note the first call of the model in it. Modes are left as they are; all generators
    are put back, and start from `seed` if one is given.

    Raises:
        UserCodeError: the model or the loss raised.
        Skip: the loss was computed without calling the model as a whole.
    """
    seen: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.append((args, kwargs, output))

    with attached(session.model.register_forward_hook(note, with_kwargs=True)), torch.enable_grad(), kept_rng(seed):
        loss = session.loss(batch)
    if not seen:
        raise Skip("the loss is computed without calling the model itself, so its inputs and outputs are not seen")
    args, kwargs, output = seen[0]
    return Call(session, args, kwargs, output, loss, len(seen))
