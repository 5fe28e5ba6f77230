"""Delete a stack and follow the deletion to its end. The data bucket stays, unless its deletion is asked for."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from botocore.exceptions import ClientError

from scripts.commands.console import CommandError, Parser, ask, main, progress, say
from scripts.commands.stack import (
    Aws,
    add_stack_arguments,
    describe_stack,
    follow,
    missing,
    resources,
    session,
    stack_events,
    stack_parameters,
)

_BUCKET = "AWS::S3::Bucket"


def destroy(arguments: list[str]) -> int:
    """scripts/destroy.sh"""
    options = _parse(arguments)
    aws, name = session(options.local), options.stack_name
    stack = describe_stack(aws, name)
    if stack is None:
        raise missing(aws, name)
    if stack.get("EnableTerminationProtection"):
        raise CommandError(
            f"stack '{name}' is protected from deletion: lift that first with aws cloudformation "
            f"update-termination-protection --stack-name {name} --no-enable-termination-protection"
        )
    parts = resources(aws, name)
    buckets = [part["PhysicalResourceId"] for part in parts if part["ResourceType"] == _BUCKET]
    buckets = [bucket for bucket in buckets if _exists(aws.client("s3"), bucket)]
    _show(aws, name, stack, parts, buckets, options.delete_data)
    if not options.yes:
        _confirm(name)
    delete_stack(aws, name, stack["StackId"], len(parts))
    for bucket in buckets:
        _settle_bucket(aws, bucket, options.delete_data)
    return 0


def delete_stack(aws: Aws, name: str, stack_id: str, total: int) -> None:
    """Delete the stack and show its events until it is gone; `total` is the number of its resources.

    Raises:
        CommandError: CloudFormation could not delete it; the message names the first resource and the reason.
    """
    seen = {event["EventId"] for event in stack_events(aws, stack_id)}
    aws.client("cloudformation").delete_stack(StackName=stack_id)
    failures: list[str] = []
    with progress() as display:
        task = display.add_task(f"Deleting '{name}'", total=total)
        try:
            for event in follow(aws, stack_id, seen):
                resource, state = event["LogicalResourceId"], event["ResourceStatus"]
                reason = event.get("ResourceStatusReason", "")
                display.console.print(
                    f"{state:<20} {resource} {reason}".rstrip(), markup=False, highlight=False, soft_wrap=True
                )
                is_stack = event.get("PhysicalResourceId") == stack_id
                if state == "DELETE_FAILED" and not is_stack:
                    failures.append(f"{resource} ({event['ResourceType']}) could not be deleted: {reason}")
                if state in ("DELETE_COMPLETE", "DELETE_SKIPPED") and not is_stack:
                    display.advance(task)
        except KeyboardInterrupt:
            say(f"The deletion goes on without this script; see how it ends with scripts/destroy.sh{aws.flag}")
            raise
    stack = describe_stack(aws, stack_id)
    if stack is not None and stack["StackStatus"] != "DELETE_COMPLETE":
        failures = failures or [stack.get("StackStatusReason") or "see the stack's events"]
        raise CommandError(f"{failures[0]}. Stack '{name}' is now {stack['StackStatus']}: mend that and run this again")
    say(f"Stack '{name}' in {aws.place} is deleted.", style="green")


def empty_bucket(s3: Any, bucket: str) -> int:
    """Delete every version of every object, and every delete marker; how many there were.

    Raises:
        CommandError: S3 refused to delete an object.
    """
    count = 0
    with progress() as display:
        task = display.add_task(f"Emptying {bucket}", total=None)
        # The first page again and again: what it held is gone, so that no marker points at a deleted key.
        while objects := _first_versions(s3, bucket):
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
            for fault in answer.get("Errors", []):
                raise CommandError(
                    f"s3://{bucket}/{fault['Key']} cannot be deleted: {fault['Code']}: {fault['Message']}"
                )
            count += len(objects)
            display.update(task, completed=count)
    return count


def _first_versions(s3: Any, bucket: str) -> list[dict[str, str]]:
    """Up to 1,000 versions and delete markers, as DeleteObjects takes them."""
    page = s3.list_object_versions(Bucket=bucket)
    found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
    return [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]


def _settle_bucket(aws: Aws, bucket: str, is_deleted: bool) -> None:
    s3 = aws.client("s3")
    if not _exists(s3, bucket):
        say(f"The bucket {bucket} went with the stack.")
    elif is_deleted:
        count = empty_bucket(s3, bucket)
        s3.delete_bucket(Bucket=bucket)
        say(f"The bucket {bucket} is deleted, with {count:,} object{'' if count == 1 else 's'}.", style="green")
    else:
        way = "scripts/local.sh reset" if aws.is_local else f"aws s3 rb s3://{bucket} --force"
        say(f"Your data is still in s3://{bucket}; `{way}` deletes it.")


def _show(
    aws: Aws, name: str, stack: dict[str, Any], parts: list[dict[str, Any]], buckets: list[str], delete_data: bool
) -> None:
    # A bucket's policy has its bucket's fate.
    counts = Counter(part["ResourceType"] for part in parts if not part["ResourceType"].startswith("AWS::S3::"))
    say(f"Stack '{name}' in {aws.place}, {stack['StackStatus']}", style="bold")
    say("What goes:")
    for kind, count in sorted(counts.items()):
        say(f"  {count:>3} {kind}")
    for bucket in buckets if delete_data else []:
        say(f"      s3://{bucket}, with every version of every object in it: this cannot be undone", style="red")
    say("What Firehose still buffers may be lost: stop what sends events, and wait for a buffering interval.")
    artifacts = stack_parameters(stack).get("ArtifactBucket")
    stays = [] if delete_data else [f"s3://{bucket}, your data" for bucket in buckets]
    if artifacts:
        stays.append(f"s3://{artifacts}, the code of all your stacks")
    if stays:
        say("What stays:")
    for text in stays:
        say(f"      {text}")


def _confirm(name: str) -> None:
    typed = ask(f"Type the stack's name to delete it ({name}):")
    if typed != name:
        raise CommandError(f"'{typed}' is not '{name}': nothing is deleted")


def _exists(s3: Any, bucket: str) -> bool:
    try:
        s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
            return False
        raise
    return True


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("destroy")
    add_stack_arguments(parser)
    parser.add_argument("--delete-data", action="store_true")
    parser.add_argument("--yes", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(destroy)
