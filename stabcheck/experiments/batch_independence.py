"""A sample's output that depends on other samples of its batch, or a prediction that sees what it is to predict.

## What it looks at
The model's call on a training batch is repeated in eval mode, with every generator and every shape held still, and with one
sample's content in another's place: nothing but that sample's output may change. Where another's changes, every
operation of the forward is compared to find the first that brings two samples together. Tables of all pairs, losses and
outputs without a sample axis are left alone, and so is mixing by a decision that no gradient passes (experts of limited
capacity). If the gradient of the loss says that each position is trained to say what its own input holds next, the second half
of the sequences is exchanged: no prediction of the first half may change; where masked weights put places into an order, none may
be told from itself. Reshapes are looked at for axes that they tear: those
that come out at the same length, made of pieces of others. Where batches are padded as far as their longest sample and no
mask is used, shorter samples are judged in a batch of their own. Where outputs differ from call to call, it is looked for what
the model keeps of the batch before.

## Why it matters
An axis mixed up by `view`, `batch_first` or `dim=0` raises no error. The loss falls, because the batch tells about itself, and
at inference, with other neighbours, the numbers are others. A language model that sees the next token reaches a loss that it
will never reach when it writes.

## What to do
Look at the line and the axis that the finding names: `transpose` or `permute` in place of `view`, `batch_first=True`,
`dim=-1`, statistics over features and not over samples; for sequences a causal mask, and padding on the left of convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Severity, Skip, experiment
from stabcheck.experiments._batch_independence_carried import CARRIED, of_state

if TYPE_CHECKING:
    from stabcheck.trial.bench import Bench
    from stabcheck.trial.dependence.causality import Leak, NextStep
    from stabcheck.trial.dependence.mixing import Mixing
    from stabcheck.trial.dependence.subject import Subject

MIXED = Rule(
    "SC1801",
    "samples-mixed-across-batch",
    "fail",
    message="with sample {sample} of a batch of {samples} replaced, the output of {others} other{plural} changes in eval "
    "mode (by up to {change:.2g} of its size){cause}",
    fix="{remedy}",
)
STATISTICS = Rule(
    "SC1802",
    "batch-statistics-in-eval-mode",
    "warn",
    message="{where} normalises by the current batch in eval mode too, so each output depends on the other samples of "
    "its batch (by up to {change:.2g} of its size{told})",
    fix="keep running statistics (track_running_stats=True), or use a norm over the features of one sample: "
    "LayerNorm, GroupNorm",
)
FUTURE = Rule(
    "SC1803",
    "future-leakage",
    "fail",
    message="the model is trained to predict what comes next in {name}, and it sees it: with everything after position "
    "{position} replaced, predictions up to there change by up to {change:.2g} of their size{cause}",
    fix="{remedy}",
    why="A language model that sees the next token reaches a loss that it will never reach when it writes.",
)
INSIDE = Rule(
    "SC1804",
    "layer-runs-over-samples",
    "fail",
    "{kind} brings the samples of a batch together instead of the positions of each, and no output depends on its own sample",
    "{remedy}",
)
TORN = Rule(
    "SC1805",
    "view-in-place-of-transpose",
    "fail",
    "{op} keeps the numbers in their order and cuts it anew: the axis of length {length} that comes out is made of pieces of "
    "other axes, so what follows mixes positions, channels or heads of each sample",
    "exchange axes with transpose() or permute(), and let view() and reshape() only split an axis or merge neighbours",
)
PADDED = Rule(
    "SC1806",
    "padding-of-others-shows",
    "fail",
    "each batch is padded as far as its longest sample, and the padding of {name} is not masked: in a batch of their own, padded "
    "less, the shorter samples get other outputs (by {sway:.2g} of the spread between samples)",
    "tell the model what is padding: a key_padding_mask or attention_mask, packed sequences, a mean over the real positions only",
)
OWN = Rule(
    "SC1807",
    "prediction-sees-its-target",
    "fail",
    "weights are masked so that each place of {name} is told from those before it, and {output} sees the very place that it is to "
    "tell, at {seen} of {probed} places: it copies it",
    "the mask of the first layer leaves the place itself out (type A of a PixelCNN; of a MADE '>' in the output layer, not '>=')",
    why="The likelihood grows beyond what the data allow, and nothing can be drawn from such a model.",
)
SWAY_SHOWN = 0.02
"""The same, from which padding is worth a warning. Maxima and sums over it gave 0, attention 0.05 to 0.3, means and last states
0.2 to 1."""
SWAYED = 0.5
"""Movement of the predictions, as a share of their own spread, from which the company of a sample says nearly as much as the
sample: a batch norm without running statistics gave 0.8 to 1 in untrained classifiers of tables, images and point clouds."""
NORMS = {
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "mean",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "native_group_norm",
}
"""Operations through which a prediction sees of its future no more than an average."""


RULES = (MIXED, STATISTICS, FUTURE, INSIDE, TORN, PADDED, OWN, CARRIED)


@experiment(title="Samples are independent", about=("model",), rules=RULES)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Exchange a sample, and then the second half of a sequence; nothing else may change."""
    try:
        return _judged(bench)
    except Skip as skip:
        finding = of_state(bench)
        if finding is None:
            raise
        return Outcome(finding.message, (finding,), {}, (NotChecked("samples of one batch", skip.reason),))


def _judged(bench: Bench) -> Outcome:
    from stabcheck.trial.dependence.causality import next_steps
    from stabcheck.trial.dependence.mixing import independence
    from stabcheck.trial.dependence.subject import subject

    not_checked: list[NotChecked] = []
    findings: list[Finding] = []
    with subject(bench) as found:
        batch = independence(found)
        if batch.why_not:
            not_checked.append(NotChecked("whether samples of a batch are independent", batch.why_not))
        if batch.mixing is not None:
            judged = _of_batch(bench, found, batch.mixing)
            findings += [judged] if isinstance(judged, Finding) else []
            not_checked += [judged] if isinstance(judged, NotChecked) else []
        steps = next_steps(found)
        if batch.why_not and not steps and not findings:
            raise Skip(batch.why_not)
        findings += _of_sequence(bench, found, steps)
        findings = findings or list(_of_own_targets(bench, found))
        findings = findings or [*_of_axes(bench, found), *_of_padding(bench, found)]
        if found.call.calls > 1:
            not_checked.append(
                NotChecked("further calls of the model for one loss", f"the first of {found.call.calls} was looked at")
            )
    measured = {
        "samples": found.samples,
        "outputs": list(batch.looked_at),
        "samples_mixed": batch.mixing is not None,
        "predicts_next": sorted({step.name for step in steps}),
    }
    return Outcome(_summary(findings, batch.looked_at, steps), tuple(findings), measured, tuple(not_checked))


def _summary(findings: list[Finding], outputs: tuple[str, ...], steps: list[NextStep]) -> str:
    if findings:
        return findings[0].message
    told = [f"{' and '.join(outputs)} of one sample: none depends on another"] if outputs else []
    told += ["predictions do not see what comes next"] if steps else []
    return "; ".join(told)


def _of_batch(bench: Bench, found: Subject, mixing: Mixing) -> Finding | NotChecked:
    from stabcheck.trial.dependence.mixing import in_pairs

    what = "whether samples of a batch are independent"
    if mixing.by_choice_only:
        return NotChecked(
            what, "they compete in a decision that no gradient passes, as for experts of limited capacity"
        )
    if not found.certain:
        return NotChecked(
            what,
            "other samples' outputs change with one sample's input, but the batch is made by hand or is all of the data, so its "
            "rows may belong to one set or graph",
        )
    op = mixing.culprit
    where = op.module if op else None
    facts: dict[str, Any] = {
        "change": mixing.change,
        "samples": mixing.samples,
        "sample": mixing.sample,
        "others": mixing.others,
    }
    if not mixing.others:
        kind = type(mixing.rnn).__name__
        return INSIDE.at(where, source=mixing.source, kind=kind, remedy=_remedy(mixing))
    if op and op.name == "batch_norm":
        pairs = in_pairs(found, mixing.output)
        told = "" if pairs is None else f"; judged two at a time, predictions move by {pairs:.2g} of their spread"
        severity: Severity = "fail" if pairs is not None and pairs >= SWAYED else "warn"
        facts |= {"where": where or "the model", "in_pairs": pairs, "told": told}
        return STATISTICS.at(where, source=mixing.source, severity=severity, **facts)
    return MIXED.at(
        (mixing.reshaped or op).module if op else None,
        source=mixing.source or bench.source(found.session.model),
        plural="" if mixing.others == 1 else "s",
        cause=_cause(mixing),
        remedy=_remedy(mixing),
        **facts,
    )


def _cause(mixing: Mixing) -> str:
    if mixing.reshaped:
        return f": {mixing.reshaped.words} scatters each sample over other places"
    return f": the first to bring samples together is {mixing.culprit.words}" if mixing.culprit else ""


def _remedy(mixing: Mixing) -> str:
    op, module = mixing.culprit, mixing.rnn
    if mixing.reshaped:
        return "use transpose() or permute() to exchange axes: view() and reshape() keep the order in memory and cut it anew"
    if module is not None:
        wanted = "(batch, time, features)" if getattr(module, "batch_first", False) else "(time, batch, features)"
        other = not getattr(module, "batch_first", False)
        return f"{type(module).__name__} reads its input as {wanted}: build it with batch_first={other}, or transpose the input"
    if op is not None and op.axes is not None:
        name = op.name.strip("_")
        return f"{name} runs along axis {op.axes}: let it run along features, positions or classes, not along samples"
    if op is None:
        return "look for flip, roll, sort, or an index along the axis of samples"
    return "follow the axis of samples through forward(): no statistic, softmax, attention or matrix product may run along it"


def _of_own_targets(bench: Bench, found: Subject) -> Iterator[Finding]:
    from stabcheck.trial.dependence.own_target import own_target

    if (one := own_target(found)) is not None:
        facts: dict[str, Any] = {"name": one.name, "output": one.output, "seen": one.seen, "probed": one.probed}
        yield OWN.at(one.module, source=bench.source(found.session.model), **facts)


def _of_axes(bench: Bench, found: Subject) -> Iterator[Finding]:
    from stabcheck.trial.dependence.torn import torn

    if (seen := torn(found)) is not None:
        op = seen.op
        source = op.line or bench.source(found.session.model)
        yield TORN.at(op.module, source=source, op=op.words, length=seen.length)


def _of_padding(bench: Bench, found: Subject) -> Iterator[Finding]:
    from stabcheck.trial.dependence.padding import sway_of_company

    shown = sway_of_company(found) if found.certain else None
    if shown is not None and shown[1] >= SWAY_SHOWN:
        severity: Severity = "fail" if shown[1] >= SWAYED else "warn"
        source = bench.source(found.session.model)
        yield PADDED.at(None, source=source, severity=severity, name=shown[0], sway=shown[1])


def _of_sequence(bench: Bench, found: Subject, steps: list[NextStep]) -> list[Finding]:
    from stabcheck.trial.dependence.causality import leak

    leaks = [leak(found, step) for step in steps]
    # A decoder sees the past of its own input only; an encoder that is given the same text may see all of it.
    if not leaks or None in leaks:
        return []
    worst: Leak = next(item for item in leaks if item is not None)
    op = worst.culprit
    averaged = op is not None and op.name in NORMS
    return [
        FUTURE.at(
            op.module if op else None,
            source=(op.line if op else None) or bench.source(found.session.model),
            severity="warn" if averaged else "fail",
            name=worst.step.name,
            position=worst.position,
            change=worst.change,
            cause=f": the first to look ahead is {op.words}" if op else "",
            remedy="let no norm or average run over positions"
            if averaged
            else "give attention a causal mask (is_causal=True, or -inf above the diagonal), pad convolutions on the left "
            "only, and let no layer run backwards",
        )
    ]
