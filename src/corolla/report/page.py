"""From run directories to one HTML file that needs nothing else: no network, no fonts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml
from markupsafe import Markup

import corolla
from corolla.errors import Fault, RefusedError, gathered, refuse
from corolla.records.atomic import write_bytes
from corolla.report import wording
from corolla.report.architecture_strip import StripLayout
from corolla.report.cell_cards import cell_section
from corolla.report.cells import searched, searches_locally
from corolla.report.client_figures import client_figures, client_rows, sorted_accuracy
from corolla.report.clients import architectures, client_table, label_counts
from corolla.report.compare_figures import GROUPS_UP_TO, compare_figures
from corolla.report.decision_figure import timeline
from corolla.report.decisions import choice_table, choices
from corolla.report.embed import Charts
from corolla.report.facts import facts, failures, round_table, status
from corolla.report.gain_tables import gain_section
from corolla.report.groups import Group, grouped
from corolla.report.load import Run, load_run, number, with_site_names
from corolla.report.measures import MEASURES, in_words, over_seeds
from corolla.report.results import result, results, shared_models
from corolla.report.round_figures import accuracy, round_figures
from corolla.report.wording import listing

_HERE = Path(__file__).parent
_SIDE_BY_SIDE = 6  # runs with charts of their own on the page that compares


def write_report(run_dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Write one page about one run directory, or one that compares several; return its path.

    Default ``output``: ``report.html`` in the run directory; ``report-compare.html`` in the current
    directory when there are several. Raises RefusedError for directories that are not runs.
    """
    directories = list(dict.fromkeys(Path(directory) for directory in run_dirs))
    if not directories:
        raise RefusedError(
            Fault("run_dirs", [], "no run directory was given", "Give at least one run directory")
        )
    runs, faults = [], list[Fault]()
    for directory in directories:
        with gathered(faults):
            runs.append(with_site_names(load_run(directory)))
    refuse(faults)
    if output is None:
        single = len(runs) == 1
        output = directories[0] / "report.html" if single else Path("report-compare.html")
    html = run_page(runs[0]) if len(runs) == 1 else compare_page(runs, output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(output, html.encode())
    except OSError as error:
        remedy = "Choose a file in a directory that can be written"
        raise RefusedError(
            Fault("output", str(output), error.strerror or str(error), remedy)
        ) from error
    return output


def run_page(run: Run) -> str:
    """Return the page about one run."""
    layout = StripLayout(run.dimensions)
    taken = architectures(run)
    seed = run.seed if run.seed == "?" else f"seed {run.seed}"
    parts = (run.name_of("space"), seed, run.name)
    return _render(
        "run.html",
        run=run,
        title=f"{run.name_of('method')} on {run.name_of('dataset')}",
        subtitle=" · ".join(part for part in parts if part != "?"),
        status=status(run),
        results=results(run),
        shared_models=shared_models(run),
        facts=facts(run),
        failures=failures(run),
        over_rounds=round_figures(run),
        over_clients=client_figures(run),
        table=client_table(run, layout),
        shares=layout.shares(taken) if len({tuple(a) for a in taken}) > 1 else [],
        heat=label_counts(run),
        **_own_search(run),
        rounds=round_table(run),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        if run.config
        else "",
        spent=run.cost,
        chosen=_chosen([run]),
    )


def _chosen(runs: Sequence[Run]) -> str:
    """Return what test images had a say in."""
    if any(_searches_on_test(run) for run in runs):
        return (
            "architectures were chosen ON TEST IMAGES (method.personal_search.fitness=test), "
            "so accuracies are too high"
        )
    return "nothing was chosen on test"


def _searches_on_test(run: Run) -> bool:
    method = run.config.get("method")
    if not isinstance(method, dict):
        return False
    older = method.get("strategy")  # of older runs
    elsewhere = isinstance(older, dict) and "personal_search" in older
    search = (run.config if elsewhere else method).get("personal_search")
    return isinstance(search, dict) and search.get("fitness") == "test"


def _own_search(run: Run) -> dict[str, Any]:
    """Return what the page shows of the architectures that clients searched themselves."""
    networks, made, gain = searched(run), choices(run), gain_section(run)
    told = len(run.per_client) > len(networks.silent)
    engine = run.config.get("engine")
    simulated = not (isinstance(engine, dict) and engine.get("kind") == "superlink")
    can_gain = searches_locally(run) and told and simulated and run.summary is not None
    return {
        "cells": cell_section(run, networks),
        "silent": listing(list(networks.silent)) if networks.silent and told else "",
        "all_silent": bool(networks.silent) and not told,
        "timeline": timeline(run, made),
        "choices": choice_table(made),
        "gain": gain,
        "can_gain": can_gain,
    }


def compare_page(runs: Sequence[Run], output: Path | None) -> str:
    """Return the page that compares ``runs``; links are relative to ``output``, None: there are none."""
    groups, to_know = grouped(runs)
    rows = [[(m, over_seeds(group, m)) for m in MEASURES] for group in groups]
    used = [m for i, m in enumerate(MEASURES) if any(row[i][1] is not None for row in rows)]
    table = [
        {"group": group, "cells": [in_words(m, value) for m, value in row if m in used]}
        for group, row in zip(groups, rows, strict=True)
    ]
    listed = [
        {
            "run": run,
            "label": group.label,
            "status": status(run),
            "cells": [m.said(m.get(run)) for m in used],
            "link": None if output is None else _link(run.path, output),
        }
        for group in groups
        for run in group.runs
    ]
    shown = _first_of_each(groups)[:_SIDE_BY_SIDE]
    top = _highest(shown)
    return _render(
        "compare.html",
        title=f"{len(runs)} runs compared",
        groups=groups,
        tuned_methods=sorted({run.name_of("method") for run in runs if run.declares_fine_tuned}),
        to_know=to_know,
        measures=used,
        table=table,
        listed=listed,
        figures=compare_figures(groups),
        undrawn=groups[GROUPS_UP_TO:],
        cards=[_card(run, top) for run in shown],
        cards_left_out=len(runs) - len(shown),
        chosen=_chosen(runs),
    )


def _card(run: Run, top: float) -> Mapping[str, Any]:
    """Return what the comparison shows of one run beside the others."""
    figures = [accuracy(run, top), sorted_accuracy(client_rows(run), top)]
    return {
        "run": run,
        "status": status(run),
        "facts": facts(run, brief=True),
        "figures": [figure for figure in figures if figure is not None],
    }


def _first_of_each(groups: Sequence[Group]) -> list[Run]:
    """Return all runs: the first of every group, then the second of every group, and so on."""
    longest = max(len(group.runs) for group in groups)
    return [g.runs[i] for i in range(longest) for g in groups if i < len(g.runs)]


def _highest(runs: Sequence[Run]) -> float:
    """Return where an axis must end to hold every accuracy that the cards draw."""
    values = [1e-3]
    for run in runs:
        values += [value for _, value in run.curve("test_accuracy")]
        values += [s.mean + (s.std or 0) for _, s in run.deployed_curve("test_accuracy")]
        clients = [number(record.get("test_accuracy")) for record in run.per_client.values()]
        values += [value for value in clients if value is not None]
    return min(1.02, 1.06 * max(values))


def _link(run_dir: Path, output: Path) -> str | None:
    """Return a relative address of the run's own page, if it has one."""
    page = run_dir / "report.html"
    if not page.is_file():
        return None
    relative = os.path.relpath(page.resolve(), output.parent.resolve())
    return quote(Path(relative).as_posix())


def _render(template: str, **context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        percent=wording.percent,
        plural=wording.plural,
        size=wording.size,
        duration=wording.duration,
        result=result,
        dash=wording.DASH,
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        charts=Charts(),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=corolla.__version__,
    )
    return environment.get_template(template).render(**context)
