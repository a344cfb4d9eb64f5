"""The one place that touches torch's process-wide settings and random state."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache

import numpy as np
import torch

from corolla.training.settings import LoopSettings

_LOG = logging.getLogger(__name__)
_MODEL, _ORDER, _AUGMENT = range(3)  # independent streams of one seed

# glibc's mallopt parameters and the values we give them.
_M_TRIM_THRESHOLD, _KEPT_BYTES = -1, 256 * 2**20
_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK_BYTES = -3, 32 * 2**20  # 32 MiB: the most older glibc takes

# How many kernels oneDNN keeps once it has generated them for a shape.
_KERNEL_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


def configure_torch(loop: LoopSettings) -> None:
    """Apply ``loop``'s process-wide settings: threads, determinism, what the process keeps.

    They stay as set; nothing is restored.

    - ``keep_freed_memory``: by default glibc gives the memory of large tensors back to the kernel
      and gets it zeroed again, at every step. Keeping up to 256 MiB of it saves 4 to 10 % of the
      CPU time on 32x32 images. Once switched on it stays on for the process; where there is no
      glibc nothing is done.
    - oneDNN generates machine code for every shape of convolution and batch that it meets, 40 to 50
      ms for all of a MobileNetV3 subnet, and by default keeps the last 1,024: three subnets. We
      have it keep 8,192, which holds a whole space, as layers recur in other subnets: from the
      second round on, two batches of a new 32x32 subnet take 0.67 of the time, and no more memory.
      oneDNN reads the number at its first convolution; a value already in the environment stays.
    """
    os.environ.setdefault(*_KERNEL_CACHE)
    if torch.get_num_threads() != loop.threads:
        torch.set_num_threads(loop.threads)
    if loop.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS would refuse
    if torch.are_deterministic_algorithms_enabled() != loop.deterministic:
        torch.use_deterministic_algorithms(loop.deterministic)
    if loop.keep_freed_memory:
        _keep_freed_memory()


def seed_torch(seed: Sequence[int], epoch: int = 0) -> None:
    """Seed torch's global generators (weights, dropout) of the CPU and, where in use, of CUDA."""
    number = _number(seed, _MODEL, epoch)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)


@contextmanager
def seeded_torch(seed: Sequence[int], device: torch.device, epoch: int = 0) -> Iterator[None]:
    """Run the block with torch's global generators seeded, then put their states back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_torch(seed, epoch)
        yield


def separate_draws(count: int, device: torch.device) -> list[AbstractContextManager[None]]:
    """Return ``count`` contexts to enter in turn, as often as wanted: each draws as if it were alone.

    All begin where torch's global generators are now. One alone needs no keeping apart.
    """
    if count == 1:
        return [nullcontext()]
    return [_Draws(device) for _ in range(count)]


class _Draws(AbstractContextManager[None]):
    """Swaps a generator state of its own in and out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = self._get()

    def __enter__(self) -> None:
        self._outside = self._get()
        self._set(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = self._get()
        self._set(self._outside)

    def _get(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        cuda = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), cuda

    def _set(self, states: tuple[torch.Tensor, torch.Tensor | None]) -> None:
        torch.set_rng_state(states[0])
        if states[1] is not None:
            torch.cuda.set_rng_state(states[1], self._device)


def order_generator(seed: Sequence[int], epoch: int) -> np.random.Generator:
    """Return the generator of one epoch's batch order."""
    return np.random.default_rng(_sequence(seed, _ORDER, epoch))


def augmentation_generator(seed: Sequence[int], epoch: int) -> torch.Generator:
    """Return the CPU generator of one epoch's augmentation: the same draws on every device."""
    return torch.Generator().manual_seed(_number(seed, _AUGMENT, epoch))


def _sequence(seed: Sequence[int], stream: int, epoch: int) -> np.random.SeedSequence:
    # A spawn key, not more numbers: SeedSequence takes [1, 2] and [1, 2, 0] for the same entropy.
    return np.random.SeedSequence([int(part) for part in seed], spawn_key=(stream, epoch))


def _number(seed: Sequence[int], stream: int, epoch: int) -> int:
    return int(_sequence(seed, stream, epoch).generate_state(1, np.uint64)[0] >> np.uint64(1))


@cache
def _keep_freed_memory() -> None:
    if platform.libc_ver()[0] != "glibc":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # pragma: no cover - glibc has it
        return
    took = mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK_BYTES)
    took &= mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    if not took:
        _LOG.info("the C library keeps its own rule for freed memory: training may be slower")
