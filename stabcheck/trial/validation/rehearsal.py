"""What was seen of a validation in the middle of a short training, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from stabcheck.check import NotChecked, Source
from stabcheck.setup import TrainingSetup
from stabcheck.trial.validation.answers import Answers
from stabcheck.trial.validation.batch_norm import BatchNormReport
from stabcheck.trial.validation.sightings import Visit
from stabcheck.trial.validation.state_shot import Changes
from stabcheck.trial.validation.watched import Run


@dataclass
class Rehearsal:
    """What was seen. Modules are listed in the order in which they first ran."""

    setup: TrainingSetup
    steps: int
    """Before the validation."""
    losses: tuple[float, ...]
    run: Run
    changes: Changes
    """Between just before and just after the validation."""
    repeat: Run | None = None
    """A second validation with the same weights and further random numbers."""
    in_eval: Run | None = None
    """The validation again with the same random numbers, every module in eval mode."""
    reseeds: bool = False
    """Whether the validation leaves torch's global random numbers at the same place each time."""
    mode_matters: bool | None = None
    """Whether the outputs of that differ: False if they are the same bit for bit, True if they differ by more than rounding;
    None between the two, if not tried, or if the validation does not repeat itself anyway."""
    beyond: dict[int, tuple[str, Source | None]] = field(default_factory=dict)
    """id of a visited module -> why eval() does not reach it."""
    accumulates: bool | None = None
    """Whether the next step adds to gradients that the validation left; None if there were none or it is not known."""
    fails_after: tuple[str, str] | None = None
    """(what, error): what of the user's raised after the validation though it had not before."""
    flipped: tuple[Visit, ...] = ()
    """The visits of the modules whose mode in the user's next train_step is not the one that they had before the validation."""
    eval_steps: tuple[Visit, ...] = ()
    """All modules with a mode switch that ran in train_step, if every one, and the model itself, was in eval mode."""
    eval_in_step: bool = False
    """train_step itself calls eval() on a module."""
    eval_matters: bool | None = None
    """Whether the loss of a training batch depends on the mode of the model."""
    follows: bool | None = None
    """Whether the validated model is the set-up's, or changes as that is trained; None if not known."""
    noisy_in_eval: bool | None = None
    """Whether the loss of one batch in eval mode varies with the random numbers; None if not known."""
    buffers_matter: bool | None = None
    """Whether the loss of a training batch differs for the buffers that the validation changed; None if not known."""
    batch_norm: BatchNormReport | None = None
    answers: Answers | None = None
    """What the numbers of the user's validation depend on; None if not known."""
    not_copied: tuple[str, ...] = ()
    """Names under which weights were set aside while training and validating, but not copied."""
    not_checked: tuple[NotChecked, ...] = ()

    @property
    def own(self) -> bool:
        """The validation was the user's validate(), and not the textbook one."""
        return self.setup.validate is not None

    def in_training_mode(self) -> list[Visit]:
        """The modules for which validating in training mode made a difference, those whose effect is known first.

        Code that merely reads `self.training` counts only where outputs were shown to differ. Statistics that are
        estimated again on training data do not count.
        """
        visits = [v for v in self.run.visits if v.training and v.switch]
        if self.mode_matters is False or self.estimates_again:
            return []
        return by_effect(v for v in visits if v.effect != "custom" or self.mode_matters)

    @property
    def estimates_again(self) -> bool:
        """Whether the validation ran its modules on training data in training mode, and all of them in eval mode too."""
        visits = [v for v in self.run.visits if v.training and v.switch]
        return self.run.yielded.get("train_loader", 0) > 0 and all(v.evaluating for v in visits)

    def flipped_modes(self) -> list[Visit]:
        """Those of `flipped` for which it matters."""
        return by_effect(v for v in self.flipped if v.effect != "custom" or self.eval_matters)

    def asleep(self) -> list[Visit]:
        """Those of `eval_steps` for which it matters, if it was not the validation that put them into eval mode."""
        return [] if self.flipped_modes() else [v for v in self.eval_steps if v.effect != "custom" or self.eval_matters]

    @property
    def wakes_model(self) -> bool:
        """Whether the validation ends by putting the set-up's model into training mode: that is how training is meant."""
        calls = [c for c in self.run.mode_calls if not c.inside_forward and c.module is self.setup.model]
        return bool(calls) and calls[-1].mode

    def why_beyond(self, visit: Visit) -> tuple[str, Source | None] | None:
        """Why a module runs in training mode within a model in eval mode, and where that is written; None if it is not
        the model's own doing."""
        if id(visit.module) in self.beyond:
            return self.beyond[id(visit.module)]
        if visit.under_eval:
            for call in self.run.mode_calls:
                if call.inside_forward and call.mode and _covers(call.module, visit.module):
                    return "train() is called on it during forward", call.place
        return None

    def deliberate(self, visit: Visit) -> bool:
        """Whether the validation put this module into training mode while its model was in eval mode."""
        return visit.under_eval == visit.training and any(
            call.mode and not call.inside_forward and _covers(call.module, visit.module) for call in self.run.mode_calls
        )

    def why_training(self, visit: Visit) -> tuple[str, Source | None]:
        """How it comes that the validation ran this module in training mode, and where that is written."""
        calls = [c for c in self.run.mode_calls if _covers(c.module, visit.module)]
        if not any(not c.mode for c in calls):
            others = any(not c.mode for c in self.run.mode_calls)
            return f"eval() is {'called on another module only' if others else 'never called'}", None
        switched_on = next((c for c in reversed(calls) if c.mode), None)
        if switched_on is None:
            return "it runs before eval() is called, or its mode is set by hand", None
        return "train() is called on it", switched_on.place


def by_effect(visits: Iterable[Visit]) -> list[Visit]:
    """In order, but modules of which it is only known that they read their mode come last."""
    return sorted(visits, key=lambda visit: visit.effect == "custom")


def _covers(outer: nn.Module, inner: nn.Module) -> bool:
    return any(module is inner for module in outer.modules())
