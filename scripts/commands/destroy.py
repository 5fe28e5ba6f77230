"""Delete a stack and follow the deletion to its end. The data bucket stays, unless its deletion is asked for."""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import islice

from scripts.commands.common.console import CommandError, Parser, ask, main, progress, say
from scripts.commands.common.stack import (
    Aws,
    Stack,
    add_stack_arguments,
    delete_stack,
    is_being_changed,
    session,
)
from scripts.commands.lake.bucket import Bucket

_BUCKET = "AWS::S3::Bucket"


def destroy(arguments: list[str]) -> int:
    """scripts/destroy.sh"""
    options = _parse(arguments)
    aws, name = session(options), options.stack_name
    found = Stack(aws, name)
    stack = found.description
    if stack.get("EnableTerminationProtection"):
        raise CommandError(
            f"stack '{name}' is protected from deletion: lift that first with aws cloudformation "
            f"update-termination-protection --stack-name {name} --no-enable-termination-protection"
        )
    # A creation can be stopped by a deletion, an update cannot.
    if is_being_changed(stack) and stack["StackStatus"] not in ("CREATE_IN_PROGRESS", "DELETE_IN_PROGRESS"):
        raise CommandError(f"stack '{name}' is being changed ({stack['StackStatus']}): wait until that has ended")
    parts = found.resources
    buckets = [part["PhysicalResourceId"] for part in parts if part["ResourceType"] == _BUCKET]
    buckets = [bucket for bucket in buckets if Bucket(aws.client("s3"), bucket).exists()]
    _show(found, buckets, options.delete_data)
    if not options.yes:
        _confirm(name)
    delete_stack(aws, name, stack["StackId"], len(parts))
    for bucket in buckets:
        _settle_bucket(aws, bucket, options.delete_data)
    return 0


def empty_bucket(bucket: Bucket) -> int:
    """Delete every version of every object, and every delete marker; return how many there were.

    Raises:
        CommandError: S3 refused to delete an object.
    """
    count = 0
    with progress() as display:
        task = display.add_task(f"Emptying {bucket.name}", total=None)
        # The first ones again and again: no marker of the listing may point at a deleted key.
        while found := list(islice(bucket.history(), 1_000)):
            count += bucket.delete(found)
            display.update(task, completed=count)
    return count


def _settle_bucket(aws: Aws, name: str, is_deleted: bool) -> None:
    bucket = Bucket(aws.client("s3"), name)
    if not bucket.exists():
        say(f"The bucket {name} went with the stack.")
    elif is_deleted:
        count = empty_bucket(bucket)
        bucket.s3.delete_bucket(Bucket=name)
        say(f"The bucket {name} is deleted, with {count:,} object{'' if count == 1 else 's'}.", style="green")
    else:
        way = "scripts/local.sh reset" if aws.is_local else f"aws s3 rb s3://{name} --force"
        say(f"Your data is still in s3://{name}; `{way}` deletes it.")


def _show(stack: Stack, buckets: list[str], delete_data: bool) -> None:
    # A bucket's policy has its bucket's fate.
    counts = Counter(
        part["ResourceType"] for part in stack.resources if not part["ResourceType"].startswith("AWS::S3::")
    )
    say(f"Stack '{stack.name}' in {stack.aws.place}, {stack.description['StackStatus']}", style="bold")
    say("What goes:")
    for kind, count in sorted(counts.items()):
        say(f"  {count:>3} {kind}")
    for bucket in buckets if delete_data else []:
        say(f"      s3://{bucket}, with every version of every object in it: this cannot be undone", style="red")
    say("Events still buffered in Firehose are lost: stop the senders first, and wait for a buffering interval.")
    artifacts = stack.parameters.get("ArtifactBucket")
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


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("destroy")
    add_stack_arguments(parser)
    parser.add_argument("--delete-data", action="store_true")
    parser.add_argument("--yes", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(destroy)
