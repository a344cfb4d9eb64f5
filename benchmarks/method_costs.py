"""What each method sends, keeps and computes, over what its model is, from a run of three rounds.

    python -m benchmarks.method_costs [METHOD ...]

Every method runs on the tiniest federation that it can: 4 clients with 18 training images of digits, 2 a
round, one epoch, in a space of its own where it needs one. Bytes are those of a participant's messages in a
round over those of its model (4 per parameter of its architecture); samples are the images that it trained on
over its images times epochs; states are what lies on a participant's disk, and in a checkpoint of the server,
over the same model. In small models the rest of a message (names, settings) weighs more than in earnest.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.finished_runs import client_state_bytes
from benchmarks.recording import read_raw, write_result
from corolla.config.groups import methods
from corolla.launch import plan_run, start
from corolla.records.run_directory import RunDirectory
from tests.strategies.conftest import small

_NAME = "method_costs"
COLUMNS = ("bytes_down", "bytes_up", "samples", "client_state", "server_state")
_PAGE = Path(__file__).parents[1] / "docs" / "baselines.md"
_BEGIN, _END = "<!-- costs -->", "<!-- /costs -->"
_BYTES = 4  # of a parameter
_IMAGES = 18  # that a client of `small` trains on


def main() -> None:
    """Run the methods, write results/method_costs.json, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    chosen = parser.parse_args().methods or methods()
    raw = read_raw(_NAME)
    for method in chosen:
        with tempfile.TemporaryDirectory() as folder:
            quiet = ["evaluation.fine_tune_epochs=0", "evaluation.every=0"]
            run = start(plan_run(small(f"method={method}", f"run_dir={folder}/run", *quiet)))
            raw[method] = measured(run)
    figures = {f"{method}_{name}": row[name] for method, row in raw.items() for name in COLUMNS}
    write_result(_NAME, figures, raw)
    print(table(raw))
    _PAGE.write_text(with_table(_PAGE.read_text(), raw))


def measured(run: RunDirectory) -> dict[str, float]:
    """Return the costs of a finished run, per participant and round."""
    rows = [row for row in run.clients() if row.get("params")]
    model = _BYTES * float(np.mean([row["params"] for row in rows]))
    trained = [row.get("samples_processed", 0.0) for row in rows]
    checkpoint = (run.path / "checkpoints" / "latest").read_text().strip()
    return {
        "bytes_down": float(np.mean([row["bytes_down"] for row in rows])) / model,
        "bytes_up": float(np.mean([row["bytes_up"] for row in rows])) / model,
        "samples": float(np.mean(trained)) / _IMAGES,
        "client_state": client_state_bytes(run) / model,
        "server_state": _size(run.path / "checkpoints" / checkpoint) / model,
        "model_bytes": model,
    }


def _size(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.iterdir()))


def with_table(page: str, raw: dict[str, dict[str, float]]) -> str:
    """Return the page with the table of costs in its place."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    words = "Of one participant in one round, over its model (`python -m benchmarks.method_costs`):"
    return f"{before}{_BEGIN}\n{words}\n\n{table(raw)}\n{_END}{after}"


def table(raw: dict[str, dict[str, float]]) -> str:
    """Return the rows as Markdown."""
    head = ["method", *(name.replace("_", " ") for name in COLUMNS)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for method, row in sorted(raw.items()):
        lines.append(f"| {method} | {' | '.join(f'{row[name]:.1f}' for name in COLUMNS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
