"""Posts the rows of the queue's messages: all rows of one invocation in one request.

The contract with the endpoint is in docs/deliver.md, the one with the queue at
https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html: a message named in `batchItemFailures`
comes again when its visibility timeout ends, every other is deleted. A row is done only when the endpoint has taken it
or a dead letter holds it: if this function is killed in between, the row is posted again. The function itself never
raises: all messages would come again, even those of rows taken by the endpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final, Literal

from shared import secret, web
from shared.aws import DynamoDb, QueueRecord, Sqs
from shared.documents import Json, parse_json

from .messages import Message, NotSent, Row, dead_letter, send
from .settings import Clients, Settings

POST_SECONDS: Final = 20
CALL_MILLISECONDS: Final = (2 * POST_SECONDS + 20) * 1000
"""No request is begun with less time left: a second one may follow with a newer token, and more to do after it."""

MAX_ANSWER_BYTES: Final = 5_000_000
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 1800.0
"""Seconds between two tries, at most, if the endpoint asks for no more."""

MAX_VISIBILITY_SECONDS: Final = 43_000
"""SQS hides a message for 12 hours at most."""

GIVE_UP_SECONDS: Final = 10 * 24 * 3600
"""Beyond this age, a row becomes a dead letter rather than wait on: the queue would lose it after 14 days."""

SETTLE_TRIES: Final = 3
"""After so many tries on a busy queue, a dead letter waits as a row: else the function's time might run out."""

PASSING: Final = frozenset({408, 409, 425, 429})
"""The statuses of 400 to 499 after which the same request may succeed; 409 means its key is still at work."""

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
    """The messages of one invocation, by their fate."""

    delivered: list[Received] = field(default_factory=list)
    refused: list[tuple[Received, Message]] = field(default_factory=list)
    """Each with its dead letter."""
    waiting: list[tuple[Received, float]] = field(default_factory=list)
    """Each with the seconds until its next try."""
    errors: int = 0
    """Failures that the endpoint has no part in."""

    @contextmanager
    def noting(self, failure: str) -> Iterator[None]:
        """Log and count an error in here, and go on after it."""
        try:
            yield
        except Exception:
            self.errors += 1
            logger.exception(failure)


Answer = web.Answer
Post = Callable[[bytes, dict[str, str]], Answer]


@dataclass(frozen=True)
class Hitch:
    """Why rows wait; `answer` is the endpoint's, if there was one."""

    reason: str
    answer: Answer | None = None


def deliver(
    received: Sequence[Received],
    post: Post,
    now: float,
    milliseconds_left: Callable[[], int],
    pause: Callable[..., float] = web.backoff,
) -> Outcome:
    """Post the rows in one request, or in several if the endpoint finds one too large (413).

    `post` sends a body with headers and raises web.Unreachable; `now` is in seconds since 1970; `pause` is
    web.backoff. Once the endpoint cannot answer, or nothing can be posted, the rest waits without being posted.
    """
    outcome = Outcome()
    for message in received:
        if message.row is None:
            outcome.refused.append((message, dead_letter(message.body, "the message holds no row that can be posted")))
    # Sorted: a retry sends the same bytes, whatever the order of the messages.
    rows = [(message.row.row_id, message) for message in received if message.row is not None]
    batches = [[message for _, message in sorted(rows, key=itemgetter(0))]]
    while batches:
        batch = batches.pop()
        if not batch:
            continue
        if milliseconds_left() < CALL_MILLISECONDS:
            outcome.waiting += [(message, 0.0) for message in batch]
            continue
        try:
            body = write(batch)
            answer = post(body, {"Idempotency-Key": idempotency_key(body)})
        except Exception as error:
            reason = str(error)
            if not isinstance(error, web.Unreachable):
                reason = f"nothing can be posted: {type(error).__name__}"
                outcome.errors += 1
                logger.exception(reason)
            rest = [message for other in [batch, *batches] for message in other]
            _wait(outcome, rest, Hitch(reason), now, pause)
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
            _wait(outcome, rest, Hitch(f"the endpoint answered {answer.status}", answer), now, pause)
            return outcome
        elif answer.status == 413 and len(batch) > 1:
            middle = len(batch) // 2
            batches += [batch[middle:], batch[:middle]]
        else:
            reason = f"the endpoint answered {answer.status}"
            outcome.refused += [(message, _refusal(message, reason, answer)) for message in batch]
    return outcome


def judge(answer: Answer) -> Literal["taken", "passing", "refused"]:
    """The meaning of a status: a 2xx is a success, whatever the body says; a passing error is tried again.

    All else is refused, a redirect too: it would have to be followed with the token, to a place nobody configured.
    """
    if 200 <= answer.status < 300:
        return "taken"
    return "passing" if answer.status >= 500 or answer.status in PASSING else "refused"


def read_refusals(answer: Answer, batch: Sequence[Received]) -> dict[str, str] | None:
    """The endpoint's reasons by row id, for the rows of this batch that it refuses; None if it gives no list.

    The list is `refused` in a JSON object. Entries without a row of the batch are passed over.
    """
    try:
        content = parse_json(answer.body)
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
    """The body of a request: the same bytes for the same rows in the same order.

    A row has one id in any order of its columns, and so the columns are in alphabetical order.
    """
    rows = [
        {
            "row_id": message.row.row_id,
            "query": message.row.query,
            "values": dict(sorted(message.row.values.items())),
        }
        for message in batch
        if message.row
    ]
    # Half of a surrogate pair becomes "?": as an error, it would hold up its batch for ever.
    return json.dumps({"rows": rows}, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def idempotency_key(body: bytes) -> str:
    """The Idempotency-Key of a request: the same for the same bytes."""
    return hashlib.sha256(body).hexdigest()[:32]


def settle(outcome: Outcome, settings: Settings, clients: Clients) -> None:
    """Write the dead letters, hide waiting rows until their next try, and add to the figures of the runs.

    Raises nothing: each of these may fail alone. If a dead letter cannot be written, its row waits; the endpoint has
    not taken it. If a message cannot be hidden, it comes again when its timeout ends.
    """
    with outcome.noting("dead letters could not be written"):
        _write_letters(outcome, clients.sqs, settings.dead_letter_queue_url)
    for start in range(0, len(outcome.waiting), 10):
        with outcome.noting("rows that wait could not be hidden"):
            failed = clients.sqs.change_message_visibility_batch(
                QueueUrl=settings.queue_url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message.receipt, "VisibilityTimeout": int(seconds)}
                    for number, (message, seconds) in enumerate(outcome.waiting[start : start + 10])
                ],
            ).get("Failed", [])
            if failed:
                raise ValueError(f"{len(failed)} of them: {failed[0]['Code']}")
    with outcome.noting("the figures of the runs could not be updated"):
        _count(outcome, clients.dynamodb, settings.table)


def _write_letters(outcome: Outcome, sqs: Sqs, queue_url: str) -> None:
    """Write the dead letters, and let rows wait whose letters may not have been written."""
    letters = [letter for _, letter in outcome.refused]
    unsent = letters
    try:
        send(sqs, queue_url, letters, tries=SETTLE_TRIES)
        unsent = []
    except NotSent as error:
        unsent = error.unsent
        raise
    finally:
        lost = {id(letter) for letter in unsent}
        rows = [message for message, letter in outcome.refused if id(letter) in lost]
        outcome.refused = [(message, letter) for message, letter in outcome.refused if id(letter) not in lost]
        attempt = max((message.attempt for message in rows), default=1)
        seconds = web.backoff(attempt, base=FIRST_PAUSE, longest=LONGEST_PAUSE)
        outcome.waiting += [(message, seconds) for message in rows]


def metrics(outcome: Outcome, function_name: str, now: float) -> Json:
    """The counts in CloudWatch's embedded metric format, and the age of the oldest waiting row, in seconds.

    It is the age at its next try: an endpoint may ask for hours, and meanwhile nothing runs to count them.
    """
    counts = {
        "RowsDelivered": len(outcome.delivered),
        "RowsRefused": len(outcome.refused),
        "RowsWaiting": len(outcome.waiting),
        "SendErrors": outcome.errors,
    }
    age = max((now - message.sent_at + seconds for message, seconds in outcome.waiting), default=0.0)
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


def receive(record: QueueRecord) -> Received:
    """A record of the queue's event; `row` is None if it is not one of our messages."""
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
    """Make one request, and a second if the token was refused and a newer one has been set; return the answer."""
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
    hitch: Hitch,
    now: float,
    pause: Callable[..., float],
) -> None:
    """Let rows wait for their next try, together, to come again as one batch; give up on those too old."""
    answer = hitch.answer
    logger.warning("%d rows wait: %s", len(batch), hitch.reason)
    asked = web.retry_after(answer, now) if answer else None
    attempt = max(message.attempt for message in batch)
    seconds = pause(attempt, base=FIRST_PAUSE, longest=LONGEST_PAUSE, at_least=asked or 0.0)
    for message in batch:
        if now - message.sent_at > GIVE_UP_SECONDS:
            given_up = f"given up after {message.attempt} tries: {hitch.reason}"
            letter = _refusal(message, given_up, answer) if answer else dead_letter(message.body, given_up)
            outcome.refused.append((message, letter))
        else:
            outcome.waiting.append((message, min(seconds, MAX_VISIBILITY_SECONDS)))


def _count(outcome: Outcome, dynamodb: DynamoDb, table: str) -> None:
    """Add to the figures of the rows' runs."""
    delivered = Counter(message.row.run for message in outcome.delivered if message.row)
    refused = Counter(message.row.run for message, _ in outcome.refused if message.row)
    for run in delivered.keys() | refused.keys():
        dynamodb.update_item(
            TableName=table,
            Key={"id": {"S": f"run {run}"}},
            UpdateExpression="ADD delivered :delivered, refused :refused",
            ExpressionAttributeValues={":delivered": {"N": str(delivered[run])}, ":refused": {"N": str(refused[run])}},
        )
