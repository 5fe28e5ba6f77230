"""The tasks of Step Functions act with the role of their state machine; Glue chooses partitions by an expression."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local.athena import glue
from local.ministack import AccessDenied, MetricDatum, TaskFailed
from local.stepfunctions import StepFunctions
from tests.lake import BUCKET, Client, Lake

Json = dict[str, Any]

ACCOUNT = "000000000000"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/refine"
GROUP = f"arn:aws:athena:us-east-1:{ACCOUNT}:workgroup/primary"
FUNCTION = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:f"
MACHINE = f"arn:aws:states:us-east-1:{ACCOUNT}:stateMachine:child"
QUEUE = f"arn:aws:sqs:us-east-1:{ACCOUNT}:q"
RULE = f"arn:aws:events:us-east-1:{ACCOUNT}:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule"
EXECUTION = f"arn:aws:states:us-east-1:{ACCOUNT}:execution:child:"


class Emulator(Lake):
    """The lake with an event loop of its own, and permissions of service roles as (service, action, resource)."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.allowed: set[tuple[str, str, str]] = set()
        self.checks: dict[str, Callable[..., None]] = {}
        self.metrics: list[tuple[str, dict[str, str], str, float]] = []
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def authorize(self, role: str, service: str, action: str, resource: str) -> None:
        if (service, action, resource) not in self.allowed:
            raise AccessDenied(f"User: {role} is not authorized to perform: {action} on resource: {resource}")

    def session(self, role_arn: str, name: str) -> str:
        return f"{role_arn}/{name}"

    def on_loop(self, operation: Callable[[], Json]) -> Json:
        async def call() -> Json:
            return operation()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(5)

    def add_tasks(self, perform: Any, count: Any) -> None:
        self.checks["task"], self.checks["count"] = perform, count

    def put_metric_data(self, namespace: str, dimensions: dict[str, str], data: list[MetricDatum]) -> None:
        self.metrics += [(namespace, dimensions, datum.name, datum.sum) for datum in data]

    def check_schedules(self, check: Any) -> None:
        self.checks["schedule"] = check

    def check_resource(self, resource_type: str, check: Any) -> None:
        self.checks[resource_type] = check

    def function_role(self, function: str) -> str:
        return f"{ROLE}-{function}"


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    made = Emulator(tmp_path)
    yield made
    made.loop.call_soon_threadsafe(made.loop.stop)


@pytest.fixture
def states(emulator: Emulator, tmp_path: Path) -> StepFunctions:
    made: Any = emulator
    states = StepFunctions(made, Client(emulator, tmp_path / "athena").athena)
    states.register()
    return states


def allow(emulator: Emulator, resource: str, *actions: str, service: str = "states.amazonaws.com") -> None:
    emulator.allowed |= {(service, action, resource) for action in actions}


def perform(states: StepFunctions, integration: str, arguments: Json, wanted: bool = True) -> Any:
    return states.perform(ROLE, f"arn:aws:states:::{integration}", arguments, lambda: {"done": True}, lambda: wanted)


def query(sql: str) -> Json:
    return {"QueryString": sql, "ResultConfiguration": {"OutputLocation": f"s3://{BUCKET}/results/"}}


QUERY_ACTIONS = [f"athena:{name}" for name in ("StartQueryExecution", "GetQueryExecution", "StopQueryExecution")]

TASKS = {
    "a function by its ARN": ("lambda:invoke", {"FunctionName": FUNCTION}, [("lambda:InvokeFunction", FUNCTION)]),
    "a function by its name": ("lambda:invoke", {"FunctionName": "f"}, [("lambda:InvokeFunction", FUNCTION)]),
    "an execution to its end": (
        "states:startExecution.sync:2",
        {"StateMachineArn": MACHINE},
        [
            ("states:StartExecution", MACHINE),
            *((action, EXECUTION) for action in ("states:DescribeExecution", "states:StopExecution")),
            *((action, RULE) for action in ("events:PutTargets", "events:PutRule", "events:DescribeRule")),
        ],
    ),
    "a query": ("athena:startQueryExecution.sync", query("SELECT 1 AS n"), [(one, GROUP) for one in QUERY_ACTIONS]),
}  # fmt: skip


@pytest.mark.parametrize(("integration", "arguments", "needs"), TASKS.values(), ids=TASKS)
def test_a_task_needs_each_of_its_permissions(
    states: StepFunctions, emulator: Emulator, integration: str, arguments: Json, needs: list[tuple[str, str]]
) -> None:
    every = {("states.amazonaws.com", *need) for need in needs}
    emulator.allowed = every
    assert perform(states, integration, arguments)
    for missing in every:
        emulator.allowed = every - {missing}
        with pytest.raises(TaskFailed, match=f"is not authorized to perform: {missing[1]}") as failed:
            perform(states, integration, arguments)
        assert "Exception" in failed.value.error


def test_a_query_is_described_as_step_functions_does_and_its_rows_are_read(
    states: StepFunctions, emulator: Emulator
) -> None:
    allow(emulator, GROUP, *QUERY_ACTIONS, "athena:GetQueryResults")
    done = perform(states, "athena:startQueryExecution.sync", query("SELECT 1 AS n"))["QueryExecution"]
    assert done["Status"]["State"] == "SUCCEEDED"
    assert isinstance(done["Status"]["CompletionDateTime"], int) and done["Status"]["CompletionDateTime"] > 1e12
    results = perform(states, "athena:getQueryResults", {"QueryExecutionId": done["QueryExecutionId"]})
    assert results["ResultSet"]["Rows"][1] == {"Data": [{"VarCharValue": "1"}]}


def test_a_query_runs_with_the_rights_of_the_role(states: StepFunctions, emulator: Emulator) -> None:
    allow(emulator, GROUP, *QUERY_ACTIONS)
    emulator.add_table("records")
    emulator.denied.add(("glue:GetTable", f"arn:aws:glue:us-east-1:{ACCOUNT}:table/sluice/records"))
    with pytest.raises(TaskFailed) as failed:
        perform(states, "athena:startQueryExecution.sync", query("SELECT count(*) AS n FROM sluice.records"))
    assert failed.value.error == "States.TaskFailed"
    status = json.loads(failed.value.cause)["QueryExecution"]["Status"]
    assert f"{ROLE}/states is not authorized to perform: glue:GetTable" in status["StateChangeReason"]
    assert status["AthenaError"]["ErrorCategory"] == 2


def test_a_query_that_cannot_start_is_an_invalid_request(states: StepFunctions, emulator: Emulator) -> None:
    allow(emulator, GROUP, *QUERY_ACTIONS)
    for arguments, words in (
        (query("DROP TABLE x"), "does not implement the statement DROP TABLE"),
        ({}, "QueryString is missing"),
    ):
        with pytest.raises(TaskFailed, match=words) as failed:
            perform(states, "athena:startQueryExecution.sync", arguments)
        assert failed.value.error == "Athena.InvalidRequestException"


def test_an_execution_that_is_stopped_stops_its_query(states: StepFunctions, emulator: Emulator) -> None:
    allow(emulator, GROUP, *QUERY_ACTIONS)
    numbers = "UNNEST(sequence(1, 10000))"
    sql = f"SELECT sum(x * y) AS n FROM {numbers} AS a(x), {numbers} AS b(y), {numbers} AS c(z)"  # an hour
    with pytest.raises(TaskFailed, match="Query cancelled by user"):
        perform(states, "athena:startQueryExecution.sync", query(sql), wanted=False)


def test_a_result_that_no_state_can_hold_fails_the_task(states: StepFunctions, emulator: Emulator) -> None:
    allow(emulator, FUNCTION, "lambda:InvokeFunction")
    with pytest.raises(TaskFailed) as failed:
        states.perform(
            ROLE, "arn:aws:states:::lambda:invoke", {"FunctionName": "f"}, lambda: "x" * 262_143, lambda: True
        )
    assert failed.value.error == "States.DataLimitExceeded"


def test_an_integration_that_no_template_uses_is_refused_by_name(states: StepFunctions) -> None:
    with pytest.raises(TaskFailed, match="do not implement arn:aws:states:::sns:publish"):
        perform(states, "sns:publish", {})


@pytest.mark.parametrize(
    ("target", "action"),
    [(MACHINE, "states:StartExecution"), (FUNCTION, "lambda:InvokeFunction"), (QUEUE, "sqs:SendMessage")],
    ids=["a state machine", "a function", "a queue"],
)
def test_a_schedule_reaches_only_what_its_role_allows(
    states: StepFunctions, emulator: Emulator, target: str, action: str
) -> None:
    with pytest.raises(AccessDenied, match=action):
        emulator.checks["schedule"](ROLE, target)
    allow(emulator, target, action, service="scheduler.amazonaws.com")
    emulator.checks["schedule"](ROLE, target)


def test_a_queue_is_mapped_only_to_a_function_that_may_read_it(states: StepFunctions, emulator: Emulator) -> None:
    check = emulator.checks["AWS::Lambda::EventSourceMapping"]
    properties = {"FunctionName": "f", "EventSourceArn": QUEUE}
    actions = [f"sqs:{action}" for action in ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")]
    for missing in actions:
        emulator.allowed.clear()
        allow(emulator, QUEUE, *(set(actions) - {missing}), service="lambda.amazonaws.com")
        with pytest.raises(
            ValueError, match=f"does not have permissions to call {missing.removeprefix('sqs:')} on SQS"
        ):
            check(properties)
    allow(emulator, QUEUE, *actions, service="lambda.amazonaws.com")
    check(properties)


@pytest.mark.parametrize("metric", ["ExecutionsStarted", "ExecutionsFailed"])
def test_what_becomes_of_an_execution_is_counted(states: StepFunctions, emulator: Emulator, metric: str) -> None:
    emulator.checks["count"](MACHINE, metric)
    assert emulator.metrics == [("AWS/States", {"StateMachineArn": MACHINE}, metric, 1)]


# --- Glue's expressions

PARTITIONS = [{"Values": [dt, kind, n]} for dt, kind, n in (("2026-01-01", "a", "1"), ("2026-01-02", "b", "10"))]
KEYS = [{"Name": "dt", "Type": "string"}, {"Name": "kind", "Type": "string"}, {"Name": "n", "Type": "int"}]
EXPRESSIONS = {
    "equality": ("dt = '2026-01-01'", [0]),
    "a range": ("dt BETWEEN '2026-01-02' AND '2026-01-31'", [1]),
    "several": ("(dt >= '2026-01-01' AND NOT kind = 'a') OR kind IN ('x')", [1]),
    "a number, not its text": ("n > 9", [1]),
    "a name in another case": ("DT < '2027-01-01'", [0, 1]),
    "none": ("kind LIKE 'z%'", []),
}


@pytest.mark.parametrize(("expression", "found"), EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_partitions_are_chosen_by_an_expression(expression: str, found: list[int]) -> None:
    assert glue.choose(PARTITIONS, KEYS, expression) == [PARTITIONS[index] for index in found]
    assert glue.choose([], KEYS, expression) == []


@pytest.mark.parametrize(
    "expression",
    ["other = 1", "dt = (SELECT 'x')", "dt = ", "getenv('HOME') = dt", "n = 'x'"],
    ids=["another column", "a subquery", "half a comparison", "a function", "text for a number"],
)
def test_an_expression_over_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="Unsupported expression"):
        glue.choose(PARTITIONS, KEYS, expression)
