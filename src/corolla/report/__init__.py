"""One self-contained HTML page about one run, or about several side by side."""

from typing import Any

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """Return ``write_report``; late, since drawing takes a second to import and tables need none of it."""
    if name != "write_report":
        raise AttributeError(name)
    from corolla.report.page import write_report

    return write_report
