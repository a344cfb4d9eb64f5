"""The comparison's table for other programs: a row per group of runs that differ in the seed alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corolla.report.groups import Group, grouped
from corolla.report.load import load_run
from corolla.report.measures import MEASURES, in_words, over_seeds
from corolla.report.wording import DASH

Row = Mapping[str, Any]
_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$"}
_TEX |= {"±": r"$\pm$", "·": r"$\cdot$", DASH: "--"}


def table(run_dirs: Sequence[Path], kind: str) -> tuple[str, list[str]]:
    """Return the table of these runs as text, and in what else than its rows' names they differ.

    ``csv`` and ``json`` have plain numbers: means and sample deviations over seeds, accuracies as
    fractions, bytes, seconds; nothing where a run has no such measure. ``md`` and ``latex`` (booktabs)
    are written as the report writes them.

    Raises:
        RefusedError: a directory that is not a run.

    """
    groups, to_know = grouped([load_run(path) for path in dict.fromkeys(run_dirs)])
    return FORMATS[kind](groups), to_know


def _numbers(groups: Sequence[Group]) -> list[Row]:
    rows: list[Row] = []
    for group in groups:
        first = group.runs[0]
        row: dict[str, Any] = {"runs": group.label}
        row |= {key: first.name_of(key) for key in ("method", "space", "dataset")}
        row |= {"seeds": group.seeds, "finished": sum(r.summary is not None for r in group.runs)}
        for measure in MEASURES:
            mean, sd = over_seeds(group, measure) or (None, None)
            row |= {f"{measure.key}_mean": mean, f"{measure.key}_sd": sd}
        rows.append(row)
    return rows


def _words(groups: Sequence[Group]) -> list[list[str]]:
    """Return head and rows; a measure that no group has is no column."""
    found = [[over_seeds(group, measure) for measure in MEASURES] for group in groups]
    used = [i for i in range(len(MEASURES)) if any(row[i] is not None for row in found)]
    head = ["runs", "seeds", *(MEASURES[i].head for i in used)]
    return [head] + [
        [group.label, group.seeds, *(in_words(MEASURES[i], row[i]) for i in used)]
        for group, row in zip(groups, found, strict=True)
    ]


def _csv(groups: Sequence[Group]) -> str:
    rows, text = _numbers(groups), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _json(groups: Sequence[Group]) -> str:
    return json.dumps(_numbers(groups), indent=2, ensure_ascii=False) + "\n"


def _markdown(groups: Sequence[Group]) -> str:
    head, *rows = ([cell.replace("|", r"\|") for cell in row] for row in _words(groups))
    rule = ["---", "---", *("--:" for _ in head[2:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def _latex(groups: Sequence[Group]) -> str:
    head, *rows = (
        ["".join(_TEX.get(c, c) for c in cell) for cell in row] for row in _words(groups)
    )
    body = "".join(f"{' & '.join(row)} \\\\\n" for row in rows)
    columns = "ll" + "r" * (len(head) - 2)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(head)} \\\\\n\\midrule\n"
        f"{body}\\bottomrule\n\\end{{tabular}}\n"
    )


FORMATS: Mapping[str, Callable[[Sequence[Group]], str]] = {
    "csv": _csv,
    "json": _json,
    "latex": _latex,
    "md": _markdown,
}
