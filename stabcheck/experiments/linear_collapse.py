"""Layers with nothing non-linear between them: together they can do no more than one of them alone.

## What it looks at
One forward of your own loss, function by function: which layer reads which, and what lies between them. Where nothing but affine
functions does (reshaping, sums with constants, pooling, dropout, BatchNorm), it is proved by running the model on points
halfway between two outputs of the first layer. Left alone: a middle narrower than both ends, as in LoRA or a bottleneck,
depthwise and one-sided convolutions, layers with shared weights, residual sums, and whatever else also reads the
first layer's output.

## Why it matters
Two affine maps in a row are one affine map. A network whose activations are forgotten, or built and never called, trains
without complaint and is logistic regression.

## What to do
Put an activation (ReLU, GELU) between the layers, and see that its result is used: `x = self.act(x)`. If one map is what is
meant, keep one layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stabcheck.check import Finding, Outcome, Rule, Severity, Skip, experiment
from stabcheck.reading import called
from stabcheck.userland import UserCodeError

if TYPE_CHECKING:
    from stabcheck.trial.affine.chains import Chain, Found
    from stabcheck.trial.bench import Bench

LONG = 3
"""Layers in a row, in one module, of which nobody wants a product."""
MOST_FINDINGS = 3

AFFINE_MODEL = Rule(
    "SC2301",
    "affine-model",
    "fail",
    "no layer of the model reads another through anything non-linear: {chain} are one affine map, so the model is no more "
    "than linear in its features",
    "put an activation (ReLU, GELU) after each hidden layer; if a linear model is meant, keep one layer of {inputs} to {outputs}",
)
UNAPPLIED = Rule(
    "SC2302",
    "unapplied-activation",
    "fail",
    "{what}, so there is nothing non-linear between {chain}: they are one affine map",
    "use its result in forward(): x = {example}(x), between {first} and {second}",
)
MERGED = Rule(
    "SC2303",
    "layers-without-activation",
    "fail",
    "there is nothing non-linear between {chain}: they are one affine map of {inputs} to {outputs}, at the price of {count} layers",
    "put an activation (ReLU, GELU) between {first} and {second}, or keep one layer of {inputs} to {outputs}",
)


@experiment(title="Linear collapse", rules=(AFFINE_MODEL, UNAPPLIED, MERGED))
def CHECK(bench: Bench) -> Outcome:  # noqa: N802
    """Follow one forward from layer to layer."""
    from stabcheck.trial.affine.chains import find

    try:
        found = find(bench)
    except UserCodeError as error:
        raise Skip(f"no forward of the model can be watched: {error.message}") from None
    if found.layers < 2:
        raise Skip("fewer than two linear or convolutional layers could be followed in one forward")
    findings = _one_for_each_fault([f for c in found.chains if (f := _judge(bench, found, c)) is not None])
    measured: dict[str, Any] = {
        "layers": found.layers,
        "affine_chains": [[layer.module for layer in chain.layers] for chain in found.chains],
        "unused_activations": list(found.unused),
    }
    summary = (
        findings[0].message
        if findings
        else f"{found.layers} layers followed, none of them wasted for want of something non-linear in between"
    )
    return Outcome(summary, findings, measured).but_not(
        "layers inside recurrent modules, fused attention and compiled functions", "their calls run as one piece"
    )


def _judge(bench: Bench, found: Found, chain: Chain) -> Finding | None:
    layers = chain.layers
    names = [called(layer.module) for layer in layers]
    facts: dict[str, Any] = {
        "chain": _listed(names), "first": names[0], "second": names[1], "inputs": layers[0].inputs,
        "outputs": layers[-1].outputs, "count": len(layers), "layers": [layer.module for layer in layers],
    }  # fmt: skip
    place = layers[0].module or None
    source = bench.recording.source(place) if bench.recording else None
    if chain.discarded is not None:
        what = f"the result of {chain.discarded}() is thrown away"
        return UNAPPLIED.at(place, source=source, what=what, example=chain.discarded, **facts)
    if chain.unused is not None:
        what = f"{chain.unused} is built but never called"
        return UNAPPLIED.at(place, source=source, what=what, example=f"self.{chain.unused.rpartition('.')[2]}", **facts)
    if found.is_shallow:
        return AFFINE_MODEL.at(place, source=source, **facts)
    if not chain.is_one_place:
        return None
    severity: Severity = "fail" if chain.widens or len(layers) >= LONG else "warn"
    return MERGED.at(place, source=source, severity=severity, **facts)


def _one_for_each_fault(findings: list[Finding]) -> tuple[Finding, ...]:
    """Chains that want the same remedy are one fault; the first stands for it."""
    first: dict[str | None, Finding] = {}
    for finding in sorted(findings, key=lambda f: f.severity != "fail"):
        key = finding.location if finding.code == MERGED.code else finding.code
        first.setdefault(key, finding)
    return tuple(first.values())[:MOST_FINDINGS]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
