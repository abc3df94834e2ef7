from __future__ import annotations

import io

import pytest
from report_samples import passing, result

from stabcheck.events import CheckFinished, Event, Finished, Loaded, Progress
from stabcheck.renderers.progress import Display

RUN: tuple[Event, ...] = (
    Progress("loading"),
    Loaded(0.1, {}),
    Progress("trial", 0.5, "step 20 of 40"),
    Progress("trial", None, "[bold]\x1b[31m" + "x" * 500),
    CheckFinished(result("dying-relu", "fine")),
    Progress("eval-mode"),
    CheckFinished(result("eval-mode", "fine")),
    CheckFinished(result("clean-split", "fine")),
    Finished(passing()),
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("ascii", [True, False])
def test_display_says_what_is_running_and_leaves_nothing(ascii: bool) -> None:
    stream = Terminal()
    with Display(stream, checks=3, color=False, ascii=ascii) as display:
        for event in RUN:
            display.show(event)
    written = stream.getvalue()

    for words in ("loading the set-up", "training for a few steps", "step 20 of 40", "eval-mode", "3 of 3 done"):
        assert words in written
    assert "\x1b[31m" not in written
    # The last thing written is: cursor up and erase, for every line that was shown.
    assert written.rstrip("\r").endswith("\x1b[1A\x1b[2K")
