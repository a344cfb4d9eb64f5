"""The federated NAS family beside our three systems, for docs/fednas_family.md: rows of the leaderboard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.leaderboard_cells import TITLES
from benchmarks.leaderboard_table import pooled_table, spread

_SYSTEMS = ("perfedrlnas", "spider", "hapfnas")
_FAMILY = ("fednas", "direct_fednas", "fedrlnas", "fedpnas", "superfednas", "deepfednas", "fedoras")
_ONE_NETWORK = ("fedavg_largest", "fedavg_largest_momentum", "fedavg_cells")  # nothing is searched
_HEAD = ("arm", "deployed", "worst decile", "after fine-tuning", "MMACs", "MB down", "seeds")


def family(raw: Mapping[str, Any]) -> list[str]:
    """Return two tables for each track that the family has run on: what clients run, and global models."""
    return [line for track in TITLES for line in _track(track, raw.get("runs", {}).get(track, {}))]


def _track(track: str, ran: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    asked = {n for name in (*_SYSTEMS, *_FAMILY, *_ONE_NETWORK) for n in (name, f"{name}_cells")}
    arms = {arm: ran[arm] for arm in ran if arm in asked}
    if not any(arm.removesuffix("_cells") in _FAMILY for arm in arms):
        return
    means = {a: sum(r["deployed"] for r in arms[a].values()) / len(arms[a]) for a in arms}
    arms = {arm: arms[arm] for arm in sorted(arms, key=lambda arm: -means[arm])}
    yield from (
        "",
        f"**Track {track}. {TITLES[track]}.** What each client runs, on its own images:",
        "",
    )
    yield f"| {' | '.join(_HEAD)} |"
    yield f"|{'---|' * len(_HEAD)}"
    for arm, by_seed in arms.items():
        rows = list(by_seed.values())
        scores = [spread(rows, key) for key in ("deployed", "worst_decile", "fine_tuned")]
        costs = [spread(rows, "macs", scale=1e-6), spread(rows, "bytes_down", scale=1e-6)]
        yield f"| {' | '.join([arm, *scores, *costs, ', '.join(by_seed)])} |"
    yield from ("", *pooled_table(arms))
