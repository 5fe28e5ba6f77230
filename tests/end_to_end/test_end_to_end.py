"""The scripts and the template against the local AWS, as a person uses them: deploy, post, query, change, destroy."""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import re
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, Run
from tests.local_process import client, eventually

pytestmark = pytest.mark.slow

HOSTILE_AGENT = '"\\\'},{" $util.base64Encode("x") ${foo} #foreach($x in [1])'
HOSTILE_TEXT = (
    "$util #foreach($i in [1,2]) ${foo} $!bar #end #set($a = 1) \"quotes\" 'single' \\n "
    "\u00fc\u4e16\U0001f30a </script> sluice/end"
)
FAST = ("--parameter", "FirehoseBufferingInterval=1")


class Stack:
    """A deployed stack: its outputs, and ways to post to it and to read the results."""

    def __init__(self, script: Run, endpoint: str, name: str, *arguments: str) -> None:
        self.script, self.endpoint, self.name = script, endpoint, name
        self.deployment = script("deploy", "--local", "--stack-name", name, "--yes", *FAST, *arguments)
        self.outputs = dict(line.split("\t") for line in self.deployment.stdout.splitlines())

    def client(self, service: str) -> Any:
        return client(self.endpoint, service)

    def request(
        self,
        method: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        route: str = "track",
        query: str = "",
    ) -> tuple[int, dict[str, str], str]:
        url = urlsplit(self.outputs[f"{route.capitalize()}URL"])
        connection = http.client.HTTPConnection(url.netloc, timeout=30)
        connection.request(method, url.path + query, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, text

    def track(self, event: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        status, _, text = self.request("POST", json.dumps(event).encode(), headers)
        assert status == 202, text

    def rows(self, sql: str) -> list[dict[str, Any]]:
        done = self.script("query", "--local", "--stack-name", self.name, "--format", "json", "--sql", sql)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query, each value as text or None."""
        athena = self.client("athena")
        query = athena.start_query_execution(
            QueryString=sql,
            QueryExecutionContext={"Database": self.outputs["DatabaseName"]},
            WorkGroup=self.outputs["WorkGroupName"],
        )["QueryExecutionId"]
        while (status := self._status(athena, query))["State"] in ("QUEUED", "RUNNING"):
            time.sleep(0.02)
        assert status["State"] == "SUCCEEDED", status
        head, *rows = [
            [item.get("VarCharValue") for item in row["Data"]]
            for row in athena.get_query_results(QueryExecutionId=query)["ResultSet"]["Rows"]
        ]
        return [dict(zip(head, row, strict=True)) for row in rows]

    def _status(self, athena: Any, query: str) -> dict[str, Any]:
        status: dict[str, Any] = athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]
        return status

    def table(self, suffix: str = "") -> str:
        return f'"{self.outputs["DatabaseName"]}"."{self.outputs["TableName"]}{suffix}"'

    def event(self, event_id: str) -> dict[str, Any]:
        """The row of an event, as soon as it has been delivered."""
        return self.arrival(f"SELECT * FROM {self.table()} WHERE event_id = '{event_id}'")

    def arrival(self, sql: str) -> dict[str, Any]:
        """The only row of a query, as soon as there is one."""
        eventually(lambda: self.ask(sql), pause=0.2)
        (row,) = self.rows(sql)
        return row

    def objects(self, prefix: str) -> dict[str, bytes]:
        s3, bucket = self.client("s3"), self.outputs["BucketName"]
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {one["Key"]: s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed}


@pytest.fixture(scope="module")
def stack(script: Run, local_aws: str) -> Stack:
    return Stack(script, local_aws, "first")


def test_an_event_becomes_a_row_with_every_column(stack: Stack) -> None:
    event = {"event_id": str(uuid.uuid4()), "name": " John ", "action": "charge", "value": "100", "plan": {"id": 7}}
    stack.track({**event, "timestamp": "2026-11-20T23:30:00+02:00"}, {"User-Agent": "test/1"})
    row = stack.event(event["event_id"])
    assert (row["name"], row["action"], row["value"]) == ("John", "charge", 100.0)
    assert row["occurred_at"] == "2026-11-20 21:30:00.000"
    assert json.loads(row["properties"]) == {"plan": {"id": 7}}
    assert (row["ip"], row["user_agent"]) == ("127.0.0.0", "test/1")
    assert row["clock_skew_ms"] < 0
    assert row["request_id"]
    assert row["dt"]


def test_track_waits_until_each_event_is_a_row_or_rejected(stack: Stack) -> None:
    good, wrong = {"event_id": str(uuid.uuid4()), "name": "a"}, {"event_id": str(uuid.uuid4()), "value": "abc"}
    sent = "".join(json.dumps(event) + "\n" for event in (good, {"name": "no id of its own"}, wrong))
    track = ("track", "--local", "--stack-name", stack.name, "--wait", "-")
    done = stack.script(*track, stdin=sent)
    assert [json.loads(line) for line in done.stdout.splitlines()][1] == {"rows": 2, "rejected": 1, "missing": 0}
    assert "line 3: rejected: not_a_number: " in done.stderr

    # The debug event is dropped by a rule: it is not a row and was not rejected. The others are there already.
    dropped = {"event_id": str(uuid.uuid4()), "debug": True}
    done = stack.script(*track, stdin=f"{json.dumps(good)}\n{json.dumps(dropped)}\n", check=False)
    assert (done.returncode, json.loads(done.stdout.splitlines()[1])) == (1, {"rows": 1, "rejected": 0, "missing": 1})
    assert f"line 2: in neither table: {dropped['event_id']}\n" in done.stderr


def test_what_a_client_controls_arrives_intact_and_breaks_out_of_nothing(stack: Stack) -> None:
    event = {"event_id": str(uuid.uuid4()), "name": "hostile", "text": HOSTILE_TEXT}
    stack.track(event, {"User-Agent": HOSTILE_AGENT})
    row = stack.event(event["event_id"])
    assert row["user_agent"] == HOSTILE_AGENT
    assert json.loads(row["properties"]) == {"text": HOSTILE_TEXT}


def test_a_beacon_of_a_page_is_taken(stack: Stack) -> None:
    event = {"event_id": str(uuid.uuid4()), "name": "left"}
    headers = {"Content-Type": "text/plain;charset=UTF-8", "Origin": "https://example.com"}
    status, answer, _ = stack.request("POST", json.dumps(event).encode(), headers)
    assert (status, answer["access-control-allow-origin"]) == (202, "*")
    assert stack.event(event["event_id"])["name"] == "left"


REFUSALS = [
    ("not JSON", 400, b'{"name": ', {}),
    ("an array", 400, b'[{"name": "x"}]', {}),
    ("another media type", 415, b"<x/>", {"Content-Type": "application/xml"}),
    ("a raw PutRecord", 415, b'{"DeliveryStreamName": "x"}', {"Content-Type": "application/x-amz-json-1.1"}),
    ("too large for Firehose", 413, json.dumps({"x": "y" * 1_024_000}).encode(), {}),
]


@pytest.mark.parametrize(("status", "body", "headers"), [one[1:] for one in REFUSALS], ids=[one[0] for one in REFUSALS])
def test_a_refusal_says_why_and_a_page_may_read_it(
    stack: Stack, status: int, body: bytes, headers: dict[str, str]
) -> None:
    answered, answer, text = stack.request("POST", body, headers)
    assert answered == status
    assert answer["access-control-allow-origin"] == "*"
    assert json.loads(text)["message"]


def test_a_body_over_ten_megabytes_is_refused_by_api_gateway_in_its_own_words(stack: Stack) -> None:
    # This refusal cannot be customised, and so a page cannot read it.
    status, answer, text = stack.request("POST", b'{"x": "%s"}' % (b"y" * 10_500_000))
    assert (status, json.loads(text)) == (413, {"message": "Request Too Long"})
    assert "access-control-allow-origin" not in answer


def test_a_preflight_is_answered_without_a_body(stack: Stack) -> None:
    status, answer, text = stack.request("OPTIONS", headers={"Origin": "https://example.com"})
    assert (status, text) == (204, "")
    assert answer["access-control-allow-methods"] == "POST,OPTIONS"
    assert "Content-Type" in answer["access-control-allow-headers"]


def test_every_event_has_one_outcome_and_none_harms_its_neighbours(stack: Stack) -> None:
    good, bad = str(uuid.uuid4()), str(uuid.uuid4())
    events = [
        {"event_id": good, "name": "outcome"},
        {"event_id": bad, "name": "outcome", "value": "abc"},
        {"event_id": str(uuid.uuid4()), "name": "outcome", "debug": True},
    ]
    status, _, _ = stack.request("POST", json.dumps(events).encode(), route="batch")
    assert status == 202
    stack.event(good)
    sql = f"""SELECT *, from_utf8(from_base64(body)) AS text FROM {stack.table("_rejected")} WHERE event_id = '{bad}'"""
    row = stack.arrival(sql)
    assert (row["reason"], row["position"], json.loads(row["text"])) == ("not_a_number", 1, events[1])
    (count,) = stack.rows(f"SELECT count(*) AS n FROM {stack.table()} WHERE name = 'outcome'")
    assert count["n"] == 1


def test_a_record_that_is_our_fault_fails_whole_and_untouched(stack: Stack) -> None:
    record = b"sluice/1 this is not a context line\n{}\n"
    firehose = stack.client("firehose")
    firehose.put_record(DeliveryStreamName=stack.outputs["StreamName"], Record={"Data": record})
    row = stack.arrival(f"SELECT * FROM {stack.table('_errors')}")
    assert row["error_type"] == "processing-failed"
    assert base64.b64decode(row["rawdata"]) == record


def test_status_shows_drops_by_rule_and_refused_requests_by_route(script: Run, local_aws: str) -> None:
    noisy = Stack(script, local_aws, "noisy")
    crawler = {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
    noisy.track({"name": "crawled"}, crawler)
    noisy.track({"name": "tried", "debug": True})
    noisy.track({})
    noisy.track({})
    noisy.track({"name": "good"})
    for status, body, headers, route in (
        (400, b'{"name": ', {}, "track"),
        (415, b"<x/>", {"Content-Type": "application/xml"}, "track"),
        (415, b"<x/>", {"Content-Type": "application/xml"}, "batch"),
        (403, b"", {}, "pixel"),  # GET alone is a method of it
    ):
        assert noisy.request("POST", body, headers, route)[0] == status

    def facts() -> Any:
        return json.loads(script("status", "--local", "--stack-name", "noisy", "--json").stdout)

    wanted = {"by_rule": {"empty": 2, "bot": 1, "debug": 1}, "lines_left_out": False}
    eventually(lambda: facts()["drops"] == wanted)
    by_route = {"POST /track": 2, "POST /batch": 1}
    wanted = {"requests": 9, "answered_4xx": 4, "by_route": by_route, "elsewhere": 1}
    eventually(lambda: facts()["refusals"] == wanted)
    shown = script("status", "--local", "--stack-name", "noisy").stdout
    assert re.search(r"^drops +2 empty, 1 (bot, 1 debug|debug, 1 bot) *$", shown, re.MULTILINE)
    assert re.search(r"^4xx +4 of 9 requests: 2 POST /track, 1 POST /batch, 1 elsewhere *$", shown, re.MULTILINE)


def test_a_pixel_answers_nothing_and_stores_its_query(stack: Stack) -> None:
    event_id = str(uuid.uuid4())
    query = f"?event_id={event_id}&name=seen&value=2&city=S%C3%A3o%20Paulo&odd=%22%7D%0A"
    status, answer, text = stack.request("GET", route="pixel", query=query)
    assert (status, text, answer["cache-control"]) == (204, "", "no-store")
    row = stack.event(event_id)
    assert (row["name"], row["value"]) == ("seen", 2.0)
    assert json.loads(row["properties"]) == {"city": "S\u00e3o Paulo", "odd": '"}\n'}


def test_objects_are_parquet_with_many_events_and_every_column_typed(stack: Stack, script: Run) -> None:
    events = "\n".join(json.dumps({"name": "many", "value": number}) for number in range(200))
    summary = json.loads(script("track", "--local", "--stack-name", "first", "--file", "-", stdin=events).stdout)
    assert (summary["accepted"], summary["refused"]) == (200, 0)
    sql = f"SELECT count(DISTINCT event_id) AS n FROM {stack.table()} WHERE name = 'many'"
    eventually(lambda: stack.ask(sql) == [{"n": "200"}], pause=0.2)
    objects = stack.objects("events/")
    tables = {key: pq.read_table(io.BytesIO(content)) for key, content in objects.items()}
    assert all(key.startswith(f"events/dt={time.strftime('%Y-')}") and key.endswith(".parquet") for key in objects)
    assert max(len(one) for one in tables.values()) > 20
    schema = next(iter(tables.values())).schema
    wanted = json.loads((ROOT / "lambda/transform/schema.json").read_text())["columns"]
    types = {"string": pa.string(), "double": pa.float64(), "bigint": pa.int64(), "timestamp": pa.timestamp("ms")}
    assert [(field.name, field.type) for field in schema] == [(one["name"], types[one["type"]]) for one in wanted]
    assert (
        pq.ParquetFile(io.BytesIO(next(iter(objects.values())))).metadata.row_group(0).column(0).compression == "GZIP"
    )


def test_a_second_stack_with_another_name_and_format_lives_beside_the_first(
    stack: Stack, script: Run, local_aws: str
) -> None:
    second = Stack(
        script, local_aws, "my-second", "--parameter", "OutputFormat=JSON", "--parameter", "FirehoseBufferingSize=1"
    )
    assert second.outputs["DatabaseName"] == "my_second"
    event_id = str(uuid.uuid4())
    second.track({"event_id": event_id, "name": "other"})
    assert second.event(event_id)["name"] == "other"
    (key, content), *_ = second.objects("events/").items()
    assert key.endswith(".json.gz")
    assert json.loads(gzip.decompress(content).splitlines()[0])["name"] == "other"
    assert not stack.rows(f"SELECT 1 FROM {stack.table()} WHERE event_id = '{event_id}'")
    # It goes as it came: the data stays until somebody says so.
    script("destroy", "--local", "--stack-name", "my-second", "--yes")
    assert second.objects("events/")


def test_json_can_be_compressed_as_hadoop_does_it(script: Run, local_aws: str) -> None:
    arguments = ("OutputFormat=JSON", "FirehoseCompressionFormat=SNAPPY", "FirehoseBufferingSize=1")
    third = Stack(script, local_aws, "snappy", *(word for one in arguments for word in ("--parameter", one)))
    event_id = str(uuid.uuid4())
    third.track({"event_id": event_id, "name": "squeezed"})
    assert third.event(event_id)["name"] == "squeezed"
    (key,) = third.objects("events/")
    assert key.endswith(".json.snappy")
    script("destroy", "--local", "--stack-name", "snappy", "--yes", "--delete-data")


def test_a_changed_api_is_served_after_an_update(stack: Stack, script: Run) -> None:
    again = script("deploy", "--local", "--stack-name", "first", "--yes")
    assert "Nothing to change" in again.stderr
    script(
        "deploy", "--local", "--stack-name", "first", "--yes", "--parameter", "CorsAllowOrigin=https://shop.example.com"
    )
    for status, body in ((202, b'{"name": "x"}'), (400, b"x")):
        answered, answer, _ = stack.request("POST", body)
        assert (answered, answer["access-control-allow-origin"]) == (status, "https://shop.example.com")
    script("deploy", "--local", "--stack-name", "first", "--yes", "--parameter", "CorsAllowOrigin=*")


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [
        ("OutputFormat=JSON", "OutputFormat cannot change from 'PARQUET' to 'JSON'"),
        ("FirehoseS3Prefix=other/", "FirehoseS3Prefix cannot change"),
        ("AthenaTableName=other", "AthenaTableName cannot change"),
        ("FirehoseBufferingSize=5", "FirehoseBufferingSize must be 64, 96 or 128 MB"),
        ("Typo=1", "no parameter 'Typo'"),
    ],
)
def test_what_would_hide_data_or_fail_is_refused_before_anything_changes(
    stack: Stack, script: Run, parameter: str, reason: str
) -> None:
    done = script("deploy", "--local", "--stack-name", "first", "--yes", "--parameter", parameter, check=False)
    assert done.returncode != 0
    assert reason in done.stderr.splitlines()[-1]


def test_a_failed_deployment_says_first_which_resource_failed_and_why(
    stack: Stack, script: Run, local_aws: str
) -> None:
    # Two stacks cannot make one database.
    arguments = ("--yes", "--parameter", f"AthenaDatabaseName={stack.outputs['DatabaseName']}")
    done = script("deploy", "--local", "--stack-name", "third", *arguments, check=False)
    assert done.returncode == 1
    assert "error: CatalogDatabase (AWS::Glue::Database): " in done.stderr
    assert script("query", "--local", "--stack-name", "third", "--list", check=False).returncode == 2


def test_saved_queries_are_listed_with_their_questions_and_run(stack: Stack, script: Run) -> None:
    listed = script("query", "--local", "--stack-name", "first", "--list").stdout
    assert "totals-by-name-and-action" in listed
    shown = script("query", "--local", "--stack-name", "first", "totals-by-name-and-action", "--format", "csv")
    assert "John,charge" in shown.stdout
    assert "scanned" in shown.stderr
