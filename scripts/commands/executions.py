"""Executions of the stack's state machines, as scripts/deliver.sh, pull.sh and refine.sh tell of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scripts.commands.console import printable


def cause(execution: Mapping[str, Any]) -> str:
    """Why an execution failed, in one line, of what DescribeExecution says.

    That is what a function raised, or why a query of Athena failed, or else the cause as it stands.
    """
    text = str(execution.get("cause") or execution.get("error") or "no reason given")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        status = found.get("QueryExecution", found).get("Status")
        reason = status.get("StateChangeReason") if isinstance(status, dict) else None
        text = str(found.get("errorMessage") or reason or text)
    return printable(text)
