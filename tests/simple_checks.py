"""A small catalogue of checks that do next to nothing: for tests of what runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from stabcheck.check import Check, NotChecked, Outcome, Rule, Skip, diagnosis, experiment
from stabcheck.loading import load_entry
from stabcheck.recording import Recording

ODD = Rule("SC9001", "odd", "fail", message="odd at {step}", fix="make it even")
BIG = Rule("SC9002", "big", "warn", message="{location} is big", fix="make it small")


def named(name: str, check: Check) -> Check:
    return replace(check, id=name)


def simple(name: str, *rules: Rule, needs_trial: bool = False) -> Callable[[Callable[[Any], Outcome]], Check]:
    return lambda function: named(name, experiment(title=name, rules=rules, needs_trial=needs_trial)(function))


@diagnosis(title="losses", rules=())
def LOSSES(recording: Recording) -> Outcome:  # noqa: N802
    return Outcome(f"{len(recording.losses)} losses", measurements={"losses": list(recording.losses)})


LOSSES = named("losses", LOSSES)


@simple("looks")
def LOOKS(bench: Any) -> Outcome:  # noqa: N802
    return Outcome("looked", not_checked=(NotChecked("the rest", "too simple"),))


@simple("trains")
def TRAINS(bench: Any) -> Outcome:  # noqa: N802
    session = bench.session()
    losses = [session.step(batch) for _, batch in islice(session.train_batches(), 6)]
    return Outcome("trained", measurements={"losses": losses})


@simple("validates")
def VALIDATES(bench: Any) -> Outcome:  # noqa: N802
    return Outcome(f"loss {bench.session().validate()}")


@simple("resumes")
def RESUMES(bench: Any) -> Outcome:  # noqa: N802
    path = bench.scratch / "checkpoint"
    bench.session().save(path)
    request = {"target": bench.entry.target, "path": str(path)}
    return Outcome(bench.nursery.run("tests.simple_checks:read_back", request))


def read_back(request: dict[str, Any]) -> str:
    from stabcheck.trial.session import Session

    Session(load_entry(request["target"]).build()).load(Path(request["path"]))
    return "read back"


@simple("finds", ODD, BIG)
def FINDS(bench: Any) -> Outcome:  # noqa: N802
    findings = (
        BIG.at("layers.10", value=float("nan")),
        ODD.at("layers.2", step=3, source=(__file__, 1)),
        BIG.at("layers.9", value=2),
    )
    return Outcome("found", findings, not_checked=(NotChecked("the rest", "too simple"),))


@simple("skips")
def SKIPS(bench: Any) -> Outcome:  # noqa: N802
    raise Skip("nothing to do")


@simple("breaks")
def BREAKS(bench: Any) -> Outcome:  # noqa: N802
    raise ZeroDivisionError("our own fault")


@simple("sleeps")
def SLEEPS(bench: Any) -> Outcome:  # noqa: N802
    """Ends in time if it is told to, as a good experiment does."""
    while bench.remaining() > 0:
        time.sleep(0.02)
    return Outcome("slept")


@simple("oversleeps")
def OVERSLEEPS(bench: Any) -> Outcome:  # noqa: N802
    time.sleep(1000)
    return Outcome("woke up")


@simple("reads", needs_trial=True)
def READS(bench: Any) -> Outcome:  # noqa: N802
    return Outcome(f"{len(bench.recording.losses)} losses")


@simple("tells")
def TELLS(bench: Any) -> Outcome:  # noqa: N802
    bench.tell(0.5, "half of it")
    return Outcome("told")


HARMLESS = (LOSSES, LOOKS, TRAINS, VALIDATES, RESUMES)
