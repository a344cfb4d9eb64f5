"""A client's own model on disk: a directory of ``architecture.json`` and ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.records.atomic import with_temporary_directory
from corolla.records.client_names import directory_name
from corolla.records.errors import CorruptStateError
from corolla.records.json_files import read_json, write_json
from corolla.records.tensor_files import read_tensors, write_tensors
from corolla.types import Arrays, ClientId


def model_directory(run_dir: Path, client: ClientId) -> Path:
    """Return where a run keeps the model of ``client``."""
    return run_dir / "clients" / directory_name(client)


def save_model(directory: Path, architecture: Mapping[str, Any], arrays: Arrays) -> None:
    """Write both files, then name them ``directory``; a former one goes with all it held.

    ``architecture`` is JSON-able; ``arrays`` is the standalone model's ``state_dict``, which
    ``safetensors.torch.load_file`` reads in one call.
    """

    def fill(temporary: Path) -> None:
        write_json(temporary / "architecture.json", architecture, exact=True)
        write_tensors(temporary / "model.safetensors", arrays, {"format": "pt"})

    with_temporary_directory(directory, fill)


def load_model(directory: Path) -> tuple[dict[str, Any], Arrays]:
    """Return what ``save_model`` was given. Raises: CorruptStateError naming the file."""
    try:
        arrays, _ = read_tensors(directory / "model.safetensors")
        return read_json(directory / "architecture.json"), arrays
    except FileNotFoundError as error:
        raise CorruptStateError(f"{directory} is damaged: a file is missing: {error}") from error
