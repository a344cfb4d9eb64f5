"""``run.log``: what the run said, whatever the console showed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OWN_LOGGERS = ("corolla", "strategies", "clients", "engines")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def logging_to(path: Path, level: int = logging.INFO) -> Iterator[None]:
    """Append to ``path`` what any logger says at ``level`` or above, until the block ends.

    The handler sits at the root, so warnings of libraries are kept too. Our own loggers are opened
    up to ``level`` for the time being; libraries keep their own.
    """
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    own = [logging.getLogger(name) for name in OWN_LOGGERS]
    former = [logger.level for logger in own]
    for logger in own:
        if logger.getEffectiveLevel() > level:
            logger.setLevel(level)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, was in zip(own, former, strict=True):
            logger.setLevel(was)
        handler.close()
