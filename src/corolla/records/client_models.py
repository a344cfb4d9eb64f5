"""A client's own model on disk: a directory of ``architecture.json`` and ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corolla.records.atomic import with_temporary_directory
from corolla.records.client_names import directory_name
from corolla.records.errors import RESTORE
from corolla.records.seals import read_sealed, write_sealed
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
        write_sealed(temporary / "architecture.json", architecture, exact=True)
        write_tensors(temporary / "model.safetensors", arrays, {"format": "pt"})

    with_temporary_directory(directory, fill)


def load_model(directory: Path, *, remedy: str = RESTORE) -> tuple[dict[str, Any], Arrays]:
    """Return what ``save_model`` was given. Raises: CorruptStateError naming the file."""
    arrays, _ = read_tensors(directory / "model.safetensors", remedy=remedy)
    return read_sealed(directory / "architecture.json", remedy=remedy), arrays
