"""Puts the app's own ``src`` first on the path, as Corolla's packages do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
