"""Each rule of clean-split fires on its fault and on nothing that is near to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from stabcheck.check import Outcome, Skip
from stabcheck.experiments.clean_split import CHECK
from stabcheck.report import plain
from stabcheck.trial.bench import Bench
from stabcheck.userland import UserCodeError
from tests.experiments.split_cases import (
    HONEST,
    RANDOM,
    SENTENCES,
    Listed,
    halved,
    images,
    leak,
    loaders,
    setup,
    table,
    windows,
)

MakeBench = Callable[..., Bench]


def check(make_bench: MakeBench, entry: Callable[[], dict[str, Any]], **options: Any) -> Outcome:
    outcome = CHECK.run(make_bench(entry, **options))
    json.dumps(plain([finding.evidence for finding in outcome.findings]), allow_nan=False)
    return outcome


def found(outcome: Outcome) -> dict[str, str]:
    return {finding.code: finding.severity for finding in outcome.findings}


# --- silence


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_split_is_clean(make_bench: MakeBench, kind: str, seed: int) -> None:
    outcome = check(make_bench, setup(HONEST[kind](np.random.default_rng(seed))))
    assert found(outcome) == {}
    assert "no more in common than chance" in outcome.summary


# --- SC0302: equal samples


def narrow(rng: np.random.Generator, digits: int | None) -> tuple[Any, Any]:
    """Three categories and one measurement: a half of a row is shared by chance."""
    categories = np.stack([rng.integers(0, k, 1200) for k in (3, 4, 2)], axis=1)
    measured = rng.normal(size=(1200, 1))
    rows = np.concatenate([categories, measured if digits is None else measured.round(digits)], axis=1)
    return rows.astype(np.float32), rng.integers(0, 2, 1200)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("digits", [None, 1])
def test_oversampled_rows_of_a_narrow_table_fail(make_bench: MakeBench, digits: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs, labels = narrow(rng, digits)
    rare = np.flatnonzero(labels)
    rows = np.concatenate([np.arange(len(labels)), rare, rare]) if digits is None else np.arange(len(labels))
    outcome = check(make_bench, setup(halved(inputs[rows], labels[rows], rng)))
    assert found(outcome) == ({"SC0302": "fail"} if digits is None else {})


@pytest.mark.parametrize("share", [0.03, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("kind", ["images", "table", "sentences", "tokens", "sums"])
def test_copies_are_found_and_counted(make_bench: MakeBench, kind: str, share: float) -> None:
    rng = np.random.default_rng(1)
    sides = leak(halved(*RANDOM[kind](rng), rng), share, rng)
    [finding] = check(make_bench, setup(sides)).findings
    train = {repr(row if isinstance(row, str) else row.tolist()) for row in sides[0]}
    equal = sum(repr(row if isinstance(row, str) else row.tolist()) in train for row in sides[2])
    assert finding.code == "SC0302"
    assert finding.severity == "fail"
    assert 0 < equal - finding.evidence["count"] <= 0.06 * len(sides[2]) or finding.evidence["count"] == equal
    for index, other in [pair[:2] for pair in finding.evidence["pairs"]]:
        assert np.array_equal(sides[0][index], sides[2][other])


def test_pairs_are_kept_as_they_look(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(1)
    sides = leak(halved(*images(rng), rng), 0.2, rng)
    outcome = check(make_bench, setup(sides))

    shown = outcome.measurements["pairs"]

    assert [[one["train"]["index"], one["val"]["index"]] for one in shown] == outcome.findings[0].evidence["pairs"][:4]
    for one in shown:
        assert one["code"] == "SC0302"
        assert one["train"]["looks"]["image"] == one["val"]["looks"]["image"]
    json.dumps(plain(outcome.measurements), allow_nan=False)


@pytest.mark.parametrize("kind", ["answers", "categories", "flowers"])
def test_where_samples_are_equal_by_chance_only_the_excess_counts(make_bench: MakeBench, kind: str) -> None:
    rng = np.random.default_rng(0)
    honest = halved(*RANDOM[kind](rng), rng)
    clean = check(make_bench, setup(honest))
    leaked = check(make_bench, setup(leak(honest, 0.6, rng)))
    assert found(clean) == {}
    assert found(leaked) == {"SC0302": "fail"}
    assert leaked.findings[0].evidence["count"] > 1.3 * leaked.findings[0].evidence["expected"]


def test_what_cannot_be_told_from_chance_is_said(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (2000, 6)).astype(np.float32)
    outcome = check(make_bench, setup(halved(bits, bits.sum(axis=1) % 2, rng)))
    assert found(outcome) == {}
    assert any("equal anyway" in item.what for item in outcome.not_checked)


@pytest.mark.parametrize("times", [1, 6])
def test_oversampling_before_the_split(make_bench: MakeBench, times: int) -> None:
    rng = np.random.default_rng(times)
    inputs, labels = table(rng)
    rows = np.concatenate([np.arange(len(inputs)), rng.choice(60, 60 * times)])
    [finding] = check(make_bench, setup(halved(inputs[rows], labels[rows], rng))).findings
    assert (finding.code, finding.severity) == ("SC0302", "fail")
    assert "before the split" in finding.message


def test_one_pair_is_no_leak(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(0)
    inputs, labels, val_inputs, val_labels = halved(*table(rng), rng)
    val_inputs[3] = inputs[5]
    outcome = check(make_bench, setup((inputs, labels, val_inputs, val_labels)))
    assert found(outcome) == {}
    assert outcome.measurements["copies_share"] == pytest.approx(1 / len(val_inputs))


class Renamed(Dataset[Any]):
    """Samples with a number and a file name that are new on each side."""

    def __init__(self, rows: torch.Tensor, side: str) -> None:
        self.rows, self.side = rows, side

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return {"idx": index, "file": f"{self.side}/{index}.png", "image": self.rows[index], "labels": 0}


def forms(rows: torch.Tensor, side: str) -> dict[str, Any]:
    labels = torch.zeros(len(rows), dtype=torch.long)
    pairs = [(row, 0) for row in rows]

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(pairs)

    return {
        "tensors": DataLoader(TensorDataset(rows, labels), batch_size=8, shuffle=True),
        "doubles in another shape": DataLoader(TensorDataset(rows.double().flatten(1), labels), batch_size=8),
        "items": DataLoader(Listed(rows, labels), batch_size=8),
        "batches": [(part, labels[: len(part)]) for part in rows.split(7)],
        "stream": DataLoader(Stream(), batch_size=8),
    }


@pytest.mark.parametrize("train_form", ["tensors", "items", "batches"])
@pytest.mark.parametrize("val_form", ["tensors", "doubles in another shape", "items", "batches", "stream"])
def test_copies_are_found_whatever_the_loaders_are(make_bench: MakeBench, train_form: str, val_form: str) -> None:
    rows = torch.as_tensor(images(np.random.default_rng(0))[0])
    dirty = torch.cat([rows[450:], rows[[4, 7, 9, 44, 45, 46, 47, 48]]])
    for val, expected in ((rows[450:], {}), (dirty, {"SC0302": "fail"})):
        outcome = check(make_bench, loaders(forms(rows[:450], "a")[train_form], forms(val, "b")[val_form]))
        assert found(outcome) == expected


def test_running_numbers_and_names_do_not_hide_copies(make_bench: MakeBench) -> None:
    rows = torch.as_tensor(images(np.random.default_rng(0))[0])
    dirty = torch.cat([rows[450:], rows[40:52]])
    train, clean, leaked = (
        DataLoader(Renamed(r, s), batch_size=9) for r, s in ((rows[:450], "a"), (rows[450:], "b"), (dirty, "b"))
    )
    assert found(check(make_bench, loaders(train, clean, loss_fn=None))) == {}
    assert found(check(make_bench, loaders(train, leaked, loss_fn=None))) == {"SC0302": "fail"}


class Augmented(Dataset[Any]):
    def __init__(self, held: Any, augment: bool) -> None:
        self.held, self.augment = held, augment

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> Any:
        image, label = self.held[index]
        if self.augment:
            image = image.flip(-1) if torch.rand(()) < 0.5 else image
            image = image.roll(int(torch.randint(-2, 3, ())), 1) + image.std() * torch.randn_like(image)
        return image, label


@pytest.mark.parametrize("leaked", [0, 10])
def test_training_augmentation_does_not_hide_copies(make_bench: MakeBench, leaked: int) -> None:
    inputs, labels = images(np.random.default_rng(0))
    data = TensorDataset(torch.as_tensor(inputs), torch.as_tensor(labels))
    train = Augmented(Subset(data, range(450)), augment=True)
    val = Augmented(Subset(TensorDataset(*data.tensors), [*range(450, 600), *range(leaked)]), augment=False)
    outcome = check(make_bench, loaders(DataLoader(train, batch_size=16), DataLoader(val, batch_size=16)))
    assert found(outcome) == ({"SC0302": "fail"} if leaked else {})
    assert not any("augmentation" in item.what for item in outcome.not_checked)


def test_augmentation_that_cannot_be_looked_through_is_said(make_bench: MakeBench) -> None:
    inputs, labels = images(np.random.default_rng(0))

    class Closed(Dataset[Any]):
        def __len__(self) -> int:
            return 300

        def __getitem__(self, index: int) -> Any:
            return torch.as_tensor(inputs[index]) + torch.randn(1, 12, 12), int(labels[index])

    val = DataLoader(TensorDataset(torch.as_tensor(inputs[450:]), torch.as_tensor(labels[450:])), batch_size=16)
    outcome = check(make_bench, loaders(DataLoader(Closed(), batch_size=16), val))
    assert found(outcome) == {}
    assert any("augmentation" in item.what and "sample_key" in item.why for item in outcome.not_checked)


# --- SC0301: shared rows


def test_rows_drawn_by_both_loaders(make_bench: MakeBench) -> None:
    data = TensorDataset(torch.randn(400, 5), torch.arange(400) % 2)
    train = DataLoader(Subset(data, range(300)), batch_size=8)
    val = DataLoader(ConcatDataset([Subset(data, range(300, 380)), Subset(data, range(290, 300))]), batch_size=8)
    [finding] = check(make_bench, loaders(train, val)).findings
    assert (finding.code, finding.severity) == ("SC0301", "fail")
    assert (finding.evidence["count"], finding.evidence["of"]) == (10, 90)
    assert found(check(make_bench, loaders(train, DataLoader(Subset(data, range(300, 400)), batch_size=8)))) == {}


def test_one_loader_for_both(make_bench: MakeBench) -> None:
    loader = DataLoader(TensorDataset(torch.randn(64, 5), torch.arange(64) % 2), batch_size=8)
    [finding] = check(make_bench, loaders(loader, loader)).findings
    assert (finding.code, finding.evidence["share"]) == ("SC0301", 1.0)


def test_one_shared_row_of_many_is_a_warning(make_bench: MakeBench) -> None:
    data = TensorDataset(torch.randn(600, 5), torch.arange(600) % 2)
    train, val = (DataLoader(Subset(data, rows), batch_size=8) for rows in (range(301), range(300, 600)))
    assert found(check(make_bench, loaders(train, val))) == {"SC0301": "warn"}


def test_a_dataset_that_makes_its_samples_up_shares_no_rows(make_bench: MakeBench) -> None:
    class MadeUp(Dataset[Any]):
        def __len__(self) -> int:
            return 300

        def __getitem__(self, index: int) -> Any:
            values = torch.randn(10)
            return values, int(values.sum() > 0)

    data = MadeUp()
    outcome = check(make_bench, loaders(DataLoader(data, batch_size=8), DataLoader(data, batch_size=8)))
    assert found(outcome) == {}
    assert any("made up anew" in item.why for item in outcome.not_checked)


# --- SC0303: windows


@pytest.mark.parametrize("stride", [1, 8, 20])
@pytest.mark.parametrize("axes", ["tc", "ct", "t"])
def test_overlapping_windows_split_at_random(make_bench: MakeBench, stride: int, axes: str) -> None:
    rng = np.random.default_rng(stride)
    series = rng.normal(size=3000).cumsum().astype(np.float32)
    rows = np.stack([series[i : i + 40] for i in range(0, 2950, stride)])
    shaped = {"tc": rows[:, :, None], "ct": rows[:, None], "t": rows}[axes]
    [finding] = check(make_bench, setup(halved(shaped, rng.integers(0, 2, len(rows)), rng))).findings
    assert (finding.code, finding.severity) == ("SC0303", "fail")


def test_windows_at_random_starts_are_one_finding_with_their_copies(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(0)
    text = rng.choice(27, 24000, p=np.arange(27) / 351)
    rows = np.stack([text[i : i + 32] for i in 4 * rng.integers(0, 5900, 1400)])
    assert found(check(make_bench, setup(halved(rows, rows, rng)))) == {"SC0303": "fail"}


@pytest.mark.parametrize("seed", range(3))
def test_recurring_passages_are_told_from_windows_that_hardly_cover_the_text(make_bench: MakeBench, seed: int) -> None:
    """As source code and licences: in both sets a third or more of the validation windows share half with training."""
    rng = np.random.default_rng(seed)
    recurring = rng.integers(0, 90, (12, 130))
    parts = [recurring[rng.integers(12)] if rng.random() < 0.45 else rng.integers(0, 90, 130) for _ in range(300)]
    text = np.concatenate([part[rng.integers(30) :] for part in parts])
    unlike = rng.integers(0, 90, len(text))
    blocks = text[: len(text) // 32 * 32].reshape(-1, 32)
    starts = rng.integers(0, len(text) - 32, len(blocks))
    sparse = np.stack([unlike[start : start + 32] for start in starts])
    for rows, is_leak in ((blocks, False), (sparse, True)):
        cut = len(rows) * 4 // 5
        outcome = check(make_bench, setup((rows[:cut], rows[:cut], rows[cut:], rows[cut:])))
        assert min(outcome.measurements[f"windows_{end}_in_training"] for end in ("beginning", "ending")) > 0.2
        # Blocks that happen to be equal are another matter.
        assert ("SC0303" in found(outcome)) == is_leak


def test_windows_copied_across_a_gap_are_copies(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(0)
    assert found(check(make_bench, setup(leak(windows(rng, gap=20), 0.1, rng)))) == {"SC0302": "fail"}


# --- SC0304: near-copies

VERSIONS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "noise": ("images", lambda x: x + 0.01 * x.std() * np.random.default_rng(0).normal(size=x.shape)),
    "contrast": ("images", lambda x: 1.4 * x + 2),
    "mirrored": ("images", lambda x: x[..., ::-1]),
    "noise in the table": (
        "table",
        lambda x: x * (1 + 0.003 * np.random.default_rng(0).normal(size=x.shape)),
    ),
    "upper case": ("sentences", str.upper),
    "spaces": ("sentences", lambda text: "  " + text.replace(" ", "  ")),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_versions_of_training_samples(make_bench: MakeBench, version: str, share: float) -> None:
    kind, change = VERSIONS[version]
    rng = np.random.default_rng(2)
    outcome = check(make_bench, setup(leak(halved(*RANDOM[kind](rng), rng), share, rng, change)))
    assert found(outcome) == {"SC0304": "fail"}
    evidence = outcome.findings[0].evidence
    within = evidence["within"]
    assert evidence["share"] - within == pytest.approx(share * (1 - within), abs=0.06)
    assert len(evidence["pairs"][0]) == 3


@pytest.mark.parametrize("copies", [2, 4])
def test_augmentation_before_the_split(make_bench: MakeBench, copies: int) -> None:
    rng = np.random.default_rng(copies)
    inputs, labels = images(rng, 300)
    noisy = [inputs + 0.03 * inputs.std() * rng.normal(size=inputs.shape).astype(np.float32) for _ in range(copies)]
    sides = halved(np.concatenate(noisy), np.concatenate([labels] * copies), rng)
    assert found(check(make_bench, setup(sides))) == {"SC0304": "fail"}


def test_the_same_augmentation_of_training_alone_is_clean(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(2)
    inputs, labels, *val = halved(*images(rng), rng)
    noisy = inputs + 0.03 * inputs.std() * rng.normal(size=inputs.shape).astype(np.float32)
    sides = (np.concatenate([inputs, noisy]), np.concatenate([labels, labels]), *val)
    assert found(check(make_bench, setup(sides))) == {}


# --- SC0305 and SC0306: the user's keys


class People(Dataset[Any]):
    def __init__(self, people: Any, seed: int) -> None:
        self.people = list(people)
        self.signals = torch.randn(len(self.people), 20, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Any:
        return self.signals[index], index % 2, torch.tensor(self.people[index])


def people(train: Any, val: Any, **keys: Any) -> Callable[[], dict[str, Any]]:
    sides = [DataLoader(People(who, seed), batch_size=10) for seed, who in enumerate((train, val))]
    return loaders(*sides, loss_fn=None, **keys)


def test_groups_on_both_sides(make_bench: MakeBench) -> None:
    def person(sample: Any) -> Any:
        return sample[2]

    clean = people(np.arange(100) // 5, 100 + np.arange(50) // 5, group_key=person)
    outcome = check(make_bench, clean)
    assert found(outcome) == {}
    assert not any("group_key" in item.why for item in outcome.not_checked)
    mixed = people(np.arange(100) // 5, 18 + np.arange(50) // 5, group_key=person)
    [finding] = check(make_bench, mixed).findings
    assert (finding.code, finding.severity) == ("SC0305", "fail")
    assert (finding.evidence["groups"], finding.evidence["of_groups"], finding.evidence["count"]) == (2, 10, 10)
    assert "18, 19" in finding.message


def test_keys_on_both_sides(make_bench: MakeBench) -> None:
    def name(sample: Any) -> Any:
        return {"person": sample[2]}

    assert found(check(make_bench, people(range(100), range(100, 150), sample_key=name))) == {}
    [finding] = check(make_bench, people(range(100), range(96, 150), sample_key=name)).findings
    assert (finding.code, finding.evidence["count"]) == ("SC0306", 4)


def test_copies_with_their_group_are_one_finding(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(0)
    sides = leak(halved(*table(rng), rng), 0.1, rng)
    outcome = check(make_bench, setup(sides, group_key=lambda sample: sample[0].tolist()))
    assert found(outcome) == {"SC0302": "fail"}


def test_a_key_function_that_raises_is_blamed_on_the_user(make_bench: MakeBench) -> None:
    with pytest.raises(UserCodeError, match="group_key: KeyError"):
        check(make_bench, people(range(100), range(100, 150), group_key=lambda sample: {}["person"]))


# --- SC0307: conflicting labels


def test_one_input_with_two_labels(make_bench: MakeBench) -> None:
    rng = np.random.default_rng(0)
    inputs, labels, *val = halved(*images(rng), rng)
    inked = np.flatnonzero(inputs.reshape(len(inputs), -1).std(axis=1) > 0)[:25]
    sides = (np.concatenate([inputs, inputs[inked]]), np.concatenate([labels, (labels[inked] + 1) % 10]), *val)
    [finding] = check(make_bench, setup(sides)).findings
    assert (finding.code, finding.severity) == ("SC0307", "warn")
    assert finding.evidence["count"] == 50
    same = (np.concatenate([inputs, inputs[inked]]), np.concatenate([labels, labels[inked]]), *val)
    assert found(check(make_bench, setup(same))) == {}


# --- what is not compared


def test_no_val_loader(make_bench: MakeBench) -> None:
    with pytest.raises(Skip, match="add 'val_loader'"):
        check(make_bench, loaders([(torch.ones(4, 2), torch.zeros(4))], None))


def test_empty_validation(make_bench: MakeBench) -> None:
    with pytest.raises(Skip, match="val_loader yields no sample"):
        check(make_bench, loaders([(torch.ones(4, 2), torch.zeros(4))], []))


def test_what_does_not_fit_the_budget_is_said(make_bench: MakeBench) -> None:
    class Slow(Listed):
        def __getitem__(self, index: int) -> Any:
            time.sleep(0.002)
            return super().__getitem__(index)

    rows = torch.randn(3000, 4)
    sides = [DataLoader(Slow(part, [0] * len(part)), batch_size=8) for part in (rows[:2000], rows[2000:])]
    outcome = check(make_bench, loaders(*sides), deadline=time.monotonic() + 3)
    assert outcome.measurements["compared_train"] < 2000
    assert any("of the 2,000 samples of train_loader" in item.what for item in outcome.not_checked)


def test_the_generators_are_left_as_they_were(make_bench: MakeBench) -> None:
    bench = make_bench(setup(HONEST["images"](np.random.default_rng(0))))
    bench.shared()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    CHECK.run(bench)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # type: ignore[union-attr]


def test_every_sentence_is_its_own() -> None:
    """The texts above must not be near-copies of each other for the tests to mean anything."""
    assert len({text.casefold() for text in SENTENCES}) == len(SENTENCES)


def graph(train: torch.Tensor, val: torch.Tensor) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    data = {"x": torch.randn(200, 5, generator=generator), "y": torch.randint(0, 3, (200,), generator=generator)}
    return loaders([{**data, "mask": train}], [{**data, "mask": val}], loss_fn=None)


@pytest.mark.parametrize("as_mask", [False, True])
@pytest.mark.parametrize("shared", [0, 30])
def test_one_graph_for_both_sides_is_judged_by_its_masks(make_bench: MakeBench, as_mask: bool, shared: int) -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    train, val = order[:120], order[120 - shared : 180]
    if as_mask:
        train, val = (torch.zeros(200, dtype=torch.bool).index_fill(0, rows, True) for rows in (train, val))
    outcome = check(make_bench, graph(train, val))
    assert found(outcome) == ({"SC0301": "fail"} if shared else {})
    assert (
        outcome.measurements["shared"]
        == shared
        == len(set(order[:120].tolist()) & set(order[120 - shared : 180].tolist()))
    )
