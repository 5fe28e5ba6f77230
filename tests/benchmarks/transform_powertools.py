"""The same work with Powertools for AWS Lambda: its data class for the records, its parser for each event.

Reading the record and writing the row are those of the plain loop. Needs aws-lambda-powertools[parser].
"""

from __future__ import annotations

import base64
import json
from typing import Any

from aws_lambda_powertools.utilities.data_classes import KinesisFirehoseEvent
from aws_lambda_powertools.utilities.data_classes.kinesis_firehose_event import (
    KinesisFirehoseDataTransformationRecord,
    KinesisFirehoseDataTransformationResponse,
)
from aws_lambda_powertools.utilities.parser import BaseModel, parse
from pydantic import ConfigDict, Field

from tests.benchmarks.transform_stdlib import make_row, read_events, read_record


class Event(BaseModel):
    """An event as a sender may write it."""

    model_config = ConfigDict(extra="allow", str_strip_whitespace=True)

    event_id: str | None = None
    name: str | None = Field(default=None, max_length=256)
    action: str | None = None
    value: float | None = None
    source: str | None = None
    user_id: str | None = None
    timestamp: str | None = None


def handle(event: dict[str, Any]) -> dict[str, Any]:
    """One invocation: a reply for each record."""
    response = KinesisFirehoseDataTransformationResponse()
    for record in KinesisFirehoseEvent(event).records:
        request, body = read_record(record.data_as_bytes)
        rows = []
        for position, sent in enumerate(read_events(body)):
            row = make_row(parse(sent, model=Event).model_dump(exclude_unset=True), request, position)
            if row is not None:
                rows.append(json.dumps(row) + "\n")
        data = base64.b64encode("".join(rows).encode()).decode() if rows else record.data
        result = "Ok" if rows else "Dropped"
        response.add_record(KinesisFirehoseDataTransformationRecord(record.record_id, result, data))
    return response.asdict()
