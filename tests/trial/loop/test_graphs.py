from __future__ import annotations

import itertools

import torch

from stabcheck.trial.loop.graphs import GraphLog


def losses(log: GraphLog, weight: torch.Tensor, *, carried: bool, calls: int = 5) -> list[tuple[int, int | None]]:
    state, seen = torch.zeros(3), []
    for _ in range(calls):
        log.begin()
        state = torch.tanh(state + weight)
        seen.append(log.look(state.sum()))
        if not carried:
            state = state.detach()
    return seen


def test_a_carried_state_reaches_back_to_the_first_call() -> None:
    seen = losses(GraphLog(), torch.randn(3, requires_grad=True), carried=True)

    assert [oldest for _, oldest in seen] == [None, 0, 0, 0, 0]
    sizes = [nodes for nodes, _ in seen]
    assert [b - a for a, b in itertools.pairwise(sizes)] == [2] * 4


def test_a_detached_one_does_not() -> None:
    seen = losses(GraphLog(), torch.randn(3, requires_grad=True), carried=False)

    assert [oldest for _, oldest in seen] == [None] * 5
    assert len({nodes for nodes, _ in seen}) == 1


def test_what_was_made_before_the_first_call_is_not_carried() -> None:
    weight = torch.randn(3, requires_grad=True)
    table, log = weight * 2, GraphLog()
    seen = []
    for _ in range(3):
        log.begin()
        seen.append(log.look((table * 3).sum())[1])

    assert seen == [None] * 3


def test_graphs_are_counted_while_something_keeps_them() -> None:
    weight, log = torch.randn(3, requires_grad=True), GraphLog()
    kept = []
    for _ in range(4):
        log.begin()
        loss = (weight * 2).sum()
        log.look(loss / 4)  # what is differentiated lies a little behind what is kept
        kept.append(loss)

    assert log.alive() == 4
    del kept[:2], loss
    assert log.alive() == 2
