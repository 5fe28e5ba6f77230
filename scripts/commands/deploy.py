"""Deploys the stack: build, upload, change set, a look at it, execution with its events, outputs."""

from __future__ import annotations

import hashlib
import sys
import time
import uuid
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from rich.console import Console
from rich.table import Table

from scripts.commands import build, template
from scripts.commands.console import CommandError, Parser, main, progress, say
from scripts.commands.stack import (
    DEFAULT_STACK_NAME,
    Aws,
    add_stack_arguments,
    describe_stack,
    reachable_url,
    session,
    stack_outputs,
)

# What cannot change on a stack that holds data: the change would be refused by AWS, or hide what is stored.
FIXED_PARAMETERS = {
    "OutputFormat": "the table would no longer read the events that are stored",
    "FirehoseS3Prefix": "the table would no longer find the events that are stored",
    "AthenaDatabaseName": "the tables would be made anew under another name",
    "AthenaTableName": "the tables would be made anew under another name",
}
FIXED_RESOURCES = {
    "AWS::S3::Bucket",
    "AWS::Glue::Database",
    "AWS::Glue::Table",
    "AWS::KinesisFirehose::DeliveryStream",
}
FINAL = ("COMPLETE", "FAILED")


def deploy(arguments: list[str]) -> int:
    """Entry point of scripts/deploy.sh; returns the exit code."""
    parser = Parser("deploy")
    add_stack_arguments(parser)
    parser.add_argument("--parameter", action="append", type=_key_and_value, default=[], metavar="Key=Value")
    parser.add_argument("--yes", action="store_true")
    options = parser.parse_args(arguments)
    text = template.TEMPLATE.read_text()
    given = dict(options.parameter)
    # The two that this script fills in; the rest is checked before the first call.
    placeholders = {"ArtifactBucket": "artifacts", "TransformCodeKey": "key"}
    template.effective_parameters(template.load(text), {}, {**placeholders, **given})

    aws = session(options.local)
    return deploy_stack(aws, options.stack_name, text, given, ask=not options.yes)


def deploy_stack(aws: Aws, name: str, text: str, given: dict[str, str], *, ask: bool) -> int:
    """Deploy the template under this stack name with the given parameters; prints the outputs on stdout."""
    cloudformation = aws.client("cloudformation")
    stack = _existing_stack(aws, cloudformation, name)
    previous = {item["ParameterKey"]: item["ParameterValue"] for item in (stack or {}).get("Parameters", [])}
    if stack is None and name != DEFAULT_STACK_NAME:
        # A Glue database belongs to one stack, and its default name to the first.
        given = {"AthenaDatabaseName": name.lower().replace("-", "_"), **given}
    _refuse_what_would_hide_data(name, previous, given)

    say(f"Building lambda/ for {'this machine' if aws.is_local else 'python3.13 on arm64'} ...")
    archive = build.build(build.LOCAL if aws.is_local else build.AWS)
    bucket = _artifact_bucket(aws)
    given = {**given, "ArtifactBucket": bucket, "TransformCodeKey": _upload(aws, bucket, archive.name, archive)}
    parameters = template.effective_parameters(template.load(text), previous, given)
    url = _upload_template(aws, bucket, template.render(text, parameters))

    change_set = _create_change_set(cloudformation, name, url, parameters, stack is not None)
    if change_set is None:
        say(f"Nothing to change: stack '{name}' in {aws.place} is up to date.")
    else:
        _show(change_set, name, aws)
        try:
            _refuse_replacements(change_set)
            if ask:
                _confirm(name)
        except (CommandError, KeyboardInterrupt):
            _discard(cloudformation, change_set, created=stack is None)
            raise
        _execute(cloudformation, change_set, name, aws)
    for key, value in stack_outputs(aws, name).items():
        print(f"{key}\t{reachable_url(aws, value)}")
    return 0


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ArgumentTypeError(f"'{text}' is not of the form Key=Value")
    return key, value


def _existing_stack(aws: Aws, cloudformation: Any, name: str) -> dict[str, Any] | None:
    stack = describe_stack(aws, name)
    if stack is None:
        return None
    status = stack["StackStatus"]
    if status == "REVIEW_IN_PROGRESS":  # a change set was made and never executed: there is no stack yet
        return None
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"):
        say(f"Removing what a failed deployment left of stack '{name}' ({status}) ...")
        cloudformation.delete_stack(StackName=name)
        cloudformation.get_waiter("stack_delete_complete").wait(StackName=stack["StackId"])
        return None
    if status.endswith("_IN_PROGRESS"):
        raise CommandError(f"stack '{name}' is being changed ({status}): wait until that has ended")
    return stack


def _refuse_what_would_hide_data(name: str, previous: dict[str, str], given: dict[str, str]) -> None:
    for parameter, reason in FIXED_PARAMETERS.items():
        before, after = previous.get(parameter), given.get(parameter)
        if before is not None and after is not None and before != after:
            raise CommandError(
                f"{parameter} cannot change from '{before}' to '{after}' on stack '{name}': {reason}. Deploy a second "
                f"stack beside it with --stack-name, and send events there"
            )


def _artifact_bucket(aws: Aws) -> str:
    """The bucket for code and templates of this account and region, made when it is missing."""
    account = aws.client("sts").get_caller_identity()["Account"]
    bucket = f"sluice-artifacts-{account}-{aws.region}"
    s3 = aws.client("s3")
    try:
        s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
        return bucket
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise CommandError(
                f"bucket '{bucket}' cannot be used ({error.response['Error']['Code']}): it must belong to account "
                f"{account}, and you need s3:ListBucket on it"
            ) from error
    say(f"Making the bucket {bucket} for code and templates ...")
    location = {} if aws.region == "us-east-1" else {"LocationConstraint": aws.region}
    s3.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": location} if location else {}))
    s3.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration=dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
        ),
    )
    return bucket


def _upload(aws: Aws, bucket: str, key: str, file: Path) -> str:
    s3 = aws.client("s3")
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
        s3.upload_file(str(file), bucket, key)
    return key


def _upload_template(aws: Aws, bucket: str, text: str) -> str:
    """Put the template into the bucket (CloudFormation takes no more than 51,200 bytes inline) and return its URL."""
    draft = build.BUILD / "template.yaml"
    draft.write_text(text)
    key = _upload(aws, bucket, f"template-{hashlib.sha256(text.encode()).hexdigest()[:16]}.yaml", draft)
    if aws.is_local:
        return f"{aws.endpoint}/{bucket}/{key}"
    suffix = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
    return f"https://{bucket}.s3.{aws.region}.{suffix}/{key}"


def _create_change_set(
    cloudformation: Any, name: str, url: str, parameters: dict[str, str], exists: bool
) -> dict[str, Any] | None:
    """Create a change set and wait for it; None when there is nothing to change."""
    try:
        made = cloudformation.create_change_set(
            StackName=name,
            ChangeSetName=f"deploy-{uuid.uuid4().hex[:12]}",
            ChangeSetType="UPDATE" if exists else "CREATE",
            TemplateURL=url,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
    except ClientError as error:
        # A Rule that does not hold, or a template that CloudFormation cannot read: nothing has been created.
        raise CommandError(f"CloudFormation refuses this: {error.response['Error']['Message']}") from error
    change_set: dict[str, Any] = {}
    while not change_set.get("Status", "").endswith(FINAL):
        if change_set:
            time.sleep(0.2 if change_set["Status"] == "CREATE_PENDING" else 1)
        change_set = cloudformation.describe_change_set(ChangeSetName=made["Id"], StackName=name)
    if change_set["Status"] == "CREATE_COMPLETE":
        while token := change_set.get("NextToken"):
            page = cloudformation.describe_change_set(ChangeSetName=made["Id"], StackName=name, NextToken=token)
            change_set = {**page, "Changes": change_set["Changes"] + page["Changes"]}
        return change_set
    reason = change_set.get("StatusReason", "")
    _discard(cloudformation, change_set, created=not exists)
    if "didn't contain changes" in reason or "No updates are to be performed" in reason:
        return None
    raise CommandError(f"CloudFormation refuses this: {reason}")


def _discard(cloudformation: Any, change_set: dict[str, Any], *, created: bool) -> None:
    cloudformation.delete_change_set(ChangeSetName=change_set["ChangeSetId"])
    if created:  # the shell of a stack that the change set made
        cloudformation.delete_stack(StackName=change_set["StackId"])


def _show(change_set: dict[str, Any], name: str, aws: Aws) -> None:
    table = Table(title=f"Changes to stack '{name}' in {aws.place}", title_justify="left")
    for heading in ("Action", "Resource", "Type", "Replaced"):
        table.add_column(heading)
    for change in change_set["Changes"]:
        resource = change["ResourceChange"]
        table.add_row(
            resource["Action"],
            resource["LogicalResourceId"],
            resource["ResourceType"],
            resource.get("Replacement", ""),
        )
    Console(stderr=True).print(table)


def _refuse_replacements(change_set: dict[str, Any]) -> None:
    for change in change_set["Changes"]:
        resource = change["ResourceChange"]
        gone = resource["Action"] == "Remove" or resource.get("Replacement") == "True"
        if gone and resource["ResourceType"] in FIXED_RESOURCES:
            raise CommandError(
                f"{resource['LogicalResourceId']} ({resource['ResourceType']}) would be replaced or removed, and with "
                f"it the way to stored data: deploy a second stack with --stack-name instead"
            )


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("no terminal to ask on: add --yes to deploy without being asked")
    say(f"Deploy these changes to '{name}'? [y/N] ")
    if input().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was changed")


def _execute(cloudformation: Any, change_set: dict[str, Any], name: str, aws: Aws) -> None:
    """Execute the change set; shows the stack's events as they come, and raises the first failure's reason."""
    stack_id = change_set["StackId"]
    seen = {event["EventId"] for event in _events(cloudformation, stack_id)}
    cloudformation.execute_change_set(ChangeSetName=change_set["ChangeSetId"])
    failures: list[str] = []
    with progress() as bar:
        task = bar.add_task(f"Deploying '{name}'", total=len(change_set["Changes"]))
        status = "IN_PROGRESS"
        try:
            while not status.endswith(FINAL):
                time.sleep(0.2 if aws.is_local else 2)
                # The status first: the events read after it are then all there are.
                status = cloudformation.describe_stacks(StackName=stack_id)["Stacks"][0]["StackStatus"]
                for event in _new_events(cloudformation, stack_id, seen):
                    resource, state = event["LogicalResourceId"], event["ResourceStatus"]
                    reason = event.get("ResourceStatusReason", "")
                    if state.endswith("_FAILED") and "cancelled" not in reason.lower():
                        failures.append(f"{resource} ({event['ResourceType']}): {reason}")
                    if resource != name and state in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
                        bar.advance(task)
                    if reason or not state.endswith("_IN_PROGRESS"):
                        bar.console.print(f"{state:<20} {resource} {reason}", markup=False, highlight=False)
        except KeyboardInterrupt:
            say(f"CloudFormation goes on without this script; see how it ends with scripts/deploy.sh{aws.flag}")
            raise
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        first = failures[0] if failures else "see the stack's events"
        raise CommandError(f"{first}. Stack '{name}' is now {status}")


def _new_events(cloudformation: Any, stack_id: str, seen: set[str]) -> list[dict[str, Any]]:
    new = [event for event in _events(cloudformation, stack_id) if event["EventId"] not in seen]
    seen.update(event["EventId"] for event in new)
    return new[::-1]


def _events(cloudformation: Any, stack_id: str) -> Iterator[dict[str, Any]]:
    """The stack's events, newest first."""
    for page in cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id):
        yield from page["StackEvents"]


if __name__ == "__main__":
    main(deploy)
