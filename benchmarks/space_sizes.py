"""How large the architectures of every space are: parameters, multiply-accumulates, bytes, memory.

    python -m benchmarks.space_sizes [SPACE ...]

Exact counts, no timing: of the smallest and the largest architecture, and the mean of 200 uniform draws,
with ten classes and colour images (the _8 space: gray ones). With names, of these alone; the others stay.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from hydra.utils import get_class

from benchmarks.recording import read_raw, write_result
from corolla.config.compose import compose_values
from corolla.config.groups import config_dir
from corolla.spaces.costs import Costs
from corolla.spaces.supernet import Supernet

DRAWS, BATCH = 200, 32


def main() -> None:
    """Count, print a Markdown table, write results/space_sizes.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("spaces", nargs="*", metavar="SPACE")
    there = sorted(path.stem for path in (config_dir() / "space").glob("*.yaml"))
    chosen = parser.parse_args().spaces or there
    kept: dict[str, Any] = read_raw("space_sizes")
    raw = {name: kept[name] for name in there if name in kept}
    print("| space | dimensions | logits | architectures | M parameters | MMACs | MiB to train |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen:
        space = space_named(name, 1 if name.endswith("_8") else 3)
        raw[name] = {
            "dimensions": len(space.dimensions),
            "with_a_choice": sum(len(d) > 1 for d in space.dimensions),
            "logits": space.num_logits,
            "architectures": space.size,
            **_sizes(space),
        }
        print(_row(name, raw[name]))
    figures = {
        f"{name}_{which}_{unit}": raw[name][which][key] / 1e6
        for name in sorted(raw)
        for which in ("smallest", "mean", "largest")
        for key, unit in (("params", "params_m"), ("macs", "mmacs"))
    }
    print(f"written: {write_result('space_sizes', figures, raw)}")


def space_named(name: str, channels: int = 3, **changes: Any) -> Supernet:
    """Return the space of ``conf/space/`` for ten classes, with ``changes`` to its settings."""
    settings = dict(compose_values([f"space={name}"])["space"]["supernet"])
    kind = get_class(settings.pop("_target_"))
    known = {"name": name, "num_classes": 10, "in_channels": channels}
    space = kind(**(settings | known | changes))
    if not isinstance(space, Supernet):
        raise TypeError(f"{name} is no Supernet")
    return space


def _sizes(space: Supernet) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    drawn = [_costs(space.costs(space.sample(rng), batch_size=BATCH)) for _ in range(DRAWS)]
    return {
        "smallest": _costs(space.costs(space.smallest(), batch_size=BATCH)),
        "mean": {key: float(np.mean([c[key] for c in drawn])) for key in drawn[0]},
        "largest": _costs(space.costs(space.largest(), batch_size=BATCH)),
    }


def _costs(costs: Costs) -> dict[str, float]:
    return {
        "params": costs.params,
        "macs": costs.macs,
        "payload_mib": costs.payload_bytes / 2**20,
        "training_memory_mib": costs.training_memory_mib,
    }


def _row(name: str, found: dict[str, Any]) -> str:
    def three(key: str, scale: float, digits: int) -> str:
        parts = (found[which][key] / scale for which in ("smallest", "mean", "largest"))
        return " / ".join(f"{part:.{digits}f}" for part in parts)

    cells = [
        name,
        f"{found['dimensions']} ({found['with_a_choice']} with a choice)",
        str(found["logits"]),
        f"{found['architectures']:.3g}",
        three("params", 1e6, 2),
        three("macs", 1e6, 1),
        three("training_memory_mib", 1, 0),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
