from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest

from stabcheck.console import Look, OutputError, OutputFile, StdoutToStderr, open_outputs, to_bytes, write


class Stream(io.StringIO):
    def __init__(self, *, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self.terminal, self.given = terminal, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.given

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("terminal", "choice", "environment", "expected"),
    [
        (True, "auto", {}, True),
        (False, "auto", {}, False),
        (True, "auto", {"NO_COLOR": "1"}, False),
        (True, "auto", {"NO_COLOR": ""}, True),
        (True, "auto", {"TERM": "dumb"}, False),
        (False, "auto", {"FORCE_COLOR": "1"}, True),
        (False, "auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, "never", {"FORCE_COLOR": "1"}, False),
        (False, "always", {"NO_COLOR": "1"}, True),
    ],
)
def test_colour(
    terminal: bool, choice: str, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert Look.of(Stream(terminal=terminal), choice).color is expected


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", False), ("UTF-8", False), ("ascii", True), ("latin-1", True), ("cp1252", True), ("nonsense", True)],
)
def test_ascii_where_the_stream_knows_no_braille(encoding: str, expected: bool) -> None:
    assert Look.of(Stream(terminal=True, encoding=encoding)).ascii is expected


def test_width_is_80_in_a_pipe_and_columns_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Look.of(Stream(terminal=False)).width == 80
    monkeypatch.setenv("COLUMNS", "123")

    assert Look.of(Stream(terminal=False)).width == 123


def test_nothing_moves_in_a_pipe_or_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Look.of(Stream(terminal=True)).moving
    assert not Look.of(Stream(terminal=False)).moving
    monkeypatch.setenv("TERM", "dumb")

    assert not Look.of(Stream(terminal=True)).moving


def test_a_file_is_as_it_was_until_all_of_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("an older, longer report")
    path.chmod(0o640)
    with open_outputs({"--json": path}) as files:
        assert path.read_text() == "an older, longer report"
        files["--json"].write("new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_never_written_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), open_outputs({"--json": path, "-o sarif": tmp_path / "new" / "r.sarif"}):
        raise KeyboardInterrupt

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")
    file = OutputFile(path, "--json")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        file.write("new")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "deep" / "real.json")
    OutputFile(tmp_path / "link.json", "--json").write("new")

    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "deep" / "real.json").read_text() == "new"


def test_a_streamed_file_can_be_followed(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "events.jsonl", "-o json-lines", streamed=True)
    for line in ("a\n", "b\n"):
        file.write(line)

    assert (tmp_path / "events.jsonl").read_text() == "a\nb\n"
    file.close()


def test_a_directory_is_made_when_there_is_something_to_write(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "new" / "dir" / "r.json", "--json")
    assert list(tmp_path.iterdir()) == []
    file.write("x")

    assert (tmp_path / "new" / "dir" / "r.json").read_text() == "x"


@pytest.mark.parametrize("name", ["keep.py", "keep.ipynb", "pyproject.toml", "input"])
def test_what_people_wrote_or_the_run_reads_is_never_written_over(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("precious")
    with (
        pytest.raises(OutputError, match="name another"),
        open_outputs({"--json": path}, read=[tmp_path / "." / "input"]),
    ):
        pass

    assert path.read_text() == "precious"


def test_device_is_written_and_never_removed() -> None:
    file = OutputFile(Path(os.devnull), "--json")
    file.close()

    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".", "--json .: is a directory; name a file in it"),
        ("file/where.json", "--json file/where.json: cannot be written (Not a directory)"),
        ("x" * 300, "cannot be written (File name too long)"),
    ],
)
def test_what_cannot_be_written_is_said_at_once(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(OutputError) as raised:
        OutputFile(Path(path), "--json")

    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_full_disk_is_an_error_of_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    file = OutputFile(Path("/dev/full"), "--json")
    with pytest.raises(OutputError, match=r"--json /dev/full: cannot be written \(No space left on device\)"):
        file.write("x")
    file.close()


def test_two_options_cannot_name_one_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    wanted = {"--json": path, "--save-recording": tmp_path / "." / "r.json"}
    with pytest.raises(OutputError, match="--save-recording and --json name the same file"), open_outputs(wanted):
        pass

    assert not path.exists()


def test_only_the_options_given_are_opened(tmp_path: Path) -> None:
    with open_outputs({"--json": tmp_path / "a", "--save-recording": None}) as files:
        files["--json"].write("x")

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_bytes_are_utf8_and_lone_surrogates_their_json_escape() -> None:
    assert to_bytes("é\udc80") == "é".encode() + b"\\udc80"


def test_write_never_fails_for_a_character(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write(stream, "é⣿\n")
    write(stream, "é", utf8=True)

    assert stream.buffer.getvalue() == b"\\xe9\\u28ff\n" + "é".encode()  # type: ignore[attr-defined]


def test_closed_stdout_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(OutputError, match="standard output is closed"):
        write(sys.stdout, "x")


def test_gone_reader_is_no_error() -> None:
    read, written = os.pipe()
    os.close(read)
    with open(written, "w") as stream:
        write(stream, "x")
        write(stream, "y")


def test_prints_of_the_target_go_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Those of Python, of C and of child processes."""
    with StdoutToStderr():
        print("python", flush=True)
        os.write(1, b"descriptor\n")
    print("report")
    captured = capfd.readouterr()

    assert captured.out == "report\n"
    assert "python\n" in captured.err
    assert "descriptor\n" in captured.err
