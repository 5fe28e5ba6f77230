"""Where things are: the checkout, which may be read-only, and what is made beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[3]
LAMBDA: Final = REPOSITORY / "lambda"
TEMPLATE: Final = REPOSITORY / "template.yaml"
STACKS: Final = REPOSITORY / "stacks"
HOME: Final = Path(os.environ.get("SLUICE_HOME") or REPOSITORY / ".sluice")
"""What the scripts make for themselves: the Python environment, builds, and the local AWS's state."""
