"""A SuperNode's messages without Python's start: a process that has imported everything forks for each.

Flower starts ``flwr-clientapp`` anew for every message, and 3 s of CPU time go into imports, most of them
torch's. `engines.supernode` puts `hand_over` in the place of that program. It passes arguments, environment
and open files on to a process of the site, its *stem*, through a Unix socket; the stem forks, and the child
runs Flower's own ``flwr-clientapp``. So nothing that Flower does is done otherwise, but that a bundle is
taken apart and compared with its own list of digests once, not for every message anew (`_installing_once`).
Messages share no more than they did: imported modules of others, never the application's, which each child
loads from the bundle that the message names.

The socket has mode 0600 in a folder of mode 0700, and both ends ask the kernel whose the other is. The first
message starts the stem, a later one replaces a stem that died, and the stem ends with the process that sent
the first message (Flower's SuperExec, which ends with its SuperNode). Linux only. Where anything of it fails,
the message is answered as Flower would have, and the log says why.

This file is run by its path, and the quicker the less it imports: only the standard library here.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import importlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

SOCKET, LOCK, INSTALLED = "stem", "stem.lock", "installed"
FOLDER_KEY, COMMAND_KEY = "COROLLA_WARM_CLIENT", "COROLLA_CLIENTAPP"
"""Environment: the private folder, and the path of Flower's own program."""

PRELOADED = (
    *("flwr.clientapp", "flwr.client"),
    *("numpy", "torch", "torch.optim", "torch.nn.utils.stateless", "torch.utils.flop_counter"),
    *(
        "hydra.utils",
        "omegaconf",
        "pydantic",
        "pydantic.dataclasses",
        "yaml",
        "psutil",
        "PIL.Image",
    ),
    *("safetensors.numpy", "torchvision.transforms.v2.functional", "torchvision.models.resnet"),
)
"""What a message imports of others; a test compares it with what one does import."""

_START_S = 120.0  # for the imports, on a slow device
_ANSWER_S = 10.0
_REAP_S = 1.0  # between two looks for children that ended
_LENGTH = struct.Struct("!I")


class NotWarmError(Exception):
    """Why a message starts a Python of its own."""


# --- what Flower starts for each message --------------------------------------------------------------


def hand_over(arguments: list[str]) -> None:
    """Have the stem run ``flwr-clientapp`` with these arguments; start the stem where there is none.

    Raises: NotWarmError.
    """
    here = Path.cwd()
    node = os.getppid()
    try:
        os.chdir(
            private(Path(os.environ[FOLDER_KEY]))
        )  # a socket's path is short, a folder's need not be
        connection = _connected() or _after_start(node)
        with connection:
            request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(here)}
            _send(connection, json.dumps(request).encode())
            if connection.recv(1) != b"+":
                raise NotWarmError("its stem did not take the message")
    except (OSError, KeyError) as error:
        raise NotWarmError(f"{type(error).__name__}: {error}") from error
    finally:
        os.chdir(here)


def private(folder: Path) -> Path:
    """Make ``folder`` if it is not there; NotWarmError where it is anybody else's, or open to others."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or not folder.is_dir():
        raise NotWarmError(f"{folder} is not a folder of this user alone (mode 0700)")
    return folder


def _connected() -> socket.socket | None:
    """Return a connection to the stem in this folder, None where there is none that lives."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ANSWER_S)
    try:
        connection.connect(SOCKET)
        if _peer(connection) != os.getuid():
            raise NotWarmError("its stem belongs to another user")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _after_start(node: int) -> socket.socket:
    """Start the stem, unless another message is faster, and connect to it."""
    with Path(LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _connected()
        if connection is not None:
            return connection
        ready, tell = os.pipe()
        # -P: this file's folder is no place to import from.
        command = [sys.executable, "-P", __file__, "--stem", str(node), str(tell)]
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=(tell,), start_new_session=True
        )
        os.close(tell)
        with os.fdopen(ready, "rb") as answer:
            told, _, _ = select.select([answer], [], [], _START_S)
            if not told or answer.read(1) != b"+":
                raise NotWarmError(f"no stem within {_START_S:.0f} s, or it ended at once")
        connection = _connected()
        if connection is None:
            raise NotWarmError("the stem ended at once")
        return connection


def _send(connection: socket.socket, request: bytes) -> None:
    """Send the request, and this process' standard files beside its first bytes."""
    data = _LENGTH.pack(len(request)) + request
    files = array.array("i", [0, 1, 2])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files.tobytes())]
    sent = connection.sendmsg([data], rights)
    connection.sendall(data[sent:])


def _peer(connection: socket.socket) -> int:
    """Return the user at the other end, as the kernel knows it."""
    format_ = struct.Struct("3i")  # process, user, group
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, format_.size)
    return int(format_.unpack(credentials)[1])


# --- the stem -----------------------------------------------------------------------------------------


def stem(node: int, tell: int) -> None:
    """Import everything, then fork for each message, until process ``node`` ends.

    A child becomes ``flwr-clientapp`` and never returns.
    """
    ended = os.pidfd_open(node)
    if os.getuid() != Path().stat().st_uid:
        raise NotWarmError("the stem's folder belongs to another user")
    import_ahead()
    program = flower_program()
    _patch_installation()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:  # a fork would have one of them, and the locks of all
        raise NotWarmError(f"{threads} threads run after the imports")
    gc.collect()
    gc.freeze()  # or every collection in a child would copy the stem's memory
    listener = _listening()
    os.write(tell, b"+")
    os.close(tell)
    children = 0
    watched: list[Any] = [listener, ended]
    while True:
        ready, _, _ = select.select(watched, [], [], _REAP_S if children else None)
        while children and os.waitpid(-1, os.WNOHANG)[0]:
            children -= 1
        if ended in ready:
            return
        if not ready:
            continue
        connection, _ = listener.accept()
        own = _peer(connection) == os.getuid()
        children += own
        if own and os.fork() == 0:
            listener.close()
            threading.Thread(target=_end_with, args=[ended], daemon=True).start()
            _become(connection, program)
        connection.close()


def flower_program() -> Callable[[], None]:
    """Return what Flower has the command ``flwr-clientapp`` call. Raises: NotWarmError."""
    from importlib.metadata import entry_points  # slow to import, and only the stem needs it

    for entry in entry_points(group="console_scripts", name="flwr-clientapp"):
        program: Callable[[], None] = entry.load()
        return program
    raise NotWarmError("there is no flwr-clientapp to be run")


def import_ahead() -> None:
    """Import what messages import of others; what is not installed is left out, with a word in the log."""
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            sys.stderr.write(f"warm client: {name} is not there to be imported ahead: {error}\n")


def _patch_installation() -> None:
    """Have Flower's program install each bundle once; where Flower has moved, it does as it did."""
    try:
        module = importlib.import_module("flwr.supernode.runtime.run_clientapp")
        module.install_from_fab = _installing_once(module.install_from_fab)  # type: ignore[attr-defined]
    except (ImportError, AttributeError) as error:
        sys.stderr.write(f"warm client: bundles are taken apart for each message: {error}\n")


def _installing_once(install: Callable[..., Path]) -> Callable[..., Path]:
    """Return ``install``, which makes a folder of a bundle's bytes, unless these very bytes have theirs.

    Flower unpacks 600 files for each message, compares their digests, and then returns the folder that is
    there from the first time, which is what the same bytes always say. The private folder
    has a file for each bundle, under the digest of its bytes, with the path of its folder.
    """

    import hashlib  # late: only the stem needs it

    def installed(bundle: Any, *arguments: Any, **options: Any) -> Path:
        if not isinstance(bundle, bytes):
            return install(bundle, *arguments, **options)
        note = Path(os.environ[FOLDER_KEY]) / INSTALLED / hashlib.sha256(bundle).hexdigest()
        with contextlib.suppress(FileNotFoundError):
            folder = Path(note.read_text())
            if folder.is_dir():
                return folder
        folder = install(bundle, *arguments, **options)
        note.parent.mkdir(mode=0o700, exist_ok=True)
        written = note.with_suffix(f".{os.getpid()}")
        written.write_text(str(folder.absolute()))
        written.replace(note)
        return folder

    return installed


def _end_with(node: int) -> None:
    """End this process after the node's; Flower's own goodbye has a moment, and can wait for ever."""
    select.select([node], [], [])
    time.sleep(_ANSWER_S)
    os._exit(1)


def _listening() -> socket.socket:
    """Return a socket in this folder that nobody else may connect to."""
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(SOCKET)
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def _become(connection: socket.socket, program: Callable[[], None]) -> NoReturn:
    """Take over what the message's own process had, and run Flower's program."""
    with connection:
        connection.settimeout(_ANSWER_S)
        request, files = _received(connection)
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        connection.sendall(b"+")
    sys.argv = ["flwr-clientapp", *request["arguments"]]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()  # of the global generator: children must not draw alike
    code = 1
    try:
        program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Flower has said goodbye; taking thousands of modules apart would cost as much as the message.
        os._exit(code)


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    room = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    data, rights, _, _ = connection.recvmsg(2**16, room)
    files = array.array("i")
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    while len(data) < _LENGTH.size or len(data) < _LENGTH.size + _LENGTH.unpack_from(data)[0]:
        more = connection.recv(2**16)
        if not more:
            raise ConnectionError("the message's process is gone")
        data += more
    return json.loads(data[_LENGTH.size :]), list(files)


def main(arguments: list[str]) -> None:
    """Be the stem, or what Flower takes for ``flwr-clientapp``."""
    if arguments[:1] == ["--stem"]:
        stem(int(arguments[1]), int(arguments[2]))
        return
    try:
        hand_over(arguments)
    except NotWarmError as error:
        sys.stderr.write(f"warm client: this message starts a Python of its own: {error}\n")
        _cold(arguments)


def _cold(arguments: list[str]) -> NoReturn:
    command = os.environ[COMMAND_KEY]
    os.execv(command, [command, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
