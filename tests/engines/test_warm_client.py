"""The warm client: a message is Flower's own program in a fork of a process that has imported everything.

A stand-in for flwr-clientapp, found before the real one, writes down where it runs; torch is empty here.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from corolla.errors import RefusedError
from engines import warm_client
from engines.supernode import command

STAND_IN = """
import json, os, sys
def flwr_clientapp():
    where = {"pid": os.getpid(), "parent": os.getppid(), "folder": os.getcwd(), "told": os.environ["TOLD"]}
    line = json.dumps(where | {"arguments": sys.argv[1:]})
    os.write(1, line.encode() + bytes([10]))
    sys.exit(0)
"""
NODE = """
import os, subprocess, sys
for line in sys.stdin:  # SuperExec: starts a program for each message
    subprocess.run([sys.executable, "-I", "-S", sys.argv[1], *line.split()])
    os.write(1, b"started" + bytes([10]))
"""
# One write a line: a print without buffer is two, and a message outlives the process that Flower waits for.


class Node:
    """What starts flwr-clientapp for each message, and the folders it has."""

    def __init__(self, folder: Path) -> None:
        self.private = folder / "a-folder-whose-name-is-too-long-for-a-socket" / ("x" * 80) / "warm"
        stubs = folder / "stubs"
        for name in (
            "flwr/supernode/cli",
            "torch",
            "torchvision",
            "hydra",
            "omegaconf",
            "pydantic",
        ):
            (stubs / name).mkdir(parents=True)
        for package in [path for path in stubs.rglob("*") if path.is_dir()]:
            (package / "__init__.py").touch()
        (stubs / "flwr/supernode/cli/__init__.py").write_text(STAND_IN)
        cold = folder / "cold"
        cold.write_text('#!/bin/sh\necho "cold $*"\n')
        cold.chmod(0o755)
        self.log = (folder / "log").open("ab")
        keys = {warm_client.FOLDER_KEY: str(self.private), warm_client.COMMAND_KEY: str(cold)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", NODE, warm_client.__file__],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, **keys, "PYTHONPATH": str(stubs), "TOLD": "by the message"},
        )

    def message(self, *arguments: str, told: str) -> str:
        """Send a message; return the first new line of the log that has ``told`` in it."""
        seen = len(self.lines())
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(arguments) + "\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + 60
        while True:
            for line in self.lines()[seen:]:
                if told in line:
                    return line
            assert time.monotonic() < deadline, self.lines()
            time.sleep(0.02)

    def warm(self, *arguments: str) -> dict[str, object]:
        return dict(json.loads(self.message(*arguments, told='"pid"')))

    def lines(self) -> list[str]:
        text = Path(self.log.name).read_text()
        return text[: text.rfind("\n") + 1].splitlines()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    try:
        yield node
    finally:
        node.process.kill()
        node.process.wait()


def gone(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=20)


def test_messages_are_children_of_one_stem_that_is_replaced_and_ends_with_the_node(
    node: Node,
) -> None:
    first = node.warm("--token", "a")
    second = node.warm("--token", "b")
    assert second["arguments"] == ["--token", "b"]
    assert (second["folder"], second["told"]) == (str(node.private.parents[2]), "by the message")
    stem = int(str(first["parent"]))
    assert second["parent"] == stem
    assert second["pid"] != first["pid"]
    assert stat.S_IMODE((node.private / warm_client.SOCKET).stat().st_mode) == 0o600
    assert stat.S_IMODE(node.private.stat().st_mode) == 0o700
    psutil.Process(stem).kill()
    gone(stem)
    third = node.warm("--token", "c")
    assert third["parent"] not in (stem, node.process.pid)
    node.process.kill()
    gone(int(str(third["parent"])))


def test_what_others_may_enter_is_not_used_and_the_log_says_so(node: Node) -> None:
    node.private.mkdir(parents=True)
    node.private.chmod(0o755)
    assert node.message("--token", "a", told="cold") == "cold --token a"
    assert any("not a folder of this user alone" in line for line in node.lines())


def test_both_ends_ask_the_kernel_who_the_other_is(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert warm_client._peer(ours) == os.getuid()
    node.warm("--token", "a")
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    monkeypatch.chdir(node.private)
    with pytest.raises(warm_client.NotWarmError, match="belongs to another user"):
        warm_client._connected()


def test_one_key_switches_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flower-supernode", "flwr-clientapp"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower"))
    options = ["--superlink=x:1", '--node-config=client="a" data-dir="/d"']
    _, arguments, environment = command(options)
    assert arguments[1:] == options
    first = Path(environment["PATH"].split(os.pathsep)[0])
    assert first == tmp_path / "flower" / "warm-client" / "bin"
    assert warm_client.__file__ in (first / "flwr-clientapp").read_text()
    for off in (
        ["--node-config", 'client="a" warm-client=false'],
        ["--node-config=warm-client=false"],
    ):
        _, _, plain = command(off)
        assert warm_client.FOLDER_KEY not in plain
        assert "warm-client" not in plain["PATH"]
    with pytest.raises(RefusedError, match=r"warm-client='no': is neither true nor false"):
        command(["--node-config=warm-client=no"])


def test_a_bundle_is_installed_once_for_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, calls = tmp_path / "private", []
    private.mkdir(mode=0o700)
    monkeypatch.setenv(warm_client.FOLDER_KEY, str(private))

    def install(bundle: bytes | Path, *, skip_prompt: bool) -> Path:
        if bundle == b"spoiled":
            raise ValueError("File hashes couldn't be verified.")
        calls.append(bundle)
        folder = tmp_path / f"app-{len(calls)}"
        folder.mkdir()
        return folder

    once = warm_client._installing_once(install)
    first = once(b"one", skip_prompt=True)
    assert once(b"one", skip_prompt=True) == first
    second = once(b"another", skip_prompt=True)
    assert second != first
    assert calls == [b"one", b"another"]
    first.rmdir()  # `corolla clean`
    third = once(b"one", skip_prompt=True)
    assert third.is_dir()
    assert once(b"another", skip_prompt=True) == second
    assert calls == [b"one", b"another", b"one"]
    for _ in range(2):  # what could not be installed is not taken for installed
        with pytest.raises(ValueError, match="could"):
            once(b"spoiled", skip_prompt=True)
    assert once(tmp_path, skip_prompt=True).is_dir()
    assert calls[-1] == tmp_path
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in private.iterdir())


def test_flowers_program_installs_bundles_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    flowers = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    plain = flowers.install_from_fab
    monkeypatch.setattr(flowers, "install_from_fab", plain)
    warm_client._patch_installation()
    assert any(cell.cell_contents is plain for cell in flowers.install_from_fab.__closure__)
