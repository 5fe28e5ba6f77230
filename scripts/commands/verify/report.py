"""The observations of a run of scripts/verify.sh as JSON, with answers to open questions about AWS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from scripts.commands.common.console import say
from scripts.commands.common.stack import Aws
from scripts.commands.lake.errors import envelopes
from scripts.commands.lake.objects import kind_of
from scripts.commands.lake.zones import ERRORS, events_of
from scripts.commands.verify.canaries import HOSTILE_TEXT, LARGEST_RECORD, Accepted
from scripts.commands.verify.checks import Answer, Check
from scripts.commands.verify.evidence import Evidence, Reader
from shared.documents import Json, parse_json

CUT = 2_000  # characters of a text in a report


class Report:
    """Everything seen by a run. Objects are read when it is made, as they are deleted soon."""

    def __init__(
        self,
        reader: Reader,
        answers: list[Answer],
        evidence: Evidence,
        parameters: Mapping[str, str],
    ) -> None:
        self.reader, self.answers, self.evidence, self.parameters = reader, answers, evidence, parameters
        raw = reader.raw() if parameters.get("RawBackup") == "ENABLED" else {}
        self.raw_records = [record for records in raw.values() for record in records]
        keys = [reader.key(path) for path in evidence.objects]
        self.objects = {key: reader.kind(key) for key in [*keys, *raw]}
        self.error_objects = {key: reader.bucket.read(key) for key in keys if key.startswith(ERRORS)}
        self.put_errors = [*self._put_errors()]

    def _put_errors(self) -> Iterator[Json]:
        """Firehose's errors for refused puts: API Gateway's integration gets the same."""
        firehose, stream = self.reader.firehose, self.reader.outputs["StreamName"]
        for name, target, size in (("too large", stream, LARGEST_RECORD + 1), ("no such stream", "no-such-stream", 1)):
            try:
                firehose.put_record(DeliveryStreamName=target, Record={"Data": b"x" * size})
                yield {"name": name, "status": 200}
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                yield {"name": name, "status": status, **error.response["Error"]}

    def unsourced(self) -> Json:
        """An answer to each question left open by AWS's documentation, as far as this run can give one."""
        by_name = {answer.canary.name: answer for answer in self.answers}
        pixel = next((row for row in self.evidence.rows if row["event_id"].endswith("-pixel")), {})
        documents = [envelopes(content) for content in self.error_objects.values()]
        beacon, large = by_name["POST /track text/plain that is not JSON"], by_name["POST /track over 1,024,000 bytes"]
        events = events_of(self.parameters)
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
        return bool(parse_json(row["properties"])["text"] == HOSTILE_TEXT)
    except (KeyError, ValueError):
        return False
