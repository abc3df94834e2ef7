"""The rules of checkpoint-resume."""

from __future__ import annotations

from stabcheck.check import Rule

WEIGHTS = Rule(
    "SC0401",
    "weights-not-restored",
    "fail",
    message="after {load} in a fresh process {count} of {total} weight tensors are not the saved ones ({names}): {how}",
    fix="save model.state_dict() and load it into the same model with strict=True; look at the keys that are left out",
)
BUFFERS = Rule(
    "SC0402",
    "buffers-not-restored",
    "fail",
    message="after {load} in a fresh process {count} of {total} buffers are not the saved ones ({names}): {how}; "
    "the training loss does not show it, evaluation does",
    fix="save model.state_dict(), which holds the buffers, rather than the parameters alone",
)
OPTIMIZER = Rule(
    "SC0403",
    "optimizer-state-not-restored",
    "fail",
    message="after {load} in a fresh process the state of {part} is not the saved one ({names} of {count} parameters): {how}",
    fix="save {part}.state_dict() and give it to {part}.load_state_dict() in load()",
)
DETACHED = Rule(
    "SC0404",
    "optimizer-detached-from-model",
    "fail",
    message="after {load} {part} no longer holds {count} of the model's parameters ({names}): they were replaced by new "
    "tensors, which it will never update",
    fix="load in place with model.load_state_dict(), or build the optimizer after the parameters are replaced",
)
SCHEDULE = Rule(
    "SC0405",
    "schedule-not-restored",
    "fail",
    message="after {load} in a fresh process {part} is not where it was saved: {how}",
    fix="save {part}.state_dict() and give it to {part}.load_state_dict() in load()",
)
BESIDE = Rule(
    "SC0406",
    "tensors-beside-the-model-not-restored",
    "fail",
    message="training changes {part}, but after {load} in a fresh process it is not the saved one: {how}",
    fix="save and load {part} as well as the model",
)
UNSAVED = Rule(
    "SC0407",
    "unsaved-state-changes-training",
    "fail",
    message="{part} is {saved} when the checkpoint is written and {loaded} after {load} in a fresh process; it "
    "matters: with the old value put back, the resumed run is the uninterrupted one again",
    fix="{advice}",
)
NOT_LOADABLE = Rule(
    "SC0408",
    "checkpoint-not-loadable",
    "fail",
    message="{what} in a fresh process: {error}",
    fix="{advice}",
    about=("load",),
    why="The run cannot be resumed at all: the first interruption ends it.",
)
SAVING = Rule(
    "SC0409",
    "saving-changes-the-run",
    "fail",
    message="save() changes the run that it saves: {how}",
    fix="let save() read only: put back modes and devices, and convert copies rather than the model",
    why="A run that saves is then another run than one that does not, from its first checkpoint on.",
)
RNG = Rule(
    "SC0410",
    "random-state-not-restored",
    "warn",
    message="the checkpoint holds the random state, but after load() in a fresh process it is another one: dropout, "
    "augmentation and shuffling continue with other numbers",
    fix="call torch.set_rng_state() with the saved state at the end of load()",
    about=("load",),
    why="The resumed run is a sound one, but not the one that was interrupted: the two cannot be compared number by number.",
)
ORDER = Rule(
    "SC0411",
    "one-order-for-every-restart",
    "warn",
    message="the loader shuffles with a generator of its own that the checkpoint does not hold: every resumed process starts "
    "on the order of the first epoch, and a run restarted once an epoch never sees another",
    fix="save loader.generator.get_state() and set it in load(), or seed the generator from the epoch",
    why="The model sees the data in one order over and over, and the end of an epoch never if it is interrupted before.",
)
UNKNOWN = Rule(
    "SC0412",
    "resumed-run-differs",
    "warn",
    message="the resumed run trains differently (its weights are off by {drift:.2g} of the distance trained since the "
    "checkpoint) although all state in sight is restored and the uninterrupted run repeats itself exactly",
    fix="look for state outside the set-up's objects: a cache, a file, a queue, a counter in a library",
)

SCALER = Rule(
    "SC0413",
    "scaler-not-restored",
    "warn",
    message="after load() in a fresh process the loss scaler {part} is not where it was saved: {how}; each resume begins with "
    "the scale of a new run, with skipped steps until it fits or gradients that underflow until it has grown",
    fix="save {part}.state_dict() and give it to {part}.load_state_dict() in load()",
    why="The first steps after a resume are lost or too small, and more so the more often a run is resumed.",
)
ENCODING = Rule(
    "SC0414",
    "data-encoded-anew-in-each-process",
    "fail",
    message="after {load} in a process with other hashes, as every new process has, {how}: the weights were trained on the old "
    "meaning; numbers or columns were given in the order of a set of strings, or by hash()",
    fix="sort the set before it is numbered, or save the vocabulary (the list of names) in the checkpoint and restore it in load()",
    why="The resumed model reads other words, classes or features than it was trained on: what it learnt is lost.",
)
RULES = (
    WEIGHTS,
    BUFFERS,
    OPTIMIZER,
    DETACHED,
    SCHEDULE,
    BESIDE,
    UNSAVED,
    NOT_LOADABLE,
    SAVING,
    RNG,
    ORDER,
    UNKNOWN,
    SCALER,
    ENCODING,
)
