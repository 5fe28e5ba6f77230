"""List where two reports of scripts/verify.sh --report differ, as of AWS and of the local AWS, without ids and times.

    .sluice/venv/bin/python -m tests.aws.compare aws.json local.json

Exit codes: 0 they agree, 1 they differ, 2 one is not a report.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.commands.common.console import Parser, UsageError, main, printable, say
from shared.documents import parse_json

IGNORED = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|verify-[0-9a-f]{12}|\b[0-9a-f]{32}\b|(?<=recordId\": \")[^\"]+"  # ids
    r"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?|dt=\d{4}-\d\d-\d\d|\d{4}(-\d\d){5}|\b1[67]\d{11}\b"  # times
    r"|arn:aws[\w-]*:[\w:/.$-]+|\d{12}|(?<=/)[\w.-]+-\d+-(?=\d{4}(-\d\d){5}-)"  # whose they are
)
IGNORED_KEYS = {
    "run", "stack", "place", "outputs", "parameters", "dt", "request_id", "extended_request_id", "received_at", "ip",
    "rejected_at", "occurred_at", "clock_skew_ms", "object", "bytes", "arrivaltimestamp", "attemptendingtimestamp",
    "date", "server", "via", "connection", "content-length", "x-amzn-requestid", "x-amz-apigw-id", "x-amzn-trace-id",
    "x-amz-cf-id", "x-amz-cf-pop", "x-cache", "recordId", "metrics", "accounting", "stored",
}  # fmt: skip


def run(arguments: list[str]) -> int:
    parser = Parser("verify")
    parser.add_argument("reports", type=Path, nargs=2)
    return compare(*parser.parse_args(arguments).reports)


def compare(first: Path, second: Path) -> int:
    """List the differences of two reports on stdout; return 1 if there are any. Ids and times count as equal."""
    left, right = (dict(_leaves(_load(path))) for path in (first, second))
    table = Table("where", str(first), str(second), box=box.SIMPLE_HEAD)
    differing = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    for key in differing:
        table.add_row(*(Text(printable(str(text)[:160])) for text in (key, left.get(key, "-"), right.get(key, "-"))))
    console = Console()
    if not console.is_terminal:
        console.width = 400
    if differing:
        console.print(table)
    say(f"{len(differing)} of {len({**left, **right}):,} values differ")
    return 1 if differing else 0


def _load(path: Path) -> Any:
    try:
        report = parse_json(path.read_text())
        if not isinstance(report, dict) or not {"run", "checks", "answers"} <= report.keys():
            raise ValueError("it has no run, checks and answers")
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"'{path}' is not a report of verify.sh: {error}") from error
    # A good check's `seen` repeats answers and rows, or depends on the buffering of records: counts of invocations.
    checks = {name: {**check, "seen": ""} if check.get("is_ok") else check for name, check in report["checks"].items()}
    return {**report, "checks": checks}


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the way to it, without ids and times."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in IGNORED_KEYS:
                yield from _leaves(value, f"{path}/{IGNORED.sub('*', key)}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{path}/{number}")
    else:
        yield path, IGNORED.sub("*", node) if isinstance(node, str) else node


if __name__ == "__main__":
    main(run)
