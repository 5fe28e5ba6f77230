"""The pull function as Lambda calls it: its environment, the steps of the state machine, and messages of the queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from scripts.commands.deploy import nested
from stacks.pull.function import handler
from tests.pull_api import Asked, Json, Told, serving
from transform import streams

PAGES = {"1": [{"id": 1}, {"id": 2}], "2": [{"id": 3}]}


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 300_000


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, unread_secrets: None) -> Iterator[dict[str, str]]:
    """The environment of stacks/pull/template.yaml, with everything named there in moto."""
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    caches = (handler.parts, streams.connect)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="artifacts")
        boto3.client("dynamodb").create_table(
            TableName="table",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("source", "item")],
            KeySchema=[{"AttributeName": "source", "KeyType": "HASH"}, {"AttributeName": "item", "KeyType": "RANGE"}],
        )
        sqs = boto3.client("sqs")
        values = {
            "SOURCES_BUCKET": "artifacts",
            "SOURCES_KEY": "sources.json",
            "TABLE": "table",
            "QUEUE_URL": sqs.create_queue(QueueName="queue")["QueueUrl"],
            "DEAD_LETTER_QUEUE_URL": sqs.create_queue(QueueName="dead")["QueueUrl"],
            "SECRET_ARN": boto3.client("secretsmanager").create_secret(Name="s", SecretString='{"things": "x"}')["ARN"],
            "STREAM": "stream",
            "RETRY_HOURS": "1",
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        for cache in caches:
            cache.cache_clear()
        yield values
        for cache in caches:
            cache.cache_clear()


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The data put on the delivery stream."""
    found: list[bytes] = []

    class Firehose:
        def put_record_batch(self, *, DeliveryStreamName: str, Records: list[dict[str, bytes]]) -> Json:
            found.extend(record["Data"] for record in Records)
            return {"FailedPutCount": 0, "RequestResponses": [{"RecordId": "1"} for _ in Records]}

    monkeypatch.setattr("stacks.pull.function.fetch.connect", Firehose)
    return found


def deploy(url: str, **changes: Any) -> None:
    source = {
        "name": "things",
        "url": url,
        "query": {"page": "{page}"},
        "auth": {"type": "bearer"},
        "pagination": {"style": "page", "total_pages": "pages"},
        "items": "data",
        "event": {"event_id": ["id"]},
        **changes,
    }
    body = json.dumps({"sources": {"things": source}}).encode()
    boto3.client("s3").put_object(Bucket="artifacts", Key="sources.json", Body=body)


def take(url: str) -> list[Json]:
    """The messages of a queue, as Lambda hands them over."""
    answer = boto3.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    return [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": {"ApproximateReceiveCount": "1"},
        }
        for message in answer.get("Messages", [])
    ]


def call(**event: Any) -> Any:
    """The function's answer, as JSON brings it back."""
    return json.loads(json.dumps(handler.lambda_handler(json.loads(json.dumps(event)), Context())))


def test_a_batch_gives_back_what_failed_and_no_more(environment: dict[str, str], stream: list[bytes]) -> None:
    def api(asked: Asked) -> Told:
        assert asked.headers["authorization"] == "Bearer x"
        if asked.query["page"] == "2":
            return Told(503, {})
        return Told(200, {"data": PAGES.get(asked.query["page"], []), "pages": 2})

    with serving(api) as url:
        deploy(url)
        planned = call(step="plan", holder="me", checked=call(step="check", input={}))
        (first,) = take(environment["QUEUE_URL"])
        assert call(Records=[first]) == {"batchItemFailures": []}
        (second,) = take(environment["QUEUE_URL"])
        answer = call(Records=[first, second])
        seen = call(step="look", holder="me", seen={"planned": planned})
    assert answer == {"batchItemFailures": [{"itemIdentifier": second["messageId"]}]}
    assert [json.loads(line)["properties"]["id"] for record in stream for line in record.splitlines()] == [1, 2]
    assert (seen["is_done"], seen["rows"], seen["refine"]) == (False, 2, {})
    assert seen["runs"][0] | {"landed": 1, "planned": 1, "dead": 0} == seen["runs"][0]


def test_what_can_never_be_fetched_goes_to_the_dead_letters_with_its_reason(
    environment: dict[str, str], stream: list[bytes]
) -> None:
    with serving(lambda asked: Told(200 if asked.query["page"] == "1" else 404, {"data": [], "pages": 0})) as url:
        deploy(url)
        planned = call(step="plan", holder="me", checked=call(step="check", input={"sources": ["things"]}))
        (message,) = take(environment["QUEUE_URL"])
        boto3.resource("dynamodb").Table("table").update_item(
            Key={"source": "things", "item": f"task#{planned[0]['run']}#000000#000000"},
            UpdateExpression="SET #parameters = :other",
            ExpressionAttributeNames={"#parameters": "parameters"},
            ExpressionAttributeValues={":other": '{"page": 2}'},
        )
        assert call(Records=[message]) == {"batchItemFailures": []}
    (letter,) = boto3.client("sqs").receive_message(
        QueueUrl=environment["DEAD_LETTER_QUEUE_URL"], MessageAttributeNames=["All"]
    )["Messages"]
    assert letter["Body"] == message["body"]
    assert letter["MessageAttributes"]["reason"]["StringValue"].startswith("HttpError: the API answers 404")


def test_a_message_that_is_none_of_ours_stays_in_the_queue(environment: dict[str, str]) -> None:
    deploy("http://127.0.0.1")
    boto3.client("sqs").send_message(QueueUrl=environment["QUEUE_URL"], MessageBody="hello")
    (message,) = take(environment["QUEUE_URL"])
    assert call(Records=[message]) == {"batchItemFailures": [{"itemIdentifier": message["messageId"]}]}


def test_an_unknown_step_is_a_fault(environment: dict[str, str]) -> None:
    deploy("http://127.0.0.1")
    with pytest.raises(ValueError, match="there is no step 'dance'"):
        call(step="dance")


def test_the_template_sets_the_environment_that_the_function_reads(environment: dict[str, str]) -> None:
    (stack,) = [each for each in nested.read() if each.name == "pull"]
    function = stack.template["Resources"]["FetchFunction"]["Properties"]
    assert function["Environment"]["Variables"].keys() == environment.keys()
    module, _, name = function["Handler"].rpartition(".")
    assert getattr(handler, name)
    assert module == "pull.handler", "the folder function/ is the package `pull` of the zip"
    assert function["Timeout"] <= stack.template["Resources"]["FetchQueue"]["Properties"]["VisibilityTimeout"]
