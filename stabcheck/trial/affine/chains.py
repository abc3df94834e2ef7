"""Runs of layers with nothing non-linear between them, and whether that is waste."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stabcheck.trial.affine.curvature import CurvatureWatch, Straight
from stabcheck.trial.affine.proof import is_affine_between
from stabcheck.trial.affine.tape import Layer, Tape
from stabcheck.trial.bench import Bench
from stabcheck.trial.call_watch import watch_one

_NOT_ACTIVATIONS = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin)
_ACTIVATIONS = tuple(
    kind
    for kind in vars(nn.modules.activation).values()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.Module
    and kind not in _NOT_ACTIVATIONS and kind.__module__ == "torch.nn.modules.activation"
)  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """Layers that together are one affine map, and no cheaper than that map."""

    layers: tuple[Layer, ...]
    is_one_place: bool
    """Whether they stand next to each other in one module, so that one hand wrote them in a row."""
    widens: bool
    """Whether a layer inside is wider than what goes in and what comes out."""
    unused: str | None
    """An activation module beside them that no forward calls."""
    discarded: str | None
    """An activation function whose result is thrown away."""
    straight: str | None
    """An activation function between them that does not bend."""


@dataclass(frozen=True)
class Found:
    """What one forward showed."""

    layers: int
    chains: tuple[Chain, ...]
    is_shallow: bool
    """Whether no layer of the model reads another one through anything non-linear."""
    unused: tuple[str, ...]
    """Activation modules that were not called."""
    straight: Straight | None
    """A network of straight pieces whose curvature the loss asks for."""


def find(bench: Bench) -> Found:
    """The affine chains of the set-up's model, each proved by running it.

    Raises:
        UserCodeError: no forward can be watched.
        Skip: the same.
    """
    tape = watch_one(bench, Tape)
    layers = tape.finished()
    modules = dict(tape.model.named_modules())
    unused = tuple(n for n, m in modules.items() if isinstance(m, _ACTIVATIONS) and n not in tape.entered)
    chains = [_chain(run, modules, unused) for run in _runs(layers)]
    proved = [c for c in chains if is_affine_between(bench, c.layers[0], c.layers[-1])]
    straight = watch_one(bench, lambda model, batch: CurvatureWatch(model)).found if tape.differentiates else None
    return Found(len(layers), tuple(proved), not any(layer.after_nonlinear for layer in layers), unused, straight)


def _runs(layers: list[Layer]) -> list[list[Layer]]:
    """Longest runs of layers of which each is read by the next alone, and whose narrowing saves nothing."""
    pairs = [(layers[layer.before], layer) for layer in layers if layer.before is not None]
    wasted = [(first, second) for first, second in pairs if _is_waste(first, second)]
    # A weight that is also used in another place, as in a recurrence, cannot be merged into the next.
    places: dict[int, set[int]] = {}
    for layer in layers:
        places.setdefault(layer.weight, set()).add(layer.index)
    follows = {}
    for first, second in wasted:
        same = [(a.index, b.index) for a, b in wasted if (a.weight, b.weight) == (first.weight, second.weight)]
        if {a for a, _ in same} == places[first.weight] and {b for _, b in same} == places[second.weight]:
            follows[first.index] = second
    runs = []
    inside = {layer.index for layer in follows.values()}
    for start in sorted(i for i in follows if i not in inside):
        run = [layers[start]]
        while run[-1].index in follows:
            run.append(follows[run[-1].index])
        runs.append(run)
    return runs


def _is_waste(first: Layer, second: Layer) -> bool:
    """A map of full rank in two factors. A narrower middle is a factorisation, and has its use."""
    return (
        first.consumers == {second.index}
        and first.weight != second.weight
        and not first.factored
        and not second.factored
        and first.outputs >= min(first.inputs, second.outputs)
    )


def _chain(run: list[Layer], modules: dict[str, nn.Module], unused: tuple[str, ...]) -> Chain:
    homes = {_home(layer, modules) for layer in run}
    beside = [n for n in unused if n.rpartition(".")[0] in homes]
    widest = max(layer.outputs for layer in run[:-1])
    return Chain(
        layers=tuple(run),
        is_one_place=len(homes) == 1,
        widens=widest > max(run[0].inputs, run[-1].outputs),
        unused=beside[0] if beside else None,
        discarded=next((layer.discarded for layer in run[:-1] if layer.discarded), None),
        straight=next((layer.straight for layer in run[:-1] if layer.straight), None),
    )


def _home(layer: Layer, modules: dict[str, nn.Module]) -> str:
    """The module whose author put the layer there."""
    kind = type(modules[layer.module]) if layer.module in modules else torch.nn.Module
    is_layer = not any(True for _ in modules[layer.module].children()) and kind.__name__ != "Sequential"
    return layer.module.rpartition(".")[0] if is_layer and layer.module else layer.module
