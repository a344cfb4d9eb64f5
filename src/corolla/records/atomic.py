"""Files and directories that are either there whole or not there at all.

Everything is written beside its final place under a hidden name, forced to the disk, and then
renamed: a reader or a crash sees the old content or the new one, never a part. Leftovers of a crash
have names that ``sweep`` knows.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def temporary_beside(path: Path) -> Path:
    """Return an unused hidden name in the directory of ``path``."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of ``path``, durably."""
    with_temporary_file(path, lambda temporary: _write_durably(temporary, data))


def write_text(path: Path, text: str) -> None:
    """Replace the content of ``path`` by ``text`` in UTF-8, durably."""
    write_bytes(path, text.encode())


def with_temporary_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file (and force it to disk), then give it the name ``path``.

    Raises: OSError naming ``path``; the old file is then untouched.
    """
    temporary = temporary_beside(path)
    try:
        write(temporary)
        os.replace(temporary, path)  # noqa: PTH105 (kept as one visible step of the protocol)
        fsync_directory(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def with_temporary_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Let ``fill`` write files (each forced to disk) into a new directory, then name it ``path``.

    A directory that has the name already is moved aside first and deleted afterwards, so for an
    instant there may be none; a name that others point at must not be reused (see
    ``checkpoints.py``).
    """
    temporary, aside = temporary_beside(path), temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        fsync_directory(temporary)
        replaces = path.exists()
        if replaces:
            path.rename(aside)
        try:
            temporary.rename(path)
        except BaseException:
            if replaces:
                aside.rename(path)
            raise
        fsync_directory(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fsync_directory(directory: Path) -> None:
    """Force the names in ``directory`` to disk, where the file system can do that."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Force the content of a file that something else wrote to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Return whether a file is one that is being written, or that a crash left."""
    return name.startswith(".tmp") or (
        name.startswith(".") and name.endswith(".tmp")
    )  # safetensors


def sweep(directory: Path) -> None:
    """Delete what a crash left in ``directory``; only its one writer may call this."""
    for leftover in [each for each in directory.glob(".*") if is_temporary(each.name)]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
