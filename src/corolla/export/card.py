"""The model card: what a shipped model is, how good it is, what it costs, how to ask it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corolla.report.wording import percent, plural, size

_SAID = {
    "val_accuracy": "validation images",
    "test_accuracy": "test images",
    "fine_tuned_accuracy": "test images, after fine-tuning",
    "global_accuracy": "test images, by the model that all clients share",
}


def model_card(facts: Mapping[str, Any], file: str | None) -> str:
    """Return the card as Markdown; ``file`` is the model it lies beside, if any."""
    given, costs = facts["input"], facts["costs"]
    client, rounds = facts.get("site") or facts["client"], plural(facts["rounds"], "round")
    parts = [
        f"# {facts['method']} on {facts['dataset']}: the model of client {client}",
        f"{rounds} of {facts['method']}, seed {facts['seed']}, run `{facts['run']}`. "
        "The model was personalised for one client: its figures are of that client's images, and say "
        "nothing of others.",
        "## What goes in, what comes out",
        f"The central square of a picture, {given['resolution']} x {given['resolution']} pixels, "
        f"{'gray' if given['channels'] == 1 else 'RGB'}: bytes / 255, minus {given['mean']}, by "
        f"{given['std']} (`onnx` and `pt2` take the bytes and do this themselves). "
        f"Out come logits and probabilities of {len(facts['classes'])} classes.",
        _table(["class", "name", "of the client's training images"], _classes(facts)),
        _prior(facts["class_prior"]),
        "## How good it is",
        _table(["right on", "%"], [[_SAID[k], percent(v)] for k, v in facts["accuracy"].items()])
        if facts["accuracy"]
        else "No accuracy is recorded.",
        _images(facts),
        "## What it costs",
        _table(["", ""], [[*_cost(key, value)] for key, value in costs.items()])
        if costs
        else "No cost is recorded.",
        "## Its architecture",
        _table(["choice", "value"], [[k, f"{v}"] for k, v in facts["architecture"].items()]),
        f"Space `{facts['space']['name']}`.",
    ]
    if file is not None:
        parts += ["## How to ask it", f"```\ncorolla predict {file} PICTURE ...\n```"]
    versions = ", ".join(
        f"{name} {version}" for name, version in facts["versions"].items() if version
    )
    made = f"Made with {versions}" if versions else "Versions are not recorded"
    parts.append(f"{made}; commit {facts['commit'] or 'unknown'}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _classes(facts: Mapping[str, Any]) -> list[list[str]]:
    shares = facts["class_prior"]["frequencies"] or [None] * len(facts["classes"])
    return [
        [str(label), str(name), "unknown" if share is None else f"{percent(share)} %"]
        for label, (name, share) in enumerate(zip(facts["classes"], shares, strict=True))
    ]


def _prior(prior: Mapping[str, Any]) -> str:
    if prior["added"] is False:
        return "The logits have no class prior added."
    when = "" if prior["added"] is True else f" {prior['added']}"
    return (
        f"The client's class prior, the logarithm of these shares, is in the last layer's bias{when}: where "
        "classes are as frequent elsewhere as here, leave it; where all are alike, subtract it."
    )


def _images(facts: Mapping[str, Any]) -> str:
    counts = facts["num_examples"]
    if not isinstance(counts, Mapping):
        return ""
    return (
        f"Measured on {counts.get('test', '?')} test and {counts.get('validation', '?')} validation images; "
        f"trained on {counts.get('train', '?')} of its own."
    )


def _cost(key: str, value: float) -> tuple[str, str]:
    if key.endswith("_bytes"):
        return {"payload_bytes": "weights", "activation_bytes": "activations in training"}[
            key
        ], size(value)
    name = {"params": "parameters", "macs": "multiply-accumulates per image"}.get(key)
    if name:
        return name, f"{value:,.0f}"
    if key == "latency_ms":
        return "time per image on the client", f"{value:.2f} ms"
    return "memory to train it", f"{value:,.1f} MiB"


def _table(head: list[str], rows: list[list[str]]) -> str:
    safe = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *safe))
