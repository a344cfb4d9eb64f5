"""When which client decided what: a lane per client over the rounds, below the training loss.

SPIDER's Fig. 6d-f show the mean training loss of the local models; here the decisions that shake it and
the three phases stand below it on the same axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from corolla.report.decision_marks import PHASES, bar, legend, mark
from corolla.report.decisions import Choice, summed_up
from corolla.report.load import Run, number
from corolla.report.wording import middle, plural
from corolla.types import client_order

LANES_UP_TO = 20
_WIDTH, _LEFT, _RIGHT = 1200, 156, 12  # pixels
_LOSS, _LANE, _SUBLANE, _AXIS = 118, 40, 16, 34
_POINTS = 500  # of the loss curve
_FAINT_UP_TO = 3000  # points of all clients' own loss curves together
_APART = 9.5  # pixels between marks of one round


@dataclass(frozen=True)
class Timeline:
    """The drawing with its legend, and how many clients have no lane."""

    svg: Markup
    caption: str
    legend: Sequence[tuple[Markup, str]]


def timeline(run: Run, made: Sequence[Choice]) -> Timeline | None:
    """Draw the choices of the first 20 clients that tell them; None where no client tells."""
    telling = {str(line.get("client")) for line in run.clients if "decisions" in line}
    clients = sorted(telling, key=client_order)
    if not clients:
        return None
    shown = clients[:LANES_UP_TO]
    drawing = _Drawing(run, shown)
    parts = [drawing.loss()]
    for index, client in enumerate(shown):
        parts.append(drawing.lane(index, [choice for choice in made if choice.client == client]))
    parts.append(drawing.axis())
    caption = summed_up(made)
    if len(clients) > len(shown):
        caption += f" Shown are the first {len(shown)} of {len(clients):,} clients."
    words = f"Decisions of {plural(len(shown), 'client')} by round. {caption}"
    svg = Markup(
        '<svg class="timeline" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img"'
        ' aria-label="{2}">{3}</svg>'
    ).format(_WIDTH, drawing.height, words, Markup("").join(parts))
    return Timeline(svg, caption, legend(made))


class _Drawing:
    """Rounds from left to right, clients from top to bottom."""

    def __init__(self, run: Run, clients: Sequence[str]) -> None:
        self._run, self._clients = run, clients
        last = max([run.rounds_done, *(int(line["round"]) for line in run.clients)])
        self._rounds = max(1, last)
        self._phases = _phases(run)
        self._rows: dict[str, list[tuple[int, float]]] = {}
        for line in run.clients:
            value = number(line.get("train_loss"))
            if value is not None:
                rows = self._rows.setdefault(str(line.get("client")), [])
                rows.append((int(line["round"]), value))
        self.height = _LOSS + _LANE * len(clients) + _AXIS

    def loss(self) -> Markup:
        """Draw the clients' training losses and their mean."""
        curve = self._run.curve("train_loss")
        parts = self._bands(_mean_phases(self._run), 4, _LOSS - 14)
        heading = Markup('<text x="0" y="16" class="strong">training loss</text>')
        heading += Markup('<text x="0" y="31" class="small">of the local models</text>')
        if not curve:
            return parts + heading
        total = sum(map(len, self._rows.values()))
        faint = [
            sorted(self._rows[client])
            for client in self._clients
            if client in self._rows and total <= _FAINT_UP_TO
        ]
        curve = _thinned(curve)
        values = [value for line in [curve, *faint] for _, value in line]
        ticks = _ticks(min(values), max(values))
        low, high = min(ticks[0], *values), max(ticks[-1], *values)

        def y(value: float) -> float:
            share = (value - low) / (high - low) if high > low else 0.5
            return round(_LOSS - 16 - share * (_LOSS - 30), 1)

        for tick in ticks:
            parts += Markup(
                '<path d="M{0} {1}H{2}" stroke="var(--grid)"/>'
                '<text x="{3}" y="{4}" class="small" text-anchor="end">{5:g}</text>'
            ).format(_LEFT, y(tick), _WIDTH - _RIGHT, _LEFT - 6, y(tick) + 3.5, round(tick, 6))
        for line in faint:
            parts += self._line(line, y, 'stroke="var(--muted)" stroke-opacity=".35"')
        return parts + self._line(curve, y, 'stroke="var(--s1)" stroke-width="2"') + heading

    def lane(self, index: int, made: Sequence[Choice]) -> Markup:
        """Draw one client's phases and choices: normal cell above, reduction cell below."""
        client, top = self._clients[index], _LOSS + _LANE * index
        parts = self._bands(self._phases.get(client, {}), top, _LANE - 4)
        parts += Markup('<text x="0" y="{}" class="strong">{}</text>').format(
            top + 16, f"client {client}" if len(client) < 5 else middle(client, 11)
        )
        marks: dict[tuple[int, str], list[Choice]] = {}
        for choice in made:
            marks.setdefault((choice.round, choice.cell), []).append(choice)
        for row, (kind, word) in enumerate((("normal", "normal"), ("reduce", "reduction"))):
            y = top + 10 + row * _SUBLANE
            parts += Markup(
                '<text x="{}" y="{}" class="small" text-anchor="end">{}</text>'
                '<path d="M{} {}H{}" stroke="var(--grid)"/>'
            ).format(_LEFT - 6, y + 3.5, word, _LEFT, y, _WIDTH - _RIGHT)
            for (number_, cell), group in marks.items():
                if cell == kind:
                    parts += self._marks(number_, y, group)
        return parts

    def axis(self) -> Markup:
        """Draw the rounds' numbers below the lanes."""
        y = _LOSS + _LANE * len(self._clients)
        step = max(1, round(_ticks(0, self._rounds, most=10)[1]))
        parts = Markup("")
        for tick in sorted({1, *range(step, self._rounds + 1, step)}):
            if 1 < tick < 1 + step / 3:
                continue
            parts += Markup(
                '<path d="M{0} {1}v4" stroke="var(--muted)"/>'
                '<text x="{0}" y="{2}" class="small" text-anchor="middle">{3}</text>'
            ).format(self._x(tick), y, y + 16, tick)
        return parts + Markup(
            '<text x="{}" y="{}" class="small" text-anchor="middle">round</text>'
        ).format((_LEFT + _WIDTH - _RIGHT) / 2, y + 30)

    def _x(self, number_: float) -> float:
        share = (number_ - 0.5) / self._rounds
        return round(_LEFT + share * (_WIDTH - _RIGHT - _LEFT), 1)

    def _line(
        self, curve: Sequence[tuple[int, float]], y: Callable[[float], float], look: str
    ) -> Markup:
        points = " ".join(f"{self._x(r)} {y(value)}" for r, value in curve)
        return Markup('<path d="M{}" fill="none" {}/>').format(points, Markup(look))

    def _bands(self, phases: Mapping[int, int], top: float, height: float) -> Markup:
        """Draw the ground of each stretch of rounds in one phase."""
        parts, starts = Markup(""), sorted(phases)
        for i, start in enumerate(starts):
            end = starts[i + 1] if i + 1 < len(starts) else self._rounds + 1
            role, opacity = PHASES.get(phases[start], ("", ""))
            if role:
                left, right = self._x(start - 0.5), self._x(end - 0.5)
                parts += Markup(
                    '<rect x="{}" y="{}" width="{}" height="{}" fill="var(--{})" fill-opacity="{}"/>'
                ).format(left, top, round(right - left, 1), height, role, opacity)
        return parts

    def _marks(self, number_: int, y: float, group: Sequence[Choice]) -> Markup:
        """Draw a round's choices of one cell beside each other, or as a bar where they are many."""
        x = self._x(number_)
        if len(group) > 3:
            return bar(x, y, group)
        parts = Markup("")
        for i, choice in enumerate(group):
            place = x + _APART * (i - (len(group) - 1) / 2)
            place = min(max(place, _LEFT + 5), _WIDTH - _RIGHT - 5)
            parts += Markup(
                '<g class="mark" transform="translate({} {})"><title>{}</title>{}</g>'
            ).format(round(place, 1), y, choice.words, mark(choice))
        return parts


def _phases(run: Run) -> dict[str, dict[int, int]]:
    """Return client -> round -> the phase that begins in it."""
    found: dict[str, dict[int, int]] = {}
    latest: dict[str, int] = {}
    for line in run.clients:
        phase, client = number(line.get("phase")), str(line.get("client"))
        if phase is not None and latest.get(client) != int(phase):
            found.setdefault(client, {})[int(line["round"])] = latest[client] = int(phase)
    return found


def _mean_phases(run: Run) -> dict[int, int]:
    """Return round -> phase: the one in which all participants are, else the search."""
    found: dict[int, int] = {}
    for at, mean in run.curve("mean_phase"):
        phase = int(mean) if mean in (1, 3) else 2
        if not found or found[max(found)] != phase:
            found[at] = phase
    return found


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most 500 points: of a longer curve the means of so many rounds each."""
    step = -(-len(curve) // _POINTS)
    groups = [curve[i : i + step] for i in range(0, len(curve), step)]
    return [
        (group[len(group) // 2][0], float(np.mean([value for _, value in group])))
        for group in groups
    ]


def _ticks(low: float, high: float, *, most: int = 4) -> list[float]:
    """Return round numbers from at or below ``low`` to ``high``."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(value) for value in values]
