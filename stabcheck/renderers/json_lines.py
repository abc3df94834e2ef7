"""The events of a run as JSON, one on a line, for a program that follows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stabcheck.events import CheckFinished, Finished, Loaded, Progress, Recorded
from stabcheck.report import plain

if TYPE_CHECKING:
    from stabcheck.events import Event


def line(event: Event) -> str:
    """The event as one line. "event" says which: loaded, progress, recorded, check or finished; "finished" has the report."""
    return json.dumps(plain(_fields(event)), ensure_ascii=False, allow_nan=False) + "\n"


def _fields(event: Event) -> dict[str, Any]:
    if isinstance(event, Progress):
        return {"event": "progress", "doing": event.doing, "fraction": event.fraction, "detail": event.detail}
    if isinstance(event, Loaded):
        return {"event": "loaded", "seconds": event.seconds, "facts": event.facts}
    if isinstance(event, Recorded):
        return {"event": "recorded", "steps": len(event.recording.steps), "planned": event.recording.planned}
    if isinstance(event, CheckFinished):
        return {"event": "check", "result": event.result.model_dump()}
    if isinstance(event, Finished):
        return {"event": "finished", "report": event.report.model_dump()}
    raise AssertionError(f"an event without a form: {event}")
