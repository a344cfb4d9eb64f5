"""A client's own model, out of a run directory: loaded, written for other programs, asked about pictures."""

from corolla.export.client_models import load_client_model
from corolla.export.formats import FORMATS, export_model

__all__ = ["FORMATS", "export_model", "load_client_model"]
