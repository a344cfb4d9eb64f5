"""Records as pandas tables; pandas is an extra, and imported here alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from corolla.errors import Fault, RefusedError

if TYPE_CHECKING:
    import pandas as pd


def frame(rows: Iterable[Mapping[str, Any]], index: str | None = None) -> pd.DataFrame:
    """Return one row per record; nested keys are joined by "/", lists stay lists.

    Raises:
        RefusedError: pandas is not installed.

    """
    try:
        import pandas as pd
    except ImportError as error:
        remedy = "pip install 'corolla[pandas]'"
        raise RefusedError(Fault("pandas", None, "is not installed", remedy)) from error
    table = pd.DataFrame([dict(_leaves(row)) for row in rows])
    return table.set_index(index) if index in table.columns else table


def _leaves(record: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
