"""How decisions look on the timeline: a mark each, a bar where a round made many, and the legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from corolla.report.darts_looks import hue, in_order, marker
from corolla.report.decisions import Choice
from corolla.report.drawing import marker_shape

PHASES = {2: ("s5", ".14"), 3: ("s3", ".11")}  # the first has the page's own ground
_NODE = '<rect x="8.8" y="4.6" width="8.4" height="4.8"/>'  # the mark of a node, as `marker_shape`'s are


def mark(choice: Choice) -> Markup:
    """Return the mark of a choice around (0, 0): hollow where candidates were as good as equal."""
    operation = choice.of_edge
    role = hue(choice.kept) if operation else "ink"
    shape = Markup(marker_shape(marker(choice.kept)) if operation else _NODE)
    look = f'fill="var(--{role})" stroke="var(--surface)" stroke-width=".8"'
    if choice.tied:
        look = f'fill="var(--surface)" stroke="var(--{role})" stroke-width="1.6"'
    return Markup('<g transform="translate(-13 -7)" {}>{}</g>').format(Markup(look), shape)


def bar(x: float, y: float, group: Sequence[Choice]) -> Markup:
    """Return many choices of one round as a bar: as high as the lane, its parts as many as each got."""
    counts = Counter(choice.kept for choice in group if choice.of_edge)
    parts, top, high = Markup(""), y - 7, 14 / max(1, sum(counts.values()))
    for name in in_order(list(counts)):
        part = round(counts[name] * high, 2)
        parts += Markup('<rect x="{}" y="{}" width="11" height="{}" fill="var(--{})"/>').format(
            round(x - 5.5, 1), round(top, 2), part, hue(name)
        )
        top += part
    words = "\n\n".join(choice.words for choice in group)
    return Markup('<g class="mark"><title>{}</title>{}</g>').format(words, parts)


def legend(made: Sequence[Choice]) -> list[tuple[Markup, str]]:
    """Return (swatch, words) of the marks that occur and of the phases."""

    def swatch(inner: str) -> Markup:
        return Markup('<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true">{}</svg>').format(
            Markup(inner)
        )

    entries = [
        (
            swatch(f'<g fill="var(--{hue(name)})">{marker_shape(marker(name))}</g>'),
            f"edge keeps {name}",
        )
        for name in in_order([choice.kept for choice in made if choice.of_edge])
    ]
    if not all(choice.of_edge for choice in made):
        entries.append((swatch(f'<g fill="var(--ink)">{_NODE}</g>'), "node loses edges"))
    if any(choice.tied for choice in made):
        ring = '<g fill="none" stroke="var(--ink)" stroke-width="1.6">'
        entries.append((swatch(f"{ring}{marker_shape('o')}</g>"), "hollow: as good as equal"))
    for phase, words in ((2, "phase 2: search"), (3, "phase 3: training of what was found")):
        role, opacity = PHASES[phase]
        box = f'<rect x="1" y="1" width="24" height="12" fill="var(--{role})" fill-opacity="{opacity}"/>'
        entries.append((swatch(box), words))
    return entries
