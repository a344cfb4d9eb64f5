"""Asks an exported model, or a run's, about picture files; pictures are decoded as for training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from corolla.config.build import build
from corolla.data.image_decoding import UnreadableImagesError, decode_files
from corolla.errors import Fault, RefusedError
from corolla.export.client_models import load_client_model, number_of
from corolla.export.facts import facts_of
from corolla.export.formats import KEY, PT2_FILE
from corolla.export.shipped import ShippedModel
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet

Ask = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_REMEDY = "Give a file that `corolla export` wrote (onnx, pt2, safetensors), or a run directory"


@dataclass(frozen=True)
class Predictor:
    """A model with what describes it; ``ask`` takes bytes (n, c, h, w) and returns probabilities."""

    facts: Mapping[str, Any]
    ask: Ask

    @classmethod
    def open(cls, path: Path, client: str | None = None) -> Predictor:
        """Open a file by its ending, or the model of ``client`` in a run directory.

        Raises:
            RefusedError: no such file, one that says nothing of itself, a library that is missing.

        """
        if path.is_dir():
            RunDirectory.open(path)
            if client is None:
                remedy = "Give --client ID: a run has a model per client"
                raise RefusedError(Fault("client", None, f"{path} is a run directory", remedy))
            client = number_of(path, client)
            facts = facts_of(path, client)
            return cls(facts, _in_torch(_prepared(load_client_model(path, client), facts)))
        opened = _OPENERS.get(path.suffix)
        if not path.is_file() or opened is None:
            problem = "no such file" if not path.exists() else "no file of these formats"
            raise RefusedError(Fault("model", str(path), problem, _REMEDY))
        return cls(*opened(path))

    def predict(self, images: Sequence[Path]) -> NDArray[np.float32]:
        """Return probabilities (n, classes) of picture files. RefusedError names those unreadable."""
        given = self.facts["input"]
        pixels, unreadable = decode_files(
            [str(path) for path in images],
            resolution=given["resolution"],
            channels=given["channels"],
        )
        if unreadable:
            failed = [(str(images[i]), reason) for i, reason in unreadable.items()]
            raise UnreadableImagesError("image", failed, "Name pictures that can be opened")
        return self.ask(pixels)


def _safetensors(path: Path) -> tuple[dict[str, Any], Ask]:
    try:
        with safe_open(path, framework="np") as file:
            facts = _facts((file.metadata() or {}).get(KEY), path)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RefusedError(
            Fault("model", str(path), f"cannot be read: {error}", _REMEDY)
        ) from error
    known = {"num_classes": len(facts["classes"]), "in_channels": facts["input"]["channels"]}
    space: Supernet = build(facts["space"], "space.supernet", like=Supernet, **known)
    model = space.load(Architecture.of(facts["choices"]), arrays).eval()
    return facts, _in_torch(_prepared(model, facts))


def _pt2(path: Path) -> tuple[dict[str, Any], Ask]:
    extra = {PT2_FILE: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # a damaged archive raises nearly anything
        raise RefusedError(
            Fault("model", str(path), f"cannot be read: {error}", _REMEDY)
        ) from error
    return _facts(extra[PT2_FILE], path), _in_torch(program.module())


def _onnx(path: Path) -> tuple[dict[str, Any], Ask]:
    try:
        import onnxruntime
    except ImportError as error:
        problem, remedy = "onnxruntime is not installed", "pip install 'corolla[onnx]'"
        raise RefusedError(Fault("model", str(path), problem, remedy)) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise RefusedError(
            Fault("model", str(path), f"cannot be read: {error}", _REMEDY)
        ) from error
    facts = _facts(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def ask(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(["probabilities"], {"pixels": pixels})[0]
        return found

    return facts, ask


_OPENERS: Mapping[str, Callable[[Path], tuple[dict[str, Any], Ask]]] = {
    ".onnx": _onnx,
    ".pt2": _pt2,
    ".safetensors": _safetensors,
}


def _facts(text: str | None, path: Path) -> dict[str, Any]:
    if not text:
        problem = "says nothing of its classes and pictures: `corolla export` did not write it"
        raise RefusedError(Fault("model", str(path), problem, _REMEDY))
    found: dict[str, Any] = json.loads(text)
    return found


def _prepared(model: torch.nn.Module, facts: Mapping[str, Any]) -> ShippedModel:
    return ShippedModel(model, facts["input"]["mean"], facts["input"]["std"]).eval()


def _in_torch(model: Any) -> Ask:
    def ask(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = model(torch.from_numpy(pixels))[1].numpy()
            return found

    return ask
