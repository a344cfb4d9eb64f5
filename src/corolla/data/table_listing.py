"""Images listed in a table instead of class folders: ``path,label`` and perhaps ``site``, one row each."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from corolla.data.folder_listing import Listing
from corolla.errors import Fault, RefusedError, nearest

_LISTED = 20  # faults named one by one


def list_table(
    table: Path, root: Path, *, classes: Sequence[str] | None, sites: bool, settings_key: str
) -> Listing:
    """List the images that ``table`` names, in its order.

    Args:
        table: CSV with a head, or with tabs where it is called ``.tsv``.
        root: folder that its paths start from.
        classes: labels in order; None takes those there are, alphabetically.
        sites: whether it must have the column ``site``; where it has one, it is read anyway.
        settings_key: where the settings of the data set stand, for error messages.

    Raises:
        RefusedError: no such file, columns or images; labels that ``classes`` does not name.
    """
    key = f"{settings_key}.table"

    def fault(value: object, problem: str, remedy: str) -> Fault:
        return Fault(key, value, problem, remedy)

    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ",")
            rows = list(reader)
            columns = [str(name) for name in reader.fieldnames or []]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        remedy = "Give a CSV file with the columns path and label"
        raise RefusedError(fault(str(table), f"cannot be read ({error})", remedy)) from error
    wanted = ["path", "label", *(["site"] if sites else [])]
    lacking = [name for name in wanted if name not in columns]
    if lacking or not rows:
        problem = f"has no column {lacking[0]!r}" if lacking else "has no rows"
        remedy = f"Its first line is {','.join(wanted)}; it is {','.join(columns)!r}"
        raise RefusedError(fault(str(table), problem, remedy))
    labels = [str(row["label"] or "").strip() for row in rows]
    names = tuple(classes) if classes is not None else tuple(sorted({one for one in labels if one}))
    faults, files = [], []
    for number, (row, label) in enumerate(zip(rows, labels, strict=True), start=2):
        where = f"{table.name}, line {number}"
        path = root / (name := str(row["path"] or "").strip())
        if label not in names:
            faults.append(fault(where, f"label {label!r} is unknown", nearest(label, names)))
        if not path.is_file():
            remedy = f"Paths start from {root}; correct the table, or set {settings_key}.root"
            faults.append(fault(where, f"there is no file {path}", remedy))
        elif not faults:
            status = path.stat()
            files.append((name, status.st_size, status.st_mtime_ns))
    if faults:
        more = len(faults) - _LISTED
        rest = (
            [fault(str(table), f"{more} rows more are wrong", "Correct them")] if more > 0 else []
        )
        raise RefusedError(faults[:_LISTED] + rest)
    label_of = {name: position for position, name in enumerate(names)}
    found = [label_of[label] for label in labels]
    owners = [str(row["site"]).strip() for row in rows] if "site" in columns else None
    return Listing.of(root, files, found, class_names=names, sites=owners)
