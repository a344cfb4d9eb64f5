"""A client's own model, out of a run directory: one call, no Flower."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import yaml
from torch import nn

from corolla.config.build import build_space
from corolla.config.schema import require_config
from corolla.errors import Fault, RefusedError
from corolla.records.atomic import write_bytes
from corolla.records.client_facts import read_client_facts
from corolla.records.client_names import directory_name
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from corolla.spaces.darts import DartsSpace
from corolla.spaces.darts_genotype import Genotype
from corolla.spaces.supernet import Supernet
from corolla.types import Arrays

_SUFFIX = {
    "safetensors": ".safetensors",
    "torchscript": ".pt",
    "onnx": ".onnx",
    "genotype": ".genotype.txt",
    "svg": ".svg",
}


def load_client_model(run_dir: Path | str, client: str) -> nn.Module:
    """Return the trained model of ``client``, in evaluation mode.

    Input: ``(n, channels, h, w)`` floats, normalised as the run's data set says; output: logits.

    Raises:
        RefusedError: no such run or client, or a client that kept its weights to itself.

    """
    space, architecture, arrays = _read(Path(run_dir), _number_of(Path(run_dir), client))
    return space.load(architecture, arrays).eval()


def _number_of(run_dir: Path, client: str) -> str:
    """Return the client whose site is called so, of a run by sites; else ``client`` itself."""
    if not (run_dir / "clients.json").is_file():
        return client
    facts = read_client_facts(run_dir)
    return next((number for number, known in facts.items() if known.get("site") == client), client)


def export_model(run_dir: Path, client: str, kind: str, output: Path | None) -> Path:
    """Write the model of ``client`` in one of the formats of `corolla export`; return the file.

    ``genotype`` is the DARTS tuple text of its cells, ``svg`` their drawing: the architecture alone.

    Raises:
        RefusedError: no such run or client; weights that the client kept to itself; a genotype of
            another space than DARTS.

    """
    client = _number_of(run_dir, client)
    own = run_dir / "clients" / directory_name(client)
    path = output or run_dir / f"{own.name}{_SUFFIX[kind]}"
    if kind in ("genotype", "svg"):
        genotype = _genotype(run_dir, client, kind)
        text = genotype.text() + "\n"
        if kind == "svg":
            # Late: the report brings its page's libraries, which loading a model needs none of.
            from corolla.report.darts_drawing import draw_genotype

            text = str(draw_genotype(genotype, standalone=True))
        write_bytes(path, text.encode())
        return path
    model = load_client_model(run_dir, client)
    if kind == "safetensors":
        source = own / "model.safetensors"
        shutil.copyfile(source, path)
        return path
    space, _, _ = _read(run_dir, client)
    example = torch.zeros(2, space.in_channels, space.resolution, space.resolution)
    if kind == "torchscript":
        torch.jit.trace(model, example).save(str(path))  # type: ignore[no-untyped-call]
        return path
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RefusedError(
            Fault("format", kind, f"{error.name} is not installed", "pip install 'corolla[onnx]'")
        ) from error
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model,
        (example,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: batch}},
        dynamo=True,
        verbose=False,
    )
    return path


def _genotype(run_dir: Path, client: str, kind: str) -> Genotype:
    space, architecture, _ = _described(run_dir, client)
    if not isinstance(space, DartsSpace):
        problem = f"space {space.name!r} has no cells"
        remedy = "Only DARTS architectures have a genotype; take safetensors, torchscript or onnx"
        raise RefusedError(Fault("format", kind, problem, remedy))
    return space.genotype(architecture)


def _read(run_dir: Path, client: str) -> tuple[Supernet, Architecture, Arrays]:
    space, architecture, arrays = _described(run_dir, client)
    if not arrays:
        raise RefusedError(
            Fault(
                "client",
                client,
                "its weights were not sent to the server",
                "Take the model from the node's own state-dir, or set evaluation.return_models=true",
            )
        )
    return space, architecture, arrays


def _described(run_dir: Path, client: str) -> tuple[Supernet, Architecture, Arrays]:
    directory = RunDirectory.open(run_dir)
    config = require_config(yaml.safe_load(directory.config_text()))
    description, arrays = directory.client_model(client)
    return build_space(config), Architecture.of(description["choices"]), arrays
