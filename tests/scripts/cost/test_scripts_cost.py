"""scripts/cost.sh: prices, the arithmetic by hand, the first limit, and a stack's metrics (out of moto)."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from fake_cloudformation import FakeAws, FakeCloudFormation, Stack
from moto import mock_aws
from moto.s3.models import S3Backend

from scripts.commands.common import athena
from scripts.commands.common.console import CommandError, guarded
from scripts.commands.cost import command as cost
from scripts.commands.cost import model as cost_model
from scripts.commands.cost import prices as cost_prices
from scripts.commands.cost import stack as cost_stack
from scripts.commands.cost.model import Workload, bill, quantities
from shared.athena import SMALLEST_CHARGE
from tests.conftest import ROOT
from tests.gateway import STACK, Gateway
from transform.handler import Tally

PRICES = cost_prices.read()
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEN_MILLION = Workload(events_per_month=10_000_000, bytes_per_event=600, events_per_request=1)


def dollars(workload: Workload) -> dict[str, float]:
    return {line.key: line.dollars for line in bill(quantities(workload), PRICES)}


# Prices


@pytest.mark.parametrize("key", PRICES.by_key)
def test_every_price_has_a_source_its_strength_and_tiers_that_rise_to_no_end(key: str) -> None:
    price = PRICES[key]
    assert price.strength in ("good", "medium", "weak", "UNSOURCED")
    assert len(price.source) > 10
    ends = [end for end, _ in price.tiers[:-1]]
    assert all(ends)
    assert ends == sorted(ends, key=float)  # none of them is None
    assert [dollars for _, dollars in price.tiers] == sorted((dollars for _, dollars in price.tiers), reverse=True)


@pytest.mark.parametrize(
    ("key", "amount", "expected"),
    [
        ("api-requests", 0, 0),
        ("api-requests", 333_000_000, 1_165.50),
        ("api-requests", 1_000_000_000, 1_165.50 + 667 * 2.80),
        ("api-requests", 21_000_000_000, 1_165.50 + 667 * 2.80 + 19_000 * 2.38 + 1_000 * 1.51),
        ("firehose-ingest", 600e12, 600_000 * 0.029),  # beyond the last known tier
        ("lambda-gb-seconds", 7.5e9 + 1e9, 100_000.5 + 12_000.1),
        ("athena-scans", 10_000_000, 0.00005),
    ],
    ids=str,
)
def test_a_quantity_costs_what_its_tiers_say(key: str, amount: float, expected: float) -> None:
    assert PRICES[key].cost(amount) == pytest.approx(expected)


def test_the_price_of_a_scan_is_the_one_that_query_tells() -> None:
    for scanned in (1, 10_000_000, 3 * 10**12):
        assert athena.cost(scanned) == pytest.approx(PRICES["athena-scans"].cost(max(scanned, SMALLEST_CHARGE)))


# Quantities


@pytest.mark.parametrize(
    ("events_per_request", "api", "ingest"),
    [
        (1, 35.00, 10_000_000 * 5_120 / 1e9 * 0.029),  # 1.48
        (20, 1.75, 500_000 * 15_360 / 1e9 * 0.029),  # 0.22
        (500, 0.07, 20_000 * 302_080 / 1e9 * 0.029),
    ],
)
def test_the_door_and_the_stream_cost_what_one_finds_by_hand(
    events_per_request: int, api: float, ingest: float
) -> None:
    found = dollars(replace(TEN_MILLION, events_per_request=events_per_request))
    assert found["api-requests"] == pytest.approx(api)
    assert found["firehose-ingest"] == pytest.approx(ingest)
    assert found["firehose-conversion"] == pytest.approx(ingest / 0.029 * 0.018)


def test_our_own_lines_cost_a_step_of_5_kb_where_they_pass_one() -> None:
    """Eight events of 600 bytes are 4,807 bytes with their separators; the lines make two steps of it."""
    eight = replace(TEN_MILLION, events_per_request=8)
    assert eight.body_bytes == 4_807
    assert eight.record_bytes > 5_120
    assert quantities(eight)["firehose-ingest"] == 1_250_000 * 2 * 5_120


def test_the_lines_of_a_record_are_as_long_as_the_mapping_template_makes_them(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.deploy_product()
    for agent, expected in ((b"", cost_model.LINES_WITHOUT_AGENT), (b"x" * 110, cost_model.LINES_PER_RECORD)):
        gateway.firehose.calls.clear()
        gateway.request(body=b"{}", headers=[(b"content-type", b"application/json"), (b"user-agent", agent)])
        # Extended request ids and addresses are not all of one length.
        assert len(gateway.firehose.record) - 2 == pytest.approx(expected, abs=30)


def test_a_line_of_the_transforms_log_is_as_long_as_one() -> None:
    tally = Tally()
    tally.accepted = 1_000
    line = json.dumps(tally.metrics("sluice-TransformFunction-65A772F0D0E1D", 1_763_719_200_000))
    assert len(line) + 26 == pytest.approx(cost_model.LOG_BYTES_PER_INVOCATION, rel=0.05)


@pytest.mark.parametrize(
    ("workload", "invocations", "objects"),
    [
        (replace(TEN_MILLION, events_per_month=1_000), 1_000, 1_000),
        (TEN_MILLION, 525_600, 43_800),
        (replace(TEN_MILLION, buffering_interval=900), 525_600, 2_920),
        (replace(TEN_MILLION, buffering_interval=0), 525_600, 525_600),
        (replace(TEN_MILLION, events_per_month=1e12), 1e12 * 939 / 2**20, 1e12 * 600 / 2**26),
    ],
    ids=["a few", "the default", "longer buffers", "no buffer", "full buffers"],
)
def test_runs_and_objects_follow_time_until_there_are_fewer_records_or_full_buffers(
    workload: Workload, invocations: float, objects: float
) -> None:
    workload = replace(workload, lines_per_record=339)
    assert workload.invocations == pytest.approx(invocations)
    assert workload.objects == pytest.approx(objects)


def test_the_transform_has_a_share_of_a_processor() -> None:
    """10,000,000 records and events at 6.4 and 9.3 us of a processor; 512 MB have 512/1769 of one."""
    seconds = 10_000_000 * (6.4 + 9.3 * 600 / 576) * 1e-6 * 1769 / 512 + 525_600 * 0.005
    assert quantities(TEN_MILLION)["lambda-gb-seconds"] == pytest.approx(seconds * 0.5)


def test_queries_read_objects_as_well_as_bytes() -> None:
    """100 queries over 30 days of 1,440 objects, each read twice; and a LIST for each 1,000 objects of a day."""
    found = quantities(TEN_MILLION)
    assert found["s3-gets"] == pytest.approx(100 * 30 * 1_440 * 2)
    assert found["s3-puts"] == pytest.approx(43_800 + 100 * 30 * 2)
    hasty = quantities(replace(TEN_MILLION, buffering_interval=30))
    assert hasty["s3-puts"] == pytest.approx(3 * 87_600 + 100 * 30 * 3)
    few = quantities(replace(TEN_MILLION, events_per_month=1_000))
    assert few["athena-scans"] == 100 * 10_000_000


def test_events_of_a_year_are_stored_in_less_than_half_of_their_bytes() -> None:
    assert 0.1 < quantities(TEN_MILLION)["s3-storage"] / (12 * 10_000_000 * 600) < 0.5


def test_the_defaults_are_those_of_the_template() -> None:
    parameters = {name: parameter.get("Default") for name, parameter in STACK["Parameters"].items()}
    assert TEN_MILLION.output_format == parameters["OutputFormat"]
    assert TEN_MILLION.buffering_interval == parameters["FirehoseBufferingInterval"]
    assert TEN_MILLION.requests_per_second == parameters["ThrottleRateLimit"]
    assert parameters["LambdaMemorySize"] == cost_model.MEGABYTES
    assert parameters["FirehoseBufferingSize"] * 2**20 == cost_model.OBJECT_BYTES
    stream = STACK["Resources"]["StreamDelivery"]["Properties"]["ExtendedS3DestinationConfiguration"]
    (processor,) = stream["ProcessingConfiguration"]["Processors"]
    hints = {item["ParameterName"]: item["ParameterValue"] for item in processor["Parameters"]}
    assert int(hints["BufferIntervalInSeconds"]) == cost_model.TRANSFORM_BUFFER_SECONDS
    assert int(hints["BufferSizeInMBs"]) * 2**20 == cost_model.TRANSFORM_BUFFER_BYTES


# Output


EXAMPLE = ("--events-per-month", "10_000_000", "--bytes", "600", "--events-per-request")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The printed text, without the blanks at the ends of lines."""
    assert cost.cost([*arguments]) == 0
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())


def test_the_bill_has_each_line_adds_up_and_names_what_dominates(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(capsys, *EXAMPLE, "1")
    found = dollars(TEN_MILLION)
    for key, value in found.items():
        price = PRICES[key]
        assert re.search(rf"{price.service} .*{re.escape(price.item)}.* {value:,.2f} ", shown), key
    total = sum(found.values())
    assert re.search(rf"Together +{total:,.2f}\n", shown)
    assert f"What dominates: API Gateway, REST requests: 35.00 of {total:,.2f} USD" in shown
    assert f"A million events cost {total / 10:,.2f} USD." in shown


def test_a_batch_saves_what_a_second_run_with_it_is_less(capsys: pytest.CaptureFixture[str]) -> None:
    single, packed = (told(capsys, *EXAMPLE, packing) for packing in ("1", "831"))
    saving = sum(dollars(TEN_MILLION).values()) - sum(dollars(replace(TEN_MILLION, events_per_request=831)).values())
    assert f"Batches of 831 events would save {saving:,.2f} USD." in single
    assert "Batches" not in packed


def test_a_batch_that_is_proposed_fits_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    for size in (2, 600, 400_000, 900_000):
        shown = told(capsys, "--events-per-month", "5_000", "--bytes", str(size), "--events-per-request", "1")
        if packed := re.search(r"Batches of ([\d,]+) events", shown):
            told(
                capsys,
                "--events-per-month",
                "5",
                "--bytes",
                str(size),
                "--events-per-request",
                packed[1].replace(",", ""),
            )


# The first limit


@pytest.mark.parametrize(
    ("workload", "region", "expected"),
    [
        (Workload(2_628_000, 600, 1), "us-east-1", ["ThrottleRateLimit of 100 ", 0.01, "2,000 requests", 0.0005]),
        (Workload(2_628_000, 600, 1), "eu-central-1", ["ThrottleRateLimit of 100 ", 0.01, "1,000 requests", 0.001]),
        (
            Workload(26_280_000_000, 600, 1, requests_per_second=20_000),
            "us-east-1",
            ["2,000 requests", 5, "5 MiB", 10_000 * 939 / (5 * 2**20)],
        ),
        (
            Workload(26_280_000_000, 600, 500, lines_per_record=-499),
            "us-east-1",
            ["5 MiB", 6_000_000 / (5 * 2**20), "ThrottleRateLimit", 0.2],
        ),
        (
            Workload(262_800_000, 600, 500, lines_per_record=-499),
            "ap-south-1",
            ["1 MiB", 60_000 / 2**20, "ThrottleRateLimit", 0.002],
        ),
    ],
    ids=["1 a second", "elsewhere", "10,000 a second", "10,000 a second in batches", "100 a second in batches"],
)
def test_the_first_limit_is_the_one_that_a_load_fills_most(
    workload: Workload, region: str, expected: list[str | float]
) -> None:
    first, second, _ = cost_model.limits(workload, region)
    for (text, share), limit in zip((expected[:2], expected[2:]), (first, second), strict=True):
        assert str(text) in limit.what
        assert limit.share == pytest.approx(share)


def test_the_bill_ends_with_the_first_limit_and_with_the_first_of_aws(capsys: pytest.CaptureFixture[str]) -> None:
    last = told(capsys, *EXAMPLE, "1").splitlines()[-1]
    assert last.index("ThrottleRateLimit of 100 requests a second") < last.index(
        "2,000 requests a second into a stream"
    )
    last = told(capsys, *EXAMPLE, "831").splitlines()[-1]
    assert "5 MiB a second into a stream" in last
    assert "ThrottleRateLimit" not in last


def test_the_limits_are_those_of_docs_scale() -> None:
    text = (ROOT / "docs/scale.md").read_text()
    (most, mebibytes), (fewer, one) = cost_model.STREAM_QUOTAS[True], cost_model.STREAM_QUOTAS[False]
    assert f"| Requests to one stream | {most:,} a second | {fewer:,} a second |" in text
    assert f"| Bytes into one stream | {mebibytes} MiB a second | {one} MiB a second |" in text
    assert all(region in text for region in cost_model.LARGE_REGIONS)


# Usage


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("", "--events-per-month, --bytes, --events-per-request must be given, or --from-stack"),
        ("--events-per-month 5 --bytes 6", "--events-per-request must be given"),
        ("--events-per-month 0 --bytes 600 --events-per-request 1", "'0' is not a whole number of 1 or more"),
        ("--events-per-month 1e6 --bytes 600 --events-per-request 1", "'1e6' is not a whole number"),
        ("--events-per-month 5 --bytes 600 --events-per-request 5000", "1,663 events of 600 bytes at most (got 5,000)"),
        ("--events-per-month 5 --bytes 2 --events-per-request 10001", "10,000 events of 2 bytes at most"),
        ("--events-per-month 5 --bytes 1 --events-per-request 1", "an event has 2 to 1,000,000 bytes (got 1)"),
        ("--events-per-month 5 --bytes 6 --events-per-request 1 --local", "--local goes with --from-stack"),
        (
            "--from-stack --bytes 600",
            "--from-stack measures --events-per-month, --bytes, --events-per-request: leave these out",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, reason: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert guarded(cost.cost, arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert reason in shown.err
    assert len(shown.err.splitlines()) == 1


# From a stack


class Dated(FakeCloudFormation):
    """Stacks with the time of their creation."""

    created = NOW - timedelta(days=30)

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        answer = super().describe_stacks(StackName)
        return {"Stacks": [{**stack, "CreationTime": self.created} for stack in answer["Stacks"]]}


def a_stack() -> Stack:
    kinds = {
        "IngestStage": "AWS::ApiGateway::Stage",
        "TransformFunction": "AWS::Lambda::Function",
        "StreamDelivery": "AWS::KinesisFirehose::DeliveryStream",
        "StreamRejects": "AWS::KinesisFirehose::DeliveryStream",
        "TransformLogGroup": "AWS::Logs::LogGroup",
        "QueryWorkGroup": "AWS::Athena::WorkGroup",
        "StoreBucket": "AWS::S3::Bucket",
    }
    resources: list[tuple[str, str, str | None, str]] = [
        (name, kind, f"the-{name.lower()}", "CREATE_COMPLETE") for name, kind in kinds.items()
    ]
    return Stack(
        "sluice",
        outputs={"BucketName": "the-storebucket"},
        parameters={
            "OutputFormat": "PARQUET",
            "FirehoseBufferingInterval": "60",
            "ThrottleRateLimit": "50",
        },
        resources=[*resources, ("ObserveStack", "AWS::CloudFormation::Stack", "observe", "CREATE_COMPLETE")],
    )


OBSERVE = Stack(
    "observe",
    resources=[
        ("One", "AWS::CloudWatch::Alarm", "one", "CREATE_COMPLETE"),
        ("Two", "AWS::CloudWatch::Alarm", "two", "CREATE_COMPLETE"),
        ("Topic", "AWS::SNS::Topic", "topic", "CREATE_COMPLETE"),
        ("Token", "AWS::SecretsManager::Secret", "token", "CREATE_COMPLETE"),
        ("Worker", "AWS::Lambda::Function", "the-worker", "CREATE_COMPLETE"),
        ("Wake", "AWS::Scheduler::Schedule", "wake", "CREATE_COMPLETE"),
    ],
)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    # moto publishes the sizes of its buckets as well, and dates them by the clock of this machine.
    monkeypatch.setattr(S3Backend, "get_cloudwatch_metrics", lambda *_, **_region: [])
    with mock_aws():
        place = {"LocationConstraint": "eu-west-1"}
        s3 = boto3.client("s3", region_name="eu-west-1")
        s3.create_bucket(Bucket="the-storebucket", CreateBucketConfiguration=place)
        s3.put_object(Bucket="the-storebucket", Key="events/dt=2026-11-20/a.parquet", Body=b"x" * 700)
        functions = {"the-transformfunction": 512, "the-worker": 1024}
        memory = SimpleNamespace(
            get_function_configuration=lambda FunctionName: {"MemorySize": functions[FunctionName]}
        )
        yield FakeAws(cloudformation=Dated(a_stack(), OBSERVE), **{"lambda": memory})


def put(aws: FakeAws, namespace: str, name: str, value: float, **dimensions: str) -> None:
    """One value of a metric, a day ago."""
    datum = {
        "MetricName": name,
        "Timestamp": NOW - timedelta(days=1),
        "Value": value,
        "Dimensions": [{"Name": key, "Value": item} for key, item in dimensions.items()],
    }
    aws.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[datum])


def put_a_week(aws: FakeAws) -> None:
    """A week of 7,000 requests with 20 events each."""
    stream, rejects = ({"DeliveryStreamName": f"the-stream{name}"} for name in ("delivery", "rejects"))
    lines = cost_model.LINES_WITHOUT_AGENT
    for name, value in (
        ("IncomingRecords", 7_000),
        ("IncomingBytes", 7_000 * (20 * 500 + lines)),
        ("DeliveryToS3.Success", 900),
    ):
        put(aws, "AWS/Firehose", name, value, **stream)
    put(aws, "AWS/Firehose", "IncomingRecords", 10, **rejects)
    put(aws, "AWS/Firehose", "IncomingBytes", 10 * 5_121, **rejects)
    put(aws, "AWS/ApiGateway", "Count", 7_000, ApiName="sluice")
    put(aws, "AWS/ApiGateway", "Count", 7_000, ApiName="sluice", Stage="prod", Method="POST", Resource="/track")
    put(aws, "AWS/ApiGateway", "Count", 9_000, ApiName="another", Stage="prod", Method="POST", Resource="/track")
    put(aws, "Sluice", "Received", 140_000, FunctionName="the-transformfunction")
    put(aws, "AWS/Lambda", "Invocations", 800, FunctionName="the-transformfunction")
    put(aws, "AWS/Lambda", "Duration", 40_000, FunctionName="the-transformfunction")
    put(aws, "AWS/Lambda", "Invocations", 5, FunctionName="the-worker")
    put(aws, "AWS/Lambda", "Duration", 10_000, FunctionName="the-worker")
    put(aws, "AWS/Logs", "IncomingBytes", 480_000, LogGroupName="the-transformloggroup")
    for kind, state, value in (("DML", "SUCCEEDED", 4e9), ("DML", "FAILED", 9e9), ("DDL", "SUCCEEDED", 9e9)):
        workgroup = {"QueryType": kind, "QueryState": state, "WorkGroup": "the-queryworkgroup"}
        put(aws, "AWS/Athena", "ProcessedBytes", value, **workgroup)
    put(aws, "AWS/S3", "BucketSizeBytes", 5e9, BucketName="the-storebucket", StorageType="StandardStorage")


def measure(aws: FakeAws) -> cost_stack.Measured:
    return cost_stack.measure(aws, "sluice", NOW)


def test_a_stacks_quantities_are_its_metrics_scaled_to_a_month(aws: FakeAws) -> None:
    put_a_week(aws)
    found = measure(aws)
    monthly = 730 / (7 * 24)
    expected = {
        "api-requests": 7_000,
        "firehose-ingest": 7_000 * 10_240 + 10 * 10_240,
        "firehose-conversion": 7_000 * 10_240,
        "lambda-requests": 805,
        "lambda-gb-seconds": 40 * 0.5 + 10 * 1.0,
        "athena-scans": 4e9,
        "cloudwatch-logs": 480_000,
    }
    for key, value in expected.items():
        assert found.quantities[key] == pytest.approx(value * monthly), key
        assert key in found.known
    assert found.quantities["s3-storage"] == 5e9
    assert "s3-storage" in found.known
    assert found.quantities["cloudwatch-alarms"] == 2
    assert found.quantities["secrets"] == 1
    assert found.quantities["cloudwatch-metrics"] == 2  # of the transform, and of POST /track
    assert "s3-gets" in found.quantities.keys() - found.known
    assert found.unpriced == ["AWS::SNS::Topic", "AWS::Scheduler::Schedule"]
    workload = found.workload
    assert workload.events_per_month == pytest.approx(140_000 * monthly)
    assert (workload.events_per_request, workload.bytes_per_event) == (20, 500)
    assert workload.queries_per_month == pytest.approx(monthly)
    assert workload.requests_per_second == 50


def test_what_is_published_nowhere_is_worked_out_or_listed(aws: FakeAws) -> None:
    """An SDK sends to this stack, on its first day: S3 has not published the size of its bucket yet."""
    put(aws, "AWS/Firehose", "IncomingRecords", 100, DeliveryStreamName="the-streamdelivery")
    put(aws, "AWS/Firehose", "IncomingBytes", 60_000, DeliveryStreamName="the-streamdelivery")
    found = measure(aws)
    assert found.quantities["s3-storage"] == 700
    assert found.quantities["api-requests"] == found.quantities["data-out"] == 0
    assert {"athena-scans", "lambda-requests"} <= found.quantities.keys() - found.known
    assert found.workload.bytes_per_event == 600


def test_a_refinement_is_charged_and_is_not_a_query_of_a_person(aws: FakeAws) -> None:
    aws.client("cloudformation").stacks[1].resources.append(
        ("RefineWorkGroup", "AWS::Athena::WorkGroup", "the-refineworkgroup", "CREATE_COMPLETE")
    )
    put_a_week(aws)
    refinement = {"QueryType": "DML", "QueryState": "SUCCEEDED", "WorkGroup": "the-refineworkgroup"}
    put(aws, "AWS/Athena", "ProcessedBytes", 6e9, **refinement)
    found = measure(aws)
    assert found.quantities["athena-scans"] == pytest.approx((4e9 + 6e9) * 730 / (7 * 24))
    assert found.workload.queries_per_month == pytest.approx(730 / (7 * 24))


def test_a_young_stack_is_measured_since_it_was_made(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dated, "created", NOW - timedelta(days=2))
    put_a_week(aws)
    found = measure(aws)
    assert found.seconds == 2 * 86_400
    assert found.quantities["api-requests"] == pytest.approx(7_000 * 730 / 48)


def test_the_bill_of_a_stack_says_what_is_estimated_and_what_is_left_out(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_a_week(aws)
    monkeypatch.setattr(cost, "session", lambda _local: aws)
    monkeypatch.setattr(cost_stack, "measure", functools.partial(cost_stack.measure, now=NOW))
    assert cost.cost(["--from-stack"]) == 0
    shown = capsys.readouterr()
    assert "of 500 bytes, 20 to a request" in shown.out
    assert "ThrottleRateLimit of 50 requests a second" in shown.out
    assert "after it Firehose's 5 MiB a second into a stream" in shown.out
    assert "measured for 7 days" in shown.err
    assert re.search(r"^Estimated, .*: PUT and LIST requests, GET requests$", shown.err, re.MULTILINE)
    assert "; AWS::SNS::Topic, AWS::Scheduler::Schedule" in shown.err


def test_a_stack_without_events_is_not_a_bill_of_zero(aws: FakeAws) -> None:
    with pytest.raises(CommandError, match="nothing came into stack 'sluice' in eu-west-1 since 2026-11-14") as refusal:
        measure(aws)
    assert refusal.value.exit_code == 2


def test_an_unknown_stack_is_exit_code_2(
    aws: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost, "session", lambda _local: aws)
    assert guarded(cost.cost, ["--from-stack", "--stack-name", "nobody"]) == 2
    assert "stack 'nobody' does not exist in eu-west-1" in capsys.readouterr().err


# Documents


PAGE = (ROOT / "docs/cost.md").read_text()
README, REFERENCE = ((ROOT / name).read_text() for name in ("README.md", "docs/reference.md"))


def test_the_readme_says_what_its_command_tells_for_single_events_and_for_batches() -> None:
    assert f"\nscripts/cost.sh {' '.join(EXAMPLE)} 1\n" in README
    single, packed = (sum(dollars(replace(TEN_MILLION, events_per_request=events)).values()) for events in (1, 831))
    assert f"cost {single:.0f} USD a month one by one, and {packed:.0f} USD in large batches" in README


def test_the_bill_of_the_document_is_the_one_that_its_command_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, *EXAMPLE, "1") in PAGE, "edit the first block of text in docs/cost.md"


@pytest.mark.parametrize("key", PRICES.by_key)
def test_every_price_is_in_the_document_with_its_strength(key: str) -> None:
    price = PRICES[key]
    row = f"| {price.service}: {price.item} | {cost.unit_price(price)} | {price.strength} |"
    assert f"\n{row}\n" in REFERENCE, f"edit the table under Prices in docs/reference.md: {row}"


def test_the_document_has_the_prices_of_idle_optional_stacks() -> None:
    secret, alarm, dashboard = (
        f"{PRICES[key].tiers[-1][1]:.2f}" for key in ("secrets", "cloudwatch-alarms", "cloudwatch-dashboards")
    )
    idle = f"a secret costs {secret} a month, an alarm {alarm}, a dashboard {dashboard}"
    assert idle in " ".join(PAGE.split()), f"edit What the bill says in docs/cost.md: {idle}"
