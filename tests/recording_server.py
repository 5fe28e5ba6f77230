"""The local AWS as `python -m local.server` runs it, with a record of every question to policies.

The file granted.jsonl of its directory gets a line for each question: the principal, the Sid of the allowing statement
(empty if there is none), the action, the resource, and the values for conditions. MiniStack asks the evaluator about
every call of a function, a script or a person, and about CloudFormation's calls for them; the engines ask it about the
services' calls with the roles given to them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from local import server
from local.ministack import Emulator

RECORD = "granted.jsonl"


def record(directory: Path, evaluator: Any) -> None:
    """Let the evaluator write down its questions, each line once."""
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
    """The emulator, with a recording evaluator. It imports MiniStack; nothing else may do so earlier."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        record(directory, self._iam)


if __name__ == "__main__":
    server.Emulator = RecordingEmulator  # the server makes one of it
    server.main()
