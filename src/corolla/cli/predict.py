"""``corolla predict``: what a model says about pictures."""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
from rich.console import Console

from corolla.export.predicting import Predictor


def predict_command(options: argparse.Namespace, console: Console) -> int:
    """Print a line per picture: the likeliest classes, or all of them as JSON."""
    predictor = Predictor.open(options.model, options.client)
    names = [str(name) for name in predictor.facts["classes"]]
    probabilities = predictor.predict(options.images)
    for path, row in zip(options.images, probabilities, strict=True):
        if options.json:
            shares = {name: float(share) for name, share in zip(names, row, strict=True)}
            line = {"image": str(path), "class": names[int(row.argmax())], "probabilities": shares}
            text = json.dumps(line, ensure_ascii=False)
        else:
            best = np.argsort(-row, kind="stable")[: options.top]
            text = f"{path}: " + ", ".join(f"{names[i]} {100 * row[i]:.1f} %" for i in best)
        sys.stdout.write(text + "\n")
    return 0
