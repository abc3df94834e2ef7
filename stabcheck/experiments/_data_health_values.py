"""Rules of data-health about what single batches hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stabcheck.check import Finding, Rule
from stabcheck.reading import batch_part

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
ONE_TARGET = Rule(
    "SC1707",
    "constant-targets",
    "fail",
    message="all {count:,} targets that count are {value}: whatever the input, one answer is right",
    fix="look where {where} is made: labels taken after their tokens were masked, a column that was overwritten, one "
    "class left by a filter or by an unshuffled split",
    why="A model that always gives that one answer is right every time, and has learnt nothing.",
)
CODES = Rule(
    "SC1713",
    "missing-value-codes",
    "fail",
    message="{value:g} stands for a missing value: it is in {share:.1%} of the samples (column {columns} of {where}), "
    "while all other values there lie between {low:.4g} and {high:.4g}; the model takes it for a measurement{cost}",
    fix="impute it before scaling (by the median of the training data), and add a column that says where it was",
    why="A code such as -999 is read as a measurement, and outweighs all real ones.",
)
LABEL_INSIDE = Rule(
    "SC1715",
    "target-leakage",
    "fail",
    message="column {column} of the {columns} in {where} is the target itself, in all of {samples:,} samples (up to "
    "scale)",
    fix="drop the target's column from the inputs",
    why="The model copies the answer from its input, and fails where the answer is not there.",
)
FIXED = Rule(
    "SC1721",
    "constant-features",
    "warn",
    message="{count} of the {width} columns of {where} hold {value:g} in all of {samples:,} samples (columns {columns}): "
    "they tell the model nothing",
    fix="look where they are filled in: a join that found no partner, a default for missing values, units that round to "
    "one number; drop them if they are constant by nature",
    why="The model does without what they were meant to tell, and no error says so.",
)
COPIES = Rule(
    "SC1722",
    "repeated-sequences",
    "warn",
    message="{copies:,} of the {samples:,} sequences read from {key} are copies of an earlier one, all {length} tokens: "
    "an epoch shows them again and again",
    fix="remove duplicates before the text is cut into sequences, and count epochs on what is left",
    why="The model learns the copies by heart long before the planned end.",
)
PADDING = Rule(
    "SC1723",
    "mostly-padding",
    "warn",
    message="{share:.0%} of {where} is padding that no sample needs: of {width} positions only {longest} ever hold anything but "
    "{value}, in {samples:,} samples",
    fix="pad to the longest sequence of each batch in collate_fn (padding='longest'), or lower max_length to what the data "
    "needs; check that the sequences are not cut or emptied before",
    why="Each step pays for positions that hold nothing.",
)
RULES = (NON_FINITE, BEYOND, LAST, ONE_TARGET, CODES, LABEL_INSIDE, FIXED, COPIES, PADDING)


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
                where=batch_part(spoilt.path),
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
    """SC1707, SC1723, SC1715, SC1713: nothing to learn from, or the wrong thing."""
    from stabcheck.trial.data import contents, filling, missing_values, unused_positions

    session, train, seed = data.session, data.train, data.bench.seed
    source = data.source(train.key)
    one = contents.targets_alike(session, train, seed)
    if one is not None:
        yield ONE_TARGET.at(
            None, source=source, count=one.count, value=one.value, where=batch_part(one.path), ignored=one.ignored
        )
    unused = unused_positions.unused_positions(session, train)
    if unused is not None:
        yield PADDING.at(
            None,
            source=source,
            where=batch_part(unused.path),
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
            where=batch_part(copied.path),
            samples=copied.samples,
        )
    code = missing_values.missing_codes(session, train)
    if code is not None and not missing_values.is_handled(session, train, code, seed):
        known, cost = code.value in missing_values.CODES, ""
        worth = None if known else filling.worth_of_filling(data.bench, train, code.all, seed)
        if worth is not None:
            data.measurements["filling_codes"] = {"progress": worth[0], "progress_filled": worth[1]}
            if filling.is_needed(*worth):
                way = "of the way from a constant guess to a perfect fit"
                cost = f"; training gets {max(0.0, worth[0]):.0%} {way}, and {min(1.0, worth[1]):.0%} in half the steps without it"
        yield CODES.at(
            None,
            source=source,
            severity="fail" if known or cost else "warn",
            cost=cost,
            value=code.value,
            share=code.share,
            columns=_listed(code.columns),
            where=batch_part(code.path),
            low=code.low,
            high=code.high,
        )


def redundant(data: Data) -> Iterator[Finding]:
    """SC1721, SC1722: columns and sequences that tell nothing new."""
    from stabcheck.trial.data import redundancy

    train, source = data.train, data.source(data.train.key)
    fixed = redundancy.fixed_columns(data.session, train)
    if fixed is not None:
        yield FIXED.at(
            None,
            source=source,
            count=len(fixed.columns),
            width=fixed.width,
            where=batch_part(fixed.path),
            value=fixed.value,
            samples=fixed.samples,
            columns=_listed(fixed.columns),
        )
    again = redundancy.copied_sequences(data.session, train)
    if again is not None:
        yield COPIES.at(
            None, source=source, copies=again.copies, samples=again.samples, key=train.key, length=again.length
        )


def _listed(columns: tuple[int, ...]) -> str:
    """Their numbers, the first five of many."""
    return ", ".join(map(str, columns[:5])) + (", ..." if len(columns) > 5 else "")
