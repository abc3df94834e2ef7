"""Two runs from the same seed that begin with different weights or different data.

## What it looks at
The set-up is built twice, with Python's, NumPy's and torch's generators seeded alike just before, and takes the same few
steps. Compared to the last bit are the initial weights and buffers, the batches, the losses and the weights afterwards; what
differs first is named. Where your code makes sets or calls hash(), it is built in another process too. The loss of the
first batch is computed twice in eval mode. How far apart the two runs end is the noise floor of this machine: it is
measured, and only a difference far above rounding is a fault, because kernels may add in any order.

## Why it matters
What differs between two runs that should be one cannot be told from what a change of the code did: neither a crash at
step 40,000 nor a better score can be had a second time.

## What to do
Take random numbers from the global generators, or seed your own: `np.random.default_rng(seed)`, `torch.Generator()` with
`manual_seed`, no seed from the clock, no order taken from a set, nothing at module level that remembers earlier calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stabcheck.check import Finding, Outcome, Rule, experiment

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.seeded_run import SeededRun

STEPS = 3
"""Enough for a difference of one step to reach the loss of the next."""

WEIGHTS = Rule(
    "SC2001",
    "unseeded-initialization",
    "warn",
    message="built twice from the same seed, the model starts with different weights: {count} of {total} tensors differ, "
    "{location} first",
    fix="draw the initial weights from torch's global generator, or from one that you seed",
)
DATA = Rule(
    "SC2002",
    "unseeded-data",
    "warn",
    message="built twice from the same seed, the set-up trains on different data: batch {index} differs, although "
    "weights and generators were the same",
    fix="seed what draws or orders the data: np.random.default_rng(seed), random.Random(seed), a torch.Generator "
    "with manual_seed; sort what comes out of a set or a directory",
)
CLAIMED = Rule(
    "SC2003",
    "nondeterministic-run",
    "warn",
    message="deterministic algorithms are requested, yet two runs on the same weights and data differ: {what} (losses by "
    "{loss:.1e}, the weights after {steps} steps by {weights:.1e} of their size)",
    fix="look for random numbers from a generator that is not seeded, for state kept at module level, and for "
    "extensions of your own",
)
STEP = Rule(
    "SC2004",
    "step-beyond-seed",
    "warn",
    "built twice from the same seed, with the same weights and batches, the set-up computes other losses: step {step} gives "
    "{one:.6g} and {two:.6g}, {times:.0e} times as far apart as one rounding",
    "look in the step, the model and the loss for random numbers that no seed reaches: np.random.default_rng() without a "
    "number, torch.Generator().seed(), os.urandom, the clock; and for state kept at module level",
)
RESEEDED = Rule(
    "SC2005",
    "generators-beyond-seed",
    "warn",
    "built twice from the same seed, with the same weights and batches, the global random generators stand elsewhere after step "
    "{step}{losses}: something in the step seeds them anew, or draws from them a number of times that no seed decides",
    "seed once, before the set-up is built; never from the clock, the process id or os.urandom, and not inside the step",
)
HASHED = Rule(
    "SC2006",
    "differs-between-processes",
    "warn",
    "built in another process from the same seed, the set-up starts with other {what}: {how}; Python hashes strings anew in "
    "each process, so hash() of a string, and the order of a set of strings, are never the same twice",
    "sort what comes out of a set before it is numbered or drawn from; derive seeds from numbers or zlib.crc32(), not from hash()",
    why="No restart, no second run and no colleague gets the same data or weights, whatever the seed.",
)
NOTHING = 1e-5
"""Differences below this are none: a loss may be a sum of large parts that cancel, as of normalised advantages."""
ROUNDING, BEYOND = 2.0**-23, 1e-3
"""Relative error of a float32, and the difference of two losses within a few steps from which it cannot have come from the
order of additions: 8,000 times as much."""


@experiment(title="Same seed, same run", rules=(WEIGHTS, DATA, CLAIMED, STEP, RESEEDED, HASHED), cost="dear")
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Build and train twice, compare."""
    from stabcheck.trial.seeded_run import apart, run_from_seed

    one = run_from_seed(bench, STEPS)
    two = run_from_seed(bench, len(one.batches), again=True)
    loss, weights = apart(one, two)
    where, finding = _first_difference(bench, one, two, loss, weights)
    elsewhere = None
    if finding is None:
        elsewhere, finding = _in_another_process(bench)
    measured = {
        "as_in_another_process": elsewhere,
        "steps": len(one.batches),
        "first_difference": where,
        "forward_repeats": one.forward_repeats,
        "loss_apart": loss,
        "weights_apart": weights,
    }
    outcome = Outcome(
        finding.message if finding else _summary(where, len(one.batches), loss),
        (finding,) if finding else (),
        measured,
    )
    if not one.losses:
        outcome = outcome.but_not(
            "whether the steps repeat", "they give no loss: add 'optimizer', or return it from 'train_step'"
        )
    return outcome


def _summary(where: str | None, steps: int, loss: float) -> str:
    if where is None:
        return f"two runs of {steps} steps from one seed are equal to the last bit"
    return f"weights and data follow the seed; the {where} differs (losses by {loss:.1e} of their size)"


def _first_difference(
    bench: Bench, one: SeededRun, two: SeededRun, loss: float, weights: float
) -> tuple[str | None, Finding | None]:
    source = bench.source(bench.entry.function)
    differ = [name for name, digest in one.weights.items() if two.weights.get(name) != digest]
    if differ:
        return "weights", WEIGHTS.at(differ[0], source=source, count=len(differ), total=len(one.weights))
    for index, (a, b) in enumerate(zip(one.batches, two.batches, strict=False)):
        if a != b:
            return "data", DATA.at(None, source=bench.source(bench.shared().setup.train_loader), index=index + 1)
    step = next((i for i, (a, b) in enumerate(zip(one.generators, two.generators, strict=False), 1) if a != b), None)
    if step is not None:
        return "random numbers", _moved(bench, one, two, step)
    if one.losses[:1] != two.losses[:1]:
        where = "first loss"
    elif one.losses != two.losses or weights > 0:
        where = "update"
    else:
        return None, None
    return where, _claimed(source, where, len(one.batches), loss, weights) or _beyond(bench, one, two)


def _in_another_process(bench: Bench) -> tuple[bool | None, Finding | None]:
    """Whether a process with other hashes starts with the same weights and data; None if it was not tried."""
    from stabcheck.trial.elsewhere import built_elsewhere, depends_on_hashes, first_data
    from stabcheck.userland import UserCodeError

    if not depends_on_hashes(bench):
        return None, None
    try:
        there = built_elsewhere(bench)
    except UserCodeError:  # that a fresh process cannot build it is for checkpoint-resume to say
        return None, None
    if there is None:
        return None, None
    session, source = bench.session(), bench.source(bench.entry.function)
    here = {name: p.detach().cpu() for name, p in session.model.named_parameters()}
    differ = [n for n, p in here.items() if n not in there.weights or not p.equal(there.weights[n])]
    if differ:
        how = f"{len(differ)} of {len(here)} tensors differ, {differ[0]} first"
        return False, HASHED.at(differ[0], source=source, what="weights", how=how)
    pairs = zip(first_data(session, bench.seed), there.data, strict=False)
    for index, (ours, theirs) in enumerate(pairs, 1):
        if len(ours) != len(theirs) or not all(a.equal(b) for a, b in zip(ours, theirs, strict=True)):
            source = bench.source(session.setup.train_loader) or source
            return False, HASHED.at(None, source=source, what="data", how=f"batch {index} differs")
    return True, None


def _moved(bench: Bench, one: SeededRun, two: SeededRun, step: int) -> Finding:
    """Generators that one seed does not decide: exact, for they do not round."""
    apart = [(a, b) for a, b in zip(one.losses[:step], two.losses[:step], strict=False) if a != b]
    losses = f" (and its losses are {apart[-1][0]:.6g} and {apart[-1][1]:.6g})" if apart else ""
    return RESEEDED.at(None, source=bench.source(bench.shared().setup.train_step), step=step, losses=losses)


def _beyond(bench: Bench, one: SeededRun, two: SeededRun) -> Finding | None:
    """The first step whose losses differ by more than rounding can explain."""
    setup = bench.shared().setup
    source = bench.source(setup.train_step or setup.compute_loss or setup.loss_fn) or bench.source(setup.model)
    for step, (a, b) in enumerate(zip(one.losses, two.losses, strict=False), 1):
        share = abs(a - b) / max(abs(a), abs(b), 1e-12)
        if share > BEYOND and abs(a - b) > NOTHING:  # a NaN is no difference
            return STEP.at(None, source=source, step=step, one=a, two=b, times=share / ROUNDING)
    return None


def _claimed(source: tuple[str, int] | None, where: str, steps: int, loss: float, weights: float) -> Finding | None:
    from stabcheck.trial.seeded_run import claims_determinism

    if not claims_determinism():
        return None
    return CLAIMED.at(None, source=source, what=f"the {where}", steps=steps, loss=loss, weights=weights)
