"""What a run of scripts/verify.sh saw, as JSON, with answers to what AWS leaves open; and how two reports differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.commands.console import UsageError, say
from scripts.commands.stack import Aws
from scripts.commands.verify_canaries import HOSTILE_TEXT, LARGEST_RECORD, Accepted
from scripts.commands.verify_checks import Answer, Check
from scripts.commands.verify_evidence import Evidence, Json, Reader, envelopes, kind_of

IGNORED = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|verify-[0-9a-f]{12}|\b[0-9a-f]{32}\b|(?<=recordId\": \")[^\"]+"  # ids
    r"|\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?|dt=\d{4}-\d\d-\d\d|\d{4}(-\d\d){5}|\b1[67]\d{11}\b"  # times
    r"|arn:aws[\w-]*:[\w:/.$-]+|\d{12}|(?<=/)[\w.-]+-\d+-(?=\d{4}(-\d\d){5}-)"  # whose they are
)
CUT = 2_000  # characters of a text that a report shows
IGNORED_KEYS = {
    "run", "stack", "place", "outputs", "parameters", "dt", "request_id", "extended_request_id", "received_at", "ip",
    "rejected_at", "occurred_at", "clock_skew_ms", "object", "bytes", "arrivaltimestamp", "attemptendingtimestamp",
    "date", "server", "via", "connection", "content-length", "x-amzn-requestid", "x-amz-apigw-id", "x-amzn-trace-id",
    "x-amz-cf-id", "x-amz-cf-pop", "x-cache", "recordId", "metrics", "accounting", "stored",
}  # fmt: skip


class Report:
    """Everything that was seen. Objects are looked at when it is made, as they are deleted soon."""

    def __init__(
        self,
        reader: Reader,
        answers: list[Answer],
        evidence: Evidence,
        parameters: Mapping[str, str],
        probed: Mapping[str, str],
    ) -> None:
        self.reader, self.answers, self.evidence, self.parameters = reader, answers, evidence, parameters
        self.probed = dict(probed)
        raw = reader.raw() if parameters.get("RawBackup") == "ENABLED" else {}
        self.raw_records = [record for records in raw.values() for record in records]
        keys = [reader.key(path) for path in evidence.objects]
        self.objects = {key: reader.kind(key) for key in [*keys, *raw]}
        self.error_objects = {key: reader.read(key) for key in keys if key.startswith("errors/")}
        self.put_errors = [*self._put_errors()]

    def _put_errors(self) -> Iterator[Json]:
        """What Firehose answers to a put that it refuses: API Gateway's integration sees the same."""
        firehose, stream = self.reader.firehose, self.reader.outputs["StreamName"]
        for name, target, size in (("too large", stream, LARGEST_RECORD + 1), ("no such stream", "no-such-stream", 1)):
            try:
                firehose.put_record(DeliveryStreamName=target, Record={"Data": b"x" * size})
                yield {"name": name, "status": 200}
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                yield {"name": name, "status": status, **error.response["Error"]}

    def unsourced(self) -> Json:
        """An answer to each question that AWS's documentation leaves open, as far as this run can give one."""
        by_name = {answer.canary.name: answer for answer in self.answers}
        pixel = next((row for row in self.evidence.rows if row["event_id"].endswith("-pixel")), {})
        documents = [envelopes(content) for content in self.error_objects.values()]
        beacon, large = by_name["POST /track text/plain that is no JSON"], by_name["POST /track over 1,024,000 bytes"]
        events = self.parameters.get("FirehoseS3Prefix", "events/")
        return {
            "put errors": {
                "of Firehose itself": self.put_errors,
                "too large, through API Gateway": {"status": large.status, "body": large.body},
            },
            "error objects": {
                "extensions": sorted({re.sub(r".*[0-9a-f]{12}", "", key) for key in self.error_objects}),
                "compression": sorted({kind_of(content) for content in self.error_objects.values()}),
                "separators": sorted({text for _, between in documents for text in between}),
                "value types": {
                    key: type(value).__name__ for found, _ in documents for one in found for key, value in one.items()
                },
                "error codes": sorted({row["errorcode"] or row["lasterrorcode"] for row in self.evidence.failed}),
            },
            "a transform that breaks the contract": self.probed or "not asked: see --probe-transform",
            "text/plain that no model describes": {"status": beacon.status, "body": beacon.body},
            "#foreach over a query string prints every value": _has_text(pixel),
            "$util.urlDecode makes a newline that #set keeps": any(
                isinstance(one, Accepted) and one.event_id == row["event_id"]
                for row in self.evidence.rows
                if row["request_id"]
                for answer in self.answers
                for one in answer.canary.outcomes
            ),
            "extensions of event objects": sorted(
                {re.sub(r".*[0-9a-f]{12}", "", key) for key in self.objects if key.startswith(events)}
            ),
        }

    def write(self, path: Path, stack: str, aws: Aws, checks: list[Check], accounting: str) -> None:
        """Write everything as JSON."""
        evidence, run = self.evidence, self.reader.run
        document = {
            "run": run,
            "stack": stack,
            "place": aws.place,
            "parameters": dict(self.parameters),
            "accounting": accounting,
            "checks": {check.name: _without(asdict(check), "name") for check in checks},
            "answers": {
                answer.canary.name: {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}
                for answer in self.answers
            },
            "columns": evidence.columns,
            "rows": {row["event_id"].replace(run, "run"): row for row in evidence.rows},
            "fillers": evidence.fillers,
            "stored": evidence.stored,
            "rejected": {
                f"{row['reason']} {_head(row['text'], run)}": _without(row, "text", "body", "objects")
                for row in evidence.rejected
            },
            "failed": {_head(row["record"], run): _without(row, "record", "rawdata") for row in evidence.failed},
            "objects": self.objects,
            "metrics": evidence.metrics,
            "unsourced": self.unsourced(),
        }
        path.write_text(json.dumps(_cut(document), indent=2, ensure_ascii=False) + "\n")
        say(f"The report is in {path}")


def _head(data: bytes, run: str) -> str:
    return data.replace(run.encode(), b"run")[:80].decode(errors="replace")


def _cut(node: Any) -> Any:
    """The same JSON with long texts cut."""
    if isinstance(node, dict):
        return {key: _cut(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_cut(value) for value in node]
    is_long = isinstance(node, str) and len(node) > CUT
    return f"{node[:CUT]}... ({len(node):,} characters)" if is_long else node


def _without(row: Json, *names: str) -> Json:
    return {key: value for key, value in row.items() if key not in names}


def _has_text(row: Json) -> bool:
    try:
        return bool(json.loads(row["properties"])["text"] == HOSTILE_TEXT)
    except (KeyError, ValueError):
        return False


def compare(first: Path, second: Path) -> int:
    """List where two reports differ on stdout; 1 if they do. What is an id or a time counts as the same."""
    left, right = (dict(_leaves(_load(path))) for path in (first, second))
    table = Table("where", str(first), str(second), box=box.SIMPLE_HEAD)
    differing = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    for key in differing:
        table.add_row(*(Text(str(text)[:160]) for text in (key, left.get(key, "-"), right.get(key, "-"))))
    console = Console()
    if not console.is_terminal:
        console.width = 400
    if differing:
        console.print(table)
    say(f"{len(differing)} of {len({**left, **right}):,} values differ")
    return 1 if differing else 0


def _load(path: Path) -> Any:
    try:
        report = json.loads(path.read_text())
        if not isinstance(report, dict) or not {"run", "checks", "answers"} <= report.keys():
            raise ValueError("it has no run, checks and answers")
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"'{path}' is no report of verify.sh: {error}") from error
    # What a good check saw stands under answers and rows, or hangs on how records were buffered: counts of invocations.
    checks = {
        name: _without(check, "seen") if check.get("is_ok") else check for name, check in report["checks"].items()
    }
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
