from __future__ import annotations

import datetime
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stabcheck import engine
from stabcheck import thresholds as numbers
from stabcheck.catalog import CATALOG
from stabcheck.cli import main
from stabcheck.events import Finished
from stabcheck.ledger import Ledger
from stabcheck.options import Options
from stabcheck.renderers.terminal import render
from stabcheck.report import CheckResult, Report
from stabcheck.selection import choose
from stabcheck.suppressions import Suppression

DYING = next(check for check in CATALOG if check.id == "dying-relu")
Runs = list[tuple[str, Options]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    """Targets and options that reach the engine; every run passes. The current directory is an empty repository."""
    heard: Runs = []
    passed = CheckResult(id="dying-relu", status="pass", summary="s")
    report = Report(status="pass", target="t", environment={}, counts={}, checks=(passed,))

    def events(target: str, options: Options) -> Any:
        heard.append((target, options))

        def play() -> Any:
            yield Finished(report)

        return play()

    monkeypatch.setattr(engine, "events", events)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return heard


def write(text: str, file: str = "stabcheck.toml") -> None:
    Path(file).write_text(text)


def test_the_file_gives_what_the_command_line_does_not(runs: Runs) -> None:
    write("""
        target = "train.py:setup"
        arguments = {width = 8}
        select = ["dying-relu"]
        seed = 3
        budget = 60
        device = "cpu"
        severity = {SC0903 = "fail"}
        [thresholds.dying-relu]
        fail-dead = 0.75
    """)

    assert main(["run", "--seed", "0"]) == 0

    ((target, options),) = runs
    assert Path(target) == Path.cwd() / "train.py:setup"
    assert options == Options(
        select=("dying-relu",), arguments={"width": "8"}, seed=0, budget=60, device="cpu", severities={"SC0903": "fail"},
        thresholds={"dying-relu": {"fail-dead": 0.75}}, shown_as="train.py:setup", configuration="stabcheck.toml",
    )  # fmt: skip


def test_pyproject_is_read_from_a_folder_below(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    write('[tool.stabcheck]\ntarget = "train.py:setup"\noutput = {junit = "out.xml"}', "pyproject.toml")
    Path("deep/er").mkdir(parents=True)
    monkeypatch.chdir("deep/er")

    assert main(["run"]) == 0

    assert Path("../../out.xml").is_file()
    assert Path(runs[0][0]).resolve() == (Path.cwd() / "../../train.py:setup").resolve()


def test_the_search_ends_at_the_repository(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    write("seed = 3")
    Path("inner/.git").mkdir(parents=True)
    monkeypatch.chdir("inner")

    main(["run", "train.py:setup"])

    assert runs[0][1].seed == 0


def test_a_target_on_the_command_line_is_seen_from_here(runs: Runs) -> None:
    write("seed = 3")
    main(["run", "train.py:setup"])

    assert (runs[0][0], runs[0][1].seed) == ("train.py:setup", 3)


TARGETS = """
seed = 1
ignore = [{code = "SC0903", reason = "everywhere"}]
[targets.small]
target = "train.py:small"
output = {json = "{name}.json"}
[targets.big]
target = "pkg.train:big"
seed = 2
output = {json = "{name}.json"}
ignore = [{code = "SC0301", location = "a.*", reason = "here", until = 2027-01-01}]
"""


def test_all_runs_every_target_with_its_own_settings(runs: Runs) -> None:
    write(TARGETS)

    assert main(["run", "--all"]) == 0

    (small, first), (big, second) = runs
    assert (Path(small).name, big) == ("train.py:small", "pkg.train:big")
    assert (first.seed, second.seed) == (1, 2)
    everywhere = Suppression("SC0903", "everywhere", lasting=False)
    assert first.suppressions == (everywhere,)
    assert second.suppressions == (everywhere, Suppression("SC0301", "here", "a.*", datetime.date(2027, 1, 1)))
    assert Path("small.json").is_file()
    assert Path("big.json").is_file()


def test_all_runs_the_files_own_target_too(runs: Runs, capsys: Any) -> None:
    write('target = "train.py:main"\n' + TARGETS)

    assert main(["run", "--all", "-q"]) == 0
    assert [Path(target).name for target, _ in runs] == ["train.py:main", "train.py:small", "pkg.train:big"]
    assert [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "train.py:main", "small", "big",
    ]  # fmt: skip

    assert main(["show-config", "--all"]) == 0
    tables = capsys.readouterr().out.split("\n# ")
    assert [line for table in tables for line in table.splitlines() if line.startswith("target =")] == [
        'target = "train.py:main"', 'target = "train.py:small"', 'target = "pkg.train:big"',
    ]  # fmt: skip


@pytest.mark.parametrize("words", ["--output-format json", "-o sarif=-", "--json -"])
def test_two_documents_do_not_go_to_standard_output(words: str, runs: Runs, capsys: Any) -> None:
    write(TARGETS)

    assert main(["run", "--all", *words.split()]) == 2
    said = capsys.readouterr()
    assert "2 reports after each other are no" in said.err
    assert not said.out
    assert not runs


def test_events_of_several_targets_follow_each_other(runs: Runs, capsys: Any) -> None:
    write(TARGETS)

    assert main(["run", "--all", "-o", "json-lines=-", "-q"]) == 0
    assert len(runs) == 2
    assert all(json.loads(line) for line in capsys.readouterr().out.splitlines())


def test_a_target_of_the_file_is_called_as_it_stands_there(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Reports of two checkouts are reports on the same target."""
    write('target = "src/train.py:setup"\n[targets.small]\narguments = {width = 2}')
    Path("deep").mkdir()
    monkeypatch.chdir("deep")
    for words in (["run"], ["run", "small"], ["run", "here.py:setup"]):
        assert main(words) == 0

    assert [options.shown_as or target for target, options in runs] == ["src/train.py:setup"] * 2 + ["here.py:setup"]
    assert {options.configuration for _, options in runs} == {"../stabcheck.toml"}


def test_the_report_calls_the_target_so_and_names_the_file() -> None:
    options = Options(shown_as="train.py:setup", configuration="stabcheck.toml")
    ledger = Ledger("/home/me/train.py:setup", options, choose(CATALOG, ["dying-relu"]))
    list(ledger.fail("load", None, "it does not matter"))
    made = ledger.report()

    assert (made.target, made.environment["configuration"]) == ("train.py:setup", "stabcheck.toml")
    assert "configuration stabcheck.toml" in render(made, verbose=True)
    assert "/home/me" not in made.to_json()


def test_of_two_files_in_one_folder_one_holds_and_this_is_said(runs: Runs, capsys: Any) -> None:
    write("seed = 3")
    write("[tool.other]", "pyproject.toml")
    main(["run", "t.py:f"])
    assert "holds" not in capsys.readouterr().err

    write("[tool.stabcheck]\nseed = 4", "pyproject.toml")
    main(["run", "t.py:f"])
    said = capsys.readouterr().err.splitlines()
    assert said == [f"stabcheck: {Path.cwd() / 'stabcheck.toml'} holds, pyproject.toml beside it does not"]
    assert [options.seed for _, options in runs] == [3, 3]


def test_quiet_verdicts_of_several_targets_say_whose_they_are(runs: Runs, capsys: Any) -> None:
    write(TARGETS)
    main(["run", "--all", "-q"])

    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["small", "big"]


def test_a_target_by_its_name(runs: Runs) -> None:
    write(TARGETS)
    main(["run", "big"])

    assert [(target, options.seed) for target, options in runs] == [("pkg.train:big", 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead = 1", "unknown key 'sead' (did you mean 'seed'?)"),
        ("load_timeout = 1", "unknown key 'load_timeout' (did you mean 'load-timeout'?)"),
        ('seed = "1"', "seed is '1' (str): input should be a valid integer"),
        ("seed = true", "seed is True (true or false): input should be a valid integer"),
        ("select = 'dying-relu'", "select is 'dying-relu' (str): input should be a valid list"),
        ("ignore = ['SC0903']", "ignore.0 is 'SC0903' (str)"),
        ("ignore = [{code = 'SC0903'}]", "ignore.0: the key 'reason' is missing"),
        ("ignore = [{code = 'SC0903', reason = ''}]", "ignore.0.reason is ''"),
        ("ignore = [{code = 'SC0903', reason = 'x', untill = 2027-01-01}]", "did you mean 'until'?"),
        ("ignore = [{code = 'SC0903', reason = 'x', until = 'soon'}]", "ignore.0.until is 'soon'"),
        ("ignore = [{code = 'SC9999', reason = 'x'}]", "'SC9999' is no check and no rule"),
        ("severity = {SC0903 = 'off'}", "severity.SC0903 is 'off'"),
        ("ignore = ['SC0903']", 'ignore.0 is \'SC0903\' (str): write {code = "SC0903", reason = "why it is accepted"}'),
        (
            "ignore = [{code = 'SC0903', reason = 'x', until = '2027-01-01'}]",
            "ignore.0.until is '2027-01-01': write the date without quotes, until = 2027-01-01",
        ),
        ("budget = -1", "stabcheck.toml: budget is -1 (int): input should be greater than 0"),
        ("[targets.a]\ntarget = 't.py:f'\nsteps = 0", "stabcheck.toml: targets.a.steps is 0 (int): input should be"),
        ("select = ['SC99']", "'SC99' is no check and no rule; stabcheck list shows them all"),
        ("severity = {dying-rely = 'warn'}", "did you mean 'dying-relu'?"),
        ("[thresholds.dying-rely]\na = 1", "no check 'dying-rely' (did you mean 'dying-relu'?)"),
        ("[thresholds.dying-relu]\nfail-deat = 1", "no threshold 'fail-deat' (did you mean 'fail-dead'?)"),
        ("[thresholds.dying-relu]\nfail-dead = 'x'", "thresholds.dying-relu.fail-dead is 'x'"),
        ("output = {junti = 'a'}", "output: no format 'junti' (did you mean 'junit'?)"),
        ("output = {junit = '-', json = '-'}", "only one format can go to standard output"),
        ("budget = true", "budget is True (true or false)"),
        ("budget = '60'", "budget is '60' (str)"),
        ("budget = inf", "budget is inf"),
        ("thresholds.dying-relu = {fail-dead = nan}", "thresholds.dying-relu.fail-dead is nan"),
        ("budget = 0", "budget is 0 (int): input should be greater than 0"),
        ("[targets.a]\nseed = 1", "targets.a has no 'target'"),
        ("[targets.a]\ntarget = 't.py:f'\nsed = 1", "unknown key 'targets.a.sed' (did you mean 'seed'?)"),
        ("seed = ", "not TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(text: str, message: str, runs: Runs, capsys: Any) -> None:
    write(text)
    words = ["run", "a"] if text.startswith("[targets.a]\nseed") else ["run", "t.py:f"]

    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "stabcheck.toml" in said or "standard output" in said or "--budget" in said
    assert said.count("\n") == 1
    assert not runs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run --all", "--all runs every target of the configuration file, and there is no configuration file"),
        ("run t.py:f --all", "leave TARGET out"),
        ("run --config no.toml", "no.toml: No such file or directory"),
        ("run --config pyproject.toml", "it has no table [tool.stabcheck]"),
    ],
)
def test_options_about_the_file(words: str, message: str, runs: Runs, capsys: Any) -> None:
    write("", "pyproject.toml")

    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_name_shows_the_nearest(runs: Runs, capsys: Any) -> None:
    write(TARGETS)

    assert main(["run", "smal"]) == 2
    assert "'smal' is no target of" in (said := capsys.readouterr().err)
    assert "did you mean 'small'?" in said


def test_two_targets_do_not_write_one_file(runs: Runs, capsys: Any) -> None:
    write(TARGETS.replace("{name}", "same"))

    assert main(["run", "--all"]) == 2
    assert "use {name} in the path" in capsys.readouterr().err


def test_show_config_is_toml_that_means_the_same(runs: Runs, capsys: Any) -> None:
    write(TARGETS)
    assert main(["show-config", "big"]) == 0

    table = tomllib.loads(capsys.readouterr().out)["targets"]["big"]
    assert table["seed"] == 2
    assert table["target"] == "pkg.train:big"
    assert table["ignore"][1] == {
        "code": "SC0301", "reason": "here", "location": "a.*", "until": datetime.date(2027, 1, 1),
    }  # fmt: skip


def test_a_target_may_be_spelt_short_and_is_listed(runs: Runs, capsys: Any) -> None:
    write('seed = 3\n[targets]\ngood = "train.py:good"\nbad = {target = "train.py:bad", seed = 4}\n')
    assert main(["show-config"]) == 0

    shown = capsys.readouterr().out
    assert shown.startswith("# targets: good (train.py:good), bad (train.py:bad)\n")
    tables = tomllib.loads(shown)["targets"]
    assert (tables["good"]["target"], tables["good"]["seed"]) == ("train.py:good", 3)
    assert (tables["bad"]["target"], tables["bad"]["seed"]) == ("train.py:bad", 4)
    assert main(["run", "good"]) == 0
    assert [target for target, _ in runs] == [f"{Path.cwd()}/train.py:good"]


KEYS = st.sampled_from(
    [
        "target",
        "select",
        "ignore",
        "seed",
        "steps",
        "budget",
        "severity",
        "thresholds",
        "output",
        "targets",
        "strict",
        "x",
    ]
)
INNER = st.sampled_from(["code", "reason", "SC0903", "dying-relu", "a"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
    | st.sampled_from(["dying-relu", "SC0903", "junit", "a.py:f", "warn"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(INNER, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(v) for v in value if v is not None) + "]"
    return json.dumps(value, ensure_ascii=True)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.dictionaries(KEYS, VALUES.filter(lambda v: v is not None), max_size=4))
def test_no_file_gets_past_the_command_line(table: dict[str, Any], runs: Runs, capsys: Any) -> None:
    write("\n".join(f"{key} = {toml(value)}" for key, value in table.items()))

    code = main(["run", "t.py:f"])

    said = capsys.readouterr().err
    assert code in {0, 2}
    assert "fault of stabcheck" not in said
    assert "Traceback" not in said


# --- thresholds


def test_thresholds_are_the_named_numbers_of_the_file() -> None:
    from stabcheck.diagnoses import dying_relu

    assert numbers.of(DYING)["fail-dead"] == dying_relu.FAIL_DEAD


def test_a_number_in_a_part_of_a_check_is_a_threshold_of_the_check() -> None:
    from stabcheck.experiments import _training_loop_habits
    from stabcheck.experiments.training_loop import CHECK

    assert numbers.of(CHECK)["few"] == _training_loop_habits.FEW
    with numbers.changed([CHECK], {"training-loop": {"few": 30}}):
        assert _training_loop_habits.FEW == 30
    assert _training_loop_habits.FEW == numbers.of(CHECK)["few"] == 3


def test_a_changed_threshold_holds_inside_only() -> None:
    before = numbers.of(DYING)

    with numbers.changed([DYING], {"dying-relu": {"fail-dead": 0.01}}):
        assert numbers.of(DYING)["fail-dead"] == 0.01
    assert numbers.of(DYING) == before


def test_a_threshold_is_documented_where_it_can_be_looked_up(capsys: Any) -> None:
    assert main(["explain", "dying-relu"]) == 0

    said = capsys.readouterr().out
    assert "[tool.stabcheck.thresholds.dying-relu]" in said
    assert f"warn-dead = {numbers.of(DYING)['warn-dead']}" in said
    assert " ".join(said.split()).count(numbers.meanings(DYING)["fewest-units"]) == 1
    assert "type-checking" not in said


@pytest.mark.parametrize("check", CATALOG, ids=lambda check: check.id)
def test_every_threshold_has_a_meaning(check: Any) -> None:
    assert all(numbers.meanings(check).values())


def test_show_config_says_what_cannot_be_meant(runs: Runs, capsys: Any) -> None:
    write("""
        target = "trian.py:setup"
        device = "cdua:0"
        ignore = [{code = "SC0903", reason = "for now", until = 2020-01-01}]
    """)
    Path("train.py").write_text("def setup(): ...")

    assert main(["show-config"]) == 0

    said = capsys.readouterr().err
    assert "ignore SC0903: ran out on 2020-01-01" in said
    assert "trian.py: there is no such file (did you mean 'train.py'?)" in said
    assert "device 'cdua:0': torch knows none of this name (did you mean 'cuda'?)" in said


def test_show_config_has_no_doubts_about_what_is_fine(runs: Runs, capsys: Any) -> None:
    write('target = "train.py:setup"\ndevice = "cuda:1"')
    Path("train.py").write_text("from elsewhere import setup")

    assert main(["show-config"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("target", ["a", "b", None])
def test_what_is_accepted_for_all_targets_is_not_called_unused_by_one(target: str | None, runs: Runs) -> None:
    """It may be there for another target; only what a target accepts for itself, or the only one, can be unused."""
    write("""
        target = "train.py:setup"
        ignore = [{code = "SC0903", reason = "sparse"}]
        [targets.a]
        target = "a.py:f"
        ignore = [{code = "SC0901", reason = "own"}]
        [targets.b]
        target = "b.py:f"
    """)

    assert main(["run", *([target] if target else [])]) == 0

    ((_, options),) = runs
    assert {one.code: one.lasting for one in options.suppressions} == (
        {"SC0903": False, "SC0901": True} if target == "a" else {"SC0903": False}
    )


def test_what_the_only_target_accepts_can_be_unused(runs: Runs) -> None:
    write('target = "train.py:setup"\nignore = [{code = "SC0903", reason = "sparse"}]')

    assert main(["run"]) == 0

    assert [one.lasting for one in runs[0][1].suppressions] == [True]
