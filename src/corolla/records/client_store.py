"""What a client keeps between rounds, on its own disk."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from corolla.errors import Fault, RefusedError
from corolla.records.atomic import sweep
from corolla.records.client_names import directory_name
from corolla.records.errors import CorruptStateError
from corolla.records.json_files import to_json
from corolla.records.tensor_files import read_tensors, write_tensors
from corolla.state import State
from corolla.types import ClientId

FORMAT_VERSION = 2
"""Of a client's state file."""

PRIVATE = "private"
"""Name of the store, `ClientStore.apart`, of the parts of the model that are private to clients."""

RUN_NAME = re.compile("[0-9a-f]{12}")
"""What a node's folder of a run is called: the start of a digest of the run directory's path."""

FINISHED = "finished"
"""In the root of a node's store once the run has deployed its model: `corolla clean` may remove it."""

_LOG = logging.getLogger(__name__)


class ClientStore:
    """Durable states of clients, by round: ``<root>/<client>/round-000012.safetensors``.

    A server that crashed in round r repeats r after it was resumed, and round r - 1 too where the
    checkpoint of that one was damaged. The client must then start from the state it first started
    the round from, not from the one it left it with; so three rounds are kept, and a state is asked
    for by the round it is needed in.

    Args:
        root: A directory of this run's own, as the rounds of two runs say nothing about each other.
        keep: How many states of a client stay, counted back from the one saved last.
        experiment: What the run is (method, space, seed ...); states of another one are refused.
    """

    def __init__(
        self, root: Path | str, *, keep: int = 3, experiment: Mapping[str, str] | None = None
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least the state saved last must stay")
        self._root, self._keep = Path(root), keep
        self._experiment = dict(experiment or {})

    def note_finished(self) -> None:
        """Say that the run these states are of has ended: they are needed no more."""
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / FINISHED).touch()

    def apart(self, name: str, *, keep: int | None = None) -> ClientStore:
        """Return a store of other states of the same clients, in a folder that no client's name can be."""
        keep = self._keep if keep is None else keep
        return ClientStore(self._root / f"+{name}", keep=keep, experiment=self._experiment)

    def save(self, client: ClientId, round: int, state: State) -> None:
        """Write what ``client`` knows after ``round``, atomically and durably.

        States of later rounds are deleted: they belong to rounds that are being repeated.
        Raises: OSError naming the file; TypeError naming what cannot be stored.
        """
        directory = self._directory(client)
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
        record = {
            "format_version": FORMAT_VERSION,
            "round": round,
            "experiment": self._experiment,
            "meta": state.meta,
        }
        metadata = {"state": json.dumps(to_json(record, exact=True, where="state"))}
        write_tensors(directory / f"round-{round:06d}.safetensors", state.arrays, metadata)
        saved = self._saved(client)
        stale = [r for r in saved if r > round] + [r for r in saved if r <= round][: -self._keep]
        for former in stale:
            saved[former].unlink()

    def load(self, client: ClientId, before_round: int) -> tuple[int, State] | None:
        """Return the newest state from before ``before_round`` with its round, else None.

        Raises: CorruptStateError naming the damaged file; RefusedError if it is of another format or
            of another experiment.
        """
        for round, read in self.states(client, before_round):
            return round, read()
        return None

    def states(
        self, client: ClientId, before_round: int
    ) -> Iterator[tuple[int, Callable[[], State]]]:
        """Yield all rounds before ``before_round`` that there is a state of, the newest first.

        Beside each is what reads it, or raises as `load` does.
        """
        saved = self._saved(client)
        earlier = [round for round in saved if round < before_round]
        if saved and not earlier:
            _LOG.warning(
                "client %s starts anew: it has no state from before round %d, only of %s",
                client,
                before_round,
                sorted(saved),
            )
        for round in reversed(earlier):
            yield round, partial(self._read, saved[round])

    def newest(self, client: ClientId, *, up_to: int) -> int | None:
        """Return the last round by ``up_to`` that ``client`` has a state of; no file is read."""
        return max((round for round in self._saved(client) if round <= up_to), default=None)

    def require(self, client: ClientId, *, saved_in: int, up_to: int) -> None:
        """Raise CorruptStateError unless the state from ``saved_in``, or a later one, is whole."""
        newest = self.newest(client, up_to=up_to)
        if newest is None or newest < saved_in:
            problem = f"the client's state after round {saved_in} is missing"
            raise CorruptStateError(self._directory(client), problem)
        self._read(self._saved(client)[newest])

    def _directory(self, client: ClientId) -> Path:
        return self._root / directory_name(client)

    def _saved(self, client: ClientId) -> dict[int, Path]:
        """Return the files of ``client`` by round, ascending."""
        files = self._directory(client).glob("round-*.safetensors")
        rounds = ((file.stem.removeprefix("round-"), file) for file in files)
        return dict(sorted((int(round), file) for round, file in rounds if round.isdecimal()))

    def _read(self, path: Path) -> State:
        arrays, metadata = read_tensors(path)
        try:
            record = json.loads(metadata["state"])
            version, meta = int(record["format_version"]), record.get("meta")
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptStateError(path, repr(error)) from error
        if version != FORMAT_VERSION:
            kind = "a newer" if version > FORMAT_VERSION else "an older"
            raise RefusedError(
                Fault(
                    "state_format",
                    version,
                    f"{path} was written by {kind} Corolla; this one reads format {FORMAT_VERSION}",
                    f"Install {kind} release on this node, or clear its state directory",
                )
            )
        if not isinstance(meta, dict):
            raise CorruptStateError(path, "it holds no meta")
        recorded = record.get("experiment") or self._experiment
        different = [key for key, value in self._experiment.items() if recorded.get(key) != value]
        if different:
            key = different[0]
            raise RefusedError(
                Fault(
                    "state-dir",
                    str(path.parent),
                    f"holds the state of another experiment: {key} is {recorded.get(key)!r} there, "
                    f"{self._experiment[key]!r} here",
                    "Give the run another run_dir, or clear this folder",
                )
            )
        return State(arrays=arrays, meta=meta)
