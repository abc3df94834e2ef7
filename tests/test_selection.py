from __future__ import annotations

import pytest

from stabcheck.check import Check, Rule
from stabcheck.selection import UsageError, choose


def check(name: str, *codes: str) -> Check:
    rules = tuple(Rule(code, "fault", "fail", "message", "fix") for code in codes)
    return Check(name, "experiment", name, rules, print, "")  # type: ignore[arg-type]


CATALOG = (check("eval-mode", "SC0601", "SC0602"), check("dying-relu", "SC0901"), check("plain"))
EVERY = {"SC0601", "SC0602", "SC0901"}


@pytest.mark.parametrize(
    ("select", "ignore", "checks", "codes"),
    [
        ((), (), ["eval-mode", "dying-relu", "plain"], EVERY),
        (("dying-relu",), (), ["dying-relu"], {"SC0901"}),
        (("plain", "eval-mode"), (), ["eval-mode", "plain"], {"SC0601", "SC0602"}),
        (("SC06",), (), ["eval-mode"], {"SC0601", "SC0602"}),
        (("SC0602",), (), ["eval-mode"], {"SC0602"}),
        (("sc060",), (), ["eval-mode"], {"SC0601", "SC0602"}),
        (("SC0",), (), ["eval-mode", "dying-relu"], EVERY),
        (("SC0601", "SC0602"), (), ["eval-mode"], {"SC0601", "SC0602"}),
        ((), ("SC0601",), ["eval-mode", "dying-relu", "plain"], {"SC0602", "SC0901"}),
        ((), ("SC06",), ["dying-relu", "plain"], {"SC0901"}),
        ((), ("SC0901",), ["eval-mode", "plain"], {"SC0601", "SC0602"}),
        ((), ("plain", "eval-mode"), ["dying-relu"], {"SC0901"}),
        (("SC06",), ("SC0602",), ["eval-mode"], {"SC0601"}),
        (("SC0601",), ("SC0602",), ["eval-mode"], {"SC0601"}),
    ],
)
def test_choice(select: tuple[str, ...], ignore: tuple[str, ...], checks: list[str], codes: set[str]) -> None:
    chosen = choose(CATALOG, select, ignore)

    assert [one.id for one in chosen.checks] == checks
    assert {code for code in EVERY if chosen.reports(code)} == codes


@pytest.mark.parametrize(
    ("select", "ignore", "says"),
    [
        (("dying-rellu",), (), "'dying-rellu' is no check and no rule (did you mean 'dying-relu'?)"),
        (("SC0902",), (), "'SC0902' is no check and no rule (did you mean 'SC0901'?)"),
        (("SC99",), (), "'SC99' is no check and no rule"),
        ((), ("",), "'' is no check and no rule"),
        (("SC0601",), ("SC0601",), "nothing is left to run"),
        (("SC0001",), (), "'SC0001' is retired: nothing took its place"),
    ],
)
def test_word_that_means_nothing(select: tuple[str, ...], ignore: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as error:
        choose(CATALOG, select, ignore, {"SC0001": "", "SC0002": "SC0901"})

    assert str(error.value).startswith(says)


def test_retired_code_stands_for_its_successor() -> None:
    assert [one.id for one in choose(CATALOG, ("SC0002",), (), {"SC0002": "SC0901"}).checks] == ["dying-relu"]


def test_severities_are_given_as_rules_are_chosen_and_the_fewer_rules_win() -> None:
    given = {"SC0602": "fail", "sc06": "warn", "dying-relu": "warn"}

    chosen = choose(CATALOG, severities=given)  # type: ignore[arg-type]

    assert chosen.severities == {"SC0601": "warn", "SC0602": "fail", "SC0901": "warn"}
    with pytest.raises(UsageError, match="no check and no rule"):
        choose(CATALOG, severities={"eval-mod": "warn"})
