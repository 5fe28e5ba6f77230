"""Functions, the tasks of state machines, the targets of schedules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.ministack.access import AccessDenied
from local.ministack.process import ACCOUNT, REGION, Json, Process

Task = Callable[[str, str, Any, Callable[[], Any], Callable[[], bool]], Any]


class TaskFailed(Exception):
    """A task of Step Functions failed with the name of an error and its cause."""

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(f"{error}: {cause}")
        self.error, self.cause = error, cause


@dataclass(frozen=True)
class Invocation:
    """Lambda's answer to a synchronous Invoke: status 200 with a payload, or 429 and other refusals."""

    status: int
    function_error: str | None
    payload: bytes


class Compute(Process):
    """MiniStack's Lambda, Step Functions and EventBridge."""

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        from ministack.services import eventbridge, lambda_svc, stepfunctions

        self._functions = lambda_svc._functions
        self._states, self._task_error = stepfunctions, stepfunctions._ExecutionError
        self._perform_task, self._run_execution = stepfunctions._invoke_resource, stepfunctions._run_execution
        self._executions, self._machines = stepfunctions._executions, stepfunctions._state_machines
        self._events, self._invoke_target = eventbridge, eventbridge._invoke_target

    async def invoke(self, function_arn: str, payload: bytes) -> Invocation:
        """Invoke a function synchronously. The ARN may end in a version or alias."""
        name, _, qualifier = function_arn.split(":function:", 1)[1].partition(":")
        path = f"/2015-03-31/functions/{name}/invocations"
        query = {"Qualifier": [qualifier]} if qualifier else {}
        status, headers, body = await self.call("lambda", "POST", path, payload, query=query)
        return Invocation(status, headers.get("X-Amz-Function-Error"), body)

    def function_role(self, function: str) -> str:
        """The role of a Lambda function, given its name or ARN. Raises ValueError when there is none."""
        name = function.split(":function:")[-1].split(":")[0]
        if not (found := self._functions.get_scoped(ACCOUNT, REGION, name)):
            raise ValueError(f"Function not found: {function}")
        role: str = found["config"]["Role"]
        return role

    def add_tasks(self, perform: Task, count: Callable[[str, str], None]) -> None:
        """Let `perform` do each task of Step Functions: it gets the state machine's role, the task's resource and
        arguments, MiniStack's own action, and whether the execution is still to go on. `count` gets the ARN of the
        state machine and the name of a metric when an execution has started, and when it has failed."""
        running: ContextVar[str] = ContextVar("running")

        def run_execution(arn: str) -> None:
            token = running.set(arn)
            count(self._executions[arn]["stateMachineArn"], "ExecutionsStarted")
            try:
                self._run_execution(arn)
            finally:
                running.reset(token)
            if self._executions[arn]["status"] == "FAILED":
                count(self._executions[arn]["stateMachineArn"], "ExecutionsFailed")

        def perform_task(resource: str, arguments: Any) -> Any:
            execution = self._executions[running.get()]
            role = self._machines[execution["stateMachineArn"]]["roleArn"]
            try:
                return perform(
                    role,
                    resource,
                    arguments,
                    lambda: self._perform_task(resource, arguments),
                    lambda: execution["status"] == "RUNNING",
                )
            except TaskFailed as failed:
                raise self._task_error(failed.error, failed.cause) from None

        self._states._run_execution, self._states._invoke_resource = run_execution, perform_task

    def check_schedules(self, check: Callable[[str, str], None]) -> None:
        """Let a schedule reach its target only if `check`, asked about its role and the target's ARN, raises no
        AccessDenied. Nobody waits for an answer: as on AWS the call is not made, and here the server's log says why."""

        def invoke_target(target: Json, event: Json, *more: Any) -> None:
            try:
                if event.get("Source") == "aws.scheduler":
                    check(target["RoleArn"], target["Arn"])
            except AccessDenied as denied:
                logging.getLogger(__name__).error("A schedule did not reach its target: %s", denied)
            else:
                self._invoke_target(target, event, *more)

        self._events._invoke_target = invoke_target
