"""Runs the command behind a script: python -m scripts.commands MODULE ARGUMENTS...

Needs the standard library alone, to name a missing module in one line where a folder of stacks/ is gone or half there.
"""

from __future__ import annotations

import os
import runpy
import sys


def main(module: str) -> None:
    """Run the module as __main__; exit with 2 if it cannot be loaded."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except (ImportError, SyntaxError) as error:
        if os.environ.get("DEBUG") == "1":
            raise
        place = "" if isinstance(error, ImportError) else f" ({error.filename})"
        print(
            f"error: {module} cannot be loaded: {error.__cause__ or error}{place}: restore its files", file=sys.stderr
        )
        sys.exit(2)


if __name__ == "__main__":
    del sys.argv[0]
    if "--local" in sys.argv or os.environ.get("SLUICE_LOCAL") == "1":
        # botocore needs it for `aws login` alone, and imports it in a quarter of its time.
        sys.modules["awscrt"] = None  # type: ignore[assignment]  # None is Python's mark of a refused import
    main(sys.argv[0])
