"""One client's model as a file for other programs, with all that is needed to ask it inside the file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from corolla.errors import Fault, RefusedError
from corolla.export.card import model_card
from corolla.export.client_models import described, load_client_model, number_of
from corolla.export.facts import facts_of
from corolla.export.shipped import ShippedModel
from corolla.records.atomic import write_bytes
from corolla.records.client_names import directory_name
from corolla.records.tensor_files import write_tensors
from corolla.spaces.darts import DartsSpace
from corolla.spaces.darts_genotype import Genotype
from corolla.spaces.supernet import to_arrays

KEY = "corolla.facts"  # in every format's own metadata
PT2_FILE = "corolla.json"
_SUFFIX = {
    "safetensors": ".safetensors",
    "onnx": ".onnx",
    "pt2": ".pt2",
    "card": ".md",
    "genotype": ".genotype.txt",
    "svg": ".svg",
}
FORMATS = tuple(_SUFFIX)
Facts = Mapping[str, Any]


def export_model(run_dir: Path, client: str, kind: str, output: Path | None) -> list[Path]:
    """Write the model of ``client`` in one of the formats of `corolla export`; return the files.

    ``onnx`` and ``pt2`` (a torch.export program) are one file each, with the preprocessing inside:
    `ShippedModel`; ``safetensors`` holds the weights. All three carry `facts_of` the model, and get a
    model card beside them; ``card`` is the card alone. ``genotype`` is the DARTS tuple text of the cells,
    ``svg`` their drawing.

    Raises:
        RefusedError: no such run or client; weights that the client kept to itself; a genotype of
            another space than DARTS; a library that is not installed.

    """
    path = output or run_dir / f"{directory_name(client)}{_SUFFIX[kind]}"
    client = number_of(run_dir, client)
    _make_folder(path.parent)
    if kind in ("genotype", "svg"):
        genotype = _genotype(run_dir, client, kind)
        text = genotype.text() + "\n"
        if kind == "svg":
            # Late: the report brings its page's libraries, which loading a model needs none of.
            from corolla.report.darts_drawing import draw_genotype

            text = str(draw_genotype(genotype, standalone=True))
        write_bytes(path, text.encode())
        return [path]
    facts = facts_of(run_dir, client)
    written = []
    if kind in _WRITERS:
        _WRITERS[kind](run_dir, client, facts, path)
        written = [path]
        path = path.with_name(f"{path.name}.md")
    write_bytes(path, model_card(facts, written[0].name if written else None).encode())
    return [*written, path]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem, remedy = error.strerror or str(error), "Choose a file in a folder of yours"
        raise RefusedError(Fault("output", str(folder), problem, remedy)) from error


def _safetensors(run_dir: Path, client: str, facts: Facts, path: Path) -> None:
    arrays = to_arrays(load_client_model(run_dir, client))
    write_tensors(path, arrays, {"format": "pt", KEY: json.dumps(facts)})


def _pt2(run_dir: Path, client: str, facts: Facts, path: Path) -> None:
    model, example = _shipped(run_dir, client, facts)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (example,), dynamic_shapes={"pixels": {0: batch}})
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={PT2_FILE: json.dumps(facts)})
    write_bytes(path, content.getvalue())


def _onnx(run_dir: Path, client: str, facts: Facts, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        problem, remedy = f"{error.name} is not installed", "pip install 'corolla[onnx]'"
        raise RefusedError(Fault("format", "onnx", problem, remedy)) from error
    model, example = _shipped(run_dir, client, facts)
    program = torch.onnx.export(
        model,
        (example,),
        input_names=["pixels"],
        output_names=["logits", "probabilities"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    proto = program.model_proto  # weights inside: one file
    onnx.helper.set_model_props(proto, {KEY: json.dumps(facts)})
    write_bytes(path, proto.SerializeToString())


_WRITERS: Mapping[str, Callable[[Path, str, Facts, Path], None]] = {
    "safetensors": _safetensors,
    "onnx": _onnx,
    "pt2": _pt2,
}


def _shipped(run_dir: Path, client: str, facts: Facts) -> tuple[ShippedModel, torch.Tensor]:
    """Return the model with its preprocessing, and an input of two images."""
    given = facts["input"]
    model = ShippedModel(load_client_model(run_dir, client), given["mean"], given["std"]).eval()
    size = given["resolution"]
    return model, torch.zeros(2, given["channels"], size, size, dtype=torch.uint8)


def _genotype(run_dir: Path, client: str, kind: str) -> Genotype:
    space, architecture, _ = described(run_dir, client)
    if not isinstance(space, DartsSpace):
        problem = f"space {space.name!r} has no cells"
        remedy = "Only DARTS architectures have a genotype; take onnx, pt2 or safetensors"
        raise RefusedError(Fault("format", kind, problem, remedy))
    return space.genotype(architecture)
