"""The local AWS as `python -m local.server` runs it, which writes down each permission that a policy has given.

The file granted.jsonl of its directory gets a line for each: the principal, the Sid of the statement, the action. It
sees what MiniStack asks the evaluator (every call of a function, a script or a person) and what the engines ask it
(what the services do with the roles that are given to them).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from local import server
from local.emulator import Emulator

RECORD = "granted.jsonl"


def record(directory: Path, evaluator: Any) -> None:
    """Let the evaluator write down what it allows, each line once."""
    evaluate, seen = evaluator.evaluate, set()

    def recorded(request: Any, *policies: Any) -> Any:
        result = evaluate(request, *policies)
        line = json.dumps([request.principal_arn, result.matched_sid, request.action])
        if result.decision == "Allow" and line not in seen:
            seen.add(line)
            with (directory / RECORD).open("a") as file:
                file.write(line + "\n")
        return result

    evaluator.evaluate = recorded


class RecordingEmulator(Emulator):
    """The emulator, once MiniStack is imported, which must not be before."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        record(directory, self._iam)


if __name__ == "__main__":
    server.Emulator = RecordingEmulator  # type: ignore[misc]  # the class that the server makes one of
    server.main()
