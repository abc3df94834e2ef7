"""`stabcheck diff` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stabcheck.cli import main
from tests.renderers.report_samples import failing, passing

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.json").write_text(passing().to_json())
    Path("bad.json").write_text(failing().to_json())
    Path("cut.json").write_text(failing().to_json()[:400])
    Path("newer.json").write_text(passing().to_json().replace('"schema_version": 1', '"schema_version": 2'))
    Path("older.json").write_text(passing().to_json().replace('"schema_version": 1', '"schema_version": 0'))
    Path("other.json").write_text("{}")
    Path("list.json").write_text("[]")
    Path("bytes.json").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(("old", "new", "code"), [("good", "bad", 1), ("bad", "good", 0), ("bad", "bad", 0)])
def test_exit_code(old: str, new: str, code: int, capsys: Output) -> None:
    assert main(["diff", f"{old}.json", f"{new}.json"]) == code

    printed = capsys.readouterr()
    assert f"stabcheck diff · {old}.json → {new}.json" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut", "not JSON"),
        ("newer", "a report of schema version 2, and this stabcheck reads 1: update stabcheck"),
        ("older", "a report of schema version 0, and this stabcheck reads 1: make it anew with this stabcheck"),
        ("other", "not a report of stabcheck"),
        ("list", "not a report of stabcheck"),
        ("bytes", "can't decode byte"),
        ("absent", "No such file"),
    ],
)
@pytest.mark.parametrize("place", ["OLD", "NEW"])
def test_what_is_no_report_is_one_line(name: str, message: str, place: str, capsys: Output) -> None:
    files = [f"{name}.json", "good.json"]
    assert main(["diff", *(files if place == "OLD" else files[::-1])]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert f"{place} {name}.json: " in printed.err
    assert message in printed.err


def test_json_is_alone_on_stdout(capsys: Output) -> None:
    assert main(["diff", "good.json", "bad.json", "--json"]) == 1

    document = json.loads(capsys.readouterr().out)
    assert document["worse"] is True
    assert {one["finding"]["code"] for one in document["appeared"]} == {"SC0101", "SC0301", "SC0701", "SC0901"}


def test_quiet_is_one_line(capsys: Output) -> None:
    assert main(["diff", "good.json", "bad.json", "-q"]) == 1

    assert capsys.readouterr().out.startswith("Worse: 3 findings appeared; ")


@pytest.mark.parametrize("width", ["40", "80"])
def test_width_of_the_terminal(width: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    main(["diff", "good.json", "bad.json"])

    assert max(map(len, capsys.readouterr().out.splitlines())) <= int(width)
