"""Records as pandas tables; pandas is an extra, and imported here alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from corolla.errors import Fault, RefusedError
from corolla.records.json_files import flat

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
    table = pd.DataFrame([flat(row) for row in rows])
    return table.set_index(index) if index in table.columns else table
