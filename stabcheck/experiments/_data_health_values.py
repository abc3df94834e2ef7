"""Rules of data-health about what single batches hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule

if TYPE_CHECKING:
    from stabcheck.experiments.data_health import Data

NON_FINITE = Rule(
    "SC1701",
    "non-finite-samples",
    "fail",
    message="{rows:,} of the {samples:,} samples read from {key} hold NaN or infinite values ({where}, first in batch "
    "{batch}): the loss of that batch is {loss}, and {mended:.4g} with them set to zero",
    fix="find them with torch.isfinite in the dataset behind {key}, and drop or impute them; common sources are a "
    "division by 0, a failed read and missing table entries",
)
BEYOND = Rule(
    "SC1702",
    "values-out-of-range",
    "fail",
    message="batch {batch} of {key} cannot be used: it holds {what}, and {stage} raises {error}",
    fix="make the table fit the data (num_embeddings, number of classes: at least the largest value plus one), or "
    "find out why such values are in the data: another vocabulary, labels that start at 1, -1 for missing",
)
LAST = Rule(
    "SC1703",
    "incomplete-last-batch-raises",
    "fail",
    message="the last batch of {key} (number {batch}) holds only {what}, and {stage} raises {error}",
    fix="give the DataLoader drop_last=True, or a batch_size that leaves no such remainder; BatchNorm cannot be "
    "trained on one sample, and a model must not rely on one batch size",
)
ALIKE = Rule(
    "SC1706",
    "blank-inputs",
    "fail",
    message="all inputs are blank: in {samples:,} samples {where} holds nothing but the value {value:g}{padding}, while "
    "the targets differ",
    fix="look at one sample right before the model: words that are all unknown come from a vocabulary built from "
    "other text (case, tokenizer), blank images from a failed read or from integer division by 255",
)
ONE_TARGET = Rule(
    "SC1707",
    "constant-targets",
    "fail",
    message="all {count:,} targets that count are {value}: whatever the input, one answer is right",
    fix="look where {where} is made: labels taken after their tokens were masked, a column that was overwritten, one "
    "class left by a filter or by an unshuffled split",
)
CODES = Rule(
    "SC1713",
    "missing-value-codes",
    "fail",
    message="{value:g} stands for a missing value: it is in {share:.1%} of the samples (column {columns} of {where}), "
    "while all other values there lie between {low:.4g} and {high:.4g}; the model takes it for a measurement",
    fix="impute it before scaling (by the median of the training data), and add a column that says where it was",
)
LABEL_INSIDE = Rule(
    "SC1715",
    "target-leakage",
    "fail",
    message="column {column} of the {columns} in {where} is the target itself, in all of {samples:,} samples (up to "
    "scale)",
    fix="drop the target's column from the inputs",
)
PADDING = Rule(
    "SC1721",
    "mostly-padding",
    "warn",
    message="{share:.0%} of {where} is padding that no sample needs: of {width} positions only {longest} ever hold anything but "
    "{value}, in {samples:,} samples",
    fix="pad to the longest sequence of each batch in collate_fn (padding='longest'), or lower max_length to what the data "
    "needs; check that the sequences are not cut or emptied before",
)
RULES = (NON_FINITE, BEYOND, LAST, ALIKE, ONE_TARGET, CODES, LABEL_INSIDE, PADDING)


def unusable(data: Data) -> Iterator[Finding]:
    """SC1701 to SC1703: batches that spoil or end the run."""
    from stabcheck.trial.data import unusable_batches

    for scan in data.scans:
        session, seed = data.session, data.bench.seed
        spoilt = unusable_batches.broken(data.bench.session, session, scan, seed)
        if spoilt is not None:
            yield NON_FINITE.at(
                None,
                source=data.source(scan.key),
                rows=scan.bad[spoilt.path],
                samples=scan.samples,
                key=scan.key,
                where=named(spoilt.path),
                batch=spoilt.number,
                loss=spoilt.loss,
                mended=spoilt.mended,
            )
            continue
        if session.device.type != "cpu":
            data.unchecked(
                "ids beyond a table and classes beyond the outputs", "on a GPU the process would not survive it"
            )
            continue
        for rule, look in ((BEYOND, unusable_batches.refused_values), (LAST, unusable_batches.refused_last)):
            refused = look(data.bench.session, session, scan, seed)
            if refused is not None:
                yield rule.at(
                    None,
                    source=(refused.error.file, refused.error.line or 0)
                    if refused.error.file
                    else data.source(scan.key),
                    key=scan.key,
                    batch=refused.number,
                    what=refused.what,
                    stage=refused.error.stage,
                    error=refused.error.message,
                )
                break


def empty(data: Data) -> Iterator[Finding]:
    """SC1706, SC1707, SC1721, SC1715, SC1713: nothing to learn from, or the wrong thing."""
    from stabcheck.trial.data import contents, missing_values, unused_positions

    session, train, seed = data.session, data.train, data.bench.seed
    source = data.source(train.key)
    alike = contents.inputs_alike(session, train)
    if alike is not None:
        padding = f" (and {alike.padding:g}, which fills up)" if alike.padding is not None else ""
        where = " and ".join(map(named, alike.paths))
        yield ALIKE.at(None, source=source, samples=alike.samples, where=where, value=alike.value, padding=padding)
    one = contents.targets_alike(session, train, seed)
    if one is not None:
        yield ONE_TARGET.at(
            None, source=source, count=one.count, value=one.value, where=named(one.path), ignored=one.ignored
        )
    unused = unused_positions.unused_positions(session, train) if alike is None else None
    if unused is not None:
        yield PADDING.at(
            None,
            source=source,
            where=named(unused.path),
            share=unused.share,
            width=unused.width,
            longest=unused.longest,
            value=unused.value,
            samples=unused.samples,
        )
    copied = contents.label_among_inputs(session, train)
    if copied is not None:
        yield LABEL_INSIDE.at(
            None,
            source=source,
            column=copied.column,
            columns=copied.columns,
            where=named(copied.path),
            samples=copied.samples,
        )
    code = missing_values.missing_codes(session, train)
    if code is not None and not missing_values.is_handled(session, train, code, seed):
        known = code.value in missing_values.CODES
        yield CODES.at(
            None,
            source=source,
            severity="fail" if known else "warn",
            value=code.value,
            share=code.share,
            columns=", ".join(map(str, code.columns[:5])) + (", ..." if len(code.columns) > 5 else ""),
            where=named(code.path),
            low=code.low,
            high=code.high,
        )


def named(path: str) -> str:
    """How a sentence speaks of a part of a batch."""
    first, _, rest = path.partition(".")
    if not first:
        return "the batch"
    if first.isdigit():
        return f"batch[{first}]" + (f" ({rest})" if rest else "")
    return f"'{path}'"
