"""Work in a forked child that dies like a process that the system kills: at once, nothing cleaned up.

Forked, because Python and torch are loaded once for a hundred of them.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def operations(
    root: Path,
    work: Callable[[], Any],
    *,
    kill_at: int | None = None,
    kill_after_s: float | None = None,
) -> int | None:
    """Do ``work`` in a child; return how many file operations below ``root`` it took, None if killed.

    ``kill_at``: it dies before that one, counted from 1. ``kill_after_s``: it is killed then.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _work(str(root), work, kill_at, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        if kill_after_s is not None and not select.select([pipe], [], [], kill_after_s)[0]:
            os.kill(child, signal.SIGKILL)
        said = pipe.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGKILL:
        return None
    assert code == 0, f"exit code {code}: {said}"
    return int(said)


def _work(root: str, work: Callable[[], Any], kill_at: int | None, writing: int) -> None:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            counts = isinstance(flags, int) and bool(flags & _WRITING)
        else:
            path, counts = (arguments or ("",))[0], event in _CHANGES
        if counts and str(path).startswith(root):
            count()

    force = os.fsync

    def counted_force(descriptor: int) -> None:
        count()
        force(descriptor)

    code = 1
    try:
        os.fsync = counted_force
        sys.addaudithook(hook)
        work()
        before = str(done)
        os.write(writing, before.encode())
        code = 0
    except BaseException:
        os.write(writing, traceback.format_exc().encode()[-50_000:])
    finally:
        os._exit(code)
