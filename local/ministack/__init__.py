"""MiniStack emulates CloudFormation, S3, Lambda, IAM, DynamoDB, SQS, Step Functions, Glue's catalog, CloudWatch and
other services. The engines beside this package replace the rest, and reach everything through `Emulator`.

The modules of this package and no others know MiniStack's own names. Those with an underscore may move with any
release: its version is pinned, and a test asks for each of them. A module is a class, and `Emulator` is all of them:

    loading         when MiniStack's services are loaded
    process         how MiniStack is configured, called and saved
    cloudformation  the types of resources, by whom they are made, and with whose rights
    deployer        the calls behind each resource: the deployer needs the right to each
    access          roles, sessions, signatures, API keys
    storage         objects, and the tables of Glue's catalog
    compute         functions, the tasks of state machines, the targets of schedules
    monitoring      log lines, metrics, alarms, the depths of queues
    corrections     wrappers of MiniStack's functions where they differ from AWS
"""

from __future__ import annotations

from pathlib import Path

from local.ministack.access import PERMISSION_CACHE_SECONDS, Access, AccessDenied, InvalidSignature
from local.ministack.cloudformation import CloudFormation
from local.ministack.compute import Compute, Invocation, TaskFailed
from local.ministack.corrections import correct
from local.ministack.monitoring import MetricDatum, Monitoring, Statistic
from local.ministack.process import ACCOUNT, REGION, Answer, ServiceError
from local.ministack.storage import Storage

__all__ = [
    "ACCOUNT",
    "PERMISSION_CACHE_SECONDS",
    "REGION",
    "AccessDenied",
    "Answer",
    "Emulator",
    "InvalidSignature",
    "Invocation",
    "MetricDatum",
    "ServiceError",
    "Statistic",
    "TaskFailed",
]


class Emulator(CloudFormation, Access, Storage, Compute, Monitoring):
    """MiniStack in this process. `directory` holds all of its state; `port` is where this process serves.

    One instance a process: MiniStack reads its configuration from the environment when it is first imported.
    """

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(directory, port)
        correct(lambda service: self.on_change(service), self.authorize)
        self.authorize_resources()
