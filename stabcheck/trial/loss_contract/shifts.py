"""What a language model is asked to predict: the next token, one that it is shown, or the one after the next.

Which token a row of logits can see is found by changing one token and looking at which rows move; which token its
target is, by comparing targets with tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from stabcheck.trial.loss_contract.fault import Fault
from stabcheck.trial.loss_contract.observe import Pass
from stabcheck.trial.loss_contract.watch import LossCall, LossWatch
from stabcheck.trial.rng import kept_rng
from stabcheck.trial.session import Session
from stabcheck.trial.yardsticks import undisturbed
from stabcheck.userland import UserCodeError

SAME = 0.99
"""Share of the targets that equal a token at some distance, from which they are that token."""
NOT_SAME = 0.9
"""Share at the right distance above which the text is too repetitive to say."""
FEWEST_TARGETS, FEWEST_SYMBOLS, FEWEST_STEPS = 32, 3, 4
MASKED = 0.3
"""Share of ignored targets from which only chosen positions are predicted, as in masked language models."""
MOSTLY = 0.5
"""Share of padding among the targets from which learning it is most of what is learnt."""
SHOWN = "each row of logits was computed from that very token"
UNMASKED = "only some positions are predicted, and their tokens are still in the input: they were to be masked"
PASSED_ON = "the model sees every token, and passes each on to its own row of logits"
REACHES = (-1, 0, 1, 2, 3)
LOCAL = 10.0
"""How many times more a row of logits moves with its own token than the others do, in a model that passes it straight on; in
one that squeezes the sequence through a vector all rows move alike."""


@dataclass(frozen=True)
class Sequences:
    """Tokens (samples, steps) and the targets of one call (samples, rows), time last."""

    index: int
    """Which of the lookups of embeddings."""
    call: int
    tokens: torch.Tensor
    targets: torch.Tensor
    time_first: bool
    ignore: int
    more: tuple[Sequences, ...] = ()
    """The same of further batches."""

    @property
    def place(self) -> tuple[int, int, bool]:
        """What the sequences of another batch have in common with these."""
        return self.index, self.call, self.time_first

    @property
    def is_masked(self) -> bool:
        """Whether only chosen positions are predicted."""
        ignored = self.targets == self.ignore
        # What is ignored at the end is padding.
        return float(ignored.float().mean() - _tail(self.targets, self.ignore).sum() / ignored.numel()) > MASKED

    def counted(self) -> torch.Tensor:
        """The targets that are not ignored, in all batches."""
        return torch.cat([s.targets[s.targets != s.ignore] for s in (self, *self.more)])

    def same(self, distance: int) -> tuple[float, int]:
        """(share of targets that equal the token `distance` after their row, how many were compared), in all batches."""
        found = [s._same(distance) for s in (self, *self.more)]
        compared = sum(count for _, count in found)
        return sum(equal for equal, _ in found) / max(compared, 1), compared

    def _same(self, distance: int) -> tuple[int, int]:
        rows, steps = self.targets.shape[1], self.tokens.shape[1]
        first, last = max(0, -distance), min(rows, steps - distance)
        if last <= first:
            return 0, 0
        targets, tokens = self.targets[:, first:last], self.tokens[:, first + distance : last + distance]
        counts = targets != self.ignore
        return int((targets == tokens)[counts].sum()), int(counts.sum())


def faults(session: Session, passes: list[Pass], seed: int) -> Iterator[Fault]:
    """Targets that a language model is shown, or that lie too far ahead, in all of these passes. At most one fault."""
    seen, further = passes[0], [s for one in passes[1:] for s in _sequences(one)]
    known: list[tuple[Sequences, int, _Sight]] = []
    for alone in _sequences(seen):
        sequences = replace(alone, more=tuple(s for s in further if s.place == alone.place))
        best = max(REACHES, key=lambda distance: sequences.same(distance)[0])
        if _tells(sequences) and sequences.same(best)[0] >= SAME:
            sight = _sight(session, seen, sequences, seed)
            known += [(sequences, best, sight)] if sight is not None else []
    # Along the batch every sample has its own row. So it is with time only in a model that mixes no steps at all.
    mixing = {(s.index, s.call) for s, _, sight in known if not sight.alone}
    for sequences, distance, sight in known:
        if sight.alone and ((sequences.index, sequences.call) in mixing or distance):
            continue
        if sequences.same(sight.ahead + 1)[0] >= NOT_SAME:
            continue
        share, compared = sequences.same(distance)
        facts: dict[str, Any] = {"share": share, "compared": compared}
        place, ahead = seen.calls[sequences.call].place, distance - sight.ahead
        others = any(s.index == sequences.index and s.call != sequences.call for s, _, _ in known)
        if sight.causal and ahead == 0:
            yield Fault("unshifted-targets", place, {**facts, "why": SHOWN})
            return
        if sight.causal and ahead == 2 and not others:
            yield Fault("targets-shifted-twice", place, facts)
            return
        if not sight.causal and distance == 0 and sight.local:
            if sequences.is_masked:
                yield Fault("unshifted-targets", place, {**facts, "why": UNMASKED})
            else:
                yield Fault("unshifted-targets", place, {**facts, "why": PASSED_ON}, "warn")
            return


def padding(seen: Pass) -> Iterator[Fault]:
    """Targets of which most are padding that is not ignored. At most one fault."""
    for sequences in _sequences(seen):
        call = seen.calls[sequences.call]
        if call.reduction == "none" or sequences.targets.shape[0] < 2:
            continue
        pad = int(sequences.targets.flatten().mode().values)
        weight = call.options.get("weight")
        if pad == sequences.ignore or (isinstance(weight, torch.Tensor) and not float(weight[pad])):
            continue
        lengths = _tail(sequences.targets, pad)
        token_tails = _tail(sequences.tokens, int(sequences.tokens[:, -1].mode().values))
        share = float(lengths.sum()) / sequences.targets.numel()
        # Padding ends the tokens as well, wherever it ends the targets, up to a shift by one.
        if share > MOSTLY and len(lengths.unique()) > 1 and bool(((lengths - token_tails).abs() <= 1).all()):
            yield Fault("padding-in-loss", call.place, {"share": share, "pad": pad, "loss": call.name})
            return


def _tail(rows: torch.Tensor, value: int) -> torch.Tensor:
    """How many elements at the end of each row are `value`."""
    return (rows.flip(1) == value).long().cumprod(1).sum(1)


def _tells(sequences: Sequences) -> bool:
    counted = sequences.counted()
    return counted.numel() >= FEWEST_TARGETS and (len(counted.unique()) >= FEWEST_SYMBOLS or sequences.is_masked)


def _sequences(seen: Pass) -> list[Sequences]:
    """Every way in which the targets of a call can lie beside tokens that were embedded."""
    found = []
    for number, call in enumerate(seen.calls):
        if not call.has_indices or call.target is None:
            continue
        for index, tokens in enumerate(seen.token_ids):
            for time_first in (False, True):
                shaped = _beside(call, tokens, time_first)
                if shaped is not None:
                    found.append(Sequences(index, number, *shaped, time_first, call.ignore_index))
    return found


def _beside(call: LossCall, tokens: torch.Tensor, time_first: bool) -> tuple[torch.Tensor, torch.Tensor] | None:
    assert call.target is not None
    target = call.target.detach()
    tokens = tokens.detach().t() if time_first else tokens.detach()
    samples, steps = tokens.shape
    if steps < FEWEST_STEPS or target.numel() % samples or call.input.dim() not in {2, 3}:
        return None
    rows = target.numel() // samples
    if not steps - 3 <= rows <= steps + 1:
        return None
    if target.dim() == 2 and target.shape != ((rows, samples) if time_first else (samples, rows)):
        return None
    shaped = target.reshape(rows, samples).t() if time_first else target.reshape(samples, rows)
    return tokens, shaped


@dataclass(frozen=True)
class _Sight:
    ahead: int
    """How far beyond its own number the last token lies that a row sees."""
    causal: bool
    local: bool
    alone: bool
    """Whether no other row sees the token."""


def _sight(session: Session, seen: Pass, sequences: Sequences, seed: int) -> _Sight | None:
    """What the rows of logits see, by changing a token in the middle; None if nothing moves or it cannot be tried."""
    place = sequences.tokens.shape[1] // 2
    one, other = _two_symbols(sequences.tokens)

    def change(tokens: torch.Tensor) -> torch.Tensor:
        changed = tokens.clone()
        column = changed[place] if sequences.time_first else changed[:, place]
        column.copy_(torch.where(column == one, other, one))
        return changed

    with undisturbed(session.model), torch.no_grad():
        session.model.eval()
        before = _logits(session, seen, sequences, seed, lambda tokens: tokens)
        after = _logits(session, seen, sequences, seed, change)
    if before is None or after is None or before.shape != after.shape:
        return None
    moved = (after - before).abs().amax(-1).amax(0)
    size = float(moved.max())
    if not size > 0:
        return None
    # What is summed in another order is not what is seen.
    columns = (moved > 1e-5 * size).nonzero().flatten().tolist()
    first = columns[0]
    own = float(moved[place]) if place < len(moved) else 0.0
    rest = torch.cat([moved[:place], moved[place + 1 :]])
    local = own > LOCAL * float(rest.median())
    return _Sight(place - first, first > 0 and abs(place - first) <= 2, local, len(columns) == 1)


def _two_symbols(tokens: torch.Tensor) -> tuple[int, int]:
    symbols = tokens.unique()
    return int(symbols[-1]), int(symbols[-2] if len(symbols) > 1 else symbols[-1])


def _logits(session: Session, seen: Pass, sequences: Sequences, seed: int, change: Any) -> torch.Tensor | None:
    """(samples, rows, classes) that the call is given when the tokens go through `change`."""
    lookups = -1

    def before(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal lookups
        if name != "embedding" or not args or not isinstance(args[0], torch.Tensor) or args[0].dim() != 2:
            return args
        lookups += 1
        return (change(args[0]), *args[1:]) if lookups == sequences.index else args

    watch = LossWatch(session.model, before)
    try:
        with kept_rng(seed), watch.watching():
            session.loss(seen.batch)
    except UserCodeError:
        return None
    names = [call.name for call in seen.calls if call.has_indices]
    calls = [call for call in watch.calls if call.has_indices and call.result is not None]
    number = sum(call.has_indices for call in seen.calls[: sequences.call])
    if [call.name for call in calls] != names:
        return None
    logits = calls[number].input.detach().float()
    samples, rows = sequences.targets.shape
    if logits.dim() == 3:
        logits = logits.movedim(1, -1)
    elif sequences.time_first:
        return logits.reshape(rows, samples, -1).transpose(0, 1)
    return logits.reshape(samples, rows, -1)
