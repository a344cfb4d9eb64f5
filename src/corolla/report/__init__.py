"""One self-contained HTML page about one run, or about several side by side."""

from corolla.report.page import write_report

__all__ = ["write_report"]
