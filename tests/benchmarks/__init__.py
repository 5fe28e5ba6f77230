"""Measurements, each a command of its own; lambda/ is on their path, as it is on the tests'."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "lambda"))
