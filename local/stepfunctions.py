"""The tasks of Step Functions, done with the role of their state machine, and Athena's `.sync`, missing in MiniStack.

MiniStack walks the states. Each of its tasks comes through here: its role must allow the task's calls, an integration
not used by a template is refused by name, and a result has to fit into a state's input.

AWS facts: https://docs.aws.amazon.com/step-functions/latest/dg/connect-athena.html,
https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html and
https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from local.athena.service import Athena
from local.ministack import AccessDenied, Emulator, MetricDatum, TaskFailed

Json = dict[str, Any]

STATES = "states.amazonaws.com"
SCHEDULER = "scheduler.amazonaws.com"
POLL_SECONDS = 0.05
MAX_RESULT_BYTES = 262_144
EVENTS_RULE = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
# A schedule's role needs this action on the target, by the service in the target's ARN.
TARGET_ACTIONS = {"states": "states:StartExecution", "lambda": "lambda:InvokeFunction", "sqs": "sqs:SendMessage"}
# A function's role needs these actions on the queue of its event source mapping.
QUEUE_ACTIONS = ("ReceiveMessage", "DeleteMessage", "GetQueueAttributes")


class StepFunctions:
    """Performs the tasks of executions, each in a thread of MiniStack's."""

    def __init__(self, emulator: Emulator, athena: Athena) -> None:
        self.emulator, self.athena = emulator, athena
        prefix = f"{emulator.region}:{emulator.account}"
        self.functions = f"arn:aws:lambda:{prefix}:function:"
        self.work_groups = f"arn:aws:athena:{prefix}:workgroup/"
        self.executions = f"arn:aws:states:{prefix}:execution:"
        self.rule = f"arn:aws:events:{prefix}:rule/{EVENTS_RULE}"
        self.integrations: dict[str, Callable[[str, Json, Callable[[], Any], Callable[[], bool]], Any]] = {
            "lambda:invoke": self.invoke,
            "states:startExecution.sync:2": self.run_execution,
            "athena:startQueryExecution.sync": self.run_query,
            "athena:getQueryResults": self.get_query_results,
        }

    def register(self) -> None:
        """Perform the tasks; check the roles of schedules and event source mappings."""
        self.emulator.add_tasks(self.perform, self.count)
        self.emulator.check_schedules(self.check_target)
        self.emulator.check_resource("AWS::Lambda::EventSourceMapping", self.check_event_source)

    def perform(
        self, role: str, resource: str, arguments: Json, proceed: Callable[[], Any], is_wanted: Callable[[], bool]
    ) -> Any:
        """One task; `proceed` lets MiniStack do it, `is_wanted` is false when the execution was stopped. Raises
        TaskFailed with the name of the error and its cause as Step Functions shows them."""
        integration = resource.partition(":states:::")[2]
        if integration not in self.integrations:
            raise TaskFailed("States.Runtime", f"The local Step Functions do not implement {resource}")
        result = self.integrations[integration](role, arguments, proceed, is_wanted)
        if len(json.dumps(result).encode()) > MAX_RESULT_BYTES:
            raise TaskFailed(
                "States.DataLimitExceeded",
                "The state/task returned a result with a size exceeding the maximum number of bytes service limit.",
            )
        return result

    def count(self, machine: str, metric: str) -> None:
        """Count an execution of a state machine in a metric."""
        self.emulator.put_metric_data("AWS/States", {"StateMachineArn": machine}, [MetricDatum.of(metric, "Count", 1)])

    def allow(self, role: str, error: str, action: str, *resources: str) -> None:
        """Raise TaskFailed with this error unless the role allows the action on each of the resources."""
        try:
            for resource in resources:
                self.emulator.authorize(role, STATES, action, resource)
        except AccessDenied as denied:
            raise TaskFailed(error, f"{denied} (Error Code: AccessDeniedException)") from None

    def invoke(self, role: str, arguments: Json, proceed: Callable[[], Any], _: Callable[[], bool]) -> Any:
        name = str(arguments["FunctionName"])
        arn = name if name.startswith("arn:") else f"{self.functions}{name}"
        self.allow(role, "Lambda.AWSLambdaException", "lambda:InvokeFunction", arn)
        return proceed()

    def run_execution(self, role: str, arguments: Json, proceed: Callable[[], Any], _: Callable[[], bool]) -> Any:
        """Start an execution and follow it; Step Functions does so by an event rule of its own."""
        error, machine = "StepFunctions.AWSStepFunctionsException", str(arguments["StateMachineArn"])
        self.allow(role, error, "states:StartExecution", machine)
        for action in ("states:DescribeExecution", "states:StopExecution"):
            self.allow(
                role, error, action, f"{self.executions}{machine.rpartition(':')[2]}:{arguments.get('Name', '')}"
            )
        for action in ("events:PutTargets", "events:PutRule", "events:DescribeRule"):
            self.allow(role, error, action, self.rule)
        return proceed()

    def run_query(self, role: str, arguments: Json, _: Callable[[], Any], is_wanted: Callable[[], bool]) -> Json:
        """Start a query with the rights of the role and wait for its end; stopping the execution stops the query."""
        group = f"{self.work_groups}{arguments.get('WorkGroup', 'primary')}"
        for action in ("StartQueryExecution", "GetQueryExecution", "StopQueryExecution"):
            self.allow(role, "Athena.AmazonAthenaException", f"athena:{action}", group)
        session = self.emulator.session(role, "states")
        started = self.ask(lambda: self.athena.start_query_execution(arguments, session))
        execution = self.athena.execution(started)
        while not execution.completed:
            time.sleep(POLL_SECONDS)
            if not is_wanted():
                self.ask(lambda: self.athena.stop_query_execution(started))
        described = {"QueryExecution": in_milliseconds(self.athena.describe(execution))}
        if execution.state != "SUCCEEDED":
            raise TaskFailed("States.TaskFailed", json.dumps(described))
        return described

    def get_query_results(self, role: str, arguments: Json, _: Callable[[], Any], __: Callable[[], bool]) -> Json:
        self.allow(role, "Athena.AmazonAthenaException", "athena:GetQueryResults", self.athena.resource(arguments))
        session = self.emulator.session(role, "states")
        return self.ask(lambda: self.athena.get_query_results(arguments, session))

    def ask(self, operation: Callable[[], Json]) -> Json:
        """One call of Athena's API, on the event loop."""
        try:
            return self.emulator.on_loop(operation)
        except KeyError as error:
            raise TaskFailed("Athena.InvalidRequestException", f"{error.args[0]} is missing") from None
        except ValueError as error:
            cause = f"{error} (Service: AmazonAthena; Status Code: 400; Error Code: InvalidRequestException)"
            raise TaskFailed("Athena.InvalidRequestException", cause) from None

    def check_target(self, role: str, target: str) -> None:
        """Raise AccessDenied unless a schedule's role allows the call to its target."""
        self.emulator.authorize(role, SCHEDULER, TARGET_ACTIONS[target.split(":")[2]], target)

    def check_event_source(self, properties: Json) -> None:
        """Refuse a mapping whose function may not read the queue, as Lambda does when it makes it."""
        scaling = properties.get("ScalingConfig", {})
        # A parameter's value is text, and MiniStack compares it with numbers.
        if "MaximumConcurrency" in scaling:
            scaling["MaximumConcurrency"] = int(scaling["MaximumConcurrency"])
        role = self.emulator.function_role(properties["FunctionName"])
        for action in QUEUE_ACTIONS:
            try:
                self.emulator.authorize(role, "lambda.amazonaws.com", f"sqs:{action}", properties["EventSourceArn"])
            except AccessDenied:
                raise ValueError(
                    "Invalid request provided: The provided execution role does not have permissions to call "
                    f"{action} on SQS"
                ) from None


def in_milliseconds(value: Any) -> Any:
    """An answer of Athena as Step Functions shows it: times are whole milliseconds."""
    if isinstance(value, dict):
        return {
            key: int(item * 1000) if key.endswith("DateTime") else in_milliseconds(item) for key, item in value.items()
        }
    return value
