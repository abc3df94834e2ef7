"""The HTML report, read by a strict parser; its pictures by plotly."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import math
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

import html5lib
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from stabcheck.catalog import CATALOG as REAL
from stabcheck.check import Check
from stabcheck.console import to_bytes
from stabcheck.diagnoses import gradient_norms, vanishing_gradients
from stabcheck.renderers.html import library, render
from stabcheck.renderers.html.pairs import png
from stabcheck.report import CheckError, CheckResult, FindingResult, Report, SourceLine, SuppressionResult, plain
from tests.diagnoses.recordings import parameter, recording, steps
from tests.renderers.report_samples import CATALOG, broken, failing, hostile, passing, report_of, result

BASE = "/home/ada/project"
ATTACK = "</script></style></title><img src=x onerror=alert(1)>\"'&<b>%{x}"


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would only slow the parser down; a test of its own looks at it."""
    monkeypatch.setattr("stabcheck.renderers.html.page.packed", lambda: "")


def measured() -> Report:
    """Every picture, from measurements as the checks make them."""
    trial = recording(parameters=(parameter("0.weight"), parameter("<b>2</b>.weight"), parameter("2.bias", shape=(4,))))
    checks = {
        "gradient-norms": gradient_norms.CHECK.run(trial).measurements,
        "vanishing-gradients": vanishing_gradients.CHECK.run(trial).measurements,
        "dying-relu": {
            "layers": [
                {"module": "1", "dead": 0.5, "dead_at_start": 0.25},
                {"module": "1", "dead": 0.0, "dead_at_start": 0.0},
            ]
        },
        "clean-split": {
            "pairs": [pair({"image": IMAGE}), pair({"text": ATTACK}), pair({"numbers": [1.5, "NaN"]}), pair(None)]
        },
    }
    made = [result(name, "s", measurements=plain(values)) for name, values in checks.items()]
    return report_of(*failing().checks[:1], failing().checks[4], *made)


def pair(looks: Any) -> dict[str, Any]:
    return {"code": "SC0304", "train": {"index": 3, "looks": looks}, "val": {"index": 17, "looks": looks}}


IMAGE = {
    "width": 3,
    "height": 2,
    "channels": 1,
    "pixels": base64.b64encode(bytes([0, 50, 100, 150, 200, 250])).decode(),
}
REPORTS: dict[str, Callable[[], Report]] = {
    "passing": passing, "failing": failing, "broken": broken, "hostile": hostile, "measured": measured,
    "empty": lambda: report_of(),
}  # fmt: skip
every_report = pytest.mark.parametrize("report", [make() for make in REPORTS.values()], ids=REPORTS.keys())


def page(report: Report, catalog: tuple[Check, ...] = CATALOG) -> Element:
    """Parsed as a browser would, but no error is forgiven."""
    text = render(report, catalog=catalog, base=BASE)
    assert text.startswith("<!DOCTYPE html>")
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(to_bytes(text).decode())


def said(element: Element | None) -> str:
    assert element is not None
    return " ".join(" ".join(element.itertext()).split())


def drawn(report: Report) -> dict[str, dict[str, Any]]:
    """Title -> what plotly draws."""
    found = {}
    for figure in page(report).iter("figure"):
        script = figure.find("script")
        if script is not None:
            found[said(figure.find("h3"))] = json.loads(script.text or "")
    return found


# --- the document


@every_report
def test_the_page_is_valid_and_loads_nothing(report: Report) -> None:
    html = page(report)

    assert html.get("lang") == "en"
    ids = Counter(element.get("id") for element in html.iter() if element.get("id"))
    assert set(ids.values()) <= {1}
    for element in html.iter():
        assert "href" not in element.attrib
        assert not [name for name in element.attrib if name.startswith("on")]
        if source := element.get("src"):
            assert source.startswith("data:image/png;base64,")
            assert element.get("alt")
    policy = next(e.get("content") for e in html.iter("meta") if e.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")


@every_report
def test_headings_go_down_by_one_level_and_the_verdict_is_first(report: Report) -> None:
    levels = [int(element.tag[1]) for element in page(report).iter() if re.fullmatch(r"h[1-6]", str(element.tag))]

    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@every_report
def test_every_picture_has_words_and_numbers(report: Report) -> None:
    for figure in page(report).iter("figure"):
        assert said(figure.find("figcaption"))
        if figure.find("script") is not None:
            (plot,) = (e for e in figure.iter("div") if e.get("class") == "plot")
            assert plot.get("role") == "img"
            assert said(figure.find("figcaption")) in plot.get("aria-label", "")
            rows = list(figure.iter("tr"))
            assert len(rows) >= 2
            assert len({len(list(row)) for row in rows}) == 1


@every_report
def test_the_checklist_has_a_row_for_each_check(report: Report) -> None:
    rows = [row for row in page(report).iter("tr") if row.get("class") and row.find("th") is not None]

    assert [(said(row[0]).lower(), row[0][0].get("class")) for row in rows] == [
        (check.status, f"status {check.status}") for check in report.checks
    ]
    assert len(rows) == len(report.checks)


def test_the_page_says_what_a_person_needs() -> None:
    html = page(failing())
    text = said(html.find("body"))

    assert "Do not start this run: 2 checks failed" in said(next(html.iter("h1")))
    assert "Where: encoder.layers.0 models/encoder.py:42" in text
    assert "Add residual connections" in text
    assert "Layers whose gradient is ten thousand times smaller" in text
    (followers,) = (e for e in html.iter("details") if e.get("class") == "followers")
    assert "SC0901 dying-relu at encoder.layers.1.act : 61 of 64 units never fired" in said(followers)
    assert text.index("SC0701 vanishing-gradients") < text.index("SC0301")
    assert "no group_key given" in text


def test_what_broke_and_what_is_suppressed_is_there() -> None:
    assert "val_loader : KeyError: 'label'" in said(page(broken()).find("body"))
    assert "step_11\n    call()" in "".join(e.text or "" for e in page(broken()).iter("pre"))

    old = FindingResult(
        code="SC0701", severity="fail", message="m", fix="f", location="a.b", suppressed="known since May"
    )
    gone = SuppressionResult(code="SC0901", location=None, reason="r", until="2020-01-01", state="expired", findings=0)
    report = report_of(result("vanishing-gradients", "s", old)).model_copy(update={"suppressions": (gone,)})
    text = said(page(report).find("body"))
    assert "SC0701 vanishing-gradients at a.b known since May" in text
    assert "ran out on 2020-01-01" in text


def test_more_places_of_one_rule_are_folded() -> None:
    found = [
        FindingResult(code="SC0701", severity="fail", message=f"at {i}", fix="f", location=str(i)) for i in range(7)
    ]

    (details,) = page(report_of(result("vanishing-gradients", "s", *found))).iter("details")

    assert said(details).startswith("4 more places at 3 Where: 3 of the model")


# --- strange text


def everywhere(text: str) -> Report:
    """`text` in every place of a report that holds a user's text."""
    finding = FindingResult(
        code="SC0701", severity="fail", message=text, location=text, fix=text, evidence={text: {text: [text]}},
        source=SourceLine(file=text, line=1),
    )  # fmt: skip
    under = finding.model_copy(update={"code": "SC0901", "follows_from": "SC0701"})
    measurements = {
        "gradient-norms": {
            "steps": [0, 1], "total": [1, 2], "by_layer": {"steps": [0, 1], "layers": [text], "norms": [[1, 2]]},
            "updates": {"layers": [text], "median": [1], "largest": [2]}, "trial": {"steps": [text], "losses": [1]},
        },
        "one-batch-overfit": {"curves": {text: [1, 2]}},
        "dying-relu": {"layers": [{"module": text, "dead": 1, "dead_at_start": 0}]},
        "clean-split": {"pairs": [{"code": text, "train": {"index": text, "looks": {"text": text}}}]},
    }  # fmt: skip
    error = CheckError(blame="target", stage=text, message=text, traceback=text)
    return report_of(
        result("vanishing-gradients", text, finding), result("eval-mode", text, under), result(text, error=error),
        result(text, skip_reason=text), *(result(id, text, measurements=m) for id, m in measurements.items()), target=text,
    )  # fmt: skip


def test_no_text_of_the_users_is_markup() -> None:
    plain_page, attacked = page(everywhere("harmless")), page(everywhere(ATTACK))

    def shape(html: Element) -> list[tuple[str, tuple[str, ...]]]:
        return [(str(e.tag), tuple(sorted(e.attrib))) for e in html.iter()]

    assert shape(attacked) == shape(plain_page)
    shown = said(attacked.find("body"))
    assert shown.count("<img src=x onerror=alert(1)>") >= 20
    assert ATTACK in said(next(attacked.iter("h1")))


def test_no_name_of_the_users_is_markup_to_plotly() -> None:
    for spec in drawn(everywhere(ATTACK)).values():
        for trace in spec["data"]:
            assert not any("<" in str(name) for name in trace["y"])
        assert "<" not in json.dumps(spec["layout"])


# --- pictures


@every_report
def test_plotly_accepts_every_picture(report: Report) -> None:
    for spec in drawn(report).values():
        figure = go.Figure(spec)  # raises for an attribute that it does not know
        assert len(figure.data) >= 1


def test_all_pictures_are_drawn_from_what_the_checks_measured() -> None:
    found = drawn(measured())

    assert list(found) == [
        "Learning rate over the 9765 planned steps (2 parameter groups, all the same)", "Loss in the trial",
        "Loss when training on one batch only", "Gradient norm of all parameters together",
        "Gradient norm by layer and step", "Activations by depth", "Dead units by depth", "Update-to-weight ratio by layer",
    ]  # fmt: skip
    heat = found["Gradient norm by layer and step"]["data"][0]
    assert heat["y"] == ["0", "‹b›2‹/b›", "2"]
    assert heat["z"] == [[0.0] * 40] * 3
    loss = found["Loss in the trial"]["data"]
    assert loss[0]["y"] == pytest.approx(recording().losses, rel=1e-5)
    assert [trace["name"] for trace in loss] == ["loss", "constant prediction 2.3", "lowest possible 0"]
    dead = found["Dead units by depth"]["data"]
    assert [trace["x"] for trace in dead] == [[25.0, 0.0], [50.0, 0.0]]
    assert dead[0]["y"] == ["1", "1 (2)"]
    updates = found["Update-to-weight ratio by layer"]["data"]
    assert updates[0]["x"] == [0.01, 0.01]


def test_what_is_not_finite_is_a_gap_and_said() -> None:
    trial = recording(
        steps=steps([2.0, math.nan, 1.0, math.inf]), parameters=(parameter(grad_norm=(1.0, math.nan, 0.0, None)),)
    )
    values = gradient_norms.CHECK.run(trial).measurements
    report = report_of(result("gradient-norms", "s", measurements=plain(values)))

    found = drawn(report)

    assert found["Loss in the trial"]["data"][0]["x"] == [0, 2]
    assert "Not every value is finite" in said(page(report).find("body"))
    assert found["Gradient norm by layer and step"]["data"][0]["z"] == [[0.0, None, None, None]]


def test_no_unit_dead_and_nothing_measured_give_no_picture() -> None:
    layers = [{"module": "1", "dead": 0.0, "dead_at_start": 0.0}]
    assert drawn(report_of(result("dying-relu", "s", measurements={"layers": layers}))) == {}
    assert list(page(report_of(result("dying-relu", "s"))).iter("script")) == []


JUNK: list[Any] = [
    None,
    3,
    "x",
    [],
    {},
    [None],
    {"layers": 3},
    {"layers": ["a"], "norms": 1, "steps": ["x"], "median": ["x"]},
    [[1]],
]


@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_measurements_of_another_shape_leave_their_picture_out(junk: Any) -> None:
    keys = (
        "steps",
        "rates",
        "curves",
        "trial",
        "total",
        "by_layer",
        "updates",
        "activations",
        "layers",
        "pairs",
        "clipped",
    )
    ids = ("lr-schedule", "one-batch-overfit", "gradient-norms", "vanishing-gradients", "dying-relu", "clean-split")
    odd = [result(id, "s", measurements=dict.fromkeys(keys, junk)) for id in ids]

    assert drawn(report_of(*odd)) == {}


def test_very_wide_ranges_have_few_ticks_and_small_ones_are_linear() -> None:
    def axis(*rates: float) -> dict[str, Any]:
        values = {"steps": list(range(len(rates))), "rates": [rates]}
        (spec,) = drawn(report_of(result("lr-schedule", "s", measurements=values))).values()
        return spec["layout"]["yaxis"]

    assert axis(0.1, 0.05, 0.01)["type"] == "linear"
    wide = axis(*(10.0**-i for i in range(36)))
    assert (wide["type"], wide["dtick"]) == ("log", 6)


# --- pairs of samples


def test_pairs_are_shown_as_what_they_are() -> None:
    shown = [f for f in page(measured()).iter("figure") if f.get("class") == "pair"]

    assert [len(list(f.iter("img"))) for f in shown] == [2, 0, 0, 0]
    assert next(shown[0].iter("img")).get("alt") == "sample training [3]"
    assert ATTACK in said(next(shown[1].iter("blockquote")))
    assert "1.5, NaN, …" in said(shown[2])
    assert "training [3]" in said(shown[3])
    assert "SC0304" in said(shown[3])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_has_the_pixels_that_were_measured(channels: int) -> None:
    pixels = bytes(range(7 * 5 * channels))
    uri = png({"width": 7, "height": 5, "channels": channels, "pixels": base64.b64encode(pixels).decode()})

    assert uri is not None
    data = base64.b64decode(uri.partition(",")[2])
    chunks, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length]) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        place += 12 + length
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">IIBB", chunks[b"IHDR"][:10]) == (7, 5, 8, {1: 0, 3: 2}[channels])
    raw, row = zlib.decompress(chunks[b"IDAT"]), 7 * channels + 1
    assert b"".join(raw[start + 1 : start + row] for start in range(0, len(raw), row)) == pixels


@pytest.mark.parametrize(
    "change",
    [
        {"width": 4},
        {"width": 0},
        {"channels": 2},
        {"pixels": "!"},
        {"pixels": None},
        {"width": 1 << 40},
        {"height": "x"},
    ],
)
def test_what_is_no_image_is_not_shown(change: dict[str, Any]) -> None:
    assert png(IMAGE) is not None
    assert png({**IMAGE, **change}) is None


# --- the library and the real catalogue


def test_the_page_carries_plotly_along() -> None:
    element = library.packed()

    data = re.search(r'id="plotly">([^<]*)</script>', element)
    assert data
    assert gzip.decompress(base64.b64decode(data[1])).decode() == get_plotlyjs()
    assert len(element) < 2_500_000
    assert library.packed() == element


def test_every_check_of_the_catalogue_says_why_it_matters() -> None:
    for check in REAL:
        finding = FindingResult(code=check.rules[0].code, severity="fail", message="m", fix="f")
        assert "Why it matters" in said(page(report_of(result(check.id, "s", finding)), catalog=(check,)).find("body"))


def test_a_rule_and_a_check_that_are_not_in_the_catalogue_are_shown_by_their_code() -> None:
    finding = FindingResult(code="SC9999", severity="fail", message="m", fix="f")
    assert "SC9999" in said(
        page(report_of(CheckResult(id="theirs", status="fail", summary="s", findings=(finding,)))).find("body")
    )
