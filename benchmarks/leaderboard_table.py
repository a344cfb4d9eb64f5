"""The leaderboard's figures and page, from the rows of its cells."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

from benchmarks.leaderboard_cells import (
    ARMS,
    DEFAULT_STEP,
    SEARCHES,
    STEP_SIZES,
    TITLES,
    TRACKS,
    TUNING_SEED,
    by_lot,
    overrides_of,
)
from benchmarks.oracle import lines as oracle_lines
from benchmarks.recording import read_figures, read_raw

OWN = "corolla"  # the method that is to lead
_TIERED = ("heterofl", "fedrolex", "fiarse", "fedavg_smallest")
_STEPS = ", ".join(f"{lr:g}" for lr in STEP_SIZES)
_BY_GLOBAL = ", ".join(f"`{name}`" for name, arm in ARMS.items() if arm.stage == "global")
_LEGEND = f"""\
CIFAR-10, 100 clients, 10 a round (track f: 6 and 6), equal rounds on a track. Accuracies in % on each
client's own test images, means over clients, then mean ± standard deviation over seeds. *Deployed*: what
clients run before fine-tuning. That includes what a method does on its own at the end: `corolla` fits a
classifier on frozen features (its column *global* is without it), FedRep and FedBABU train their heads.
*Behind*: the best arm, as deployed, seed by seed, with the 95 % interval where there are two seeds or more.
*Tuned*: after 5 epochs of fine-tuning, then what that is behind the best after fine-tuning. All arms but
`fedavg_plain` train by the per-client balanced softmax, and are scored with the client's class prior
([scoring](scoring.md)). Step size ({_STEPS}) and one parameter of the method are the best on the
validation images of seed {TUNING_SEED}, by the same budget of trials; 0.03 and the default where none was
tried, which is most arms as yet. Seeds draw their clients' images from the same 50,000, so that the tuning's
are in part those of the reported seeds. Costs are of all rounds: MB of all messages, thousands of images
trained on (not those of fine-tuning and of heads fitted at the end), MB that a client keeps. Memory is what
training takes by our estimate, MiB. *Lost* beside an arm: so many replies of clients failed. *Global* is
scored with the client's class prior, but for FedRoD's, whose global head is to have none.

`fedavg_of_corolla` is FedAvg of the largest network of our method's family, `fiarse_of_corolla` FIARSE of it,
with our `absent_count`; `fedavg_smallest_of_corolla` is FedAvg of the family's smallest member that track c
needs, with momentum and `absent_count`. They count as parts of ours, not as other methods, and say how much
of the lead is the network and what all could take over.

`*_by_lot` is a search's control: random architectures of the sizes that it proposed and deployed, shuffled
among clients of the same cap; of SPIDER, HAPFNAS and the searches of tiers (`superfednas`, `deepfednas`,
`fedoras`) the same training with every decision by chance, among all that fit, so that sizes may differ:
`*_costliest` decides for the costliest that fits. `perfednas_by_lot` is one uniform draw per client,
`perfednas_costliest` the costliest that fits. On track e new clients are served by the stage of the method
(searched by evaluations, adapted, or the frozen model; FedPer's with the head that it began with, until
fine-tuning); {_BY_GLOBAL}
by their global model; `local` trains on its own, for as long as the others. Then all are fine-tuned alike.
Arms that are missing there have no model for a client that they do not know (SFL, pFedHN, FML, FedBN,
LG-FedAvg, FedMN, those that exchange predictions), or FedAvg's (FedRoD).

`fedmn` needs a network with pools of modules, so its is LeNet with three alternatives of two layers. FedTP's
vision transformer trains on 81 images a second of one core, this space's middle network on 4,300: a cell
would take an hour, and six minutes are the limit. SPIDER and FedNAS search in mixed DARTS networks, which
this space has none of: they have track f, where few clients all take part in every round, as SPIDER needs it.
FedNAS searches in 12 of the 30 rounds, then trains what it found. HAPFNAS is there with its own MobileNetV2
space, and the server trains in 12 of the rounds, on images that clients of other arms have.

Arms with `server_set=held_out` in their command (`superfednas`, `fedoras` and HAPFNAS among them) take 1,000
images out of the pool for the server. Clients of the other arms have these images: data sets are not equal.

All of it ran on two CPU cores. The version for a GPU (`--large`: larger spaces, 400 rounds) has not been run.
""".splitlines()
_POOLED = """\
Global models, by all test images together: no class prior of a client, no statistics of its own.

| arm | model | pooled accuracy | MMACs |
|---|---|---|---|""".splitlines()
_ORACLE = """\
`python -m benchmarks.oracle`: random architectures of equal cost, each trained by FedAvg twice, on the
test images of 8 clients in two halves. In points: standard deviations of architectures, of client x
architecture, and of the noise of one training on one half; what a choice on one half gains over a draw by
lot on the other, one network for all or each client its best, ± its standard error over clients; the same
when the chosen one is trained anew, which is architecture alone; what architecture alone would gain by a
choice without noise. Where that is below one point no search among equals can win a point. In 40 of the
60 rounds.""".splitlines()
Rows = Mapping[str, Mapping[str, Any]]  # arm -> seed -> row


def figures(raw: Mapping[str, Any]) -> dict[str, float]:
    """Return means over seeds of every arm, our method's leads in points, and searches over their controls.

    ``lead_deployed_a``: the smallest over any arm on track a that is no variant of ours, over the seeds that
    both have; ``lead_over_own_network_deployed_a``: over those that are given the network that our family
    ends at, and what else they can take of ours. ``lead_over_lot_a``: deployed, over the control of the same
    sizes; ``lead_over_lot`` is the mean over tracks. ``lead_every_tier_c``: the smallest lead in a tier, over
    the methods for tiers. A lead of nothing over nothing is left out. ``oracle_gain_a``: benchmarks.oracle's.
    """
    found: dict[str, float] = {}
    for track, arms in raw.get("runs", {}).items():
        for arm, rows in arms.items():
            for key in ("deployed", "fine_tuned", "global"):
                values = [row[key] for row in rows.values() if row.get(key) is not None]
                if values:
                    found[f"{track}_{arm}_{key}"] = float(np.mean(values))
        for key in ("deployed", "fine_tuned"):
            best = closest_rival(arms, key)
            if best:
                _add(found, f"lead_{key}_{track}", arms[OWN], arms[best], key)
            control = closest_control(arms, key)
            if control:
                _add(found, f"lead_over_own_network_{key}_{track}", arms[OWN], arms[control], key)
        for search in SEARCHES:
            lot = by_lot(search)
            name = f"lead_over_lot_{track}" if search == OWN else f"{search}_over_lot_{track}"
            if search in arms and lot in arms:
                _add(found, name, arms[search], arms[lot], "deployed")
        if track == "c" and OWN in arms:
            leads = [lead for arm in _TIERED if arm in arms for lead in _tiers(arms, arm)]
            if leads:
                found["lead_every_tier_c"] = min(leads)
    lots = [value for name, value in found.items() if name.startswith("lead_over_lot_")]
    if lots:
        found["lead_over_lot"] = float(np.mean(lots))
    oracle = read_figures("oracle")
    return found | {name: oracle[name] for name in oracle if name.startswith("oracle_gain_")}


def _add(
    found: dict[str, float], name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any], key: str
) -> None:
    lead = paired(mine, theirs, key)
    if lead is not None:
        found[name] = lead[0]


def _tiers(arms: Rows, other: str) -> list[float]:
    """Return our mean lead over an arm in each tier, over the seeds that both have."""
    seeds = set(arms[OWN]) & set(arms[other])
    leads: dict[str, list[float]] = {}
    for seed in seeds:
        mine, theirs = (arms[arm][seed].get("tiers", {}) for arm in (OWN, other))
        for tier, value in mine.get("as_trained", {}).items():
            if tier in theirs.get("as_trained", {}):
                leads.setdefault(tier, []).append(value - theirs["as_trained"][tier])
    return [float(np.mean(values)) for values in leads.values()]


def closest_rival(arms: Rows, key: str) -> str | None:
    """Return the arm, no variant of ours, over which our lead is smallest, on the seeds that both have."""
    return _closest({arm: rows for arm, rows in arms.items() if OWN not in arm}, arms, key)


def closest_control(arms: Rows, key: str) -> str | None:
    """Return the same among other methods on our network."""
    return _closest({a: rows for a, rows in arms.items() if a.endswith(f"_of_{OWN}")}, arms, key)


def _closest(others: Rows, arms: Rows, key: str) -> str | None:
    leads = {arm: paired(arms.get(OWN, {}), rows, key) for arm, rows in others.items()}
    known = {arm: lead[0] for arm, lead in leads.items() if lead}
    return min(known, key=lambda arm: known[arm]) if known else None


def _best_arm(arms: Rows, key: str) -> str | None:
    """Return, of the arms with most seeds, that with the largest mean; None where none has one."""
    most = max(map(len, arms.values()), default=0)
    means = {arm: _mean(rows.values(), key) for arm, rows in arms.items() if len(rows) == most}
    known = {arm: mean for arm, mean in means.items() if mean is not None}
    return max(known, key=lambda arm: known[arm]) if known else None


def _mean(rows: Sequence[Mapping[str, Any]] | Any, key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return float(np.mean(values)) if values else None


def paired(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], key: str
) -> tuple[float, float | None] | None:
    """Return the mean difference over common seeds and half its 95 % interval (None for one seed)."""
    seeds = sorted(set(mine) & set(theirs))
    pairs = [(mine[seed].get(key), theirs[seed].get(key)) for seed in seeds]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if not differences:
        return None
    mean, count = float(np.mean(differences)), len(differences)
    if count == 1:
        return mean, None
    error = float(np.std(differences, ddof=1)) / count**0.5
    return mean, float(student.ppf(0.975, count - 1)) * error


def page(raw: Mapping[str, Any], *, large: bool = False) -> str:
    """Return docs/leaderboard.md."""
    runs = raw.get("runs", {})
    option = " --large" if large else ""
    lines = [
        f"# Leaderboard{': larger spaces, more rounds' if large else ''}",
        "",
        f"Made by `python -m benchmarks.leaderboard --root PATH{option}`; do not edit. "
        f"Written {time.strftime('%Y-%m-%d')} at commit `{_commit()}`.",
        "",
        *_LEGEND,
    ]
    if runs:
        lines += ["", f"![every arm on every track](leaderboard{'_large' if large else ''}.svg)"]
    oracle = read_raw("oracle")
    if read_figures("oracle"):  # not before both trainings are there
        lines += [
            "",
            "## How much architecture can matter",
            "",
            *_ORACLE,
            "",
            *oracle_lines(oracle),
        ]
    for track in TRACKS:
        lines += ["", f"## Track {track}. {TITLES[track]}", ""]
        if track not in runs:
            lines.append("Not run yet.")
            continue
        lines += list(_table(track, runs[track], large=large))
    ranks = mean_ranks(runs)
    if ranks:
        lines += [
            "",
            "## Mean rank over tracks, deployed",
            "",
            "Variants of ours are left out. On a track all are ranked by the seeds that all of them have;",
            "equals share their mean rank. Arms that have run on more tracks come first.",
            "",
            "| arm | rank | tracks |",
            "|---|---|---|",
        ]
        lines += [f"| {arm} | {rank:.1f} | {count} |" for arm, (rank, count) in ranks.items()]
    return "\n".join(lines) + "\n"


_HEAD = (
    *("arm", "deployed", "behind", "worst decile", "tuned", "behind", "global", "MMACs", "memory"),
    *("MB down", "MB up", "1000 samples", "kept", "step, parameter", "seeds"),
)


def _table(track: str, arms: Rows, *, large: bool) -> Iterator[str]:
    yield f"| {' | '.join(_HEAD)} |"
    yield f"|{'---|' * len(_HEAD)}"

    def deployed(arm: str) -> float:
        return _mean(arms[arm].values(), "deployed") or 0.0

    for arm in sorted(arms, key=deployed, reverse=True):
        rows = list(arms[arm].values())
        tuned = dict.fromkeys(map(_tuned, rows))
        settings = [text.replace(" method.", ", ") for text in tuned]
        lost = sum(row.get("lost_replies", 0) for row in rows)
        cells = [
            f"{arm} (lost {lost})" if lost else arm,
            spread(rows, "deployed"),
            _behind(arms, arm, "deployed"),
            spread(rows, "worst_decile"),
            spread(rows, "fine_tuned"),
            _behind(arms, arm, "fine_tuned"),
            spread(rows, "global"),
            spread(rows, "macs", scale=1e-6),
            spread(rows, "memory_mib"),
            _cost(rows, "bytes_down", 1e-6),
            _cost(rows, "bytes_up", 1e-6),
            _cost(rows, "samples", 1e-3),
            _cost(rows, "client_state_bytes", 1e-6, digits=2),
            "; ".join(settings),
            ", ".join(arms[arm]),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    tiers = list(_tier_rows(arms))
    if tiers:
        yield from [*tiers, ""]
    pooled = list(pooled_table(arms))
    if pooled:
        yield from [*pooled, ""]
    yield "```"
    for arm in arms:
        if arm in ARMS:
            *_, row = arms[arm].values()
            lr, *more = _tuned(row).split(" ")
            given = overrides_of(track, arm, lr=float(lr), more=more, large=large)
            yield f"corolla run {' '.join(given)} dataset.root=PATH"
    yield "```"


def _tuned(row: Mapping[str, Any]) -> str:
    """Return step size and parameter that a row ran with; the first rows were all by default."""
    return str(row.get("tuned", DEFAULT_STEP))


def _tier_rows(arms: Rows) -> Iterator[str]:
    """Yield the accuracies by tier, deployed and after fine-tuning, where there are tiers.

    Of the seeds that all arms have: others' clients are others.
    """
    common = set.intersection(*(set(rows) for rows in arms.values()))
    arms = {arm: {s: row for s, row in rows.items() if s in common} for arm, rows in arms.items()}
    names = [tier for rows in arms.values() for row in rows.values() for tier in _deployed(row)]
    tiers = sorted(set(names), key=lambda name: int(name.partition("/")[2]))
    if not tiers:
        return
    yield f"By tier, of the seeds that all arms have ({', '.join(sorted(common))}):"
    yield ""
    yield f"| deployed, tuned | {' | '.join(tiers)} |"
    yield f"|{'---|' * (len(tiers) + 1)}"
    for arm, rows in arms.items():
        cells = [arm]
        for tier in tiers:
            both = [
                [row["tiers"][key][tier] for row in rows.values() if tier in _deployed(row, key)]
                for key in ("as_trained", "fine_tuned")
            ]
            cells.append(", ".join(f"{np.mean(v):.1f}" for v in both if v) or "-")
        yield f"| {' | '.join(cells)} |"


def pooled_table(arms: Rows) -> Iterator[str]:
    """Yield what the models are worth that methods give to more than one client; nothing without any."""
    if any(row.get("pooled") for rows in arms.values() for row in rows.values()):
        yield from _POOLED
    for arm, rows in arms.items():
        names = dict.fromkeys(name for row in rows.values() for name in row.get("pooled", {}))
        for name in names:
            found = [row["pooled"][name] for row in rows.values() if name in row.get("pooled", {})]
            cells = [arm, name, spread(found, "accuracy"), spread(found, "macs", scale=1e-6)]
            yield f"| {' | '.join(cells)} |"


def _deployed(row: Mapping[str, Any], key: str = "as_trained") -> Mapping[str, float]:
    found: Mapping[str, float] = row.get("tiers", {}).get(key, {})
    return found


def _behind(arms: Rows, arm: str, key: str) -> str:
    best = _best_arm(arms, key)
    if best is None or best == arm:
        return "best" if best else "-"
    lead = paired(arms[best], arms[arm], key)
    if lead is None:
        return "-"
    return points(lead).removeprefix("+")


def points(lead: tuple[float, float | None]) -> str:
    """Return a difference with its sign, and half its interval where there is one."""
    mean = round(lead[0], 1) + 0.0  # no -0.0
    return f"{mean:+.1f}" + ("" if lead[1] is None else f" ± {lead[1]:.1f}")


def _cost(rows: Sequence[Mapping[str, Any]], key: str, scale: float, *, digits: int = 0) -> str:
    mean = _mean(rows, key)
    return "-" if mean is None else f"{scale * mean:,.{digits}f}"


def spread(rows: Sequence[Mapping[str, Any]], key: str, *, scale: float = 1.0) -> str:
    """Return mean ± standard deviation over rows, times ``scale``; "-" where no row has a value."""
    values = [scale * row[key] for row in rows if row.get(key) is not None]
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def mean_ranks(runs: Mapping[str, Rows]) -> dict[str, tuple[float, int]]:
    """Return each method's mean rank (1: best) over its tracks, and their number; most tracks first."""
    ranks: dict[str, list[float]] = {}
    for every in runs.values():
        arms = {arm: rows for arm, rows in every.items() if arm == OWN or OWN not in arm}
        common = set.intersection(*(set(rows) for rows in arms.values())) if arms else set()
        if not common:
            continue
        means = [np.mean([rows[s]["deployed"] for s in sorted(common)]) for rows in arms.values()]
        for arm, rank in zip(arms, rankdata([-mean for mean in means]), strict=True):
            ranks.setdefault(arm, []).append(float(rank))
    found = {arm: (float(np.mean(ranked)), len(ranked)) for arm, ranked in ranks.items()}
    return dict(sorted(found.items(), key=lambda item: (-item[1][1], item[1][0])))


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    root = Path(__file__).parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
