"""The rules of loss-contract."""

from __future__ import annotations

from stabcheck.check import Rule

TWICE = Rule(
    "SC1601",
    "activated-twice",
    "fail",
    "{loss}() gets the result of a {activation} (shape {shape}) and applies its own: {effect}",
    "give the loss the raw scores: take the {activation} out of the model, and apply it where probabilities or rates are wanted",
)
UNNORMALISED = Rule(
    "SC1602",
    "missing-normalisation",
    "fail",
    "{loss}() gets {what} (from {low:.3g} to {high:.3g}) where it needs {wanted}",
    "give it {remedy}",
)
CROSSED = Rule(
    "SC1603",
    "crossed-shapes",
    "fail",
    "in {where} outputs of shape {prediction} meet targets of shape {target} and both are spread to {both}: every prediction is "
    "compared with every target, so that the best it can learn is their mean",
    "bring them to one shape: squeeze or unsqueeze one of them",
)
RANGE = Rule(
    "SC1604",
    "targets-out-of-range",
    "fail",
    "{loss}() gets targets of {found} but takes {wanted}",
    "{remedy}",
)
UNFIT = Rule(
    "SC1605",
    "unfit-targets",
    "fail",
    "{loss}() refuses the targets, {what}: outputs {outputs}, targets {targets} of {dtype} ({raised})",
    "{remedy}",
)
AXIS = Rule("SC1606", "wrong-class-axis", "fail", "{loss}() is given the wrong classes: {what}", "{remedy}")
FLIPPED = Rule("SC1607", "flipped-sign", "fail", "training makes predictions worse: {what}", "{remedy}")
SUMMED = Rule(
    "SC1608",
    "summed-loss-at-mean-rate",
    "warn",
    "the loss is a sum over {count} {unit}, and one step at your learning rate {rate:.3g} takes it from {before:.3g} to "
    "{after:.3g}; divided by {count}, as for a mean, the same step takes it to {divided:.3g}",
    "take the mean, or divide the learning rate by {count}",
)
BLIND = Rule(
    "SC1609",
    "blind-to-targets",
    "fail",
    "loss_fn gives {loss:.6g} whatever the targets are: other targets of the same kind change nothing, though outputs of shape "
    "{outputs} are made for them",
    "compute the loss from the targets that loss_fn gets; call its second parameter _ if they are not meant to be used",
)
IGNORED = Rule(
    "SC1610",
    "everything-ignored",
    "fail",
    "in {count} of {batches} batches every target is {index}, which {loss}() ignores: a mean over nothing is NaN",
    "look at how the labels are masked; skip batches of which nothing is left",
)
PADDED = Rule(
    "SC1611",
    "padding-not-ignored",
    "warn",
    "{share:.0%} of the targets of {loss}() are {pad}, which fills up the ends of the sequences: most of what is learnt is to "
    "predict padding",
    "pass ignore_index={pad}, or set these targets to -100",
)
UNSHIFTED = Rule(
    "SC1612",
    "unshifted-targets",
    "fail",
    "{share:.0%} of {compared} targets are the input token at their own position: {why}. Copying the input is all that is learnt",
    "predict the next token: inputs ids[:, :-1], targets ids[:, 1:]; or mask what is to be predicted after the labels were taken",
)
AHEAD = Rule(
    "SC1613",
    "doubly-shifted-targets",
    "fail",
    "{share:.0%} of {compared} targets are the token after the next: they are shifted twice",
    "shift them once: a model that returns its own loss shifts the labels itself, so give it labels equal to the input ids",
)
SHORT = Rule(
    "SC1614",
    "ctc-input-too-short",
    "fail",
    "{count} of {samples} samples have more symbols than ctc_loss() has time steps for (one needs {needed} and has {steps}): "
    "their loss is infinite",
    "check input_lengths against the model's down-sampling, or shorten the stride",
)
SWAPPED = Rule(
    "SC1615",
    "swapped-arguments",
    "fail",
    "{loss}() gets the targets as its input and the model's outputs as its target",
    "the order is (outputs, targets)",
)
RULES = (
    TWICE, UNNORMALISED, CROSSED, RANGE, UNFIT, AXIS, FLIPPED, SUMMED, BLIND, IGNORED, PADDED, UNSHIFTED, AHEAD, SHORT, SWAPPED,
)  # fmt: skip
BY_NAME = {rule.name: rule for rule in RULES}
