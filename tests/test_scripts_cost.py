"""scripts/cost.sh: prices, the arithmetic by hand, the levers, and a stack's metrics (CloudWatch and S3 are moto's)."""

from __future__ import annotations

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

from scripts.commands import cost, cost_model, cost_optional, cost_prices, cost_stack, nested, query, refine_files
from scripts.commands.console import CommandError, guarded
from scripts.commands.cost_model import Workload, bill, quantities
from tests.conftest import ROOT
from tests.gateway import STACK, Gateway
from transform.handler import Tally

PRICES = cost_prices.read()
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEN_MILLION = Workload(events_per_month=10_000_000, bytes_per_event=600, events_per_request=1)


def dollars(workload: Workload) -> dict[str, float]:
    return {line.key: line.dollars for line in bill(quantities(workload), PRICES)}


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cost.cost([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# Prices


@pytest.mark.parametrize("key", PRICES.by_key)
def test_every_price_has_a_source_its_strength_and_tiers_that_rise_to_no_end(key: str) -> None:
    price = PRICES[key]
    assert price.strength in ("good", "medium", "weak", "UNSOURCED")
    assert len(price.source) > 10
    ends = [end for end, _ in price.tiers[:-1]]
    assert all(ends)
    assert ends == sorted(ends, key=float)  # type: ignore[arg-type]  # none of them is None
    assert [dollars for _, dollars in price.tiers] == sorted((dollars for _, dollars in price.tiers), reverse=True)


@pytest.mark.parametrize(
    ("key", "amount", "expected"),
    [
        ("api-requests", 0, 0),
        ("api-requests", 333_000_000, 1_165.50),
        ("api-requests", 1_000_000_000, 1_165.50 + 667 * 2.80),
        ("api-requests", 21_000_000_000, 1_165.50 + 667 * 2.80 + 19_000 * 2.38 + 1_000 * 1.51),
        ("firehose-ingest", 600e12, 600_000 * 0.029),  # beyond the last tier that is known
        ("lambda-gb-seconds", 7.5e9 + 1e9, 100_000.5 + 12_000.1),
        ("athena-scans", 10_000_000, 0.00005),
    ],
    ids=str,
)
def test_a_quantity_costs_what_its_tiers_say(key: str, amount: float, expected: float) -> None:
    assert PRICES[key].cost(amount) == pytest.approx(expected)


def test_what_is_free_is_subtracted_only_when_asked_for() -> None:
    price = PRICES["lambda-requests"]
    assert price.cost(3_000_000) == pytest.approx(0.60)
    assert price.cost(3_000_000, with_free_tier=True) == pytest.approx(0.40)
    assert price.cost(10, with_free_tier=True) == 0


def test_the_price_of_a_scan_is_the_one_that_query_tells() -> None:
    for scanned in (1, 10_000_000, 3 * 10**12):
        assert query.cost(scanned) == pytest.approx(PRICES["athena-scans"].cost(max(scanned, query.SMALLEST_CHARGE)))


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
    """Eight events of 600 bytes are 4,807 bytes with what is between them; the lines make two steps of it."""
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
    """10,000,000 records and events at 6.4 and 9.3 us of a processor, of which 512 MB are a share of 512/1769."""
    seconds = 10_000_000 * (6.4 + 9.3 * 600 / 576) * 1e-6 * 1769 / 512 + 525_600 * 0.005
    assert quantities(TEN_MILLION)["lambda-gb-seconds"] == pytest.approx(seconds * 0.5)


def test_traces_are_one_a_second_and_a_twentieth_of_the_rest() -> None:
    """2,628,000 seconds: 2,628,000 of the requests and 5 % of the others, and all 525,600 runs of the transform."""
    traced = replace(TEN_MILLION, tracing=True)
    assert quantities(traced)["xray-traces"] == pytest.approx(2_628_000 + 0.05 * 7_372_000 + 525_600)
    assert quantities(replace(traced, traced_share=0.001))["xray-traces"] == pytest.approx(10_525.6)


def test_there_are_traces_only_with_tracing_and_no_lever_switches_it_on(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--events-per-month", "10_000_000", "--bytes", "600", "--events-per-request", "1")
    untraced, traced = told(capsys, *arguments), told(capsys, *arguments, "--tracing")
    assert "xray-traces" not in {line["key"] for line in untraced["lines"]}
    assert not [lever for lever in untraced["levers"] if re.search("trac|x-ray", lever["what"], re.IGNORECASE)]
    saves = {lever["what"]: lever["saves_usd"] for lever in traced["levers"]}
    assert saves["Tracing=DISABLED"] == pytest.approx(traced["total_usd"] - untraced["total_usd"], abs=0.001)
    assert 0 < saves["an X-Ray sampling rule that records 1 request in 1,000"] < saves["Tracing=DISABLED"]


def test_queries_read_objects_as_well_as_bytes() -> None:
    """100 queries over 30 days of 1,440 objects, each read twice; and a LIST for each 1,000 objects of a day."""
    found = quantities(TEN_MILLION)
    assert found["s3-gets"] == pytest.approx(100 * 30 * 1_440 * 2)
    assert found["s3-puts"] == pytest.approx(43_800 + 100 * 30 * 2)
    few = quantities(replace(TEN_MILLION, events_per_month=1_000))
    assert few["athena-scans"] == 100 * 10_000_000


def test_events_are_stored_as_long_as_they_are_kept() -> None:
    month, year = (quantities(replace(TEN_MILLION, retention_in_days=days))["s3-storage"] for days in (730 / 24, 365))
    assert year == pytest.approx(12 * month)
    assert 0.1 < month / (10_000_000 * 600) < 0.5


def test_the_defaults_are_those_of_the_template(capsys: pytest.CaptureFixture[str]) -> None:
    workload = told(capsys, "--events-per-month", "1", "--bytes", "600", "--events-per-request", "1")["workload"]
    parameters = STACK["Parameters"]
    for key, name in (
        ("output_format", "OutputFormat"),
        ("buffering_interval", "FirehoseBufferingInterval"),
        ("memory", "LambdaMemorySize"),
    ):
        assert workload[key] == parameters[name]["Default"]
    assert workload["tracing"] == (parameters["Tracing"]["Default"] == "ENABLED")
    assert parameters["FirehoseBufferingSize"]["Default"] * 2**20 == cost_model.OBJECT_BYTES
    stream = STACK["Resources"]["StreamDelivery"]["Properties"]["ExtendedS3DestinationConfiguration"]
    (processor,) = stream["ProcessingConfiguration"]["Processors"]
    hints = {item["ParameterName"]: item["ParameterValue"] for item in processor["Parameters"]}
    assert int(hints["BufferIntervalInSeconds"]) == cost_model.TRANSFORM_BUFFER_SECONDS
    assert int(hints["BufferSizeInMBs"]) * 2**20 == cost_model.TRANSFORM_BUFFER_BYTES


# Optional stacks


NESTED = {stack.name: stack.template for stack in nested.read()}


def definition(stack: str, machine: str) -> dict[str, Any]:
    found: dict[str, Any] = NESTED[stack]["Resources"][machine]["Properties"]["Definition"]
    return found


def visited(states: dict[str, Any], start: str, *choices: str) -> list[str]:
    """The states that a run goes through; at each Choice it takes the next of `choices`."""
    found, name, left = [], start, list(choices)
    while True:
        found.append(name)
        state = states[name]
        if state["Type"] == "Choice":
            assert left[0] in {*(choice["Next"] for choice in state["Choices"]), state["Default"]}
            name = left.pop(0)
        elif "Next" in state:
            name = state["Next"]
        else:
            assert not left and (state["Type"] == "Succeed" or state["End"])
            return found


def test_a_run_makes_as_many_transitions_as_its_state_machine_has() -> None:
    machine = definition("refine", "RefineMachine")
    statement = machine["States"]["Refine"]["ItemProcessor"]
    assert len(visited(machine["States"], machine["StartAt"])) == cost_optional.REFINE_TRANSITIONS
    assert len(visited(statement["States"], statement["StartAt"])) == cost_optional.REFINE_TRANSITIONS_PER_STATEMENT

    machine = definition("deliver", "RunMachine")
    states = visited(machine["States"], machine["StartAt"], "Query", "Done")
    assert len(states) == cost_optional.DELIVER_TRANSITIONS

    machine = definition("pull", "RunMachine")
    with_refinement = machine["States"] | {"Refine": machine["States"]["Refine"]["Fn::If"][1]}
    looks = ["Pause"] * (cost_optional.PULL_LOOKS - 1)
    states = visited(with_refinement, machine["StartAt"], *looks, "AwaitDelivery", "Done")
    assert len(states) == cost_optional.PULL_TRANSITIONS


def test_the_figures_of_optional_stacks_are_those_of_their_templates() -> None:
    refined = json.loads(refine_files.compile_folder(ROOT / "refine"))["targets"]
    assert len(refined) == cost_optional.Use().refine_statements
    assert NESTED["deliver"]["Parameters"]["DeliverBatchSize"]["Default"] == cost_optional.ROWS_PER_POST
    assert NESTED["pull"]["Resources"]["FetchMapping"]["Properties"]["BatchSize"] == 1
    resources = [resource for template in NESTED.values() for resource in template["Resources"].values()]
    tables = [resource["Properties"] for resource in resources if resource["Type"] == "AWS::DynamoDB::Table"]
    assert [table["BillingMode"] for table in tables] == ["PAY_PER_REQUEST"] * 2


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        pytest.param(
            cost_optional.Use(refine_runs=30), {"step-functions-transitions": 30 * 18 * 0.025 / 1e3}, id="refine"
        ),
        pytest.param(
            cost_optional.Use(deliver_runs=100, deliver_rows=1_000_000),
            {
                "step-functions-transitions": 600 * 0.025 / 1e3,
                "sqs-requests": (657_000 + 300_000) * 0.4 / 1e6,
                "dynamodb-reads": 100 * 0.125 / 1e6,
                "dynamodb-writes": (300 + 1_000 + 10_000) * 0.625 / 1e6,
            },
            id="deliver",
        ),
        pytest.param(
            cost_optional.Use(pull_runs=30, pull_pages=3_000),
            {
                "step-functions-transitions": 30 * (3 * cost_optional.PULL_LOOKS + 5) * 0.025 / 1e3,
                "sqs-requests": (657_000 + 9_000 + 30 * cost_optional.PULL_LOOKS) * 0.4 / 1e6,
                "dynamodb-reads": (30 * 7 + 9_000 + cost_optional.PULL_LOOKS * (30 + 300)) * 0.125 / 1e6,
                "dynamodb-writes": (30 * (6 + cost_optional.PULL_LOOKS) + 9_000) * 0.625 / 1e6,
            },
            id="pull",
        ),
        pytest.param(cost_optional.Use(), {}, id="none of them"),
    ],
)
def test_optional_stacks_cost_what_one_finds_by_hand(use: cost_optional.Use, expected: dict[str, float]) -> None:
    found = {line.key: line.dollars for line in bill(cost_optional.quantities(use), PRICES)}
    assert found == pytest.approx(expected)


def test_the_bill_has_the_lines_of_optional_stacks_that_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--events-per-month", "1000", "--bytes", "600", "--events-per-request", "1"]
    more = told(capsys, *asked, "--deliver-runs", "30", "--deliver-rows", "5000", "--free-tier")["lines"]
    assert {line["key"]: line["usd"] for line in more}["sqs-requests"] == 0
    assert {line["key"] for line in more} - {line["key"] for line in told(capsys, *asked)["lines"]} == {
        *("step-functions-transitions", "sqs-requests", "dynamodb-reads", "dynamodb-writes")
    }


# What is told


def test_the_bill_adds_up_and_names_what_dominates(capsys: pytest.CaptureFixture[str]) -> None:
    document = told(capsys, "--events-per-month", "10_000_000", "--bytes", "600", "--events-per-request", "1")
    assert document["total_usd"] == pytest.approx(sum(line["usd"] for line in document["lines"]), abs=0.001)
    assert document["usd_per_million_events"] == pytest.approx(document["total_usd"] / 10, abs=0.001)
    assert document["dominates"] == "api-requests"
    assert all(line["price"]["source"] for line in document["lines"])
    assert document["free_tier_subtracted"] is False


def test_a_lever_saves_what_a_second_run_with_it_is_less(capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--events-per-month", "10_000_000", "--bytes", "600")
    before = told(capsys, *base, "--events-per-request", "1")
    saves = {lever["what"]: lever["saves_usd"] for lever in before["levers"]}
    assert list(saves.values()) == sorted(saves.values(), reverse=True)
    for what, *changed in (
        ("pack 20 events into a request (/batch)", "--events-per-request", "20"),
        ("EventsRetentionInDays=90", "--retention", "90"),
        ("queries that name 1 day of dt", "--days-per-query", "1"),
        ("LambdaMemorySize=256", "--memory", "256"),
        ("OutputFormat=JSON, in a new stack", "--output-format", "JSON"),
    ):
        single = [] if "--events-per-request" in changed else ["--events-per-request", "1"]
        after = told(capsys, *base, *single, *changed)
        assert saves[what] == pytest.approx(before["total_usd"] - after["total_usd"], abs=0.001), what


def test_no_lever_packs_more_than_a_request_holds() -> None:
    for size in (2, 600, 400_000, 900_000):
        for lever in cost_model.levers(replace(TEN_MILLION, bytes_per_event=size), PRICES):
            if packed := re.match(r"pack ([\d,]+) ", lever.what):
                replace(TEN_MILLION, bytes_per_event=size, events_per_request=int(packed[1].replace(",", ""))).check()


def test_the_table_has_the_facts_of_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--events-per-month", "10000000", "--bytes", "600", "--events-per-request", "1"]
    document = told(capsys, *arguments)
    assert cost.cost(arguments) == 0
    shown = capsys.readouterr()
    for line in document["lines"]:
        assert re.search(rf"{line['service']} .*{re.escape(line['item'])}.* {line['usd']:,.2f} ", shown.out), line
    assert f"{document['total_usd']:,.2f}" in shown.out
    assert "What dominates: API Gateway, REST requests: 35.00 of" in shown.out
    assert "is not subtracted" in shown.err


def test_a_function_for_each_request_and_a_second_stream_cost_more_for_single_events(
    capsys: pytest.CaptureFixture[str],
) -> None:
    designs = told(capsys, "--compare", "--bytes", "600")["by_events_per_request"]
    single = {design: found["usd_per_million_events"] for design, found in designs["1"].items()}
    assert list(single) == list(cost_model.DESIGNS)
    assert min(single, key=lambda design: single[design]) == cost_model.DESIGNS[0]
    # 1,000,000 records of 939 bytes: 3.50 + 0.072 + 5.12 GB x (0.029 + 0.018), and the transform's 28 GB-seconds.
    assert single[cost_model.DESIGNS[0]] == pytest.approx(3.5 + 0.072 + 5.12 * 0.047, abs=0.001)
    kinesis = designs["1"][cost_model.DESIGNS[3]]["lines"]
    assert next(line["usd"] for line in kinesis if line["key"] == "kinesis-writes") == pytest.approx(1.024 * 0.08)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("", "--events-per-month, --bytes, --events-per-request must be given, or --from-stack"),
        ("--events-per-month 5 --bytes 6", "--events-per-request must be given"),
        ("--events-per-month 0 --bytes 600 --events-per-request 1", "'0' is no whole number of 1 or more"),
        ("--events-per-month 1e6 --bytes 600 --events-per-request 1", "'1e6' is no whole number"),
        ("--events-per-month 5 --bytes 600 --events-per-request 5000", "1,663 events of 600 bytes at most (got 5,000)"),
        ("--events-per-month 5 --bytes 2 --events-per-request 10001", "10,000 events of 2 bytes at most"),
        ("--events-per-month 5 --bytes 6 --events-per-request 1 --retention never", "'never' is no whole number"),
        ("--events-per-month 5 --bytes 6 --events-per-request 1 --local", "--local goes with --from-stack"),
        ("--from-stack --bytes 600", "--from-stack measures what --bytes says"),
        ("--compare", "--compare takes --bytes"),
        ("--compare --bytes 900000", "1 events of 900,000 bytes at most (got 20)"),
        ("--compare --bytes 600 --prices nowhere.json", "the price file nowhere.json cannot be read"),
        ("--compare --bytes 600 --prices pyproject.toml", "pyproject.toml is no price file"),
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
    """Stacks that know when they were made."""

    created = NOW - timedelta(days=30)

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        answer = super().describe_stacks(StackName)
        return {"Stacks": [{**stack, "CreationTime": self.created} for stack in answer["Stacks"]]}


def a_stack(**parameters: str) -> Stack:
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
            "LambdaMemorySize": "512",
            "EventsRetentionInDays": "",
            "Tracing": "ENABLED",
            **parameters,
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


def add_optional_stacks(aws: FakeAws) -> None:
    """Give the stack what stacks/pull.yaml has, as far as it is charged, and the workgroup of stacks/refine.yaml."""
    kinds = {
        "RefineWorkGroup": ("AWS::Athena::WorkGroup", "the-refineworkgroup"),
        "RunMachine": ("AWS::StepFunctions::StateMachine", "arn:machine"),
        "RunTable": ("AWS::DynamoDB::Table", "the-runtable"),
        "FetchQueue": ("AWS::SQS::Queue", "https://sqs.eu-west-1.amazonaws.com/123456789012/the-fetchqueue"),
        "FetchMapping": ("AWS::Lambda::EventSourceMapping", "the-fetchmapping"),
    }
    sluice, observe = aws.client("cloudformation").stacks
    sluice.outputs["PullMachineArn"] = "arn:machine"
    found = [(name, kind, identifier, "CREATE_COMPLETE") for name, (kind, identifier) in kinds.items()]
    aws.client("cloudformation").stacks = (sluice, replace(observe, resources=[*observe.resources, *found]))


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
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


def measure(aws: FakeAws, days: int = 7) -> cost_stack.Measured:
    workload = replace(TEN_MILLION, events_per_month=0)
    return cost_stack.measure(aws, "sluice", days, workload, cost_optional.Use(), NOW)


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
        assert found.basis[key] == "metric"
    # moto publishes the size of its own bucket as well, and so averages the two.
    assert found.quantities["s3-storage"] == pytest.approx(2.5e9, rel=0.01)
    assert found.basis["s3-storage"] == "metric"
    assert found.quantities["cloudwatch-alarms"] == 2
    assert found.quantities["secrets"] == 1
    assert found.quantities["cloudwatch-metrics"] == 2  # of the transform, and of POST /track
    assert found.basis["xray-traces"] == "model"
    assert found.unpriced == ["AWS::Scheduler::Schedule"]
    workload = found.workload
    assert workload.events_per_month == pytest.approx(140_000 * monthly)
    assert (workload.events_per_request, workload.bytes_per_event) == (20, 500)
    assert workload.queries_per_month == pytest.approx(monthly)


@pytest.mark.parametrize(
    ("tracing", "traced"), [("DISABLED", False), ("ENABLED", True), (None, True)], ids=["off", "on", "a stack of 0.1.0"]
)
def test_a_stack_has_traces_where_its_parameter_says_so(aws: FakeAws, tracing: str | None, traced: bool) -> None:
    put_a_week(aws)
    parameters = aws.client("cloudformation").stacks[0].parameters
    parameters.pop("Tracing")
    parameters.update({"Tracing": tracing} if tracing else {})
    found = measure(aws)
    assert found.workload.tracing is traced
    assert ("xray-traces" in found.quantities) is ("xray-traces" in found.basis) is traced


def test_what_is_published_nowhere_is_worked_out_or_listed(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that an SDK sends to. moto knows the size of a bucket, which S3 publishes only after a day."""
    monkeypatch.setattr(cost_stack, "_stored", lambda *_: None)
    put(aws, "AWS/Firehose", "IncomingRecords", 100, DeliveryStreamName="the-streamdelivery")
    put(aws, "AWS/Firehose", "IncomingBytes", 60_000, DeliveryStreamName="the-streamdelivery")
    found = measure(aws)
    assert (found.quantities["s3-storage"], found.basis["s3-storage"]) == (700, "listing")
    assert found.quantities["api-requests"] == found.quantities["data-out"] == 0
    assert found.basis["athena-scans"] == found.basis["lambda-requests"] == "model"
    assert found.workload.bytes_per_event == 600


def test_what_optional_stacks_use_is_counted_by_their_metrics(aws: FakeAws) -> None:
    add_optional_stacks(aws)
    put_a_week(aws)
    put(aws, "AWS/States", "ExecutionsStarted", 7, StateMachineArn="arn:machine")
    for name, value in (("EmptyReceives", 150_000), ("MessagesSent", 40), ("MessagesReceived", 41)):
        put(aws, "AWS/SQS", f"NumberOf{name}", value, QueueName="the-fetchqueue")
    put(aws, "AWS/DynamoDB", "ConsumedReadCapacityUnits", 500, TableName="the-runtable")
    put(aws, "AWS/DynamoDB", "ConsumedWriteCapacityUnits", 300, TableName="the-runtable")
    refinement = {"QueryType": "DML", "QueryState": "SUCCEEDED", "WorkGroup": "the-refineworkgroup"}
    put(aws, "AWS/Athena", "ProcessedBytes", 6e9, **refinement)
    put(aws, "AWS/SNS", "NumberOfMessagesPublished", 4, TopicName="topic")
    put(aws, "AWS/SNS", "NumberOfNotificationsDelivered", 8, TopicName="topic")
    found = measure(aws)
    for key, value, basis in (
        ("step-functions-transitions", 7 * cost_optional.PULL_TRANSITIONS, "model"),
        ("sqs-requests", 150_081, "metric"),
        ("dynamodb-reads", 500, "metric"),
        ("dynamodb-writes", 300, "metric"),
        ("sns-publishes", 4, "metric"),
        ("sns-emails", 8, "metric"),
        ("athena-scans", 4e9 + 6e9, "metric"),
    ):
        assert found.quantities[key] == pytest.approx(value * 730 / (7 * 24)), key
        assert found.basis[key] == basis
    assert found.workload.queries_per_month == pytest.approx(730 / (7 * 24))  # a refinement is no question


def test_a_queue_without_metrics_is_asked_all_the_time(aws: FakeAws) -> None:
    add_optional_stacks(aws)
    put_a_week(aws)
    found = measure(aws)
    assert (found.quantities["sqs-requests"], found.basis["sqs-requests"]) == (657_000, "model")
    assert (found.quantities["dynamodb-writes"], found.basis["dynamodb-writes"]) == (0, "model")
    assert found.quantities["step-functions-transitions"] == 0


def test_a_young_stack_is_measured_since_it_was_made(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dated, "created", NOW - timedelta(days=2))
    put_a_week(aws)
    found = measure(aws)
    assert found.seconds == 2 * 86_400
    assert found.quantities["api-requests"] == pytest.approx(7_000 * 730 / 48)


def test_a_stack_that_nothing_came_into_is_no_bill_of_zero(aws: FakeAws) -> None:
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
PERFORMANCE = (ROOT / "docs/performance.md").read_text()
README = (ROOT / "README.md").read_text()
EXAMPLE = ("--events-per-month", "10_000_000", "--bytes", "600", "--events-per-request")


def test_the_worked_example_of_the_readme_is_what_its_two_commands_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(f"\nscripts/cost.sh {' '.join(EXAMPLE)} {packing}\n" in README for packing in (1, 831))
    single, packed = (told(capsys, *EXAMPLE, packing) for packing in ("1", "831"))
    rows = [
        f"| {one['service']}: {one['item']} | {cost.unit_price(PRICES[one['key']])} | "
        f"{one['usd']:.2f} | {other['usd']:.2f} |"
        for one, other in zip(single["lines"], packed["lines"], strict=True)
    ]
    rows.append(f"| **Together** | | **{single['total_usd']:.2f}** | **{packed['total_usd']:.2f}** |\n")
    assert "\n".join(rows) in README, "edit the table under What it costs in README.md:\n" + "\n".join(rows)
    traces = told(capsys, *EXAMPLE, "1", "--tracing")["total_usd"] - single["total_usd"]
    assert f"it adds {traces:.2f} to the first column" in README


def test_the_bill_of_the_document_is_the_one_that_its_command_tells(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.cost([*EXAMPLE, "1"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    assert "\n".join(lines) in PAGE, "edit the first block of text in docs/cost.md"


@pytest.mark.parametrize("key", PRICES.by_key)
def test_every_price_stands_in_the_document_with_its_strength(key: str) -> None:
    price = PRICES[key]
    row = f"| {price.service}: {price.item} | {cost.unit_price(price)} | {price.strength} |"
    assert f"\n{row}" in PAGE, f"edit the table under Prices in docs/cost.md: {row}"


@pytest.mark.parametrize(
    "text",
    [
        f"refine | {cost_optional.REFINE_TRANSITIONS}, and {cost_optional.REFINE_TRANSITIONS_PER_STATEMENT} for each",
        f"pull | {cost_optional.PULL_TRANSITIONS}: a run of five minutes, assumed, which is looked at "
        f"{cost_optional.PULL_LOOKS} times",
        f"deliver | {cost_optional.DELIVER_TRANSITIONS}. A retry",
        f"{cost_optional.REQUESTS_PER_PAGE} for each page that is pulled, "
        f"{10 * cost_optional.REQUESTS_PER_ROW:.0f} for each ten rows that are delivered: sent, received, deleted; "
        f"{cost_optional.PULL_LOOKS} for each run of pull",
        f"{cost_optional.POLLS_PER_MONTH:,.0f} a month",
        f"{cost_optional.PULL_WRITES_PER_PAGE} writes and {cost_optional.PULL_READS_PER_PAGE} reads for each page",
        f"{cost_optional.PULL_WRITES + cost_optional.PULL_LOOKS} writes and "
        f"{cost_optional.PULL_READS + cost_optional.PULL_LOOKS} reads for each run",
        f"{cost_optional.DELIVER_WRITES} writes and {cost_optional.DELIVER_READS} read for each run",
    ],
)
def test_the_figures_of_optional_stacks_stand_in_the_document(text: str) -> None:
    assert text in PAGE, f"edit How the quantities come about in docs/cost.md: {text}"


def test_the_designs_stand_in_the_document_as_the_command_computes_them(capsys: pytest.CaptureFixture[str]) -> None:
    designs = told(capsys, "--compare", "--bytes", "600")["by_events_per_request"]
    for design in cost_model.DESIGNS:
        sums = " | ".join(f"{designs[str(packing)][design]['usd_per_million_events']:.3f}" for packing in cost.PACKINGS)
        assert f"\n| {design} | {sums} |\n" in PERFORMANCE, f"edit What it costs: | {design} | {sums} |"
