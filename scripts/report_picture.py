"""docs/report.svg: charts of a real run's report side by side, drawn by the report's own code.

python scripts/report_picture.py RUN_DIR
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import vl_convert
from markupsafe import escape

from corolla.report.client_figures import client_figures
from corolla.report.load import load_run
from corolla.report.plots import CONFIG, spec
from corolla.report.round_figures import round_figures

DOCS = Path(__file__).resolve().parents[1] / "docs"
STYLE = Path(__file__).resolve().parents[1] / "src" / "corolla" / "report" / "style.css"
_WIDTH, _HEIGHT, _GAP, _HEAD = 440, 270, 20, 60


def picture(run_dir: Path, count: int = 4) -> str:
    """Return an SVG of the first charts of a run, two in a row, in the page's light colours."""
    run = load_run(run_dir)
    figures = [*round_figures(run)[:2], *client_figures(run)[:2]][:count]
    first = {}
    for name, value in re.findall(r"--([\w-]+):\s*(#[0-9a-fA-F]+)", STYLE.read_text()):
        first.setdefault(name, value)  # the light ones stand first
    parts = []
    for number, figure in enumerate(figures):
        content = {**spec(figure), "config": CONFIG, "width": _WIDTH - 70, "height": _HEIGHT - 110}
        svg = vl_convert.vegalite_to_svg(content)
        svg = re.sub(r"var\(--([\w-]+)\)", lambda found: first.get(found[1], "#555"), svg)
        # Clips are named by number in each chart: named apart, or one chart would clip another.
        svg = re.sub(r"(clip|gradient)(\d+)", rf"\g<1>{number}_\2", svg)
        x, y = number % 2 * (_WIDTH + _GAP), _HEAD + number // 2 * (_HEIGHT + _GAP)
        title = f'<text x="0" y="-8" font-size="15" font-weight="600">{escape(figure.title)}</text>'
        note = f'<text x="0" y="8" font-size="11" fill="#667">{escape(figure.note)}</text>'
        inner = svg.replace("<svg ", '<svg y="14" ', 1)
        parts.append(f'<g transform="translate({x + 12},{y + 20})">{title}{note}{inner}</g>')
    rows = -(-len(figures) // 2)
    width, height = 2 * _WIDTH + _GAP + 24, _HEAD + rows * (_HEIGHT + _GAP) + 10
    head = f"{run.name_of('method')} on {run.name_of('dataset')}, seed {run.seed}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif">'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="12" y="36" font-size="22" font-weight="600">{escape(head)}</text>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    (DOCS / "report.svg").write_text(picture(Path(sys.argv[1])))
