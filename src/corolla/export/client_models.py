"""A client's own model as an `nn.Module`: one call, no Flower."""

from __future__ import annotations

from pathlib import Path

import yaml
from torch import nn

from corolla.config import own_parts
from corolla.config.build import build_space
from corolla.config.schema import require_config
from corolla.errors import Fault, RefusedError
from corolla.records.client_facts import read_client_facts
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.types import Arrays


def load_client_model(run_dir: Path | str, client: str) -> nn.Module:
    """Return the trained model of ``client``, in evaluation mode.

    Input: ``(n, channels, h, w)`` floats, normalised as the run's data set says; output: logits.

    Raises:
        RefusedError: no such run or client, or a client that kept its weights to itself.

    """
    space, architecture, arrays = described(Path(run_dir), number_of(Path(run_dir), client))
    if not arrays:
        raise RefusedError(
            Fault(
                "client",
                client,
                "its weights were not sent to the server",
                "Take the model from the node's own state-dir, or set evaluation.return_models=true",
            )
        )
    return space.load(architecture, arrays).eval()


def number_of(run_dir: Path, client: str) -> str:
    """Return the client whose site is called so, of a run by sites; else ``client`` itself."""
    if not (run_dir / "clients.json").is_file():
        return client
    facts = read_client_facts(run_dir)
    return next((number for number, known in facts.items() if known.get("site") == client), client)


def described(run_dir: Path, client: str) -> tuple[Supernet, Architecture, Arrays]:
    """Return space, architecture and weights of ``client``; no arrays where they were kept to itself."""
    directory = RunDirectory.open(run_dir)
    own_parts.use_those_of(run_dir)
    config = require_config(yaml.safe_load(directory.config_text()))
    description, arrays = directory.client_model(client)
    return build_space(config), Architecture.of(description["choices"]), arrays
