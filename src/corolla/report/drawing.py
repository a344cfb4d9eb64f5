"""Matplotlib draws, the page colours: charts as inline SVG whose colours are CSS variables.

Matplotlib is given one placeholder colour per role; in the SVG each becomes ``var(--role)``, so the
same drawing is right in light and in dark. Text stays text, in the page's font and colour.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import FuncFormatter

# Placeholders: no chart uses these as real colours, so replacing them is safe.
_ROLES = ("ink", "muted", "grid", "surface", "s1", "s2", "s3", "s4", "s5", "s6")
ROLE: Mapping[str, str] = {role: f"#fe01{i:02x}" for i, role in enumerate(_ROLES)}
_VARIABLE = {placeholder: f"var(--{role})" for role, placeholder in ROLE.items()}

WIDTH, HEIGHT = 4.5, 2.75  # inches: one cell of the page's grid, text 10 points at full width
_STYLE: Any = {  # Any: matplotlib 3.11 types the keys, earlier ones do not
    "svg.fonttype": "none",
    "svg.hashsalt": "corolla",  # the same run gives the same page
    "font.size": 10.5,
    "text.parse_math": False,  # a client may be called "$x$"
    "text.color": ROLE["ink"],
    "axes.edgecolor": ROLE["grid"],
    "axes.labelcolor": ROLE["muted"],
    "axes.labelsize": 10.5,
    "axes.facecolor": "none",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": ROLE["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": ROLE["grid"],
    "ytick.color": ROLE["grid"],
    "xtick.labelcolor": ROLE["muted"],
    "ytick.labelcolor": ROLE["muted"],
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 1.9,
    "lines.markersize": 4.5,
    "hatch.linewidth": 1.2,
}


@dataclass(frozen=True)
class Stroke:
    """How one series looks: colour, dash and marker differ together, never colour alone."""

    role: str
    dash: tuple[float, ...]
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Keyword arguments for ``Axes.plot``."""
        style = (0, self.dash) if self.dash else "-"
        return {"color": ROLE[self.role], "linestyle": style, "dash_capstyle": "butt"}

    @property
    def dots(self) -> dict[str, Any]:
        """Keyword arguments for markers without a line, ringed in the surface's colour."""
        return {
            "color": ROLE[self.role],
            "linestyle": "none",
            "marker": self.marker,
            "markeredgecolor": ROLE["surface"],
            "markeredgewidth": 0.8,
            "markersize": 6.5,
        }


STROKES = (
    Stroke("s1", (), "o"),
    Stroke("s2", (5, 1.6), "s"),
    Stroke("s3", (1.6, 1.4), "^"),
    Stroke("s4", (6, 1.5, 1.5, 1.5), "D"),
    Stroke("s5", (9, 2.5), "v"),
    Stroke("s6", (3, 1.3, 1, 1.3), "P"),
)


def stroke(index: int) -> Stroke:
    """Return the look of series ``index``; past six the colours return with another marker."""
    base = STROKES[index % len(STROKES)]
    if index < len(STROKES):
        return base
    return Stroke(base.role, base.dash, "X*<>hp"[(index // len(STROKES) - 1 + index) % 6])


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend: ``shape`` is line, band, dot, line+dot, bar, hatch or rule."""

    label: str
    stroke: Stroke
    shape: str = "line"

    def swatch(self) -> Markup:
        """Return the little drawing before the label."""
        color = f"var(--{self.stroke.role})"
        dash = " ".join(f"{1.9 * part:g}" for part in self.stroke.dash)
        line = f'<path d="M1 7H25" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        parts = {
            "line": line,
            "band": f'<rect x="1" y="1" width="24" height="12" fill="{color}" opacity=".2"/>{line}',
            "dot": _ringed(self.stroke.marker, color),
            "line+dot": line + _ringed(self.stroke.marker, color),
            "bar": f'<rect x="5" y="1" width="16" height="12" rx="2" fill="{color}"/>',
            "hatch": f'<rect x="6" y="2" width="14" height="10" rx="1.5" fill="{color}" '
            f'fill-opacity=".3" stroke="{color}" stroke-width="1.5"/>',
            "rule": f'<path d="M13 0V14" stroke="{color}" stroke-width="2.4"/>',
        }
        return Markup('<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true">{}</svg>').format(
            Markup(parts[self.shape])
        )


@dataclass(frozen=True)
class Chart:
    """One finished figure; ``description`` is what a screen reader says instead of the drawing."""

    title: str
    note: str
    description: str
    svg: Markup
    legend: Sequence[LegendEntry] = ()


def draw(
    uid: str,
    paint: Callable[[Axes], None],
    *,
    description: str,
    width: float = WIDTH,
    height: float = HEIGHT,
    tips: Mapping[str, Sequence[str]] | None = None,
) -> Markup:
    """Let ``paint`` fill one pair of axes; return inline SVG whose ids start with ``uid``.

    ``tips`` gives the markers of the line with that gid a tooltip each, in the order drawn.
    """
    from matplotlib import rc_context  # 0.4 s that only a report should pay
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # The browser's fonts have glyphs that matplotlib's own lacks; it only measures with them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.margins(x=0.03, y=0.12)
        paint(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return themed(stream.getvalue(), uid=uid, description=description, tips=tips or {})


def themed(svg: str, *, uid: str, description: str, tips: Mapping[str, Sequence[str]]) -> Markup:
    """Turn matplotlib's SVG document into an inline one that follows the page's theme."""
    body = svg[svg.index("<svg") :]
    viewbox = re.search(r'viewBox="([^"]+)"', body)
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would restyle the page
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = _lighter(body)
    for gid, titles in tips.items():
        body = _with_tips(body, gid, titles)
    body = re.sub(r'\bid="', f'id="{uid}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{uid}-', body)
    body = re.sub(r"url\(#", f"url(#{uid}-", body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    for placeholder, variable in _VARIABLE.items():
        body = body.replace(placeholder, variable)
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    box = viewbox.group(1) if viewbox else "0 0 324 198"
    head = Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(box, description)
    return head + Markup(body) + Markup("</svg>")


def _lighter(body: str) -> str:
    """Round coordinates to 1/100 point, and give equal markers their style once."""

    def rounded(match: re.Match[str]) -> str:
        text = re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n.group()):.2f}", match.group(2))
        return f'{match.group(1)}="{text}"'

    def styled_once(match: re.Match[str]) -> str:
        styles = set(re.findall(r'style="([^"]*)"', match.group(2)))
        if len(styles) != 1:
            return match.group(0)
        bare = re.sub(r' style="[^"]*"', "", match.group(2))
        return f'{match.group(1)} style="{styles.pop()}">{bare}</g>'

    body = re.sub(r'\b(x|y|d|transform)="([^"]*)"', rounded, body)
    return re.sub(r"(<g clip-path=\"[^\"]*\")>((?:\s*<use [^>]*/>)+\s*)</g>", styled_once, body)


def _with_tips(body: str, gid: str, titles: Sequence[str]) -> str:
    start = body.find(f'<g id="{gid}">')
    if start < 0:
        return body
    remaining = iter(titles)

    def titled(match: re.Match[str]) -> str:
        title = next(remaining, None)
        if title is None:
            return match.group(0)
        return f"<use{match.group(1)}><title>{escape(title)}</title></use>"

    # Only this line's markers: as many <use> as there are titles, from its group on.
    tail = re.sub(r"<use([^>]*)/>", titled, body[start:], count=len(titles))
    return body[:start] + tail


def marker_shape(marker: str) -> str:
    """Return the bare shape of a marker, centred at (13, 7) and about 9 wide."""
    shapes = {
        "o": '<circle cx="13" cy="7" r="4"/>',
        "s": '<rect x="9.2" y="3.2" width="7.6" height="7.6"/>',
        "^": '<path d="M13 2.5 17.5 11H8.5z"/>',
        "v": '<path d="M13 11.5 17.5 3H8.5z"/>',
        "D": '<path d="M13 2 18 7 13 12 8 7z"/>',
        "P": '<path d="M11.5 3h3v2.5H17v3h-2.5V11h-3V8.5H9v-3h2.5z"/>',
        "X": '<path d="m10 3 3 3 3-3 1 1-3 3 3 3-1 1-3-3-3 3-1-1 3-3-3-3z"/>',
    }
    return shapes.get(marker, '<circle cx="13" cy="7" r="3"/>')


def _ringed(marker: str, color: str) -> str:
    return f'<g fill="{color}" stroke="var(--surface)" stroke-width=".8">{marker_shape(marker)}</g>'


def percent_axis() -> FuncFormatter:
    """Return a formatter of fractions as "60 %"."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{100 * value:.10g}\u00a0%")


Units = Sequence[tuple[float, str]]

COUNTS: Units = ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"))
BYTES: Units = ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"), (2**40, "TiB"))
MEBIBYTES: Units = ((2**-10, "KiB"), (1, "MiB"), (2**10, "GiB"))
SECONDS: Units = ((1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h"))
MILLISECONDS: Units = ((1e-3, "\u00b5s"), (1, "ms"), (1e3, "s"))


def unit_ticks(axis: Any, units: Units, *, bins: int = 4) -> None:
    """Set ticks at round numbers of the unit that suits the axis's limits, which must be final."""
    from matplotlib.ticker import MaxNLocator

    low, high = sorted(axis.axes.get_xlim() if axis.axis_name == "x" else axis.axes.get_ylim())
    fitting = [unit for unit in units if high >= 1.5 * unit[0]]
    scale, name = fitting[-1] if fitting else units[0]
    ticks = MaxNLocator(nbins=bins).tick_values(low / scale, high / scale)
    ticks = [float(tick) for tick in ticks if low <= tick * scale <= high]
    labels = [f"{round(tick, 9):g}\u00a0{name}".rstrip("\u00a0") for tick in ticks]
    axis.set_ticks([tick * scale for tick in ticks], labels)
