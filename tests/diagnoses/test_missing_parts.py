"""A diagnosis that reads what was not recorded says so; the others do not speak of it."""

import pytest

from stabcheck.catalog import CATALOG
from stabcheck.check import Check, NotChecked
from stabcheck.recording import CONSTANT_LEVEL, OPTIMIZER_STEPS
from tests.diagnoses.recordings import recording

DIAGNOSES = [check for check in CATALOG if check.kind == "diagnosis"]


@pytest.mark.parametrize("check", DIAGNOSES, ids=lambda check: check.id)
def test_what_was_not_recorded_is_not_checked(check: Check) -> None:
    steps, level = NotChecked(OPTIMIZER_STEPS, "hidden"), NotChecked(CONSTANT_LEVEL, "no loss_fn")

    outcome = check.run(recording(not_recorded=((steps.what, steps.why), (level.what, level.why))))

    assert level in outcome.not_checked
    assert (steps in outcome.not_checked) == (check.id == "gradient-norms")
    assert level not in check.run(recording()).not_checked
