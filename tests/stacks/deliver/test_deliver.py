"""Posting rows: the effect of each answer of the endpoint, and no row lost, whatever is killed when."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from shared import web
from stacks.deliver.function import handler, send
from stacks.deliver.function.messages import MAX_MESSAGE_BYTES, MAX_ROW_BYTES, Message, Row, dead_letter, row_id
from stacks.deliver.function.settings import Clients
from tests.deliver_fakes import Endpoint, Killed, Killer, Reply, record, row, settings
from tests.moto_clients import client

PLENTY = 900_000  # milliseconds
NOW = 1_795_255_200.0  # 2026-11-21 10:00:00 UTC
REFUSES_ROW_2 = json.dumps({"refused": [{"row_id": f"{2:032x}", "reason": "no such sensor"}]})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.close()


def post_to(endpoint: Endpoint, timeout: float = 5.0) -> send.Post:
    def post(body: bytes, headers: dict[str, str]) -> web.Answer:
        return web.ask("POST", endpoint.url, headers, body, timeout=timeout)

    return post


def numbers(messages: list[Any]) -> list[int]:
    """The numbers of the rows in an outcome's list."""
    rows = [message[0].row if isinstance(message, tuple) else message.row for message in messages]
    return sorted(row.values["number"] for row in rows)


def received(count: int, **options: Any) -> list[send.Received]:
    return [send.receive(record(number, **options)) for number in range(1, count + 1)]


# Each case: the endpoint's reply to three rows; those delivered, refused and waiting; the status and start of the
# reason of a dead letter.
ANSWERS = [
    pytest.param(Reply(200, "ok"), "123", "", "", None, id="200"),
    pytest.param(Reply(201), "123", "", "", None, id="201 with an empty body"),
    pytest.param(Reply(200, "<html>welcome</html>"), "123", "", "", None, id="200 with garbage"),
    pytest.param(Reply(200, '{"error": "disk full"}'), "123", "", "", None, id="200 with an error in its body"),
    pytest.param(Reply(200, '{"refused": "all"}'), "123", "", "", None, id="200 with refused that is not a list"),
    pytest.param(Reply(200, '{"refused": []}'), "123", "", "", None, id="200 that refuses nothing"),
    pytest.param(Reply(200, '{"refused": [2, {"row_id": 2}, {}]}'), "123", "", "", None, id="200, refused unreadable"),
    pytest.param(Reply(200, '{"refused": [{"row_id": "x"}]}'), "123", "", "", None, id="200 that refuses a stranger"),
    pytest.param(Reply(200, REFUSES_ROW_2), "13", "2", "", ("200", "no such sensor"), id="200 that refuses one"),
    pytest.param(Reply(207, REFUSES_ROW_2), "13", "2", "", ("207", "no such sensor"), id="207 that refuses one"),
    pytest.param(Reply(422, REFUSES_ROW_2), "13", "2", "", ("422", "no such sensor"), id="422 that refuses one"),
    pytest.param(Reply(422, "no"), "", "123", "", ("422", "the endpoint answered 422"), id="422 without saying whom"),
    pytest.param(Reply(422, '{"refused": []}'), "", "123", "", ("422", "the endpoint"), id="422 that refuses nothing"),
    pytest.param(Reply(200, "[" * 30_000), "123", "", "", None, id="200, nested too deeply"),
    pytest.param(Reply(422, "[" * 30_000), "", "123", "", ("422", "the endpoint"), id="422, nested too deeply"),
    pytest.param(Reply(400, "bad"), "", "123", "", ("400", "the endpoint answered 400"), id="400"),
    pytest.param(
        Reply(400, REFUSES_ROW_2), "", "123", "", ("400", "the endpoint"), id="400 refuses all, whatever it says"
    ),
    pytest.param(Reply(401), "", "123", "", ("401", "the endpoint answered 401"), id="401"),
    pytest.param(Reply(404), "", "123", "", ("404", "the endpoint answered 404"), id="404"),
    pytest.param(Reply(302, headers={"Location": "/x"}), "", "123", "", ("302", "the endpoint"), id="a redirect"),
    pytest.param(Reply(408), "", "", "123", None, id="408"),
    pytest.param(Reply(409), "", "", "123", None, id="409: it has the same key at work"),
    pytest.param(Reply(425), "", "", "123", None, id="425"),
    pytest.param(Reply(429), "", "", "123", None, id="429"),
    pytest.param(Reply(500), "", "", "123", None, id="500"),
    pytest.param(Reply(503, REFUSES_ROW_2), "", "", "123", None, id="503, whatever it says"),
    pytest.param(Reply(599), "", "", "123", None, id="599"),
    pytest.param(Reply(200, delay=0.6), "", "", "123", None, id="a timeout"),
    pytest.param(Reply(200, "half", cut=True), "", "", "123", None, id="a connection that is cut"),
]


@pytest.mark.parametrize(("reply", "delivered", "refused", "waiting", "letter"), ANSWERS)
def test_what_an_answer_means_for_the_rows(
    endpoint: Endpoint,
    reply: Reply,
    delivered: str,
    refused: str,
    waiting: str,
    letter: tuple[str, str] | None,
) -> None:
    endpoint.replies = [reply]

    outcome = send.deliver(received(3), post_to(endpoint, timeout=0.4 if reply.delay else 30), NOW, lambda: PLENTY)

    found = [numbers(outcome.delivered), numbers(outcome.refused), numbers(outcome.waiting)]
    assert found == [[int(digit) for digit in digits] for digits in (delivered, refused, waiting)]
    if letter:
        attributes = outcome.refused[0][1].attributes
        assert attributes["status"] == {"DataType": "Number", "StringValue": letter[0]}
        assert attributes["reason"]["StringValue"].startswith(letter[1])


def test_one_request_carries_the_rows_with_their_ids_and_one_key_for_the_same_rows(endpoint: Endpoint) -> None:
    messages = received(3)
    send.deliver(messages, post_to(endpoint), NOW, lambda: PLENTY)
    send.deliver(messages[::-1], post_to(endpoint), NOW, lambda: PLENTY)
    send.deliver(messages[:2], post_to(endpoint), NOW, lambda: PLENTY)

    (headers, body), (other_order, _), (fewer, _) = endpoint.requests
    assert endpoint.bodies[0] == endpoint.bodies[1]
    assert body == {"rows": [{"row_id": f"{n:032x}", "query": "new-rows", "values": {"number": n}} for n in (1, 2, 3)]}
    assert headers["idempotency-key"] == other_order["idempotency-key"] != fewer["idempotency-key"]


def test_the_same_key_goes_with_the_same_bytes_whatever_the_order_of_rows_and_columns(endpoint: Endpoint) -> None:
    columns = [{"a": 1, "b": "x"}, {"b": "x", "a": 1}]
    for order in (columns, columns[::-1]):
        rows = [Row("run", "q", row_id("q", values), values) for values in [*order, {"a": 2, "b": None}]]
        for some in (rows, rows[::-1]):
            send.deliver([send.receive(record(1, one.body())) for one in some], post_to(endpoint), NOW, lambda: PLENTY)

    assert len(set(endpoint.bodies)) == 1
    assert len({headers["idempotency-key"] for headers, _ in endpoint.requests}) == 1


def test_half_a_character_is_posted_as_a_question_mark(endpoint: Endpoint) -> None:
    body = row(1, text="a\ud83d").body()

    outcome = send.deliver([send.receive(record(1, body))], post_to(endpoint), NOW, lambda: PLENTY)

    assert numbers(outcome.delivered) == [1]
    assert endpoint.requests[0][1]["rows"][0]["values"]["text"] == "a?"


def test_what_was_taken_stays_taken_when_the_rest_cannot_be_posted(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply(413), Reply(200)]
    post, calls = post_to(endpoint), []

    def third_fails(body: bytes, headers: dict[str, str]) -> web.Answer:
        calls.append(body)
        if len(calls) == 3:
            raise RuntimeError("the token cannot be read")
        return post(body, headers)

    outcome = send.deliver(received(4), third_fails, NOW, lambda: PLENTY)

    assert (numbers(outcome.delivered), numbers(outcome.waiting), outcome.errors) == ([1, 2], [3, 4], 1)


def test_a_request_that_is_too_large_is_halved_until_a_single_row_is_refused(endpoint: Endpoint) -> None:
    endpoint.take = lambda rows: Reply(413) if len(rows) > 2 or rows[-1]["values"]["number"] == 7 else Reply()

    outcome = send.deliver(received(9), post_to(endpoint), NOW, lambda: PLENTY)

    assert numbers(outcome.delivered) == [1, 2, 3, 4, 5, 6, 8, 9] and numbers(outcome.refused) == [7]
    assert endpoint.row_ids[:9] == [message.row.row_id for message in received(9) if message.row]


def test_once_the_endpoint_is_down_nothing_more_is_posted_to_it(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply(413), Reply(200), Reply(503)]

    outcome = send.deliver(received(8), post_to(endpoint), NOW, lambda: PLENTY)

    assert len(endpoint.requests) == 3
    assert numbers(outcome.delivered) == [1, 2, 3, 4] and numbers(outcome.waiting) == [5, 6, 7, 8]


def test_nothing_is_posted_when_the_function_may_not_live_to_see_the_answer(endpoint: Endpoint) -> None:
    outcome = send.deliver(received(3), post_to(endpoint), NOW, lambda: send.CALL_MILLISECONDS - 1)

    assert not endpoint.requests
    assert [seconds for _, seconds in outcome.waiting] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("attempt", "headers", "shortest", "longest"),
    [
        pytest.param(1, {}, 0, 2, id="first try"),
        pytest.param(4, {}, 0, 16, id="fourth try"),
        pytest.param(100, {}, 0, 1800, id="hundredth try"),
        pytest.param(1, {"Retry-After": "60"}, 60, 62, id="Retry-After in seconds"),
        pytest.param(1, {"Retry-After": "Sat, 21 Nov 2026 10:10:00 GMT"}, 600, 602, id="Retry-After as a date"),
        pytest.param(1, {"Retry-After": "99999999"}, 43_000, 43_000, id="Retry-After beyond what SQS can hide"),
        pytest.param(1, {"Retry-After": "soon"}, 0, 2, id="Retry-After that nobody can read"),
    ],
)
def test_rows_wait_together_with_jitter_and_as_long_as_the_endpoint_asks(
    endpoint: Endpoint, attempt: int, headers: dict[str, str], shortest: float, longest: float
) -> None:
    endpoint.replies = [Reply(503, headers=headers)]

    def pauses(jitter: float) -> set[float]:
        def pause(attempt: int, **options: Any) -> float:
            return web.backoff(attempt, **options, random=lambda: jitter)

        messages = received(3, attempt=attempt, sent_at=NOW - 1)
        return {seconds for _, seconds in send.deliver(messages, post_to(endpoint), NOW, lambda: PLENTY, pause).waiting}

    assert pauses(0.0) == {shortest} and pauses(1.0) == {longest}


def test_a_row_is_given_up_before_the_queue_would_lose_it(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply(503, "still down")]
    old = send.receive(record(1, attempt=900, sent_at=NOW - send.GIVE_UP_SECONDS - 1))
    young = send.receive(record(2, attempt=2, sent_at=NOW - 60))

    outcome = send.deliver([old, young], post_to(endpoint), NOW, lambda: PLENTY)

    assert numbers(outcome.refused) == [1] and numbers(outcome.waiting) == [2]
    attributes = outcome.refused[0][1].attributes
    assert attributes["reason"]["StringValue"] == "given up after 900 tries: the endpoint answered 503"
    assert attributes["answer"]["StringValue"] == "still down"
    # SQS itself makes a dead letter after 1,000 receives: ten days at half the longest pause are fewer.
    assert send.GIVE_UP_SECONDS / (send.LONGEST_PAUSE / 2) < 980


@pytest.mark.parametrize(
    "body",
    ["", "text", "[]", '{"run": "r"}', '{"run":"r","query":"q","row_id":"i"}', "null", "[" * 30_000],
    ids=lambda body: body[:40],
)
def test_a_message_without_a_row_is_a_dead_letter_and_is_not_posted(endpoint: Endpoint, body: str) -> None:
    outcome = send.deliver([send.receive(record(1, body))], post_to(endpoint), NOW, lambda: PLENTY)

    assert not endpoint.requests and not outcome.waiting
    assert [letter.body for _, letter in outcome.refused] == [body]


def test_a_dead_letter_keeps_500_characters_of_the_answer_that_sqs_takes(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply(400, "\x00\ufffe\U0001f600" + "x" * 1000)]

    outcome = send.deliver(received(1), post_to(endpoint), NOW, lambda: PLENTY)

    kept = outcome.refused[0][1].attributes["answer"]["StringValue"]
    assert kept == "\ufffd\ufffd\U0001f600" + "x" * 497


def test_a_reason_of_any_length_is_kept_with_its_first_500_characters(endpoint: Endpoint) -> None:
    refusal = {"row_id": f"{1:032x}", "reason": "\U0001f600" * 300_000}
    endpoint.replies = [Reply(200, json.dumps({"refused": [refusal]}))]

    outcome = send.deliver(received(1), post_to(endpoint), NOW, lambda: PLENTY)

    letter = outcome.refused[0][1]
    assert letter.attributes["reason"]["StringValue"] == "\U0001f600" * 500
    # The largest row has room for the longest texts.
    assert dead_letter("x" * MAX_ROW_BYTES, "\U0001f600" * 501, 422, "\U0001f600" * 501).size <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize("character", ["x", "\xe9"])
def test_a_message_that_leaves_no_room_is_a_dead_letter_without_a_reason(character: str) -> None:
    body = character * (MAX_MESSAGE_BYTES // len(character.encode()))

    assert dead_letter(body, "too long") == Message(body)


def test_the_age_of_the_oldest_row_that_waits_is_a_metric(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply(503)]
    messages = [send.receive(record(1, sent_at=NOW - 50)), send.receive(record(2, sent_at=NOW - 500))]

    outcome = send.deliver(messages, post_to(endpoint), NOW, lambda: PLENTY, pause=lambda *_, **__: 0.0)
    metrics = send.metrics(outcome, "deliver", NOW)

    assert (metrics["RowsWaiting"], metrics["RowAge"]) == (2, 500)
    assert {"Name": "RowAge", "Unit": "Seconds"} in metrics["_aws"]["CloudWatchMetrics"][0]["Metrics"]


def test_a_row_is_as_old_as_it_will_be_when_the_endpoint_wants_it(endpoint: Endpoint) -> None:
    endpoint.replies = [Reply(503, headers={"Retry-After": "7200"})]

    outcome = send.deliver([send.receive(record(1, sent_at=NOW - 50))], post_to(endpoint), NOW, lambda: PLENTY)

    assert 7250 <= send.metrics(outcome, "deliver", NOW)["RowAge"] <= 7252


# --- The function with its queue, table and secret ----------------------------------------------------------------


class Aws:
    """The deployed resources, in moto, and the work of the event source mapping."""

    def __init__(self, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        services = ("sqs", "dynamodb", "secretsmanager")
        self.sqs, self.dynamodb, self.secrets = (client(service, "eu-central-1") for service in services)
        dead = self.sqs.create_queue(QueueName="dead")["QueueUrl"]
        queue = self.sqs.create_queue(QueueName="queue", Attributes={"VisibilityTimeout": "720"})["QueueUrl"]
        self.dynamodb.create_table(
            TableName="runs",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self.settings = settings(
            endpoint=endpoint.url,
            queue_url=queue,
            dead_letter_queue_url=dead,
            secret_arn=self.secrets.create_secret(Name="token")["ARN"],
        )
        self.clients = Clients(None, None, self.dynamodb, self.sqs)
        monkeypatch.setattr(handler, "read_settings", lambda: self.settings)
        monkeypatch.setattr(handler, "make_clients", lambda: self.clients)

    def put(self, count: int) -> set[str]:
        """Queue rows; returns their ids."""
        rows = [row(number) for number in range(1, count + 1)]
        for one in rows:
            self.sqs.send_message(QueueUrl=self.settings.queue_url, MessageBody=one.body())
        return {one.row_id for one in rows}

    def receive(self, url: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while batch := self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
        ).get("Messages"):
            found += batch
        return found

    def invoke(self) -> int:
        """Invoke the function with the visible messages, and delete all but the returned ones; return their number.

        The returned ones are visible again at once, as if their visibility timeout had ended.
        """
        messages = self.receive(self.settings.queue_url)
        records = [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
            }
            for message in messages
        ]
        try:
            reply = handler.lambda_handler({"Records": records}, Context())
            failed = {item["itemIdentifier"] for item in reply["batchItemFailures"]}
        except Killed:
            failed = {message["MessageId"] for message in messages}
        for message in messages:
            handle = {"QueueUrl": self.settings.queue_url, "ReceiptHandle": message["ReceiptHandle"]}
            if message["MessageId"] in failed:
                self.sqs.change_message_visibility(**handle, VisibilityTimeout=0)
            else:
                self.sqs.delete_message(**handle)
        return len(messages)

    def figures(self) -> tuple[int, int]:
        """Delivered and refused, as the run's figures have it."""
        item = self.dynamodb.get_item(TableName="runs", Key={"id": {"S": "run run"}}).get("Item", {})
        delivered, refused = (int(item.get(name, {"N": "0"})["N"]) for name in ("delivered", "refused"))
        return delivered, refused


class Context:
    function_name = "deliver"

    def get_remaining_time_in_millis(self) -> int:
        return PLENTY


@pytest.fixture
def aws(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, unread_secrets: None) -> Iterator[Aws]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    # The endpoint is a real one, beside moto's AWS.
    with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1.*"]}}}):
        yield Aws(endpoint, monkeypatch)


def test_what_is_delivered_leaves_the_queue_and_what_is_refused_is_a_dead_letter(aws: Aws, endpoint: Endpoint) -> None:
    aws.put(25)
    endpoint.replies = [Reply(200, REFUSES_ROW_2)]

    assert aws.invoke() == 25

    assert aws.receive(aws.settings.queue_url) == []
    (letter,) = aws.receive(aws.settings.dead_letter_queue_url)
    assert Row.read(letter["Body"]) == row(2)
    assert letter["MessageAttributes"]["reason"]["StringValue"] == "no such sensor"
    assert aws.figures() == (24, 1)


def test_an_endpoint_that_was_down_gets_every_row_when_it_is_up(aws: Aws, endpoint: Endpoint) -> None:
    ids = aws.put(25)
    endpoint.replies = [Reply(503), Reply(500), Reply(delay=0, cut=True), Reply()]

    assert [aws.invoke() for _ in range(5)] == [25, 25, 25, 25, 0]

    assert set(endpoint.row_ids[-25:]) == ids and aws.figures() == (25, 0)


def test_rows_that_wait_are_hidden_until_their_next_try(aws: Aws, endpoint: Endpoint) -> None:
    aws.put(1)
    endpoint.replies = [Reply(503, headers={"Retry-After": "3600"})]
    message = aws.receive(aws.settings.queue_url)[0]
    given = {"messageId": "m", "receiptHandle": message["ReceiptHandle"], "body": message["Body"]}

    reply = handler.lambda_handler({"Records": [{**given, "attributes": message["Attributes"]}]}, Context())

    assert reply == {"batchItemFailures": [{"itemIdentifier": "m"}]}
    # A second longer than it was hidden by: it would be visible, but the endpoint asked for an hour.
    backend = mock_aws_queue(aws.settings.queue_url)
    assert backend > time.time() + 3500


def mock_aws_queue(url: str) -> float:
    """When moto shows the first message again, in seconds since 1970."""
    from moto.sqs.models import sqs_backends

    (message,) = sqs_backends["123456789012"]["eu-central-1"].queues[url.rpartition("/")[2]]._messages
    return float(message.visible_at) / 1000


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, 9), ids=lambda step: f"step {step}")
def test_killed_at_any_step_every_row_is_posted_or_a_dead_letter(
    aws: Aws, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, step: int, after: bool
) -> None:
    ids = aws.put(25)
    # Its steps: a first half too large, one refused, others taken, then down and up again.
    bad = {f"{number:032x}" for number in (3, 20)}

    def take(rows: list[dict[str, Any]]) -> Reply:
        if len(rows) > 20:
            return Reply(413)
        if len(endpoint.requests) == 3:
            return Reply(503)
        return Reply(207, json.dumps({"refused": [{"row_id": r["row_id"]} for r in rows if r["row_id"] in bad]}))

    endpoint.take = take
    killer = Killer(step, after=after)
    whole, post = aws.clients, send.post
    aws.clients = killer.clients(whole)
    monkeypatch.setattr(send, "post", killer.wrap(post))
    aws.invoke()
    aws.clients = whole
    monkeypatch.setattr(send, "post", post)
    while aws.invoke():
        pass

    letters = {Row.read(letter["Body"]).row_id for letter in aws.receive(aws.settings.dead_letter_queue_url)}
    assert killer.left <= 0 or step > 6
    assert set(endpoint.row_ids) == ids and letters == bad
    delivered, refused = aws.figures()
    assert delivered >= 23 and refused >= 2


def test_figures_that_cannot_be_counted_are_no_reason_to_post_again(aws: Aws, endpoint: Endpoint) -> None:
    aws.put(3)
    aws.dynamodb.delete_table(TableName="runs")

    assert aws.invoke() == 3 and aws.invoke() == 0
    assert len(endpoint.requests) == 1


def test_dead_letters_that_cannot_be_written_wait_as_rows(
    aws: Aws, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.put(1)
    endpoint.replies = [Reply(400)]

    monkeypatch.setattr(aws.sqs, "send_message_batch", refuse("SendMessageBatch"))

    assert [aws.invoke(), aws.invoke()] == [1, 1]


def refuse(operation: str) -> Callable[..., Any]:
    """A call of AWS, failing as a whole."""

    def call(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "KMS.ThrottlingException", "Message": "later"}}, operation)

    return call


@pytest.mark.parametrize("operation", ["send_message_batch", "change_message_visibility_batch", "update_item"])
@pytest.mark.parametrize("error", [ClientError, RuntimeError])
def test_what_fails_after_the_endpoint_has_answered_posts_no_row_again_that_it_has_taken(
    aws: Aws,
    endpoint: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    operation: str,
    error: type[Exception],
) -> None:
    ids = sorted(aws.put(9))

    def take(rows: list[dict[str, Any]]) -> Reply:
        if len(rows) > 6:
            return Reply(413)
        if ids[8] in {row["row_id"] for row in rows}:
            return Reply(503)
        return Reply(200, REFUSES_ROW_2)

    def fail(**_: Any) -> Any:
        raise RuntimeError

    endpoint.take = take
    client = aws.dynamodb if operation == "update_item" else aws.sqs
    with monkeypatch.context() as patch:
        patch.setattr(client, operation, refuse(operation) if error is ClientError else fail)
        aws.invoke()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["SendErrors"] == 1
    before = len(endpoint.row_ids)
    endpoint.take = None
    endpoint.replies = [Reply(200, REFUSES_ROW_2)]
    while aws.invoke():
        pass

    # The second half of the nine waited, and the one refused if nothing could be written of it.
    expected = {*ids[4:], *([ids[1]] if operation == "send_message_batch" else [])}
    assert set(endpoint.row_ids[before:]) == expected
    (letter,) = aws.receive(aws.settings.dead_letter_queue_url)
    assert Row.read(letter["Body"]) == row(2)


def test_of_several_dead_letters_only_those_that_could_not_be_written_come_again(
    aws: Aws, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.put(12)
    endpoint.replies = [Reply(400)]
    real = aws.sqs.send_message_batch

    def ten_at_most(**arguments: Any) -> Any:
        return real(**arguments) if len(arguments["Entries"]) == 10 else refuse("SendMessageBatch")()

    monkeypatch.setattr(aws.sqs, "send_message_batch", ten_at_most)

    assert [aws.invoke(), aws.invoke()] == [12, 2]
    assert len(aws.receive(aws.settings.dead_letter_queue_url)) == 10


def test_a_row_that_cannot_be_hidden_is_counted(
    aws: Aws, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.put(1)
    endpoint.replies = [Reply(503)]
    failed = {"Failed": [{"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True}]}
    monkeypatch.setattr(aws.sqs, "change_message_visibility_batch", lambda **_: failed)

    assert [aws.invoke(), aws.invoke()] == [1, 1]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["SendErrors"] == 1


@pytest.mark.parametrize(
    ("token", "authorization"),
    [(None, None), ('{"token": "t-1"}', "Bearer t-1"), ('{"other": "t-1"}', None)],
    ids=["no secret", "a token", "another key"],
)
def test_rows_are_sent_as_json_with_the_token_if_there_is_one(
    aws: Aws, endpoint: Endpoint, token: str | None, authorization: str | None
) -> None:
    if token:
        aws.secrets.put_secret_value(SecretId=aws.settings.secret_arn, SecretString=token)
    aws.put(1)
    aws.invoke()

    assert endpoint.requests[0][0].get("authorization") == authorization
    assert endpoint.requests[0][0]["content-type"] == "application/json"


def test_a_token_that_was_changed_is_taken_up_when_the_old_one_is_refused(aws: Aws, endpoint: Endpoint) -> None:
    def set_token(token: str) -> None:
        aws.secrets.put_secret_value(SecretId=aws.settings.secret_arn, SecretString=json.dumps({"token": token}))

    set_token("old")
    aws.put(1)
    aws.invoke()
    set_token("new")
    endpoint.replies = [Reply(401), Reply(200)]
    aws.put(1)
    aws.invoke()

    assert [headers["authorization"] for headers, _ in endpoint.requests] == ["Bearer old", "Bearer old", "Bearer new"]
    assert aws.figures() == (2, 0)


def test_a_row_has_one_id_for_the_same_values_in_any_order_of_the_columns() -> None:
    found: Callable[..., str] = row_id
    assert found("q", {"a": 1, "b": None}) == found("q", {"b": None, "a": 1})
    others = [("p", {"a": 1, "b": None}), ("q", {"a": "1", "b": None}), ("q", {"a": 1}), ("q", {"a": 1, "b": "None"})]
    assert len({found("q", {"a": 1, "b": None}), *(found(*other) for other in others)}) == 5
