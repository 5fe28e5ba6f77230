"""The local AWS as `python -m local.server` runs it, which writes down what policies are asked.

The file granted.jsonl of its directory gets a line for each question: the principal, the Sid of the statement that
allows it (empty where none does), the action, the resource, and what conditions may ask about. It sees what MiniStack
asks the evaluator (every call of a function, a script or a person, and what CloudFormation does for them) and what the
engines ask it (what the services do with the roles that are given to them).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from local import server
from local.ministack import Emulator

RECORD = "granted.jsonl"


def record(directory: Path, evaluator: Any) -> None:
    """Let the evaluator write down what it is asked, each line once."""
    evaluate, seen = evaluator.evaluate, set()

    def recorded(request: Any, *policies: Any) -> Any:
        result = evaluate(request, *policies)
        asked = [request.action, request.resource_arn, request.service_context]
        sid = result.matched_sid if result.decision == "Allow" else ""
        line = json.dumps([request.principal_arn, sid, *asked], sort_keys=True)
        if line not in seen:
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
