"""Work is counted by what it costs the processor; the clock ends it only late."""

import time

import pytest

from stabcheck.check import Skip
from stabcheck.trial.pace import MEASURED, Pace


def test_dear_work_is_cut_to_a_power_of_two_by_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.3 s each: 10 s hold 33 of them, which makes 32."""
    now = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: now)
    pace = Pace(10.0)
    for _ in pace.through(range(100)):
        now += 0.3

    assert (pace.taken, pace.is_cut, pace.is_late) == (32, True, False)


def test_one_dear_start_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: now)
    pace = Pace(1.0, most=40)
    for piece in pace.through(range(40)):
        now += 0.01 if piece else 5.0

    assert (pace.taken, pace.most, pace.is_cut) == (40, 40, False)


def test_waiting_does_not_change_the_count_but_ends_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gives a tenth of its time takes ten times as long, and gets as far."""
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    patient, impatient = Pace(10.0, most=64, deadline=1000.0), Pace(10.0, most=64, deadline=50.0)
    for pace in (patient, impatient):
        clock = 0.0
        for _ in pace.through(range(100)):
            clock += 3.0

    assert (patient.taken, patient.is_late) == (64, False)
    assert (impatient.taken, impatient.is_late) == (17, True)
    patient.require_in_time()
    with pytest.raises(Skip):
        impatient.require_in_time()


def test_work_of_fewer_pieces_than_are_measured_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: now)
    pace = Pace(1.0)
    for _ in pace.through(range(MEASURED - 1)):
        now += 100.0

    assert (pace.taken, pace.is_cut) == (MEASURED - 1, False)
