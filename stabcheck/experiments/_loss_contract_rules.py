"""The rules of loss-contract."""

from __future__ import annotations

from stabcheck.check import Rule

TWICE = Rule(
    "SC1601",
    "activated-twice",
    "fail",
    message="{loss}() gets the result of a {activation} (shape {shape}) and applies its own: {effect}",
    fix="give the loss the logits: take the {activation} out of the model, and apply it only where probabilities are "
    "wanted",
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
    "outputs-broadcast-to-targets",
    "fail",
    message="in {where} outputs of shape {prediction} and targets of shape {target} are broadcast to {both}: every "
    "prediction is compared with every target, so the best it can learn is their mean",
    fix="give both the same shape: squeeze or unsqueeze one of them",
)
RANGE = Rule(
    "SC1604",
    "targets-out-of-range",
    "fail",
    message="{loss}() gets targets of {found}, but takes {wanted}",
    fix="{remedy}",
)
UNFIT = Rule(
    "SC1605",
    "malformed-targets",
    "fail",
    message="{loss}() refuses the targets ({what}): outputs {outputs}, targets {targets} of {dtype} ({raised})",
    fix="{remedy}",
)
AXIS = Rule(
    "SC1606",
    "wrong-class-axis",
    "fail",
    message="{loss}() does not compare the classes: {what}",
    fix="{remedy}",
)
FLIPPED = Rule("SC1607", "flipped-sign", "fail", "training makes predictions worse: {what}", "{remedy}")
SUMMED = Rule(
    "SC1608",
    "summed-loss-at-rate-for-mean",
    "warn",
    message="the loss is a sum over {count} {unit}, and one step at your learning rate {rate:.3g} takes it from "
    "{before:.3g} to {after:.3g}; divided by {count}, as for a mean, the same step takes it to {divided:.3g}",
    fix="take the mean, or divide the learning rate by {count}",
    why="A sum over the batch multiplies the gradient, and with plain SGD the step, by the number of its terms.",
)
BLIND = Rule(
    "SC1609",
    "loss-ignores-targets",
    "fail",
    message="loss_fn gives {loss:.6g} whatever the targets are: other targets of the same kind change nothing, although "
    "the outputs have a shape for them, {outputs}",
    fix="compute the loss from the targets that loss_fn gets; name its second parameter _ if they are not meant to "
    "be used",
    why="A loss that never looks at the targets can fall to anything without the model learning the task.",
)
IGNORED = Rule(
    "SC1610",
    "all-targets-ignored",
    "fail",
    message="in {count} of {batches} batches every target is {index}, the ignore_index of {loss}(): a mean over nothing "
    "is NaN",
    fix="look at how the labels are masked; skip batches in which no label is left",
    why="The mean over no target is NaN, and so is every weight after the next update.",
)
PADDED = Rule(
    "SC1611",
    "padding-in-loss",
    "warn",
    message="{share:.0%} of the targets of {loss}() are {pad}, the padding at the end of the sequences: most of what is "
    "learnt is to predict padding",
    fix="pass ignore_index={pad}, or set these targets to -100",
    why="Most of what is learnt is to predict padding, and the loss is lower than the model deserves.",
)
UNSHIFTED = Rule(
    "SC1612",
    "unshifted-targets",
    "fail",
    message="{share:.0%} of {compared} targets are the input token at the same position: {why}, so the model learns to "
    "copy its input",
    fix="predict the next token: inputs ids[:, :-1], targets ids[:, 1:]; for masked language models take the labels "
    "first, then mask the inputs",
)
AHEAD = Rule(
    "SC1613",
    "targets-shifted-twice",
    "fail",
    message="{share:.0%} of {compared} targets are the token after the next: they are shifted twice",
    fix="shift them once: a model that returns its own loss shifts the labels itself, so give it labels equal to the "
    "input ids",
)
SHORT = Rule(
    "SC1614",
    "ctc-input-too-short",
    "fail",
    message="{count} of {samples} samples have more symbols than ctc_loss() has time steps for (one needs {needed} and "
    "has {steps}): their loss is infinite",
    fix="check input_lengths against the model's downsampling, or reduce the stride",
)
SWAPPED = Rule(
    "SC1615",
    "swapped-arguments",
    "fail",
    message="{loss}() gets the targets as its input and the model's outputs as its target",
    fix="call it as loss(outputs, targets)",
)
BOTTOMLESS = Rule(
    "SC1616",
    "loss-without-lowest-value",
    "fail",
    message="the loss has no lowest value: with {location} 10 and 100 times as large it falls from {before:.3g} to "
    "{ten_times:.3g} and {hundred_times:.3g}, and training goes that way (loss {first:.3g} to {last:.3g} in {steps} steps)",
    fix="look for a wrong sign: a penalty or a log-likelihood that is subtracted where it should be added; or bound what is "
    "maximised, by a margin, logsigmoid or normalised vectors",
)
SELF = Rule(
    "SC1617",
    "compared-with-itself",
    "fail",
    message="{name}() gets the same {elements} values twice, from the same weights, in each of {batches} batches: what comes "
    "of them is constant and moves no weight",
    fix="one side has to come from elsewhere: the old policy or teacher computed before and detached, the batch's own target, or "
    "another view of the input",
    why="The term is in the loss by its value alone: nothing is learnt from it.",
)
UNCOUNTED = Rule(
    "SC1618",
    "only-padding-counts",
    "fail",
    message="all {used} targets that count in {loss}() are {value}, in each of {batches} batches, while the {unused} that are left "
    "out are of {kinds} other kinds: the mask is the wrong way round",
    fix="turn the mask round: 1 where there is something to predict, 0 (or ignore_index) where there is padding",
    why="Always giving the one answer that counts makes such a loss vanish, whatever the input is.",
)
PLACE = Rule(
    "SC1619",
    "right-answer-by-place",
    "fail",
    message="{loss}() sets the {samples} samples of a batch against each other ({scores}), but which score is right hangs on their "
    "order: with the samples in another order it is another one for {count} of them",
    fix="let the target of row i be the column of its own partner: torch.arange(len(batch)) where partners share their index",
    why="The loader draws the samples at random, so a place in the batch means nothing, and no pair is ever learnt.",
)
BOUNDED = Rule(
    "SC1620",
    "bounded-scores",
    "fail",
    message="{loss}() gets the products of vectors of fixed length (shape {shape}), which lie between -{reach:.3g} and {reach:.3g} "
    "whatever the weights are: with {classes} classes the loss cannot get below {lowest:.3g}, where guessing gives {guess:.3g}",
    fix="multiply the cosines by a scale, learnt or fixed at 10 to 30, before the loss",
    why="A softmax over cosines is never sure of anything, and most of the gradient is spent on what is right already.",
)
DISTANCE = Rule(
    "SC1621",
    "distance-as-score",
    "fail",
    message="{loss}() takes the distances of shape {shape} for scores, the larger the better: it pushes each sample away from "
    "its own class",
    fix="give it minus the distance",
)
REACH = Rule(
    "SC1622",
    "outputs-cannot-reach-targets",
    "fail",
    message="{loss}() gets outputs of shape {shape} straight from a {activation}: {effect}",
    fix="leave the {activation} out after the last layer, or bring the targets to what it can put out",
    why="What the last activation cuts off can be neither predicted nor learnt.",
)
RULES = (
    TWICE, UNNORMALISED, CROSSED, RANGE, UNFIT, AXIS, FLIPPED, SUMMED, BLIND, IGNORED, PADDED, UNSHIFTED, AHEAD, SHORT, SWAPPED,
    BOTTOMLESS, SELF, UNCOUNTED, PLACE, BOUNDED, DISTANCE, REACH,
)  # fmt: skip
BY_NAME = {rule.name: rule for rule in RULES}
