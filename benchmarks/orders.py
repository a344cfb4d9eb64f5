"""How supernets, and costs alone, order architectures that were each trained by themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corolla.search.predictor import rank_correlation

_ALIKE = 1.2  # of two like costs the larger over the smaller, at most
_FEWEST_PAIRS = 5  # over fewer, tau is left out
_CORRELATIONS = ("kendall", "spearman", "kendall_given_macs")  # of a supernet, always there


def add_correlations(raw: dict[str, Any]) -> dict[str, float]:
    """Add to the raw numbers how costs and supernets order the architectures; return the figures."""
    rows = raw["architectures"]
    alone, macs = ([row[key] for row in rows] for key in ("alone", "macs"))
    pairs = alike(macs)
    enough = len(pairs) >= _FEWEST_PAIRS
    raw["alike"] = {"larger_over_smaller_below": _ALIKE, "pairs": len(pairs), "enough": enough}
    raw["by_cost"] = {
        key: _ranks([row[key] for row in rows], alone, key)
        for key in ("macs", "params")
        if all(key in row for row in rows)
    }
    for name, runs in raw["supernets"].items():
        for one in runs:
            scores = [-loss for loss in one["losses"]]
            one |= _ranks(scores, alone, f"{name}, seed {one['seed']}")
            with_macs = _ranks(scores, macs, name)["kendall"]
            one["kendall_with_macs"] = with_macs
            one["kendall_given_macs"] = partial_tau(
                one["kendall"], with_macs, raw["by_cost"]["macs"]["kendall"]
            )
            if enough:
                one["kendall_alike"] = tau_of_pairs(scores, alone, pairs)
    figures = {
        f"{rank}_by_{cost}": ranks[rank]
        for cost, ranks in raw["by_cost"].items()
        for rank in ("kendall", "spearman")
    }
    for name, runs in raw["supernets"].items():
        for key in (*_CORRELATIONS, "kendall_with_macs", "kendall_alike"):
            values = [one[key] for one in runs if one.get(key) is not None]
            if values:
                figures[f"{key}_{name}"] = float(np.mean(values))
    return figures


def alike(macs: Sequence[float]) -> list[tuple[int, int]]:
    """Return the pairs of places whose costs differ by less than a fifth of the smaller one."""
    places = itertools.combinations(range(len(macs)), 2)
    return [(i, j) for i, j in places if max(macs[i], macs[j]) < _ALIKE * min(macs[i], macs[j])]


def tau_of_pairs(
    first: Sequence[float], second: Sequence[float], pairs: Sequence[tuple[int, int]]
) -> float:
    """Return the pairs in the same order less those in the opposite one, over all; a tie is neither."""
    signs = [np.sign(first[i] - first[j]) * np.sign(second[i] - second[j]) for i, j in pairs]
    return float(np.mean(signs))


def partial_tau(xy: float, xz: float, yz: float) -> float | None:
    """Return Kendall's tau of x and y with z held fixed, from the three taus; None where z says all."""
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(left) if left > 1e-12 else None


def table(raw: Mapping[str, Any]) -> str:
    """Return a Markdown table of the correlations, and how many pairs are of like cost."""
    lines = [
        "| order by | seeds | Kendall's tau | mean | Spearman's rho, mean | tau given MACs, mean |"
    ]
    lines.append("|" + "---|" * 6)
    for cost, ranks in raw["by_cost"].items():
        tau, rho = (f"{ranks[rank]:.2f}" for rank in ("kendall", "spearman"))
        lines.append(f"| {cost} alone | - | {tau} | {tau} | {rho} | - |")
    for name, runs in raw["supernets"].items():
        seeds = ", ".join(str(one["seed"]) for one in runs)
        taus = ", ".join(f"{one['kendall']:.2f}" for one in runs)
        means = [
            f"{np.mean(values):.2f}" if (values := [v for v in column if v is not None]) else "-"
            for column in ([one[key] for one in runs] for key in _CORRELATIONS)
        ]
        lines.append(f"| {name} | {seeds} | {taus} | {' | '.join(means)} |")
    found = raw["alike"]
    lines.append(f"\npairs of like cost (larger below {_ALIKE} x smaller): {found['pairs']}")
    if found["enough"]:
        for name, runs in raw["supernets"].items():
            taus = ", ".join(f"{one['kendall_alike']:.2f}" for one in runs)
            lines.append(f"  {name}: tau over them {taus}")
    else:
        lines[-1] += f"; no tau over fewer than {_FEWEST_PAIRS}"
    return "\n".join(lines)


def _ranks(scores: Sequence[float], against: Sequence[float], name: str) -> dict[str, float]:
    found = rank_correlation(scores, against)
    if found is None or found.pairs < len(scores):
        raise SystemExit(f"{name}: all numbers are equal or some not finite, there is no order")
    return {"kendall": found.kendall, "spearman": found.spearman}
