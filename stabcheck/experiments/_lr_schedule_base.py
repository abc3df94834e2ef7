"""The part of lr-schedule that judges where the planned rates stand to the rate that the optimizer was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.schedule.forecast import Forecast

RATE_AS_FACTOR = Rule(
    "SC0510",
    "rate-used-as-factor",
    "fail",
    "the function given to LambdaLR returns a rate ({factor:.3g}), but what it returns is multiplied with the optimizer's lr "
    "({base:.3g}), so the rate never exceeds {peak:.3g}",
    "return a factor between 0 and 1 (divide by {base:.3g}), or set the optimizer's lr to 1.0",
    why="The model trains with the product of two rates, thousands of times less than was meant.",
)
OUT_OF_SCALE = Rule(
    "SC0518",
    "factor-out-of-scale",
    "warn",
    "the function given to LambdaLR {way} the optimizer's lr ({base:.3g}): its highest factor in the run is {factor:.3g}, "
    "so the rate peaks at {peak:.3g}",
    "divide what the function returns by its highest value, so that lr={base:.3g} is the peak; where it returns the rate "
    "itself, set the optimizer's lr to 1.0",
)
BEGUN = Rule(
    "SC0519",
    "schedule-begun-before-the-run",
    "warn",
    "{scheduler} has been stepped {done} times before the first step of a new run: it starts at {first:.3g}, and the first "
    "{share:.0%} of its course never happen",
    "build it after what steps it for a plot or a dry run, with last_epoch=-1, unless a run is resumed",
)
IDLE = Rule(
    "SC0520",
    "zero-rate-at-the-start",
    "fail",
    "{scheduler} keeps the learning rate at zero until step {until} of {steps:,}, and then sets it to {then:.3g} at once, "
    "{share:.0%} of the peak: nothing is trained before, and the warm-up is none",
    "let the warm-up rise bit by bit: a factor of (step + 1) / warmup, with / and not //, or a start_factor above zero",
    why="The first steps are thrown away, and the full rate meets the untrained weights, which a warm-up is there to prevent.",
)
RULES = (RATE_AS_FACTOR, OUT_OF_SCALE, BEGUN, IDLE)
MOST_IDLE, AT_ONCE = 2, 0.5
"""Steps without a rate that do no harm, as the first of a warm-up that begins at zero, and the share of the peak that follows
where the rate was to rise bit by bit."""
FAR_ABOVE, FAR_BELOW = 10.0, 0.01
"""Factors that nobody chooses together with the lr they multiply: with another unit in mind they come out so, as Noam's
formula does (7e-4 for 512 units and 4000 steps of warm-up)."""
BEGUN_SHARE = 0.02
"""Share of the run before which a schedule may stand at its start: one or two calls too many are no matter."""
MUCH = 0.1
"""Share of the run that is no matter of counting: so much of the course, its warm-up as a rule, is lost."""


def factor(bench: Bench, run: Forecast) -> Finding | None:
    """A LambdaLR whose function returns the rate itself (its highest factor is the base rate), or something else than a share."""
    from stabcheck.trial.schedule.base_rate import FACTOR_ONLY, is_a_rate
    from stabcheck.trial.schedule.sizes import parts

    scheduler = run.session.setup.scheduler
    if not len(run.used) or run.by_hand or scheduler is None:
        return None
    peaks = [float(rate) for rate in run.used.max(axis=0)]
    for part in parts(scheduler):
        bases, functions = getattr(part, "base_lrs", None), getattr(part, "lr_lambdas", None)
        if not bases or not functions or len(bases) != len(peaks):
            continue
        pairs = [(float(base), peak / float(base)) for base, peak in zip(bases, peaks, strict=True) if base > 0]
        if not pairs:
            continue
        base, highest = pairs[0]
        source = bench.source(functions[0])
        if all(is_a_rate(share, base) for base, share in pairs):
            return RATE_AS_FACTOR.at(source=source, factor=highest, base=base, peak=highest * base)
        if run.reading.calls is None or len(parts(scheduler)) > 1:
            continue
        large = all(share >= FAR_ABOVE for _, share in pairs)
        if large or all(0 < share <= FAR_BELOW and base < FACTOR_ONLY for base, share in pairs):
            way = "multiplies" if large else "shrinks"
            return OUT_OF_SCALE.at(source=source, way=way, factor=highest, base=base, peak=highest * base)
    return None


def begun(run: Forecast) -> Finding | None:
    """A scheduler that has a past, with an optimizer that has none."""
    calls, done = run.reading.calls, run.begun_at
    if calls and done > max(2, BEGUN_SHARE * calls) and (run.used != run.used[0]).any():
        first = float(run.used[0].max())
        options = run.session.setup.optimizer.defaults if run.session.setup.optimizer is not None else {}
        # An optimizer that would remember its steps, and does not, is sure to be new.
        sure = done > MUCH * calls and ("betas" in options or bool(options.get("momentum")))
        return BEGUN.at(
            severity="fail" if sure else None,
            scheduler=run.name,
            done=done,
            first=first,
            share=min(1.0, done / (done + calls)),
        )
    return None


def idle(run: Forecast) -> Finding | None:
    """A rate that is zero for some steps, and then nearly at its peak."""
    rates = run.used.max(axis=1)
    start = int((rates > 0).argmax())
    if run.reading.calls is None or start <= MOST_IDLE:
        return None
    then, peak, steps = float(rates[start]), float(rates.max()), run.steps
    if then < AT_ONCE * peak:
        return None
    return IDLE.at(scheduler=run.name, until=int(steps[start]), steps=int(steps[-1]) + 1, then=then, share=then / peak)
