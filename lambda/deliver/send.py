"""Posts the rows that the queue hands over, as many as it hands over at once in one request.

The contract with the endpoint stands in docs/deliver.md, the one with the queue at
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html: a message that is named in
`batchItemFailures` comes again when its visibility timeout ends, every other is deleted. A row is done only when the
endpoint has taken it or a dead letter holds it, so that it is posted again if this function is killed in between.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from deliver.messages import Message, NotSent, Row, dead_letter, send
from deliver.settings import Clients, Settings
from shared import secret, web

POST_SECONDS: Final = 20
CALL_MILLISECONDS: Final = (2 * POST_SECONDS + 20) * 1000
"""No request is begun with less time left: it may take twice its timeout, and what follows takes time too."""

MAX_ANSWER_BYTES: Final = 5_000_000
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 1800.0
"""Seconds between two tries, at most, if the endpoint asks for no more."""

MAX_VISIBILITY_SECONDS: Final = 43_000
"""SQS hides a message for 12 hours at most."""

GIVE_UP_SECONDS: Final = 10 * 24 * 3600
"""Beyond this age, a row becomes a dead letter rather than wait on: the queue would lose it after 14 days."""

PASSING: Final = frozenset({408, 425, 429})
"""The statuses of 400 to 499 after which the same request may succeed."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Received:
    """A message as the queue handed it over. `attempt` counts from 1; `sent_at` is in seconds since 1970."""

    message_id: str
    receipt: str
    body: str
    attempt: int
    sent_at: float
    row: Row | None


@dataclass
class Outcome:
    """What became of the messages of one invocation."""

    delivered: list[Received] = field(default_factory=list)
    refused: list[tuple[Received, Message]] = field(default_factory=list)
    """With the dead letter that each becomes."""
    waiting: list[tuple[Received, float]] = field(default_factory=list)
    """With the seconds until its next try."""


Answer = web.Answer
Post = Callable[[bytes, dict[str, str]], Answer]


def deliver(
    received: Sequence[Received],
    post: Post,
    now: float,
    milliseconds_left: Callable[[], int],
    pause: Callable[..., float] = web.backoff,
) -> Outcome:
    """Post the rows in one request, or in several when the endpoint finds one too large (413).

    `post` sends a body with headers and raises web.Unreachable; `now` is in seconds since 1970; `pause` is
    web.backoff. Once the endpoint cannot answer, what is left waits without being posted.
    """
    outcome = Outcome()
    for message in received:
        if message.row is None:
            outcome.refused.append((message, dead_letter(message.body, "the message holds no row that can be posted")))
    batches = [[message for message in received if message.row is not None]]
    while batches:
        batch = batches.pop()
        if not batch:
            continue
        if milliseconds_left() < CALL_MILLISECONDS:
            outcome.waiting += [(message, 0.0) for message in batch]
            continue
        try:
            answer = post(write(batch), {"Idempotency-Key": batch_key(batch)})
        except web.Unreachable as error:
            rest = [message for other in [batch, *batches] for message in other]
            _wait(outcome, rest, str(error), None, now, pause)
            return outcome
        verdict = judge(answer)
        refusals = read_refusals(answer, batch)
        if refusals is not None and (verdict == "taken" or (answer.status == 422 and refusals)):
            for message in batch:
                _settle_one(outcome, message, refusals, answer)
        elif verdict == "taken":
            outcome.delivered += batch
        elif verdict == "passing":
            rest = [message for other in [batch, *batches] for message in other]
            _wait(outcome, rest, f"the endpoint answered {answer.status}", answer, now, pause)
            return outcome
        elif answer.status == 413 and len(batch) > 1:
            middle = len(batch) // 2
            batches += [batch[middle:], batch[:middle]]
        else:
            reason = f"the endpoint answered {answer.status}"
            outcome.refused += [(message, _refusal(message, reason, answer)) for message in batch]
    return outcome


def judge(answer: Answer) -> Literal["taken", "passing", "refused"]:
    """What a status means: a 2xx is a success, whatever the body says; what may pass is tried again.

    All else is refused, a redirect too: it would have to be followed with the token, to a place nobody configured.
    """
    if 200 <= answer.status < 300:
        return "taken"
    return "passing" if answer.status >= 500 or answer.status in PASSING else "refused"


def read_refusals(answer: Answer, batch: Sequence[Received]) -> dict[str, str] | None:
    """The rows of this batch that the endpoint refuses, by row id, with its reasons; None when it does not say so.

    It says so by a JSON object with a list `refused`. Whatever in that list names no row of the batch is passed over.
    """
    try:
        content = json.loads(answer.body)
    except ValueError:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("refused"), list):
        return None
    ids = {message.row.row_id for message in batch if message.row}
    return {
        entry["row_id"]: str(entry.get("reason", "it said no reason"))
        for entry in content["refused"]
        if isinstance(entry, dict) and isinstance(entry.get("row_id"), str) and entry["row_id"] in ids
    }


def write(batch: Sequence[Received]) -> bytes:
    """The body of a request."""
    rows = [
        {"row_id": message.row.row_id, "query": message.row.query, "values": message.row.values}
        for message in batch
        if message.row
    ]
    return json.dumps({"rows": rows}, ensure_ascii=False, separators=(",", ":")).encode()


def batch_key(batch: Sequence[Received]) -> str:
    """The Idempotency-Key of a request: the same for the same rows, in whatever order they come."""
    ids = sorted(message.row.row_id for message in batch if message.row)
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:32]


def settle(outcome: Outcome, settings: Settings, clients: Clients) -> None:
    """Put dead letters where they belong, hide what waits until its next try, and add to the figures of the runs.

    A dead letter that cannot be written waits, too. A message that cannot be hidden comes again when its timeout ends.
    """
    try:
        send(clients.sqs, settings.dead_letter_queue_url, [letter for _, letter in outcome.refused])
    except NotSent as error:
        logger.error("dead letters could not be written: %s", error)
        outcome.waiting += [(message, FIRST_PAUSE) for message, _ in outcome.refused]
        outcome.refused = []
    for start in range(0, len(outcome.waiting), 10):
        clients.sqs.change_message_visibility_batch(
            QueueUrl=settings.queue_url,
            Entries=[
                {"Id": str(number), "ReceiptHandle": message.receipt, "VisibilityTimeout": int(seconds)}
                for number, (message, seconds) in enumerate(outcome.waiting[start : start + 10])
            ],
        )
    try:
        _count(outcome, clients.dynamodb, settings.table)
    except Exception:
        # Figures are no reason to post once more what has been delivered.
        logger.exception("the figures of the runs could not be updated")


def metrics(outcome: Outcome, function_name: str, now: float) -> dict[str, Any]:
    """The counts in CloudWatch's embedded metric format, and the age of the oldest row that waits, in seconds."""
    counts = {
        "RowsDelivered": len(outcome.delivered),
        "RowsRefused": len(outcome.refused),
        "RowsWaiting": len(outcome.waiting),
    }
    age = max((now - message.sent_at for message, _ in outcome.waiting), default=0.0)
    definition = {
        "Namespace": "Sluice",
        "Dimensions": [["FunctionName"]],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in counts] + [{"Name": "RowAge", "Unit": "Seconds"}],
    }
    return {
        "_aws": {"Timestamp": int(now * 1000), "CloudWatchMetrics": [definition]},
        "FunctionName": function_name,
        **counts,
        "RowAge": round(age),
    }


def receive(record: dict[str, Any]) -> Received:
    """A record of the queue's event; `row` is None for what is no message of ours."""
    attributes = record["attributes"]
    try:
        row = Row.read(record["body"])
    except ValueError:
        row = None
    return Received(
        message_id=record["messageId"],
        receipt=record["receiptHandle"],
        body=record["body"],
        attempt=int(attributes["ApproximateReceiveCount"]),
        sent_at=int(attributes["SentTimestamp"]) / 1000,
        row=row,
    )


def post(settings: Settings, body: bytes, headers: dict[str, str]) -> Answer:
    """One request; a second one when the token was refused and a newer one has been set."""
    token = _token(settings.secret_arn)
    while True:
        authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers = {"Content-Type": "application/json", **headers, **authorization}
        answer = web.ask("POST", settings.endpoint, headers, body, timeout=POST_SECONDS, largest=MAX_ANSWER_BYTES)
        if answer.status not in (401, 403):
            return answer
        newer = _token(settings.secret_arn, fresh=True)
        if newer == token:
            return answer
        token = newer


def _token(secret_arn: str, *, fresh: bool = False) -> str | None:
    try:
        return str(secret.read(secret_arn, "token", fresh=fresh))
    except secret.SecretMissing:
        return None


def _settle_one(outcome: Outcome, message: Received, refusals: dict[str, str], answer: Answer) -> None:
    if message.row and message.row.row_id in refusals:
        outcome.refused.append((message, dead_letter(message.body, refusals[message.row.row_id], answer.status)))
    else:
        outcome.delivered.append(message)


def _refusal(message: Received, reason: str, answer: Answer) -> Message:
    return dead_letter(message.body, reason, answer.status, answer.body.decode(errors="replace"))


def _wait(
    outcome: Outcome,
    batch: Sequence[Received],
    reason: str,
    answer: Answer | None,
    now: float,
    pause: Callable[..., float],
) -> None:
    """Let rows wait for their next try, together, so that they come again as one batch; give up on those too old."""
    logger.warning("%d rows wait: %s", len(batch), reason)
    asked = web.retry_after(answer, now) if answer else None
    attempt = max(message.attempt for message in batch)
    seconds = pause(attempt, base=FIRST_PAUSE, longest=LONGEST_PAUSE, at_least=asked or 0.0)
    for message in batch:
        if now - message.sent_at > GIVE_UP_SECONDS:
            given_up = f"given up after {message.attempt} tries: {reason}"
            letter = _refusal(message, given_up, answer) if answer else dead_letter(message.body, given_up)
            outcome.refused.append((message, letter))
        else:
            outcome.waiting.append((message, min(seconds, MAX_VISIBILITY_SECONDS)))


def _count(outcome: Outcome, dynamodb: Any, table: str) -> None:
    """Add to the figures of the runs that queued the rows."""
    delivered = Counter(message.row.run for message in outcome.delivered if message.row)
    refused = Counter(message.row.run for message, _ in outcome.refused if message.row)
    for run in delivered.keys() | refused.keys():
        dynamodb.update_item(
            TableName=table,
            Key={"id": {"S": f"run {run}"}},
            UpdateExpression="ADD delivered :delivered, refused :refused",
            ExpressionAttributeValues={":delivered": {"N": str(delivered[run])}, ":refused": {"N": str(refused[run])}},
        )
