"""The command line, mostly with a stand-in for the engine; a few runs are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stabcheck import __version__, engine
from stabcheck.arguments import complete_check, complete_target, complete_topic, split
from stabcheck.catalog import CATALOG
from stabcheck.cli import main
from stabcheck.events import CheckFinished, Event, Finished, Loaded, Progress, Recorded
from stabcheck.options import Options
from stabcheck.recording import Clipping, Recording, Step, Yardsticks, to_json
from stabcheck.report import CheckError, CheckResult, FindingResult, Report, overall, status_of

TINY = """
import torch
def setup(width: int = 4):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    y = (x.sum(1) > 0).long()
    model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16, shuffle=True)
    print("the target prints")
    return {"model": model, "train_loader": loader, "loss_fn": torch.nn.CrossEntropyLoss(),
            "optimizer": torch.optim.Adam(model.parameters(), lr=1e-2)}
def slow():
    import time
    print("waiting", flush=True)
    time.sleep(60)
def broken():
    return {}["no [bold]such[/bold] key"]
"""

RECORDING = Recording(
    target="train.py:setup", seed=0, loop="textbook", planned=2,
    steps=tuple(Step(i, 1.0, 4, (0.1,), 2.0, 1.0, True) for i in range(2)),
    sampled=(), parameters=(), signals=(), rectifiers=(), recurrences=(), yardsticks=Yardsticks(None, None, None),
    optimizers=(), clipping=Clipping(None, None), tokens=False, accumulate_steps=1, planned_steps=None, warmup_share=None,
    first_non_finite=None, failure=None, sources={}, not_recorded=(),
)  # fmt: skip


def result(id: str, severity: str | None = None, **rest: Any) -> CheckResult:
    code = {check.id: check.rules[0].code for check in CATALOG}[id]
    finding = {"code": code, "severity": severity, "message": "it is bad", "fix": "mend it"}
    findings = (FindingResult.model_validate(finding),) if severity else ()
    status = status_of(findings, error=rest.get("error"), skip_reason=rest.get("skip_reason"))
    return CheckResult(id=id, status=status, summary="so it is", findings=findings, **rest)


def report(*checks: CheckResult) -> Report:
    counts: Any = dict.fromkeys(("pass", "warn", "fail", "skip", "error"), 0)
    return Report(status=overall(checks), target="train.py:setup", environment={}, counts=counts, checks=checks)


BROKEN = CheckError(
    blame="target", stage="setup()", message="KeyError: 'x' (train.py:3)", traceback="Traceback\n  line\n"
)
REPORTS = {
    "pass": report(result("dying-relu")),
    "warn": report(result("dying-relu", "warn"), result("eval-mode")),
    "fail": report(result("dying-relu", "fail"), result("eval-mode", "warn")),
    "error": report(result("dying-relu", "fail"), result("eval-mode", error=BROKEN)),
    "skip": report(result("dying-relu", skip_reason="it does not apply")),
    "late": report(result("dying-relu"), result("eval-mode", skip_reason="did not fit --budget 5 s")),
}


class Engine:
    """A stand-in that plays back a run."""

    def __init__(self) -> None:
        self.target, self.options, self.closed = "", Options(), False
        self.events: list[Event | BaseException | Callable[[], None]] = []

    def play(self, target: str, options: Options) -> Iterator[Event]:
        self.target, self.options = target, options
        return self._play()

    def _play(self) -> Iterator[Event]:
        try:
            for event in self.events:
                if isinstance(event, BaseException):
                    raise event
                if callable(event):
                    event()
                else:
                    yield event
        finally:
            self.closed = True

    def finish(self, finished: Report) -> None:
        self.events = [Progress("loading"), Loaded(0.1, {}), Recorded(RECORDING), Finished(finished)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    stand_in = Engine()
    stand_in.finish(REPORTS["pass"])
    monkeypatch.setattr(engine, "events", stand_in.play)
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return stand_in


Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("outcome", "strict", "code"),
    [
        ("pass", False, 0), ("pass", True, 0), ("warn", False, 0), ("warn", True, 1), ("fail", False, 1),
        ("fail", True, 1), ("error", False, 2), ("skip", False, 2), ("late", False, 0), ("late", True, 2),
    ],
)  # fmt: skip
def test_exit_code(outcome: str, strict: bool, code: int, fake: Engine, capsys: Output) -> None:
    fake.finish(REPORTS[outcome])

    assert main(["run", "train.py:setup", *(["--strict"] if strict else [])]) == code
    assert capsys.readouterr().out.startswith("stabcheck")


def test_options_reach_the_engine(fake: Engine) -> None:
    words = (
        "run train.py:setup --arg width=4 --arg name=a=b --select dying-relu,SC07 --select eval-mode --ignore SC0602 "
        "--seed 3 --steps 7 --budget 9 --load-timeout 8.5 --check-timeout 2 --device cpu"
    )
    main(words.split())

    assert fake.target == "train.py:setup"
    assert fake.options == Options(
        select=("dying-relu", "SC07", "eval-mode"), ignore=("SC0602",), arguments={"width": "4", "name": "a=b"},
        seed=3, steps=7, budget=9.0, load_timeout=8.5, check_timeout=2.0, device="cpu",
    )  # fmt: skip


def test_defaults_are_those_of_the_engine(fake: Engine) -> None:
    main(["run", "train.py:setup"])

    assert fake.options == Options()


def test_json_on_stdout_is_alone_there(fake: Engine, capsys: Output) -> None:
    fake.finish(REPORTS["fail"])
    code = main(["run", "train.py:setup", "--json", "-"])
    captured = capsys.readouterr()

    assert code == 1
    assert json.loads(captured.out)["status"] == "fail"
    assert captured.err.startswith("stabcheck")
    assert "Do not start this run" in captured.err


def test_json_on_stdout_and_quiet_is_all_there_is(fake: Engine, capsys: Output) -> None:
    main(["run", "train.py:setup", "--json", "-", "-q"])
    captured = capsys.readouterr()

    assert json.loads(captured.out)["status"] == "pass"
    assert captured.err == ""


def test_json_file_is_the_same_document(fake: Engine, capsys: Output) -> None:
    main(["run", "train.py:setup", "--json", "-"])
    main(["run", "train.py:setup", "--json", "report.json"])

    assert capsys.readouterr().out.startswith(Path("report.json").read_text("utf-8"))


def test_several_formats_in_one_run(fake: Engine, capsys: Output) -> None:
    fake.finish(REPORTS["fail"])
    files = "-o junit=j.xml --output sarif=s.sarif -o json-lines=e.jsonl"
    code = main(f"run train.py:setup {files} --output-format json".split())

    assert code == 1
    assert json.loads(capsys.readouterr().out)["status"] == "fail"
    assert Path("j.xml").read_text("utf-8").startswith("<?xml")
    assert json.loads(Path("s.sarif").read_text("utf-8"))["version"] == "2.1.0"
    events = [json.loads(line)["event"] for line in Path("e.jsonl").read_text("utf-8").splitlines()]
    assert events == ["progress", "loaded", "recorded", "finished"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a report of stabcheck: it has no 'schema_version'"),
        ('{"schema_version": 2}', "schema version 2, and this stabcheck reads 1: update stabcheck"),
        ('{"schema_version": 0}', "schema version 0, and this stabcheck reads 1: make it anew"),
        ('{"schema_version": 1}', "not a report: status: Field required"),
    ],
)
def test_a_baseline_that_is_no_report_is_one_line(text: str, message: str, fake: Engine, capsys: Output) -> None:
    Path("old.json").write_text(text)

    assert main(["run", "train.py:setup", "--baseline", "old.json"]) == 2
    assert message in capsys.readouterr().err


def test_the_baseline_reaches_the_engine(fake: Engine) -> None:
    Path("old.json").write_text(REPORTS["fail"].to_json())
    main(["run", "train.py:setup", "--baseline", "old.json"])

    codes = [finding.code for check in REPORTS["fail"].checks for finding in check.findings]
    assert [known.code for known in fake.options.suppressions] == codes
    assert {known.reason for known in fake.options.suppressions} == {"known: in the baseline old.json"}


def test_events_on_stdout_are_alone_there(fake: Engine, capsys: Output) -> None:
    main(["run", "train.py:setup", "-o", "json-lines=-"])

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["event"] == "finished"


def test_github_gets_annotations_and_a_summary_by_itself(
    fake: Engine, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.finish(REPORTS["fail"])
    Path("page.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "page.md")

    main(["run", "train.py:setup", "--json", "-"])
    captured = capsys.readouterr()

    assert json.loads(captured.out)["status"] == "fail"
    assert "::error title=" in captured.err
    assert Path("page.md").read_text("utf-8").startswith("before\n## ❌ stabcheck\n")


def test_quiet_is_one_line(fake: Engine, capsys: Output) -> None:
    fake.finish(REPORTS["fail"])
    main(["run", "train.py:setup", "--quiet"])
    captured = capsys.readouterr()

    assert captured.out == "Do not start this run: 1 check failed — it is bad (SC0901 born-dead-layer)\n"
    assert captured.err == ""


@pytest.mark.parametrize(("choice", "colored"), [("always", True), ("never", False), ("auto", False)])
def test_colour_option(choice: str, colored: bool, fake: Engine, capsys: Output) -> None:
    main(["run", "train.py:setup", "--color", choice])

    assert ("\x1b[" in capsys.readouterr().out) is colored


def test_report_on_a_stream_that_knows_only_ascii(fake: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    fake.finish(REPORTS["fail"])

    assert main(["run", "train.py:setup"]) == 1
    assert b"1 check failed -- it is bad" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_recording_and_gradients_are_written(fake: Engine, capsys: Output) -> None:
    main(["run", "train.py:setup", "--save-recording", "r.json", "--log-gradients", "g.csv"])

    assert Path("r.json").read_text("utf-8") == to_json(RECORDING) + "\n"
    assert Path("g.csv").read_text("utf-8").splitlines()[1] == "0,(total),2.0,1.0"
    assert capsys.readouterr().err == "stabcheck: wrote r.json, g.csv\n"


def test_a_quiet_run_does_not_say_what_it_wrote(fake: Engine, capsys: Output) -> None:
    main(["run", "train.py:setup", "--json", "r.json", "-q"])

    assert Path("r.json").is_file()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words", ["--json keep.py", "-o json=keep.py --select dying-rely", "--json old.json --steps 0"]
)
def test_bad_input_touches_no_file(words: str, fake: Engine, capsys: Output) -> None:
    for name in ("keep.py", "old.json"):
        Path(name).write_text("precious")

    assert main(["run", "keep.py:setup", *words.split()]) == 2
    assert [Path(name).read_text() for name in ("keep.py", "old.json")] == ["precious", "precious"]
    assert len(list(Path().iterdir())) == 2


def test_files_without_a_recording_are_not_left_empty(fake: Engine, capsys: Output) -> None:
    fake.events = [Loaded(0.1, {}), Finished(REPORTS["pass"])]
    code = main(["run", "train.py:setup", "--save-recording", "r.json"])

    assert code == 0
    assert not Path("r.json").exists()
    assert capsys.readouterr().err == "stabcheck: --save-recording r.json was not written: nothing was recorded\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run", "TARGET is missing: path/to/file.py:function, or a configuration file with a 'target'"),
        ("run t.py:f --no-such", "No such option: --no-such"),
        ("run t.py:f --seed x", "'--seed'"),
        ("run t.py:f --seed -1", "--seed -1: must be from 0"),
        ("run t.py:f --steps 0", "--steps 0: must be at least 1"),
        ("run t.py:f --budget 0", "--budget 0.0: must be above zero"),
        ("run t.py:f --budget nan", "--budget nan: must be above zero"),
        ("run t.py:f --color sometimes", "sometimes"),
        ("run t.py:f --arg width", "--arg width: write --arg NAME=VALUE"),
        ("run t.py:f --arg =4", "--arg =4: write --arg NAME=VALUE"),
        ("run t.py:f --arg a=1 --arg a=2", "--arg a is given twice"),
        ("run t.py:f --select dying-rely", "did you mean 'dying-relu'?"),
        ("run t.py:f --ignore SC99", "'SC99' is no check and no rule"),
        ("run t.py:f --select dying-relu --ignore dying-relu", "nothing is left to run"),
        ("run t.py:f --json .", "is a directory"),
        ("run t.py:f --log-gradients g.txt", "must end in .csv or .jsonl"),
        ("run t.py:f --json a --save-recording a", "name the same file"),
        ("run t.py:f -o junit=a -o sarif=a", "-o sarif and -o junit name the same file a"),
        ("run t.py:f --baseline no.json", "--baseline no.json: No such file or directory"),
        ("run t.py:f -o junti=a", "there is no format 'junti' (did you mean 'junit'?)"),
        ("run t.py:f -o junit", "write junit=PATH, or junit=- for standard output"),
        ("run t.py:f -o junit=a --json b -o json=c", "json is given twice"),
        ("run t.py:f --json - -o junit=-", "only one format can go to standard output"),
        ("explain nothing", "stabcheck list shows them all"),
        ("diagnose missing.json", "missing.json: No such file or directory"),
        ("diagnose .", "Is a directory"),
        ("nonsense", "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_line(words: str, message: str, fake: Engine, capsys: Output) -> None:
    """Said on standard error, before anything is run, without a traceback."""
    code = main(words.split())
    captured = capsys.readouterr()

    assert code == 2
    assert message in captured.err
    assert captured.err.startswith("stabcheck: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert fake.target == ""
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    "words", ["run t.py:f -o html=x.html", "run t.py:f --output-format html", "diagnose r.json -o html=x"]
)
def test_a_format_whose_package_is_missing_is_said_before_the_run(
    words: str, fake: Engine, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    Path("r.json").write_text(to_json(RECORDING), "utf-8")

    code = main(words.split())

    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err == "stabcheck: -o html: needs plotly, which is not installed: pip install 'stabcheck[html]'\n"
    assert fake.target == ""
    assert [path.name for path in Path().iterdir()] == ["r.json"]


def test_of_several_targets_none_is_run_where_one_format_cannot_be_written(
    fake: Engine, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    targets = '[targets.a]\ntarget = "t.py:f"\n[targets.b]\ntarget = "t.py:g"\noutput = {html = "b.html"}\n'
    Path("stabcheck.toml").write_text(targets, "utf-8")

    assert main(["run", "--all"]) == 2

    assert "pip install 'stabcheck[html]'" in capsys.readouterr().err
    assert fake.target == ""


def test_verbose_shows_the_traceback_of_bad_input(fake: Engine, capsys: Output) -> None:
    main(["run", "t.py:f", "--steps", "0", "-v"])

    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1, "target": 3}', "\udc80"])
def test_what_is_no_recording_is_said_on_one_line(text: str, fake: Engine, capsys: Output) -> None:
    Path("r.json").write_text(text, "utf-8", errors="surrogateescape")
    code = main(["diagnose", "r.json"])
    captured = capsys.readouterr()

    assert code == 2
    assert captured.err.startswith("stabcheck: r.json: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 400


def test_diagnose_judges_a_recording(fake: Engine, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def judge(recording: Recording, options: Options) -> Report:
        seen.append((recording, options))
        return REPORTS["fail"]

    monkeypatch.setattr(engine, "diagnose", judge)
    Path("r.json").write_text(to_json(RECORDING), "utf-8")
    code = main(["diagnose", "r.json", "--select", "dying-relu", "--log-gradients", "g.jsonl", "--json", "o.json"])

    assert code == 1
    assert seen == [(RECORDING, Options(select=("dying-relu",)))]
    assert "Do not start this run" in capsys.readouterr().out
    assert json.loads(Path("o.json").read_text())["status"] == "fail"
    assert len(Path("g.jsonl").read_text().splitlines()) == 2


def test_target_that_cannot_be_loaded_is_one_line(fake: Engine, capsys: Output) -> None:
    lost = report(*(result(id, error=BROKEN) for id in ("eval-mode", "dying-relu")))
    fake.events = [Progress("loading"), *map(CheckFinished, lost.checks), Finished(lost)]
    code = main(["run", "train.py:setup", "--json", "r.json"])
    captured = capsys.readouterr()

    assert code == 2
    assert captured.out == ""
    said = ["setup(): KeyError: 'x' (train.py:3) (-v shows the traceback)", "wrote r.json"]
    assert captured.err.splitlines() == [f"stabcheck: {line}" for line in said]
    assert json.loads(Path("r.json").read_text())["status"] == "error"

    main(["run", "train.py:setup", "-v"])
    assert capsys.readouterr().err == "stabcheck: setup(): KeyError: 'x' (train.py:3)\nTraceback\n  line\n"


def test_our_own_fault_is_neither_0_nor_1(fake: Engine, capsys: Output) -> None:
    fake.events = [ZeroDivisionError("division by zero")]
    code = main(["run", "train.py:setup"])
    captured = capsys.readouterr()

    assert code == 2
    assert captured.err == (
        "stabcheck: this is a fault of stabcheck, please report it with the output of -v: ZeroDivisionError: division by zero\n"
    )


def test_interrupt_tells_what_is_known_and_writes_it(fake: Engine, capsys: Output) -> None:
    fake.events = [
        Loaded(0.1, {"device": "cpu"}),
        CheckFinished(result("eval-mode", "fail")),
        CheckFinished(result("clean-split", skip_reason="no \x1b[31mval_loader")),
        KeyboardInterrupt(),
    ]
    code = main(["run", "train.py:setup", "--json", "r.json", "--save-recording", "x.json"])
    captured = capsys.readouterr()

    assert code == 130
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"stabcheck: interrupted after 2 of {len(CATALOG)} checks; the report has these, the others as not run",
        "  FAIL   eval-mode: so it is",
        "  skip   clean-split: no \\x1b[31mval_loader",
        "stabcheck: wrote r.json",
    ]
    assert fake.closed
    assert list(Path().iterdir()) == [Path("r.json")]
    found = json.loads(Path("r.json").read_text())
    statuses = {check["id"]: check["status"] for check in found["checks"]}
    assert (found["status"], found["environment"]["device"]) == ("error", "cpu")
    assert (statuses.pop("eval-mode"), statuses.pop("clean-split")) == ("fail", "skip")
    assert set(statuses.values()) == {"error"}
    assert len(statuses) == len(CATALOG) - 2
    assert "interrupted before" in found["checks"][0]["error"]["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_unwinds_too(number: signal.Signals, fake: Engine, capsys: Output) -> None:
    before = signal.getsignal(number)
    fake.events = [Loaded(0.1, {}), lambda: os.kill(os.getpid(), number), Finished(REPORTS["pass"])]
    code = main(["run", "train.py:setup", "--json", "r.json"])

    assert code == 128 + number
    assert "interrupted after 0 of" in capsys.readouterr().err
    assert fake.closed
    assert list(Path().iterdir()) == []
    assert signal.getsignal(number) is before


def test_prints_in_process_stay_off_stdout(fake: Engine, capfd: Output) -> None:
    fake.events.insert(1, lambda: print("the target prints"))
    main(["run", "train.py:setup", "--in-process", "--json", "-", "-q"])
    captured = capfd.readouterr()

    assert json.loads(captured.out)["status"] == "pass"
    assert captured.err == "the target prints\n"


def test_report_fits_the_schema(fake: Engine, capsys: Output) -> None:
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)

    for each in REPORTS.values():
        jsonschema.validate(json.loads(each.to_json()), schema)


def test_list_shows_every_check(capsys: Output) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out

    assert all(check.id in shown for check in CATALOG)


def test_list_as_json(capsys: Output) -> None:
    assert main(["list", "--json"]) == 0

    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)] == [check.id for check in CATALOG]


def test_explain_by_id_code_and_beginning(capsys: Output) -> None:
    check = next(check for check in CATALOG if check.id == "dying-relu")
    main(["explain", "dying-relu"])
    by_id = capsys.readouterr().out
    main(["explain", "sc09"])
    by_beginning = capsys.readouterr().out
    main(["explain", check.rules[0].code])
    by_code = capsys.readouterr().out

    assert by_id == by_beginning
    assert all(rule.code in by_id for rule in check.rules)
    assert "Why it matters" in by_code
    assert check.rules[0].name in by_code
    assert check.rules[1].name not in by_code


def test_version(capsys: Output) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stabcheck {__version__}\n"


def test_no_argument_shows_help_and_is_no_pass(capsys: Output) -> None:
    code = main([])
    captured = capsys.readouterr()

    assert code == 2
    assert "Usage: stabcheck" in captured.out + captured.err


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["diagnose", "-h"], ["diff", "-h"], ["init", "-h"]])
def test_help(words: list[str], capsys: Output) -> None:
    assert main(words) == 0
    assert "Usage: stabcheck" in capsys.readouterr().out


_word = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6).filter(
    lambda word: not word.startswith("-")
)
_option = st.sampled_from(
    [
        "--arg",
        "--select",
        "--ignore",
        "--seed",
        "--steps",
        "--budget",
        "--device",
        "--color",
        "--strict",
        "-q",
        "-v",
        "--in-process",
    ]
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_option | _word | st.sampled_from(["1", "a=b", "SC09", "always"]), max_size=8))
def test_no_combination_of_options_gets_past_main(fake: Engine, capfd: Output, words: list[str]) -> None:
    code = main(["run", *words])
    captured = capfd.readouterr()

    assert code in {0, 2}
    assert code == 0 or captured.err.startswith("stabcheck: ")


def test_nothing_but_a_run_imports_torch() -> None:
    code = """
import os, sys
from stabcheck.cli import main
heavy = {"torch", "numpy", "pydantic", "rich"} & set(sys.modules)
for words in ["--version", "--help", "run --help", "list", "list --json", "explain dying-relu", "schema", "run"]:
    main(words.split())
os.environ.update(_STABCHECK_COMPLETE="complete_bash", COMP_WORDS="stabcheck run --select dy", COMP_CWORD="3")
try:
    main([])
except SystemExit:
    pass
print(sorted(heavy), "torch" in sys.modules, "numpy" in sys.modules, file=sys.stderr)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert found.stderr.splitlines()[-1] == "[] False False"
    assert "dying-relu" in found.stdout.splitlines()[-1]


def test_completion_of_checks() -> None:
    assert [word for word, _ in complete_check("dy")] == ["dying-relu"]
    assert [word for word, _ in complete_check("eval-mode,dy")] == ["eval-mode,dying-relu"]
    assert [word for word, _ in complete_topic("sc090")][:1] == ["SC0901"]
    assert {word for word, _ in complete_topic("")} == {check.id for check in CATALOG}


def test_completion_of_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TINY)
    (tmp_path / "odd.py").write_text("def (")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "m.py").write_text("def build(): ...\ndef _hidden(): ...\n")

    assert complete_target("") == ["odd.py:", "train.py:", "lib/"]
    assert complete_target("tr") == ["train.py:"]
    assert complete_target("train.py:s") == ["train.py:setup", "train.py:slow"]
    assert complete_target("lib/") == ["lib/m.py:"]
    assert complete_target(f"{tmp_path}/lib/m.py:") == [f"{tmp_path}/lib/m.py:build"]
    assert complete_target("odd.py:") == complete_target("none.py:") == []


def test_words_are_split_at_commas() -> None:
    assert split(["a,b", " c ,,", ""]) == ("a", "b", "c")
    assert split(None) == ()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TINY)
    return tmp_path


def stabcheck(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stabcheck", *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_real_run_in_a_bare_locale(tiny: Path) -> None:
    """A CI log: no terminal, no Unicode."""
    words = ("run", "train.py:setup", "--arg", "width=8", "--select", "gradient-norms", "--json", "r.json")
    found = stabcheck(tiny, *words, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii")

    assert (found.returncode, found.stderr) == (0, "stabcheck: wrote r.json\n")
    assert found.stdout.isascii()
    assert "Gradient norm of all parameters together" in found.stdout
    assert "the target prints" not in found.stdout
    assert json.loads((tiny / "r.json").read_text())["status"] == "pass"


def test_real_target_that_raises(tiny: Path) -> None:
    found = stabcheck(tiny, "run", "train.py:broken")

    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("stabcheck: broken(): KeyError: 'no [bold]such[/bold] key' (")
    assert found.stderr.count("\n") == 1


def test_real_interrupt_leaves_no_process(tiny: Path) -> None:
    """Ctrl-C, while the target is busy."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stabcheck", "run", "train.py:slow", "-v"],
        cwd=tiny,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()

    assert process.returncode == 130
    assert out == ""
    assert err.startswith("stabcheck: interrupted after 0 of")
    assert _is_quiet(tiny)


def _is_quiet(folder: Path) -> bool:
    """Whether, soon, no process works in the folder."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        busy = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            try:
                busy.append(os.readlink(link) == str(folder))
            except OSError:
                continue
        if not any(busy):
            return True
        time.sleep(0.1)
    return False
