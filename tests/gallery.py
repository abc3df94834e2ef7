"""The table of sample models in the README, and a page for each check: what the checks say of the samples.

    python -m tests.gallery --seeds 0,1,2,3,4 --jobs 2 --write

Rows are faults, columns the checks by the number in their codes. A cell is the number of seeds with which the check
failed, findings that follow from another's apart; the declared check's is in bold, and counts where it only warns, too.
The last row counts the alarms, failures and warnings alike, on all healthy samples together. The page of a check shows
its finding on the first sample that declares it.
"""

from __future__ import annotations

import argparse
import os
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stabcheck import engine
from stabcheck.catalog import CATALOG
from stabcheck.check import Check
from stabcheck.renderers import docs
from stabcheck.renderers.terminal import findings
from stabcheck.report import CheckResult, Report
from tests.test_catalog import IDS
from tests.test_samples import FOLDER, SAMPLES, UNLIMITED

README = Path(__file__).resolve().parent.parent / "README.md"
MARKED = re.compile(r"(<!-- gallery: .*? -->\n).*?(<!-- /gallery -->)", re.DOTALL)

PAGES = README.parent / "stabcheck" / "docs" / "checks"
WIDTH = 100
"""Columns of the findings on the pages."""

Counts = Mapping[str, Counter[str]]
"""Sample -> check id -> seeds with which it raised an alarm."""


def number(check: str) -> str:
    """The two digits that the check's codes begin with."""
    return f"{IDS.index(check) + 1:02}"


def alarms(report: Report, expected: Mapping[str, list[str]]) -> set[str]:
    """Ids of the checks that fail; of a healthy sample, and where a fault is declared, also those that only warn."""

    def counts(check: CheckResult) -> bool:
        kinds = {"fail"} if expected and check.id not in expected else {"fail", "warn"}
        return any(f.severity in kinds and f.follows_from is None for f in check.findings)

    return {check.id for check in report.checks if counts(check)}


def count(seeds: Sequence[int], jobs: int) -> tuple[Counts, dict[str, Report]]:
    """Run every sample with every seed: the alarms, and each sample's report with the first seed.

    Raises:
        RuntimeError: a check could not run.
    """
    hosts = threading.local()
    counts: dict[str, Counter[str]] = {sample: Counter() for sample in SAMPLES}
    reports: dict[str, Report] = {}

    def run(sample: str, seed: int) -> None:
        if not hasattr(hosts, "host"):
            hosts.host = engine.Host()
        file, _, name = sample.partition(":")
        options = engine.Options(seed=seed, budget=UNLIMITED, check_timeout=UNLIMITED)
        report = engine.run(f"{FOLDER / file}.py:{name}", options, host=hosts.host)
        if seed == seeds[0]:
            reports[sample] = report
        problems = {check.id: check.error.message for check in report.checks if check.error}
        if problems:
            raise RuntimeError(f"{sample}, seed {seed}: {problems}")
        counts[sample].update(alarms(report, SAMPLES[sample]))

    os.environ["OMP_NUM_THREADS"] = "1"
    with ThreadPoolExecutor(jobs) as pool:
        for result in [pool.submit(run, sample, seed) for sample in SAMPLES for seed in seeds]:
            result.result()
    return counts, reports


def page(check: Check, reports: Mapping[str, Report]) -> str:
    """The Markdown page of one check: its documentation, and what it says of a sample."""
    sample = next((sample for sample, expected in SAMPLES.items() if check.id in expected), None)
    text = docs.page(check)
    if sample is None:
        return text
    report = reports[sample]
    alone = report.model_copy(update={"checks": tuple(c for c in report.checks if c.id == check.id), "not_checked": ()})
    shown = findings(alone, CATALOG, width=WIDTH, base=str(README.parent))
    return f"{text}\n## What it says\n\nOf `sample_models/{sample}`:\n\n```text\n{shown.strip()}\n```\n"


def table(counts: Counts, seeds: int) -> str:
    """The Markdown of the table."""
    checks = [check.id for check in CATALOG]
    healthy = [sample for sample, expected in SAMPLES.items() if not expected]
    rows = [["fault", *map(number, checks)], ["---", *(":-:" for _ in checks)]]
    for sample, expected in SAMPLES.items():
        if expected:
            found = counts[sample]
            cells = [f"**{found[c]}**" if c in expected else str(found[c] or "") for c in checks]
            rows.append([f"`{sample}`", *cells])
    alarms = sum((counts[sample] for sample in healthy), Counter[str]())
    rows.append([f"{len(healthy)} healthy samples", *(str(alarms[c]) for c in checks)])
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"Out of {seeds} seeds:\n\n{lines}\n"


def shown() -> str:
    """The table that the README has.

    Raises:
        ValueError: it has none.
    """
    found = MARKED.search(README.read_text())
    if found is None:
        raise ValueError("the README has no gallery")
    return found.group(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma-separated")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    counts, reports = count(seeds, options.jobs)
    text = table(counts, len(seeds))
    print(text)
    if options.write:
        PAGES.mkdir(parents=True, exist_ok=True)
        for check in CATALOG:
            (PAGES / f"{check.id}.md").write_text(page(check, reports))
        README.write_text(MARKED.sub(lambda found: f"{found.group(1)}{text}{found.group(2)}", README.read_text()))


if __name__ == "__main__":
    main()
