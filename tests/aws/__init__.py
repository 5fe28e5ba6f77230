"""Commands for maintainers with an AWS account: they show where the local AWS differs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "lambda"))
