from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import simple_checks as simple

from stabcheck import engine, events, recording, supervisor
from stabcheck.engine import Options, UsageError
from stabcheck.renderers.terminal import verdict_line
from stabcheck.report import NEEDS_SETUP, Report, exit_code

HOSTILE = Path(__file__).parent / "hostile"
HEALTHY = f"{HOSTILE / 'healthy.py'}:setup"
SEGFAULT = f"{HOSTILE / 'segfault.py'}:setup"
TEARDOWN_SECONDS = 5


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def statuses(report: Report) -> dict[str, str]:
    return {check.id: check.status for check in report.checks}


def gone(*pids: int) -> bool:
    """Whether the processes are no more; they are given a moment."""
    end = time.monotonic() + TEARDOWN_SECONDS
    while time.monotonic() < end:
        if not any(is_alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- events and report


def test_events_come_in_order_and_the_report_in_that_of_the_catalogue(host: engine.Host) -> None:
    catalog = (simple.RESUMES, simple.LOSSES, simple.LOOKS)
    simple_options = Options(steps=3)

    heard = list(engine.events(HEALTHY, simple_options, catalog, host=host))

    kinds = [type(event).__name__ for event in heard]
    assert list(dict.fromkeys(kinds)) == ["Progress", "Loaded", "Recorded", "CheckFinished", "Finished"]
    doing = dict.fromkeys(event.doing for event in heard if isinstance(event, events.Progress))
    assert list(doing) == ["loading", "trial", "resumes", "looks"]
    report = heard[-1].report  # type: ignore[union-attr]
    assert [check.id for check in report.checks] == ["resumes", "losses", "looks"]
    assert report.status == "pass"
    assert report.counts == {"pass": 3, "warn": 0, "fail": 0, "skip": 0, "error": 0}
    assert {key: report.environment[key] for key in ("device", "seed", "steps")} == {
        "device": "cpu",
        "seed": 0,
        "steps": 3,
    }
    assert report.environment["entry"].startswith(HEALTHY.partition(":")[0])
    assert report.environment["python"] == ".".join(map(str, sys.version_info[:3]))


def test_cheap_experiments_come_first_and_are_reported_in_the_order_of_the_catalogue(host: engine.Host) -> None:
    trains = replace(simple.named("trains", simple.LOOKS), cost="dear")
    others = [trains, simple.named("looks-first", simple.LOOKS), simple.named("looks-second", simple.LOOKS)]
    vars(simple).update(dict(zip("XYZ", others, strict=True)))

    finished = [
        e.result.id for e in engine.events(HEALTHY, Options(), others, host=host) if isinstance(e, events.CheckFinished)
    ]

    assert finished == ["looks-first", "looks-second", "trains"]
    assert [check.id for check in engine.run(HEALTHY, Options(), others, host=host).checks] == [c.id for c in others]


def test_findings_not_checked_and_exit_code(host: engine.Host) -> None:
    catalog = (simple.LOOKS, simple.FINDS, simple.SKIPS)

    report = engine.run(HEALTHY, Options(), catalog, host=host)
    ignoring = engine.run(HEALTHY, Options(ignore=("SC9001",)), catalog, host=host)
    selecting = engine.run(HEALTHY, Options(select=("SC9002", "skips")), catalog, host=host)

    assert statuses(report) == {"looks": "pass", "finds": "fail", "skips": "skip"}
    assert [(item.what, item.why) for item in report.not_checked] == [("looks, finds: the rest", "too simple")]
    assert statuses(ignoring) == {"looks": "pass", "finds": "warn", "skips": "skip"}
    assert statuses(selecting) == {"finds": "warn", "skips": "skip"}
    assert [exit_code(r, strict=False) for r in (report, ignoring, selecting)] == [1, 0, 0]
    assert json.loads(report.to_json())["checks"][1]["findings"][2]["evidence"] == {"value": "NaN"}


def test_bug_of_ours_is_an_error_of_one_check(host: engine.Host) -> None:
    report = engine.run(HEALTHY, Options(), (simple.BREAKS, simple.LOOKS), host=host)

    assert statuses(report) == {"breaks": "error", "looks": "pass"}
    assert exit_code(report, strict=False) == 2


def test_word_that_means_nothing_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="did you mean 'looks'"):
        engine.events(HEALTHY, Options(select=("look",)), (simple.LOOKS,))


@pytest.mark.parametrize(
    "given",
    [{"budget": 0}, {"load_timeout": -1}, {"check_timeout": float("nan")}, {"steps": 0}, {"seed": -1}, {"seed": 2**32}],
)
def test_option_that_cannot_be_meant(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(given)).replace('_', '-')} "):
        Options(**given)


def test_in_process_gives_the_same(host: engine.Host) -> None:
    catalog = (simple.LOSSES, simple.TRAINS, simple.VALIDATES, simple.SKIPS)
    before = os.getcwd(), list(sys.argv)

    apart, here = (
        engine.run(HEALTHY, Options(steps=3, in_process=inside), catalog, host=host) for inside in (False, True)
    )

    assert statuses(here) == statuses(apart)
    assert [check.measurements for check in here.checks] == [check.measurements for check in apart.checks]
    assert (os.getcwd(), sys.argv) == before


def test_in_process_ctrl_c_gets_through() -> None:
    target = f"{HOSTILE / 'interrupt_in_step.py'}:setup"

    with pytest.raises(KeyboardInterrupt):
        engine.run(target, Options(in_process=True), (simple.TRAINS,))


# --- diagnose


def test_recording_is_judged_without_the_target(host: engine.Host) -> None:
    catalog = (simple.LOSSES, simple.LOOKS)
    heard = list(engine.events(HEALTHY, Options(steps=5, seed=7), catalog, host=host))
    (recorded,) = [event.recording for event in heard if isinstance(event, events.Recorded)]

    report = engine.diagnose(recording.from_json(recording.to_json(recorded)), Options(), catalog)

    assert [check.model_dump(exclude={"duration_s"}) for check in report.checks if check.id == "losses"] == [
        check.model_dump(exclude={"duration_s"})
        for check in heard[-1].report.checks  # type: ignore[union-attr]
        if check.id == "losses"
    ]
    assert (report.target, report.environment["seed"], report.environment["steps"]) == (HEALTHY, 7, 5)
    (looks,) = [check for check in report.checks if check.id == "looks"]
    assert (looks.status, looks.skip_reason) == ("skip", NEEDS_SETUP)
    assert verdict_line(report) == "No fault found: 1 check passed (1 skipped, 1 of them for want of the set-up)."
    with pytest.raises(UsageError, match="looks: needs the set-up"):
        engine.diagnose(recorded, Options(select=("looks",)), catalog)


# --- time


def test_check_that_does_not_end_is_ended(host: engine.Host) -> None:
    report = engine.run(HEALTHY, Options(check_timeout=1.0), (simple.OVERSLEEPS, simple.LOOKS), host=host)

    assert statuses(report) == {"oversleeps": "error", "looks": "pass"}
    assert report.checks[0].error is not None
    assert report.checks[0].error.message.startswith("did not end within --check-timeout 1 s")
    assert "in OVERSLEEPS" in report.checks[0].error.traceback


def test_check_that_minds_the_clock_is_not(host: engine.Host) -> None:
    assert engine.run(HEALTHY, Options(check_timeout=1.5), (simple.SLEEPS,), host=host).status == "pass"


def test_budget_ends_what_runs_and_skips_what_is_left(host: engine.Host) -> None:
    """A skip is no pass, and no check that ran is no verdict."""
    catalog = (simple.OVERSLEEPS, simple.LOOKS)

    report = engine.run(HEALTHY, Options(budget=1.0), catalog, host=host)

    reasons = [check.skip_reason for check in report.checks]
    assert reasons[0] is not None
    assert reasons[0].startswith("was stopped unfinished when --budget 1 s was spent, at ")
    assert reasons[1] in {"did not fit --budget 1 s", "did not fit --budget 1 s: the target had to be loaded again"}
    assert exit_code(report, strict=False) == 2


# --- crashes


def test_another_worker_takes_the_rest_and_the_trial_is_not_repeated(host: engine.Host) -> None:
    killed = f"{HOSTILE / 'killed.py'}:setup"
    catalog = (simple.LOSSES, simple.VALIDATES, simple.READS, simple.TRAINS)

    heard = list(engine.events(killed, Options(steps=3), catalog, host=host))

    assert [type(event) for event in heard].count(events.Recorded) == 1
    assert [type(event) for event in heard].count(events.Loaded) == 1
    report = heard[-1].report  # type: ignore[union-attr]
    assert statuses(report) == {"losses": "pass", "validates": "error", "reads": "pass", "trains": "pass"}


def test_failed_trial_is_one_cause_for_all_that_need_it(host: engine.Host) -> None:
    report = engine.run(SEGFAULT, Options(), (simple.LOSSES, simple.READS, simple.LOOKS), host=host)

    assert statuses(report) == {"losses": "error", "reads": "error", "looks": "pass"}
    assert report.checks[0].error == report.checks[1].error


def test_output_before_a_crash_is_quoted(host: engine.Host, somewhere: Path) -> None:
    (somewhere / "talks.py").write_text("import os\n\ndef setup():\n    print('almost there')\n    os._exit(3)\n")

    error = engine.run("talks.py:setup", Options(), (simple.LOOKS,), host=host).checks[0].error

    assert error is not None
    assert error.traceback.endswith("Last output:\nalmost there")


def test_host_that_is_gone_is_an_error_of_all_checks(somewhere: Path) -> None:
    """As when the kernel picks it to free memory, or the target kills its parent."""
    (somewhere / "patricide.py").write_text(
        "import os, signal, time\n\ndef setup():\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(1000)\n"
    )

    with engine.Host() as host:
        report = engine.run("patricide.py:setup", Options(), (simple.LOOKS, simple.TRAINS), host=host)

    assert statuses(report) == {"looks": "error", "trains": "error"}
    assert report.checks[0].error is not None
    assert report.checks[0].error.message == "the process that starts workers is gone"


def test_torch_that_cannot_be_imported(somewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (somewhere / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    monkeypatch.setenv("PYTHONPATH", str(somewhere))

    report = engine.run(HEALTHY, Options(), (simple.LOOKS,))

    assert report.checks[0].error is not None
    assert report.checks[0].error.message == "torch cannot be imported: libcudart.so.12: cannot open shared object file"
    assert exit_code(report, strict=False) == 2


def test_workers_that_cannot_be_forked_are_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    start, cannot = supervisor.command, "import stabcheck.host\nstabcheck.host.CAN_FORK = False\nmain(*"
    monkeypatch.setattr(
        supervisor, "command", lambda *given: [word.replace("main(*", cannot) for word in start(*given)]
    )

    report = engine.run(SEGFAULT, Options(), (simple.TRAINS,))

    assert report.checks[0].error is not None
    assert "the process crashed with SIGSEGV (" in report.checks[0].error.message


# --- nothing is left behind


@pytest.fixture
def sleeping(somewhere: Path) -> str:
    """A target whose process and child write their ids and stay for ever."""
    (somewhere / "sleeping.py").write_text(
        "import multiprocessing, os, time\n\n"
        "def stay():\n    open(f'pid-{os.getpid()}', 'w').close()\n    time.sleep(1000)\n\n"
        "def setup():\n    multiprocessing.Process(target=stay).start()\n    stay()\n"
    )
    return "sleeping.py:setup"


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def pids(folder: Path) -> list[int]:
    """The two processes, once they are there."""
    end = time.monotonic() + 60
    while len(found := [int(file.name[4:]) for file in folder.glob("pid-*")]) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_closing_the_events_ends_all_processes(host: engine.Host, sleeping: str, somewhere: Path) -> None:
    stream = engine.events(sleeping, Options(), (simple.LOOKS,), host=host)
    assert next(stream) == events.Progress("loading")
    assert next(stream) == events.Progress("loading")
    found = pids(somewhere)

    stream.close()  # type: ignore[attr-defined]

    assert gone(*found)
    assert engine.run(HEALTHY, Options(), (simple.LOOKS,), host=host).status == "pass"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_end_of_the_engine_ends_all_processes(
    number: signal.Signals, sleeping: str, somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = somewhere / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(somewhere / "of torch"))  # made on import, and left
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    code = f"import simple_checks as s; from stabcheck import engine; engine.run({sleeping!r}, engine.Options(), (s.LOOKS,))"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        found = pids(somewhere)
        (host,) = {parent(pid) for pid in found} - set(found)
        process.send_signal(number)

    assert process.returncode == -number
    assert gone(*found, host)
    assert list(temporary.iterdir()) == []


def test_the_users_folder_stays_as_it_is(host: engine.Host, somewhere: Path) -> None:
    (somewhere / "helper.py").write_text((HOSTILE / "parts.py").read_text())
    (somewhere / "train.py").write_text("from helper import parts as setup\n")

    report = engine.run("train.py:setup", Options(steps=3), simple.HARMLESS, host=host)

    assert report.status == "pass"
    assert sorted(path.name for path in somewhere.iterdir()) == ["helper.py", "train.py"]


# --- output


def test_output_goes_to_the_log(host: engine.Host, somewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = f"{HOSTILE / 'prints.py'}:setup"

    engine.run(target, Options(log=somewhere / "log.txt"), (simple.LOOKS,), host=host)

    lines = (somewhere / "log.txt").read_bytes().splitlines()
    assert lines == [b"on import", b"past Python", b"not UTF-8: \xff\xfe", b"from a child", b"in setup"]
    assert capfd.readouterr() == ("", "")


def test_log_that_cannot_be_written(somewhere: Path) -> None:
    with pytest.raises(UsageError, match=r"log.txt cannot be written \(No such file or directory\)"):
        engine.run(HEALTHY, Options(log=somewhere / "nowhere" / "log.txt"), (simple.LOOKS,))


def test_verbose_output_goes_to_standard_error(host: engine.Host, capfd: pytest.CaptureFixture[str]) -> None:
    engine.run(f"{HOSTILE / 'prints.py'}:setup", Options(verbose=True), (simple.LOOKS,), host=host)

    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("on import\npast Python\n")


def test_endless_output_does_not_fill_the_disk(
    host: engine.Host, somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10_000)
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.05)
    (somewhere / "noisy.py").write_text(
        "import time\n\ndef setup():\n    for i in range(100):\n        print('x' * 999)\n        time.sleep(0.01)\n"
    )

    engine.run("noisy.py:setup", Options(log=somewhere / "log.txt"), (simple.LOOKS,), host=host)

    assert (somewhere / "log.txt").stat().st_size < 50_000


# --- what it costs


def test_engine_never_imports_torch() -> None:
    code = (
        "import sys, simple_checks as s; from stabcheck import engine\n"
        f"report = engine.run({HEALTHY!r}, engine.Options(steps=2), s.HARMLESS)\n"
        "assert report.status == 'pass', report\nassert 'torch' not in sys.modules\nassert 'numpy' not in sys.modules\n"
    )
    path = os.pathsep.join(filter(None, sys.path))

    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
