"""Small parts by hand: strips, label tables, wording, ticks, and colours that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import corolla.report
from corolla.report import wording
from corolla.report.architecture_strip import StripLayout
from corolla.report.clients import client_table, label_counts
from corolla.report.figures import BYTES
from corolla.report.load import Run, Spread, number

_DIMENSIONS = [
    {"name": "resolution", "choices": [32]},
    {"name": "mb1.width", "choices": [16, 24]},
    {"name": "mb1.depth", "choices": [1, 2, 3]},
    {"name": "mb2.width", "choices": [24, 40]},
]


def _run(per_client: dict[str, dict[str, object]], **summary: object) -> Run:
    whole = {"per_client": per_client, "dimensions": _DIMENSIONS, **summary}
    return Run(Path("run"), {}, {}, [], [], whole)


def test_a_strip_draws_only_what_can_be_chosen() -> None:
    layout = StripLayout(_DIMENSIONS)
    # Cells are 8 wide, 1 apart inside a group, 5 apart between groups.
    assert [(c.name, c.left) for c in layout.cells] == [
        ("mb1.width", 0),
        ("mb1.depth", 9),
        ("mb2.width", 22),
    ]
    assert dict(layout.kinds) == {"width": "s1", "depth": "s2"}
    strip = layout.strip([0, 1, 1, 0])
    assert strip is not None
    # Heights of 20: the last of two, the middle of three (2/3), the first of two (1/3).
    assert re.findall(r'<rect x="(\d+)" y="\d+" width="8" height="(\d+)"', strip) == [
        ("0", "20"),
        ("9", "13"),
        ("22", "7"),
    ]
    assert "<title>mb1.depth = 2 (choice 2 of 3)</title>" in strip
    assert 'aria-label="mb1: width 24, depth 2; mb2: width 24"' in strip


def test_a_strip_of_another_space_is_not_drawn() -> None:
    assert StripLayout(_DIMENSIONS).strip([0, 1]) is None
    assert StripLayout([]).strip([]) is None


def test_shares_count_the_clients_that_took_each_candidate() -> None:
    first = StripLayout(_DIMENSIONS).shares([[0, 0, 0, 0], [0, 1, 2, 0], [0, 1, 0, 0]])[0]
    assert first["name"] == "mb1.width"
    assert [(p["value"], p["count"]) for p in first["parts"]] == [("16", 1), ("24", 2)]


def _lines(run: Run) -> dict[str, list[tuple[str, str, float | None]]]:
    heat = label_counts(run)
    assert heat is not None
    lines: dict[str, list[tuple[str, str, float | None]]] = {}
    for row in heat.rows:
        cell = (row["column"], row["text"], row.get("strength"))
        lines.setdefault(row["row"], []).append(cell)
    return lines


def test_label_counts_of_a_few_clients_are_shown_as_they_are() -> None:
    counts = {"a": {"label_counts": [3, 1]}, "b": {"label_counts": [0, 2]}}
    # A class without a name is called by its number; sizes are 4 and 2: all and half of the largest.
    assert _lines(_run(counts, class_names=["x"])) == {
        "a": [("x", "3", 0.75), ("1", "1", 0.25), ("all", "4", 1.0)],
        "b": [("x", "·", None), ("1", "2", 1.0), ("all", "2", 0.5)],
    }


def test_label_counts_of_many_clients_are_summed_by_their_most_common_class() -> None:
    counts = {str(i): {"label_counts": [2, 1] if i < 30 else [0, 3]} for i in range(50)}
    run = _run(counts, class_names=["cat", "dog"])
    assert _lines(run) == {
        "cat (30\u00a0clients)": [("cat", "60", 0.667), ("dog", "30", 0.333), ("all", "90", 1.0)],
        "dog (20\u00a0clients)": [("cat", "·", None), ("dog", "60", 1.0), ("all", "60", 0.667)],
    }
    heat = label_counts(run)
    assert heat is not None
    assert "50\u00a0clients are too many for a row each" in heat.note


def test_classes_of_one_name_keep_columns_of_their_own() -> None:
    lines = _lines(_run({"a": {"label_counts": [3, 1]}}, class_names=["x", "x"]))
    assert [column for column, *_ in lines["a"]] == ["x (1)", "x (2)", "all"]


def test_columns_that_nobody_fills_are_left_out() -> None:
    table = client_table(_run({"a": {"params": 1200}, "b": {}}), StripLayout(_DIMENSIONS))
    assert table is not None
    assert [key for key, _ in table.columns] == ["client", "params"]
    assert "params" not in table.rows[1]


def test_clients_stand_in_the_order_of_their_numbers() -> None:
    table = client_table(_run({"10": {}, "site": {}, "9": {}}), StripLayout([]))
    assert table is not None
    assert [row["client"].text for row in table.rows] == ["9", "10", "site"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (wording.percent(0.78349), "78.3"),
        (wording.percent(None), "\u2013"),
        (wording.count(9999), "9,999"),
        (wording.count(1_234_567), "1.23\u00a0M"),
        (wording.count(999_950), "1.00\u00a0M"),
        (wording.size(1023), "1,023\u00a0B"),
        (wording.size(12.34 * 2**20), "12.3\u00a0MiB"),
        (wording.mebibytes(2048), "2.00\u00a0GiB"),
        (wording.duration(0.4242), "0.42\u00a0s"),
        (wording.duration(59.6), "1\u00a0min 00\u00a0s"),
        (wording.duration(7800), "2\u00a0h 10\u00a0min"),
        (wording.share_of("3.0\u00a0MiB", "4.0\u00a0MiB"), "3.0 of 4.0\u00a0MiB"),
        (wording.share_of("3.0\u00a0MiB", "4.0\u00a0GiB"), "3.0\u00a0MiB of 4.0\u00a0GiB"),
        (wording.listing(["a"]), "a"),
        (wording.listing(["a", "b", "c"]), "a, b and c"),
        (wording.listing(list("abcdefgh"), limit=2), "a, b and 6 more"),
        (wording.plural(1, "client"), "1\u00a0client"),
    ],
)
def test_wording(said: str, text: str) -> None:
    assert said == text


@given(st.floats(0, 1e14))
def test_a_size_in_words_is_right_to_half_a_percent(value: float) -> None:
    text, _, unit = wording.size(value).partition("\u00a0")
    scale = {name: factor for factor, name in BYTES.steps}[unit]
    assert float(text.replace(",", "")) * scale == pytest.approx(value, rel=0.0051, abs=0.051)


@pytest.mark.parametrize("value", [None, True, "0.5", float("nan"), float("inf"), [1]])
def test_what_is_no_finite_number_counts_as_absent(value: object) -> None:
    assert number(value) is None
    assert Spread.of({"mean": value}) is None


def _themes() -> dict[str, dict[str, str]]:
    style = (Path(corolla.report.__file__).parent / "style.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    colors = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), colors, strict=True))


def _contrast(first: str, second: str) -> float:
    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(c * 2 for c in color[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_and_lines_stand_out_from_what_is_behind_them(theme: str) -> None:
    """WCAG 2 AA: 4.5 for text, 3 for graphics."""
    colors = _themes()[theme]
    for text in ("ink", "muted", "accent"):
        for behind in ("surface", "page"):
            assert _contrast(colors[text], colors[behind]) >= 4.5, (text, behind)
    assert _contrast(colors["ink"], colors["warn-bg"]) >= 4.5
    for series in ("s1", "s2", "s3", "s4", "s5", "s6"):
        assert _contrast(colors[series], colors["surface"]) >= 3, series
