"""Runs methods on real SuperNodes: a SuperLink and two sites as processes, TLS and registered keys.

    python -m benchmarks.on_nodes [METHOD ...]

Each method runs two rounds of digits (FedNAS three) in the space of its tests, then every site's model is
looked for on the site's own disk. A server's own images, where a method needs some, are class folders.
``results/on_nodes.json`` says per method: rounds, failures, sites that keep a model, seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.recording import read_raw, write_result
from corolla.config.groups import methods
from tests.deployment.federation import Federation, lines
from tests.strategies.conftest import NEEDS

_NAME = "on_nodes"
_SITES = ["site-a", "site-b"]
_PICTURES = 60
_TIMEOUT_S = 1800  # of a run: many processes start, and a busy machine takes minutes for it


def main() -> None:
    """Run the methods one after another on the same sites."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    chosen = parser.parse_args().methods or methods()
    raw = read_raw(_NAME)
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(Path(folder), _SITES)
        try:
            federation.start()
            pictures = _pictures(Path(folder) / "pictures")
            for method in chosen:
                raw[method] = found = _run(federation, method, pictures)
                print(method, found, flush=True)
                failures = {f"{name}_failures": row["failures"] for name, row in raw.items()}
                write_result(_NAME, failures, raw)
        finally:
            federation.close()


def _run(federation: Federation, method: str, pictures: Path) -> dict[str, Any]:
    run_dir, started = federation.runs / method, time.monotonic()
    needs = [text for text in NEEDS.get(method, []) if not text.startswith("server_set")]
    if needs != NEEDS.get(method, []):
        own = {"root": pictures, "resolution": 8, "channels": 1, "cache_dir": "none"}
        needs += ["server_set=dataset", *(f"server_set.dataset.{k}={v}" for k, v in own.items())]
    rounds = 3 if method == "fednas" else 2  # two to search, one to train
    process = federation.run(run_dir, f"method={method}", *needs, f"rounds={rounds}")
    code = process.wait(timeout=_TIMEOUT_S)
    federation.end_run()
    rows = lines(run_dir / "metrics.jsonl")
    kept = [site for site in _SITES if _has_model(federation.state_dir(site), started)]
    return {
        "exit": code,
        "rounds": len(rows),
        "failures": sum(row["failures"] for row in rows) if code == 0 else -1,
        "sites_with_model": len(kept),
        "seconds": round(time.monotonic() - started, 1),
        **({} if code == 0 else {"said": federation.log("user")[-400:]}),
    }


def _has_model(state: Path, started: float) -> bool:
    """Return whether the site's deployed model was written since ``started``, on the monotonic clock."""
    model = state / "model" / "model.safetensors"
    age = time.time() - model.stat().st_mtime if model.is_file() else float("inf")
    return age <= time.monotonic() - started


def _pictures(folder: Path) -> Path:
    digits = load_digits()
    for number in range(_PICTURES):
        path = folder / str(digits.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((16 * digits.images[number]).clip(0, 255).astype("uint8")).save(path)
    return folder


if __name__ == "__main__":
    main()
