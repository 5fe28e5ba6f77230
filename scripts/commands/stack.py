"""One stack and where it lives: an AWS account, as the AWS CLI is configured, or the local AWS (`--local`)."""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError, NoRegionError

from scripts.commands.console import UsageError

DEFAULT_STACK_NAME = "sluice"
LOCAL_REGION = "us-east-1"
# Another folder gives another local AWS, beside the first.
LOCAL_STATE = Path(os.environ.get("SLUICE_LOCAL_STATE") or Path(__file__).resolve().parents[2] / ".sluice" / "local")

_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
_INVOKE_URL = re.compile(r"https://(?P<api>[a-z0-9]+)\.execute-api\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?(?P<path>/.*)?")
_NOT_RUNNING = "the local AWS is not running: start it with scripts/local.sh start"


@dataclass(frozen=True)
class Aws:
    """Where the commands send their requests. `endpoint` is the local AWS's URL, None for a real account."""

    session: boto3.Session
    region: str
    endpoint: str | None = None

    @property
    def is_local(self) -> bool:
        return self.endpoint is not None

    @property
    def place(self) -> str:
        """Region and home as a person reads them: `us-east-1 [local]`."""
        return f"{self.region} [local]" if self.is_local else self.region

    @property
    def flag(self) -> str:
        """What a command line needs to reach the same place."""
        return " --local" if self.is_local else ""

    @functools.cache  # noqa: B019 - a command has one or two of these, and they live as long as it does
    def client(self, service: str) -> Any:
        """A boto3 client of this service, made once: making one takes longer than most calls."""
        if not self.is_local:
            return self.session.client(service, config=Config(retries={"mode": "standard", "max_attempts": 5}))
        # Proxies and FIPS endpoints are set in the environment for the real AWS; this one is on the same machine.
        config = Config(proxies={}, use_fips_endpoint=False, use_dualstack_endpoint=False)
        if service == "s3":
            config = config.merge(Config(s3={"addressing_style": "path"}))
        return self.session.client(service, endpoint_url=self.endpoint, config=config)


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser `--local` and `--stack-name`."""
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--stack-name", type=stack_name, default=DEFAULT_STACK_NAME)


def stack_name(text: str) -> str:
    """A stack name as CloudFormation allows it."""
    if not _STACK_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is no stack name: it starts with a letter and has letters, digits and hyphens, at most 128"
        )
    return text


def session(local: bool) -> Aws:
    """The real AWS as the AWS CLI would reach it, or the running local AWS, whatever the AWS_* variables say.

    Raises:
        UsageError: the local AWS is not running.
        NoRegionError: neither the environment nor the profile names a region.
    """
    if not local:
        # The AWS CLI reads both names of the variable, boto3 only the older one.
        real = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
        if real.region_name is None:
            raise NoRegionError()
        return Aws(real, real.region_name)
    core = botocore.session.Session(session_vars=_without_environment())
    fake = boto3.Session(
        aws_access_key_id="test", aws_secret_access_key="test", region_name=LOCAL_REGION, botocore_session=core
    )
    return Aws(fake, LOCAL_REGION, local_endpoint())


def local_endpoint() -> str:
    """The URL of the running local AWS; UsageError if it is not running."""
    try:
        endpoint = str(json.loads((LOCAL_STATE / "server.json").read_text())["endpoint"])
        address = urlsplit(endpoint)
        with socket.create_connection((address.hostname, address.port), timeout=2):
            return endpoint
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(_NOT_RUNNING) from error


def stack_outputs(aws: Aws, name: str) -> dict[str, str]:
    """The stack's outputs by key, for example `TrackURL`.

    Raises:
        UsageError: the stack does not exist, or has no outputs because its creation did not succeed.
    """
    stack = describe_stack(aws, name)
    if stack is None:
        raise missing(aws, name)
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    if not outputs:
        raise UsageError(f"stack '{name}' in {aws.place} has no outputs: its status is {stack['StackStatus']}")
    return outputs


def stack_output(aws: Aws, name: str, key: str) -> str:
    """One output of the stack; UsageError also where the stack is another template's and has no such output."""
    outputs = stack_outputs(aws, name)
    if key not in outputs:
        raise UsageError(f"stack '{name}' in {aws.place} has no output {key}: it was not made from this template")
    return outputs[key]


def describe_stack(aws: Aws, name: str) -> dict[str, Any] | None:
    """CloudFormation's Stack structure, by name or by id; None if there is no such stack."""
    try:
        stacks: list[dict[str, Any]] = aws.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        # CloudFormation has no code of its own for it: ValidationError is also what a malformed name gets.
        if "does not exist" in error.response["Error"].get("Message", ""):
            return None
        raise
    return stacks[0] if stacks else None


def stack_parameters(stack: Mapping[str, Any] | None) -> dict[str, str]:
    """The values of a stack's parameters, of what describe_stack found; none for no stack."""
    return {item["ParameterKey"]: item.get("ParameterValue", "") for item in (stack or {}).get("Parameters", [])}


def missing(aws: Aws, name: str) -> UsageError:
    """The error for a stack that is not there."""
    return UsageError(
        f"stack '{name}' does not exist in {aws.place}: deploy it with scripts/deploy.sh{aws.flag} --stack-name {name}"
    )


def resources(aws: Aws, name: str) -> list[dict[str, Any]]:
    """CloudFormation's StackResourceSummary structures of what exists now."""
    try:
        pages = list(aws.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=name))
    except ClientError as error:
        if "does not exist" in error.response["Error"].get("Message", ""):
            raise missing(aws, name) from error
        raise
    return [
        item
        for page in pages
        for item in page["StackResourceSummaries"]
        # One that was not created yet has no id; a deleted one is listed for as long as its stack.
        if item.get("PhysicalResourceId") and item["ResourceStatus"] != "DELETE_COMPLETE"
    ]


def physical_ids(aws: Aws, name: str) -> dict[str, str]:
    """The stack's physical ids by logical id."""
    return {item["LogicalResourceId"]: item["PhysicalResourceId"] for item in resources(aws, name)}


def stack_events(aws: Aws, stack_id: str) -> Iterator[dict[str, Any]]:
    """CloudFormation's StackEvent structures, newest first. A deleted stack has them under its id, not its name."""
    for page in aws.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack_id):
        yield from page["StackEvents"]


def follow(aws: Aws, stack_id: str, seen: set[str]) -> Iterator[dict[str, Any]]:
    """The stack's events as they come, oldest first, until its status no longer ends in _IN_PROGRESS.

    Args:
        stack_id: the id (an ARN), since a deleted stack is not found by its name.
        seen: the EventIds that are not told again.
    """
    is_running = True
    while is_running:
        # The status first: the events read after it are then all there are.
        stack = describe_stack(aws, stack_id)
        is_running = stack is not None and stack["StackStatus"].endswith("_IN_PROGRESS")
        new = [event for event in stack_events(aws, stack_id) if event["EventId"] not in seen]
        seen.update(event["EventId"] for event in new)
        yield from reversed(new)
        if is_running:
            time.sleep(0.2 if aws.is_local else 2)


def reachable_url(aws: Aws, url: str) -> str:
    """The URL under which this machine reaches an API: locally, an invoke URL is a path of the local AWS.

    `https://{api}.execute-api.{region}.amazonaws.com/{stage}/track` becomes
    `{endpoint}/_aws/execute-api/{api}/{stage}/track`; every other URL, and every URL on AWS, stays what it is.
    """
    match = _INVOKE_URL.fullmatch(url)
    if not aws.is_local or not match:
        return url
    return f"{aws.endpoint}/_aws/execute-api/{match['api']}{match['path'] or ''}"


def _without_environment() -> dict[str, tuple[None, None, Any, Any]]:
    """botocore's settings, each cut off from its environment variable and its configuration file."""
    settings = botocore.session.Session.SESSION_VARIABLES
    return {name: (None, None, default, conversion) for name, (_, _, default, conversion) in settings.items()}
