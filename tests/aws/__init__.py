"""What maintainers ask of an AWS account, to see where the local AWS differs. Each is a command of its own."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "lambda"))
