"""Client side: one Client per way of training, and the ClientApp that answers messages."""

import sys
from pathlib import Path

# Flower puts only the app's root on sys.path and installs nothing: make `corolla` importable from src/.
_SOURCE = Path(__file__).resolve().parents[1] / "src"
if (_SOURCE / "corolla").is_dir() and str(_SOURCE) not in sys.path:
    sys.path.insert(0, str(_SOURCE))
