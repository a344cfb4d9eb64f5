"""What a slow and small machine does to a node: its processes get a part of a core, and little memory.

    python -m benchmarks.edge [--rounds 4]

Needs root and Linux's control groups (version 1 or 2). SuperLink and server part are not limited; one site
is: TLS, a registered key, FedAvg of `elastic_cnn` on 120 digits, with a warm client and without. Seconds per
round are the difference of a long run and a short one, so that what happens once cancels out; a node looks
for orders every 3 s, which is in them. Memory: the limits are lowered until a round has no reply any more. A
limit makes the kernel give up cached files first, so it says more than a peak does.

``results/edge.json``: ``round_s_warm_25`` is at 25 % of a core, ``least_mib_warm`` the lowest limit that
passed. A share of this machine's core is not a board's core: the ratios are what this tells.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.recording import print_table, read_raw, write_result
from tests.deployment.federation import Federation, lines

_NAME = "edge"
_SITE = "site-a"
_SHORT = 2
_SHARES = (1.0, 0.25)  # of a core
_MIB = (2048, 1024, 768, 512, 384, 256)
_ROOMY = 4096  # MiB
_TIMEOUT_S = 240
_METHOD = ["method=fedavg", "space=elastic_cnn", "evaluation.received=false"]
_METHOD += ["evaluation.final=none", f"round_timeout_s={_TIMEOUT_S}"]
_GROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 100_000


def main() -> None:
    """Measure what is missing, and write after each arm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="more than the short run's 2")
    rounds = parser.parse_args().rounds
    raw = read_raw(_NAME)
    for kind in ("warm", "cold"):
        warm = kind == "warm"
        for share in _SHARES:
            key = f"round_s_{kind}_{share:.0%}".rstrip("%")
            if key not in raw:
                raw[key] = _round_s(rounds, warm=warm, share=share)
                write_result(_NAME, raw, raw)
        if f"least_mib_{kind}" not in raw:
            raw[f"least_mib_{kind}"] = _least_mib(warm=warm)
            write_result(_NAME, raw, raw)
    print_table(raw, "a node with little")


def _round_s(rounds: int, *, warm: bool, share: float) -> float:
    with _federation(warm=warm, share=share, mib=_ROOMY) as federation:
        _run(federation, "first", 1)  # bundle, images, stem
        short = _run(federation, "short", _SHORT)
        return (_run(federation, "long", rounds) - short) / (rounds - _SHORT)


def _least_mib(*, warm: bool) -> int:
    """Return the lowest of the limits under which a node trains; 0 where none does."""
    least = 0
    for mib in _MIB:
        try:
            with _federation(warm=warm, share=1.0, mib=mib) as federation:
                _run(federation, "run", 1)
        except (RuntimeError, AssertionError) as error:
            print(f"{mib} MiB: {str(error)[:200]}", flush=True)
            break
        least = mib
        print(f"{mib} MiB: passed", flush=True)
    return least


def _run(federation: Federation, name: str, rounds: int) -> float:
    """Return the seconds that the rounds took; RuntimeError where one had no reply."""
    start = time.monotonic()
    run = federation.run(federation.runs / name, *_METHOD, f"rounds={rounds}")
    code = run.wait(timeout=rounds * _TIMEOUT_S + 300)
    metrics = lines(federation.runs / name / "metrics.jsonl")
    if code or len(metrics) < rounds or not all(line["participants"] for line in metrics):
        raise RuntimeError(
            f"{name} ended with {code}: {metrics[-1:]} {federation.log('user')[-500:]}"
        )
    return time.monotonic() - start


@contextmanager
def _federation(*, warm: bool, share: float, mib: int) -> Iterator[Federation]:
    with tempfile.TemporaryDirectory() as folder, _limited(share, mib) as groups:
        joins = "; ".join(f"echo $$ > {group}/cgroup.procs" for group in groups)
        behind = ["sh", "-c", f'{joins}; exec "$@"', "sh"]
        federation = Federation(Path(folder), [_SITE], warm=warm, behind=behind)
        try:
            federation.start()
            yield federation
        finally:
            federation.close()


@contextmanager
def _limited(share: float, mib: int) -> Iterator[list[Path]]:
    """Make control groups with these limits; remove them, which only works when they are empty."""
    name, quota = f"corolla-{os.getpid()}", int(share * _PERIOD_US)
    if (_GROUPS / "cgroup.controllers").exists():
        (_GROUPS / "cgroup.subtree_control").write_text("+cpu +memory")
        groups = [_GROUPS / name]
        limits = {"cpu.max": f"{quota} {_PERIOD_US}", "memory.max": f"{mib}M"}
    else:
        groups = [_GROUPS / "cpu" / name, _GROUPS / "memory" / name]
        limits = {"cpu.cfs_quota_us": str(quota), "memory.limit_in_bytes": f"{mib}M"}
    for group in groups:
        group.mkdir()
    for file, value in limits.items():
        next(g / file for g in groups if (g / file).exists()).write_text(value)
    try:
        yield groups
    finally:
        for group in groups:
            for _ in range(50):
                with suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.2)


if __name__ == "__main__":
    main()
