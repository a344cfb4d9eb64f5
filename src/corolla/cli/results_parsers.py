"""Arguments of the commands that read finished runs; light, as all of ``--help`` must be."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_results_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add them; ``add`` makes a command's parser, which knows what carries it out."""
    table = add("table", help="print runs as a table: csv, md, latex or json (docs/python.md)")
    table.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    table.add_argument("--format", choices=("csv", "md", "latex", "json"), default="md")
    table.add_argument("-o", "--output", type=Path, help="a file; by default it is printed")

    predict = add(
        "predict", help="ask an exported model, or a run's, about pictures (docs/models.md)"
    )
    predict.add_argument("model", type=Path, help="an onnx, pt2 or safetensors file, or a RUN_DIR")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--client", help="whose model of a run")
    predict.add_argument("--top", type=int, default=3, help="how many classes to name")
    predict.add_argument("--json", action="store_true", help="a line of JSON per picture")

    watch = add("watch", help="show runs in a browser while they go on, on this machine alone")
    watch.add_argument(
        "run_dirs", type=Path, nargs="*", metavar="RUN_DIR", help="none: the newest below runs/"
    )
    watch.add_argument("--port", type=int, default=8710, help="0: any that is free")
    watch.add_argument("--every", type=float, default=3.0, help="seconds between looks")
