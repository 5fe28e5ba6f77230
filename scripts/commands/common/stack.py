"""One stack and where it lives: an AWS account, as the AWS CLI is configured, or the local AWS (`--local`)."""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, NoRegionError

from scripts.commands.common.cloudformation import Happening, StackDescription, StackEvent, StackResource
from scripts.commands.common.console import CommandError, UsageError, printable, progress, say
from scripts.commands.common.paths import HOME
from shared.documents import parse_json

# The rest of botocore takes longer to import than everything else: functions import it, so that `local.sh stop` and
# refusals of an argument do without. boto3 would take half as long again, for nothing that is used here.
if TYPE_CHECKING:
    from botocore.session import Session

DEFAULT_STACK_NAME = "sluice"
LOCAL_REGION = "us-east-1"
LOOKS_BEFORE_THE_FIRST_EVENT = 10
# Another folder gives another local AWS, beside the first.
LOCAL_STATE = Path(os.environ.get("SLUICE_LOCAL_STATE") or HOME / "local")

_DELETED = frozenset({"DELETE_COMPLETE", "DELETE_SKIPPED"})
_STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
_INVOKE_URL = re.compile(r"https://(?P<api>[a-z0-9]+)\.execute-api\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?(?P<path>/.*)?")
_NOT_RUNNING = "the local AWS is not running: start it with scripts/local.sh start"


@dataclass(frozen=True)
class Aws:
    """Where the commands send their requests.

    `endpoint` is the local AWS's URL, None for a real account. `chosen` has the options given to choose it.
    """

    session: Session
    region: str
    endpoint: str | None = None
    chosen: tuple[tuple[str, str], ...] = ()

    @property
    def is_local(self) -> bool:
        return self.endpoint is not None

    @property
    def place(self) -> str:
        """Region and home as a person reads them: `us-east-1 [local]`."""
        return f"{self.region} [local]" if self.is_local else self.region

    @property
    def flag(self) -> str:
        """The options of a command line for the same place."""
        return _flag(self.is_local, self.chosen)

    @functools.cache  # noqa: B019 - a command has one or two of these, and they live as long as it does
    def client(self, service: str) -> Any:
        """botocore's client of this service, made once: making one takes longer than most calls."""
        from botocore.config import Config

        if not self.is_local:
            return self.session.create_client(service, config=Config(retries={"mode": "standard", "max_attempts": 5}))
        # Proxies and FIPS endpoints are set in the environment for the real AWS; this one is on the same machine.
        config = Config(proxies={}, use_fips_endpoint=False, use_dualstack_endpoint=False)
        if service == "s3":
            config = config.merge(Config(s3={"addressing_style": "path"}))
        return self.session.create_client(service, endpoint_url=self.endpoint, config=config)


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options for a stack and its place; SLUICE_LOCAL=1 and SLUICE_STACK_NAME are two defaults."""
    parser.add_argument("--local", action="store_true", default=os.environ.get("SLUICE_LOCAL") == "1")
    parser.add_argument("--profile")
    parser.add_argument("--region")
    parser.add_argument("--stack-name", type=stack_name, default=usual_stack_name())


def usual_stack_name() -> str:
    """The stack of commands without `--stack-name`."""
    return os.environ.get("SLUICE_STACK_NAME") or DEFAULT_STACK_NAME


def stack_name(text: str) -> str:
    """A stack name as CloudFormation allows it."""
    if not _STACK_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a stack name: it starts with a letter and has letters, digits and hyphens, at most 128"
        )
    return text


def session(options: argparse.Namespace) -> Aws:
    """The place named by the options of `add_stack_arguments`: the real AWS as the AWS CLI would reach it, or the
    running local AWS, regardless of the AWS_* variables.

    Raises:
        UsageError: the local AWS is not running, or the options contradict it.
        NoRegionError: neither the options, the environment nor the profile names a region.
    """
    if options.local:
        if options.profile or options.region:
            raise UsageError("--profile and --region cannot go with --local or SLUICE_LOCAL=1: leave them out")
        return local_session()
    from botocore.session import Session

    real = Session(profile=options.profile or None)
    real.get_scoped_config()  # the profile exists
    # The AWS CLI reads both names of the variable, botocore only the older one.
    if given := options.region or os.environ.get("AWS_REGION"):
        real.set_config_variable("region", given)
    region = real.get_config_variable("region")
    if region is None:
        raise NoRegionError()
    return Aws(real, region, chosen=_chosen(options))


def command_options(options: argparse.Namespace) -> str:
    """The options of another command line for the same stack: ` --region eu-west-1 --stack-name other`."""
    return _flag(options.local, _chosen(options)) + stack_option(options.stack_name)


def stack_option(name: str) -> str:
    """` --stack-name other`, or nothing for the stack of commands without it."""
    return "" if name == usual_stack_name() else f" --stack-name {shlex.quote(name)}"


def _flag(is_local: bool, chosen: tuple[tuple[str, str], ...]) -> str:
    return " --local" if is_local else "".join(f" {name} {shlex.quote(value)}" for name, value in chosen)


def _chosen(options: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    given = (("--profile", options.profile), ("--region", options.region))
    return tuple((name, value) for name, value in given if value)


def local_session() -> Aws:
    """The running local AWS; UsageError if it is not running.

    Everybody is the account's root, unless these two variables hold the access key of a user.
    """
    from botocore.session import Session

    # Each setting is cut off from its environment variable and its configuration file.
    settings = Session.SESSION_VARIABLES
    alone = {name: (None, None, default, conversion) for name, (_, _, default, conversion) in settings.items()}
    fake = Session(session_vars=alone)
    fake.set_credentials(
        os.environ.get("SLUICE_LOCAL_ACCESS_KEY_ID", "test"), os.environ.get("SLUICE_LOCAL_SECRET_ACCESS_KEY", "test")
    )
    fake.set_config_variable("region", LOCAL_REGION)
    return Aws(fake, LOCAL_REGION, local_endpoint())


def local_endpoint() -> str:
    """The URL of the running local AWS; UsageError if it is not running."""
    try:
        endpoint = str(parse_json((LOCAL_STATE / "server.json").read_text())["endpoint"])
        address = urlsplit(endpoint)
        with socket.create_connection((address.hostname, address.port), timeout=2):
            return endpoint
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(_NOT_RUNNING) from error


class Stack:
    """One stack, by its name or id. CloudFormation is asked once for each fact, when it is first needed."""

    def __init__(self, aws: Aws, name: str) -> None:
        self.aws, self.name = aws, name

    def client(self, service: str) -> Any:
        """The client of a service where the stack is."""
        return self.aws.client(service)

    @functools.cached_property
    def description(self) -> StackDescription:
        """CloudFormation's Stack structure; UsageError if there is no such stack."""
        found = describe_stack(self.aws, self.name)
        if found is None:
            raise self.missing
        return found

    @property
    def missing(self) -> UsageError:
        """The error for a missing stack."""
        return UsageError(
            f"stack '{self.name}' does not exist in {self.aws.place}: "
            f"deploy it with scripts/deploy.sh{self.aws.flag} --stack-name {self.name}"
        )

    def lacks(self, part: str, switch: str) -> UsageError:
        """The error for an optional stack that is off; `switch` are the options of deploy.sh to switch it on."""
        return UsageError(
            f"stack '{self.name}' in {self.aws.place} has no optional stack '{part}': "
            f"switch it on with scripts/deploy.sh{self.aws.flag} --stack-name {self.name} {switch}"
        )

    def lost(self, bucket: str) -> UsageError:
        """The error for a stack whose bucket of events was deleted."""
        return UsageError(
            f"the bucket {bucket} of stack '{self.name}' in {self.aws.place} was deleted: "
            f"remove the rest of the stack with scripts/destroy.sh{self.aws.flag} --stack-name {self.name}"
        )

    @functools.cached_property
    def outputs(self) -> dict[str, str]:
        """Its outputs by key, for example `TrackURL`; UsageError if it has none, as its creation did not succeed."""
        outputs = {output["OutputKey"]: output["OutputValue"] for output in self.description.get("Outputs", [])}
        if not outputs:
            status = self.description["StackStatus"]
            raise UsageError(f"stack '{self.name}' in {self.aws.place} has no outputs: its status is {status}")
        return outputs

    def output(self, key: str) -> str:
        """One output; UsageError also where the stack is another template's and has no such output."""
        if key not in self.outputs:
            raise UsageError(
                f"stack '{self.name}' in {self.aws.place} has no output {key}: it was not made from this template"
            )
        return self.outputs[key]

    @functools.cached_property
    def parameters(self) -> dict[str, str]:
        """The values of its parameters."""
        return stack_parameters(self.description)

    @property
    def redacted_fields(self) -> set[str]:
        """The names in its RedactFields, in lower case."""
        return redacted_fields(self.parameters)

    @functools.cached_property
    def resources(self) -> list[StackResource]:
        """CloudFormation's StackResourceSummary structures of the existing resources."""
        return resources(self.aws, self.name)

    @functools.cached_property
    def ids(self) -> dict[str, str]:
        """The physical ids of its resources by logical id."""
        return {item["LogicalResourceId"]: item["PhysicalResourceId"] for item in self.resources}


def redacted_fields(parameters: Mapping[str, str]) -> set[str]:
    """The names in a stack's RedactFields, in lower case."""
    return {name.strip().lower() for name in parameters.get("RedactFields", "").split(",")} - {""}


def describe_stack(aws: Aws, name: str) -> StackDescription | None:
    """CloudFormation's Stack structure, by name or by id; None if there is no such stack."""
    try:
        stacks: list[StackDescription] = aws.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        # CloudFormation has no code of its own for it: a malformed name also gets ValidationError.
        if "does not exist" in error.response["Error"].get("Message", ""):
            return None
        raise
    return stacks[0] if stacks else None


def stack_status(aws: Aws, name: str) -> str:
    """A stack's status, by name or by id; `gone` if there is no such stack."""
    stack = describe_stack(aws, name)
    return stack["StackStatus"] if stack else "gone"


def stack_parameters(stack: StackDescription | None) -> dict[str, str]:
    """The values of a stack's parameters, from the result of describe_stack; none for no stack."""
    given = stack.get("Parameters", []) if stack else []
    return {item["ParameterKey"]: item.get("ParameterValue", "") for item in given}


def resources(aws: Aws, name: str) -> list[StackResource]:
    """CloudFormation's StackResourceSummary structures of the resources existing now."""
    try:
        pages = list(aws.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=name))
    except ClientError as error:
        if "does not exist" in error.response["Error"].get("Message", ""):
            raise Stack(aws, name).missing from error
        raise
    return [
        item
        for page in pages
        for item in page["StackResourceSummaries"]
        # A resource not created yet has no id; a deleted one is listed for as long as its stack.
        if item.get("PhysicalResourceId") and item["ResourceStatus"] != "DELETE_COMPLETE"
    ]


def listed_metrics(aws: Aws, namespace: str, dimension: str, value: str, *names: str) -> Iterator[dict[str, str]]:
    """The dimensions of each metric with this one, if written in the last two weeks."""
    wanted = {"Namespace": namespace, "Dimensions": [{"Name": dimension, "Value": value}]}
    pages = aws.client("cloudwatch").get_paginator("list_metrics")
    for page in pages.paginate(**wanted, **({"MetricName": names[0]} if names else {})):
        for listed in page["Metrics"]:
            yield {item["Name"]: item["Value"] for item in listed["Dimensions"]}


def stack_events(aws: Aws, stack_id: str) -> Iterator[StackEvent]:
    """CloudFormation's StackEvent structures, newest first. A deleted stack has them under its id, not its name."""
    for page in aws.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack_id):
        yield from page["StackEvents"]


def newest_event(aws: Aws, stack_id: str) -> str:
    """The EventId of the stack's last event, by one call; empty where it has none. `watch` shows later events."""
    return next((str(event["EventId"]) for event in stack_events(aws, stack_id)), "")


def _events_after(aws: Aws, stack_id: str, last: str) -> list[StackEvent]:
    """The events since the one with this EventId, newest first; asks only for the pages with them."""
    return list(itertools.takewhile(lambda event: event["EventId"] != last, stack_events(aws, stack_id)))


def follow(aws: Aws, stack_id: str, after: str) -> Iterator[StackEvent]:
    """The stack's events as they come, oldest first, until the operation on it has ended.

    Args:
        stack_id: the id (an ARN), since a deleted stack is not found by its name.
        after: the EventId of the last known event, empty for none; the events after it are yielded.
    """
    looks, has_begun, is_running = 0, False, True
    # AWS may show the earlier status for a moment.
    while is_running or (not has_begun and looks < LOOKS_BEFORE_THE_FIRST_EVENT):
        if looks:
            time.sleep(0.2 if aws.is_local else 2)
        # The status first: the events read after it are then all there are.
        stack = describe_stack(aws, stack_id)
        is_running = stack is not None and is_being_changed(stack)
        new = _events_after(aws, stack_id, after)
        if new:
            after, has_begun = new[0]["EventId"], True
        yield from reversed(new)
        looks += 1


def watch(aws: Aws, stack_id: str, after: str, display: tuple[str, int], done: frozenset[str]) -> Iterator[StackEvent]:
    """Show the events of `follow`. Yields the event of each failed resource at once.

    Args:
        display: the title of the progress bar, and its total number of resources.
        done: the statuses of a resource that count as done.
    """
    title, total = display
    with progress() as bar:
        task = bar.add_task(title, total=total)
        for event in follow(aws, stack_id, after):
            state, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
            if reason or not state.endswith("_IN_PROGRESS"):
                text = printable(f"{state:<20} {event['LogicalResourceId']} {reason}".rstrip())
                bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            if event.get("PhysicalResourceId") == stack_id:
                continue
            if state in done:
                bar.advance(task)
            if is_failure(event):
                yield event


def delete_stack(aws: Aws, name: str, stack_id: str, total: int) -> None:
    """Delete the stack and show its events until it is gone; `total` is the number of its resources.

    Raises:
        CommandError: CloudFormation could not delete it; the message names the first resource and the reason.
    """
    newest = newest_event(aws, stack_id)
    aws.client("cloudformation").delete_stack(StackName=stack_id)
    try:
        failures = [
            failure(aws, event, " could not be deleted")
            for event in watch(aws, stack_id, newest, (f"Deleting '{name}'", total), _DELETED)
        ]
    except KeyboardInterrupt:
        say(f"The deletion goes on without this script; see how it ends with scripts/destroy.sh{aws.flag}")
        raise
    stack = describe_stack(aws, stack_id)
    if stack is not None and stack["StackStatus"] != "DELETE_COMPLETE":
        failures = failures or [stack.get("StackStatusReason") or "see the stack's events"]
        raise CommandError(f"{failures[0]}. Stack '{name}' is now {stack['StackStatus']}: fix that and run this again")
    say(f"Stack '{name}' in {aws.place} is deleted.", style="green")


def is_failure(event: Happening | StackResource) -> bool:
    """Whether a resource failed by itself: when one fails, CloudFormation cancels the others and calls them failed."""
    is_cancelled = "cancelled" in event.get("ResourceStatusReason", "").lower()
    return event["ResourceStatus"].endswith("_FAILED") and not is_cancelled


def failure(aws: Aws, event: Happening, verb: str = "") -> str:
    """A failed resource and the reason; for a nested stack, its first failed one, as its own event only lists names."""
    inner_id = event.get("PhysicalResourceId", "")
    if event["ResourceType"] == "AWS::CloudFormation::Stack" and inner_id:
        is_deletion = event.get("ResourceStatus", "").startswith("DELETE")
        begins = ("DELETE_IN_PROGRESS",) if is_deletion else ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS")
        first = None
        for inner in stack_events(aws, inner_id):
            if inner.get("PhysicalResourceId") != inner_id:
                first = inner if is_failure(inner) else first
            elif inner["ResourceStatus"] in begins:
                break  # Older events belong to other deployments.
        if first:
            return f"{event['LogicalResourceId']}: {failure(aws, first, verb)}"
    return f"{event['LogicalResourceId']} ({event['ResourceType']}){verb}: {event.get('ResourceStatusReason', '')}"


def is_being_changed(stack: StackDescription) -> bool:
    """Whether CloudFormation is at work on a stack. One in review waits for a person."""
    status = stack["StackStatus"]
    return status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS"


def reachable_url(aws: Aws, url: str) -> str:
    """An API's URL for this machine: locally, an invoke URL is a path of the local AWS.

    `https://{api}.execute-api.{region}.amazonaws.com/{stage}/track` becomes
    `{endpoint}/_aws/execute-api/{api}/{stage}/track`; every other URL, and every URL on AWS, stays the same.
    """
    match = _INVOKE_URL.fullmatch(url)
    if not aws.is_local or not match:
        return url
    return f"{aws.endpoint}/_aws/execute-api/{match['api']}{match['path'] or ''}"
