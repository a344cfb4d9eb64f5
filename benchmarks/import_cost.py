"""What a client process spends on imports before its first message, by package.

    python -m benchmarks.import_cost [--repeats 5]

Python's own ``-X importtime`` over ``import clients.client_app`` in processes of their own. A package's time
is that of its own modules, not of those that they import from others. Medians; read the shares.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recording import print_table, write_result

_OURS = ("corolla", "clients", "strategies", "engines", "conf")
_NAMED = (
    "torch",
    "torchvision",
    "numpy",
    "flwr",
    "hydra",
    "omegaconf",
    "antlr4",
    "pydantic",
    "triton",
)
_ROOT = Path(__file__).parents[1]


def by_package(told: str) -> dict[str, float]:
    """Return package -> seconds in its own modules, from what ``-X importtime`` writes."""
    found: dict[str, float] = {}
    for line in told.splitlines():
        head, _, rest = line.partition("import time:")
        parts = rest.split("|")
        if head or len(parts) != 3 or not parts[0].strip().isdigit():
            continue
        package = parts[2].strip().partition(".")[0]
        name = "corolla" if package in _OURS else package if package in _NAMED else "others"
        found[name] = found.get(name, 0.0) + int(parts[0]) / 1e6
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write results/import_cost.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    command = [sys.executable, "-X", "importtime", "-c", "import clients.client_app"]
    raw = []
    for _ in range(options.repeats + 1):
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
        raw.append(by_package(done.stderr))
    raw = raw[1:]  # the first one reads the files from the disk
    seconds = {name: statistics.median(one.get(name, 0.0) for one in raw) for name in raw[0]}
    whole = sum(seconds.values())
    figures = {"import_s": whole} | {
        f"{name}_share": value / whole
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    }
    print_table(figures, "seconds, and shares of them")
    print(f"written: {write_result('import_cost', figures, raw)}")


if __name__ == "__main__":
    main()
