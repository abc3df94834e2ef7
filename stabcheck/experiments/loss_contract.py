"""The loss gets arguments that it does not expect, ignores them, or has the wrong sign.

## What it looks at
The loss functions that are really called, under whatever name and from wherever (loss_fn, compute_loss, the model, your own
train_step), on four batches: what their inputs are made of, shapes, ranges, options, and whether the result reaches the loss
that is trained on. Then your loss is asked: what it says of perfect and of inverted predictions, of other targets, and of every
sample twice; and for language models which token each row of logits can see, and which it has to predict. Where training takes
the loss below zero: whether it has a lowest value at all, or falls without end as a weight grows.
Found are facts about tensors, not patterns of code.

## Why it matters
Wrong losses are the most frequent silent bug of PyTorch programs. Nothing crashes: a softmax too many makes training
slow and its result mediocre, a forgotten squeeze makes the model learn the mean, labels that are not shifted make a language
model that copies.

## What to do
The finding names the call, its line, and what to give it instead: logits for cross_entropy and BCEWithLogitsLoss,
log-probabilities for NLLLoss, outputs and targets of one shape, classes from 0 in axis 1, targets shifted by one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Skip, Source, experiment
from stabcheck.experiments._loss_contract_rules import BOTTOMLESS, BY_NAME, RULES, SUMMED

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.loss_contract.fault import Fault
    from stabcheck.trial.loss_contract.observe import Pass
    from stabcheck.trial.session import Session

WORSE = 2.0
"""Factor by which one step has to raise the loss of its own batch, where a step that is smaller by the batch size lowers it."""


@experiment(title="Loss gets what it expects", about=("compute_loss", "loss_fn", "train_step", "model"), rules=RULES)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Watch the loss being computed, then question it."""
    from stabcheck.trial.loss_contract import observe

    session, not_checked = bench.shared(), []
    setup = session.setup
    seen: list[Pass] = []
    if setup.loss_fn or setup.compute_loss or setup.train_step is None:
        seen += observe.passes(session, bench.seed)
    if setup.train_step is not None:
        try:
            seen += observe.own_passes(bench)
        except Skip as skip:
            not_checked.append(NotChecked("the losses inside train_step", skip.reason))
    faults = [*_of_calls(session, seen), *_of_signs(session, seen)]
    refused = next((p.error for p in seen if p.error is not None), None)
    if refused is not None and not faults:
        raise refused
    if not faults:
        faults = [*_of_answers(session, seen, bench.seed)]
    findings = list(_findings(faults, bench.source(setup.compute_loss or setup.loss_fn or setup.train_step)))
    if not findings:
        findings += [*_summed(bench, session, seen), *_bottomless(bench)]
    calls = [call for p in seen for call in p.calls]
    if not calls:
        why = "none of PyTorch's loss functions is called on the way to it"
        not_checked.append(NotChecked("what the loss is made of", why))
    if bench.recording is None:
        not_checked.append(NotChecked("whether the loss has a lowest value", "no trial was recorded"))
    return Outcome(
        findings[0].message if findings else _summary(seen),
        tuple(findings),
        {
            "losses": len(seen),
            "calls": sorted({_described(call) for call in calls}),
            "in_train_step": sum(p.own_step for p in seen),
        },
        tuple(not_checked),
    )


def _of_calls(session: Session, seen: list[Pass]) -> Iterator[Fault]:
    """What the arguments tell."""
    from stabcheck.trial.loss_contract import faults, observe, shifts

    for one in seen:
        yield from one.faults
        if one.root is not None:
            yield from shifts.padding(one)
    yield from _compared(seen)
    yield from _masked(seen)
    own = [p for p in seen if not p.own_step and p.root is not None]
    if own:
        found_later = (faults.of_targets(*later) for later in observe.later_targets(session, own[0]))
        yield from (fault for fault in found_later if fault is not None)


def _compared(seen: list[Pass]) -> Iterator[Fault]:
    """Terms that compare something with itself in every loss of its kind."""
    from stabcheck.trial.loss_contract.fault import Fault

    for kind in (False, True):
        losses = [p for p in seen if p.own_step is kind and p.root is not None]
        if losses and all(p.twins for p in losses):
            twin = losses[0].twins[0]
            name = twin.name.strip("_").removeprefix("r")
            facts = {"name": name, "elements": twin.sides[0].numel(), "batches": len(losses)}
            yield Fault("compared-with-itself", twin.place, facts)


def _masked(seen: list[Pass]) -> Iterator[Fault]:
    """What is left of the targets once a mask was applied."""
    from stabcheck.trial.loss_contract.uncounted import only_padding

    turned = only_padding([one for p in seen for one in p.counted])
    if turned is not None:
        yield turned
    else:
        yield from _nothing_left(seen)


def _nothing_left(seen: list[Pass]) -> Iterator[Fault]:
    from stabcheck.trial.loss_contract.fault import Fault
    from stabcheck.trial.loss_contract.faults import nothing_left

    empty = [(p, call) for p in seen for call in p.calls if nothing_left(call)]
    # A sum over nothing is 0, and whoever guards against NaN knows what they do.
    spoilt = [call for p, call in empty if p.root is not None and not bool(p.root.isfinite().all())]
    if spoilt:
        call = spoilt[0]
        facts = {"count": len(spoilt), "batches": len(seen), "index": call.ignore_index, "loss": call.name}
        yield Fault("all-targets-ignored", call.place, facts)


def _of_signs(session: Session, seen: list[Pass]) -> Iterator[Fault]:
    """Losses that are made larger by training, unless something else is made smaller."""
    from stabcheck.trial.loss_contract.fault import Fault
    from stabcheck.trial.loss_contract.watch import LOSSES

    groups = getattr(session.setup.optimizer, "param_groups", [])
    upwards = bool(groups) and all(group.get("maximize") for group in groups)
    # A sum of losses may well subtract one of them, as may the two players of a game.
    pairs = [(call, sign) for p in seen for call, sign in p.supervised if call.name in LOSSES and call.name != "kl_div"]
    if not pairs or not all(sign is not None and (sign > 0) == upwards for _, sign in pairs):
        return
    call = pairs[0][0]
    what = f"{call.name}() enters what is minimised with a minus sign"
    remedy = "take the minus sign out"
    if upwards:
        what = f"the optimizer is built with maximize=True, and what it maximises is {call.name}()"
        remedy = "leave out maximize=True"
    yield Fault("flipped-sign", call.place, {"what": what, "remedy": remedy})


def _of_answers(session: Session, seen: list[Pass], seed: int) -> Iterator[Fault]:
    """What the loss answers to chosen predictions, targets and tokens."""
    from stabcheck.trial.loss_contract import places, shifts
    from stabcheck.trial.loss_contract.answers import Prober
    from stabcheck.trial.loss_contract.fault import Fault

    own = [p for p in seen if not p.own_step and p.root is not None]
    if not own:
        return
    first, setup = own[0], session.setup
    yield from shifts.faults(session, own, seed)
    place = places.by_place(session, first, seed)
    if place is not None:
        yield place
    prober = None
    if setup.loss_fn is not None or (setup.compute_loss is not None and float(first.root.detach()) < 0):  # type: ignore[union-attr]
        prober = Prober(session, first.batch, seed)
    if prober is None:
        return
    flip = prober.flip()
    groups = getattr(setup.optimizer, "param_groups", [])
    if flip is not None and not any(group.get("maximize") for group in groups):
        what = f"the loss is {flip.right:.4g} for perfect predictions and {flip.wrong:.4g} for inverted ones"
        what += ", and falls without end as they get worse" if flip.unbounded else ""
        remedy = "put a minus sign before it, or take one out; a quality such as Dice or a similarity is to be subtracted from 1"
        yield Fault("flipped-sign", None, {"what": what, "remedy": remedy}, "fail" if flip.unbounded else "warn")
    if not _says_unused(setup.loss_fn) and prober.is_blind():
        assert prober.outputs is not None
        facts = {"loss": prober.loss(prober.outputs), "outputs": tuple(prober.outputs.shape)}
        yield Fault("loss-ignores-targets", None, facts)


def _says_unused(loss_fn: Any) -> bool:
    """Whether the second parameter is named as one that is not used."""
    if loss_fn is None:
        return True
    try:
        names = list(inspect.signature(getattr(loss_fn, "forward", loss_fn)).parameters)
    except (TypeError, ValueError):
        return False
    return len(names) > 1 and (names[1].startswith("_") or any(w in names[1] for w in ("unused", "dummy", "ignored")))


def _summed(bench: Bench, session: Session, seen: list[Pass]) -> list[Finding]:
    """A sum over the batch where the rate is one for a mean, which only plain descent without clipping lets us tell."""
    from stabcheck.trial import batches
    from stabcheck.trial.loss_contract.answers import is_summed, stride

    setup = session.setup
    own = [p for p in seen if not p.own_step and p.root is not None]
    plain = type(setup.optimizer).__name__ == "SGD" and setup.train_step is None and setup.clip_grad_norm is None
    if not own or not plain or not is_summed(session, own[0].batch, bench.seed):
        return []
    batch, rate = own[0].batch, max(bench.peak_rates(), default=0.0)
    sums = [call.input.numel() for call in own[0].calls if call.reduction == "sum"]
    count, unit = (max(sums), "elements") if sums else (batches.size(batch), "samples")
    step = stride(session, batch, bench.seed, rate, count)
    if step is None or not step.divided < step.before or step.after <= WORSE * abs(step.before):
        return []
    facts: dict[str, Any] = {"before": step.before, "after": step.after, "divided": step.divided}
    source = bench.source(setup.compute_loss or setup.loss_fn)
    return [SUMMED.at(None, source=source, count=count, unit=unit, rate=rate, **facts)]


def _bottomless(bench: Bench) -> Iterator[Finding]:
    """A loss that training makes fall below zero, and that a weight which grows makes fall without end."""
    from stabcheck.trial.loss_contract.bottom import abyss, goes_down

    if bench.recording is None or not goes_down(bench.recording):
        return
    found = abyss(bench)
    if found is not None:
        facts = {k: v for k, v in asdict(found).items() if k != "parameter"}
        setup = bench.shared().setup
        source = bench.source(setup.compute_loss or setup.loss_fn or setup.train_step)
        yield BOTTOMLESS.at(found.parameter, source=source, **facts)


def _findings(faults: list[Fault], default: Source | None) -> Iterator[Finding]:
    """Each broken rule once, at the first place where it is."""
    told: set[str] = set()
    for fault in faults:
        if fault.rule not in told:
            told.add(fault.rule)
            rule = BY_NAME[fault.rule]
            yield rule.at(fault.location, source=fault.place or default, severity=fault.severity, **fault.facts)


def _described(call: Any) -> str:
    target = f", {tuple(call.target.shape)}" if call.target is not None else ""
    return f"{call.name}({tuple(call.input.shape)}{target})"


def _summary(seen: list[Pass]) -> str:
    if not any(p.calls for p in seen):
        return f"a loss written by hand, on {len(seen)} batches"
    first = next(p for p in seen if p.calls)
    more = f" and {len(first.calls) - 1} more" if len(first.calls) > 1 else ""
    return f"{_described(first.calls[0])}{more}: arguments and answers as they should be"
