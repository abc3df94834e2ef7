"""Layers with nothing non-linear between them: together they can do no more than one of them alone.

## What it looks at
One forward of your own loss, function by function: which layer reads which, and what lies between them. Where nothing but affine
functions does (reshaping, sums with constants, pooling, dropout, BatchNorm), it is proved by running the model on points
halfway between two outputs of the first layer. A function that is not known to be affine is tried out on numbers of its own.
Left alone: a middle narrower than both ends, as in LoRA or a bottleneck,
depthwise and one-sided convolutions, layers with shared weights, residual sums, and whatever else also reads the
first layer's output. Where the loss differentiates a network twice by its inputs, as physics-informed ones do: is that second
derivative exactly zero at every sample, because ReLU and its kind have none?

## Why it matters
Two affine maps in a row are one affine map. A network whose activations are forgotten, or built and never called, trains
without complaint and is logistic regression. So does one whose activations do not bend, as LeakyReLU with a slope of 1. A
differential equation of second order is blind to a network of straight pieces:
its residual does not depend on the weights.

## What to do
Put an activation (ReLU, GELU) between the layers, and see that its result is used: `x = self.act(x)`. If one map is what is
meant, keep one layer. Where second derivatives are needed: tanh, SiLU, GELU, softplus or sine in place of ReLU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, NotChecked, Outcome, Rule, Severity, Skip, experiment
from stabcheck.reading import called
from stabcheck.userland import UserCodeError

if TYPE_CHECKING:
    from stabcheck.trial.affine.chains import Chain, Found
    from stabcheck.trial.bench import Bench

LONG = 3
"""Layers in a row, in one module, of which nobody wants a product."""

AFFINE_MODEL = Rule(
    "SC2301",
    "affine-model",
    "fail",
    message="no layer of the model reads another through anything non-linear: {chain} are one affine map{others}, so the "
    "model is linear in its features",
    fix="put an activation (ReLU, GELU) after each hidden layer; if a linear model is meant, keep one layer of "
    "{inputs} to {outputs}",
)
UNAPPLIED = Rule(
    "SC2302",
    "unused-activation",
    "fail",
    message="{what}, so there is nothing non-linear between {chain}: they are one affine map{others}",
    fix="use its result in forward(): x = {example}(x), between {first} and {second}",
)
MERGED = Rule(
    "SC2303",
    "layers-without-activation",
    "fail",
    message="there is nothing non-linear between {chain}: they are one affine map of {inputs} to {outputs}, at the price "
    "of {count} layers{others}",
    fix="put an activation (ReLU, GELU) between {first} and {second}, or keep one layer of {inputs} to {outputs}",
)
STRAIGHT = Rule(
    "SC2304",
    "second-derivative-zero",
    "fail",
    message="the loss differentiates {at} twice by its inputs, and this second derivative is exactly zero at all {points} "
    "points: {activation} makes it piecewise linear, so what the loss asks of its curvature cannot be learnt",
    fix="use a smooth activation in it: tanh, SiLU, GELU, softplus or sine instead of {activation}",
)

UNBENT = Rule(
    "SC2305",
    "straight-activation",
    "fail",
    message="the {activation} between {first} and {second} does not bend: with these arguments it hands on its input, scaled at "
    "most, so {chain} are one affine map{others}",
    fix="give it a slope, threshold or limits that make it bend (nn.LeakyReLU has negative_slope=0.01), or use ReLU or GELU",
)


ONE_PIECE = NotChecked(
    "layers inside recurrent modules, fused attention and compiled functions", "their calls run as one piece"
)


@experiment(
    title="Linear collapse",
    about=("model",),
    rules=(AFFINE_MODEL, UNAPPLIED, MERGED, STRAIGHT, UNBENT),
    beyond=(ONE_PIECE,),
)
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Follow one forward from layer to layer."""
    from stabcheck.trial.affine.chains import find

    try:
        found = find(bench)
    except UserCodeError as error:
        raise Skip(f"no forward of the model can be watched: {error.message}") from None
    if found.layers < 2:
        raise Skip("fewer than two linear or convolutional layers could be followed in one forward")
    judged = [(c, verdict) for c in found.chains if (verdict := _judge(found, c)) is not None]
    findings = (*_told(bench, judged), *_straight(bench, found))
    measured: dict[str, Any] = {
        "layers": found.layers,
        "affine_chains": [[layer.name for layer in chain.layers] for chain in found.chains],
        "unused_activations": list(found.unused),
    }
    summary = (
        findings[0].message
        if findings
        else f"{found.layers} layers followed, each with something non-linear before the next"
    )
    return Outcome(summary, findings, measured)


def _judge(found: Found, chain: Chain) -> tuple[Rule, Severity] | None:
    if chain.discarded is not None or chain.unused is not None:
        return UNAPPLIED, "fail"
    if chain.straight is not None:
        return UNBENT, "fail"
    if found.is_shallow:
        return AFFINE_MODEL, "fail"
    if not chain.is_one_place:
        return None
    return MERGED, "fail" if chain.widens or len(chain.layers) >= LONG else "warn"


def _straight(bench: Bench, found: Found) -> tuple[Finding, ...]:
    seen = found.straight
    if seen is None:
        return ()
    source = bench.recording.source(seen.module) if bench.recording else None
    facts: dict[str, Any] = {"at": called(seen.module), "points": seen.points, "activation": seen.activation}
    return (STRAIGHT.at(seen.module or None, source=source, **facts),)


def _told(bench: Bench, judged: list[tuple[Chain, tuple[Rule, Severity]]]) -> tuple[Finding, ...]:
    """One finding for each rule: the first chain stands for those that want the same remedy."""
    groups: dict[tuple[Rule, Severity], list[Chain]] = {}
    for chain, verdict in judged:
        groups.setdefault(verdict, []).append(chain)
    return tuple(
        _finding(bench, *verdict, chains) for verdict, chains in sorted(groups.items(), key=lambda item: item[0][1])
    )


def _finding(bench: Bench, rule: Rule, severity: Severity, chains: list[Chain]) -> Finding:
    chain, more = chains[0], len(chains) - 1
    layers = chain.layers
    names = [called(layer.name, bench.kinds) for layer in layers]
    place = layers[0].name or None
    what, example = "", ""
    if chain.discarded is not None:
        what, example = f"the result of {chain.discarded}() is thrown away", chain.discarded
    elif chain.unused is not None:
        what, example = f"{chain.unused} is built but never called", f"self.{chain.unused.rpartition('.')[2]}"
    return rule.at(
        place, severity=severity,
        chain=_listed(names), first=names[0], second=names[1], inputs=layers[0].inputs, outputs=layers[-1].outputs,
        count=len(layers), what=what, example=example, activation=chain.straight,
        layers=[[called(layer.name, bench.kinds) for layer in c.layers] for c in chains],
        others=f" (and so {'is' if more == 1 else 'are'} {more} more)" if more else "",
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
