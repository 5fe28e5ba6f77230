"""Deploys the stack: build, upload, change set, a look at it, execution with its events, outputs."""

from __future__ import annotations

import hashlib
import sys
import time
import uuid
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from rich.console import Console
from rich.table import Table

from scripts.commands import build, environments, nested, pull_sources, queries, refine_files, template
from scripts.commands.console import CommandError, Parser, UsageError, is_agreed, main, progress, say
from scripts.commands.destroy import delete_stack
from scripts.commands.stack import (
    DEFAULT_STACK_NAME,
    Aws,
    add_stack_arguments,
    describe_stack,
    follow,
    reachable_url,
    resources,
    session,
    stack_events,
    stack_outputs,
    stack_parameters,
)

# What this script itself fills in, with values that let the others be checked before the first call.
FILLED_IN = {"ArtifactBucket": "artifacts", "TransformCodeKey": "key"}

# Folders that switch a nested stack on: the option's name, the parameter, and what makes one artifact of the folder.
FOLDERS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "refine": ("RefineFilesKey", refine_files.compile_folder),
    "pull": ("PullSourcesKey", pull_sources.compile_folder),
}
OFF = "off"

# What cannot change on a stack that holds data: the change would be refused by AWS, or hide what is stored.
FIXED_PARAMETERS = {
    "OutputFormat": "the table would no longer read the events that are stored",
    "FirehoseS3Prefix": "the table would no longer find the events that are stored",
    "AthenaDatabaseName": "the tables would be made anew under another name",
    "AthenaTableName": "the tables would be made anew under another name",
    "RawBackup": "AWS cannot switch it off again",
    "KmsKeyArn": "no role of the stack could read any more what is stored under the key of before",
}
FIXED_RESOURCES = {
    "AWS::S3::Bucket",
    "AWS::Glue::Database",
    "AWS::Glue::Table",
    "AWS::KinesisFirehose::DeliveryStream",
}


def deploy(arguments: list[str]) -> int:
    """Entry point of scripts/deploy.sh; returns the exit code."""
    parser = Parser("deploy")
    add_stack_arguments(parser)
    parser.add_argument("--parameter", action="append", type=_key_and_value, default=[], metavar="Key=Value")
    for option in FOLDERS:
        parser.add_argument(f"--{option}", metavar=f"DIR|{OFF}")
    parser.add_argument("--environment", metavar="NAME")
    parser.add_argument("--queries", action="append", type=Path, default=[], metavar="FILE")
    parser.add_argument("--yes", action="store_true")
    options = parser.parse_args(arguments)
    name, given, environment = options.stack_name, dict(options.parameter), None
    if options.environment is not None:
        environment = environments.read(options.environment)
        name = environment.stack_name if name == DEFAULT_STACK_NAME else name
        given = {**environment.parameters, **given}
    for parameter in FILLED_IN.keys() & given.keys():
        raise UsageError(f"{parameter} is filled in by this script: leave '{given[parameter]}' out")
    folders = {option: getattr(options, option) for option in FOLDERS if getattr(options, option)}
    product = read_product(folders, options.queries)
    template.effective_parameters(template.load(product.text), {}, {**FILLED_IN, **given})
    if not options.yes and not sys.stdin.isatty():
        raise UsageError("no terminal to ask on: add --yes to deploy without being asked")
    aws = session(options.local)
    if environment is not None:
        environment.check({**stack_parameters(describe_stack(aws, name)), **given})
    code = deploy_stack(aws, name, product, given, ask=not options.yes)
    if environment is not None:
        aws.client("cloudformation").update_termination_protection(
            StackName=name, EnableTerminationProtection=environment.has_termination_protection
        )
    return code


@dataclass(frozen=True)
class Product:
    """What is deployed, read and checked: nothing of it has reached AWS yet."""

    stacks: list[nested.NestedStack]
    saved_queries: list[queries.SavedQuery]
    artifacts: dict[str, bytes]
    """By parameter: what is uploaded, for the parameter to name its key. Nothing to upload switches the stack off."""

    @property
    def text(self) -> str:
        """The template with its nested stacks, before it is known where their files lie."""
        return nested.insert(template.TEMPLATE.read_text(), self.stacks, lambda stack: "")


def read_product(folders: Mapping[str, str] | None = None, more_queries: Sequence[Path] = ()) -> Product:
    """Read what is to be deployed. `folders` has a folder, or `off`, by the option's name; raises CommandError."""
    artifacts = {}
    for option, folder in (folders or {}).items():
        parameter, compile_folder = FOLDERS[option]
        artifacts[parameter] = b"" if folder == OFF else compile_folder(Path(folder))
    return Product(nested.read(), queries.read_all([queries.QUERIES, *more_queries]), artifacts)


def deploy_stack(aws: Aws, name: str, product: Product, given: dict[str, str], *, ask: bool) -> int:
    """Deploy the product under this stack name with the given parameters; prints the outputs on stdout."""
    stack = _existing_stack(aws, name)
    previous = stack_parameters(stack)
    if stack is None and name != DEFAULT_STACK_NAME:
        # A Glue database belongs to one stack, and its default name to the first.
        given = {"AthenaDatabaseName": name.lower().replace("-", "_"), **given}
    _refuse_what_would_hide_data(name, previous, given)
    if key := given.get("KmsKeyArn"):
        _refuse_an_unusable_key(aws, key)

    say(f"Building lambda/ for {'this machine' if aws.is_local else 'python3.13 on arm64'} ...")
    archive = build.build(build.LOCAL if aws.is_local else build.AWS)
    bucket = _artifact_bucket(aws)
    given = {**given, "ArtifactBucket": bucket, "TransformCodeKey": _upload(aws, bucket, archive.name, archive)}
    for parameter, content in product.artifacts.items():
        given[parameter] = _upload_content(aws, bucket, f"{parameter.lower()}.json", content) if content else ""
    text = nested.insert(
        template.TEMPLATE.read_text(),
        product.stacks,
        lambda stack: _upload_template(aws, bucket, f"{stack.name}.yaml", stack.text),
    )
    parameters = template.effective_parameters(template.load(text), previous, given)
    text = template.render(text, parameters, product.saved_queries)
    url = _upload_template(aws, bucket, "template.yaml", text)

    change_set = _create_change_set(aws, name, url, parameters, stack is not None)
    try:
        changes = _changes(aws, change_set)
        if changes:
            _show(changes, name, aws)
            _refuse_replacements(changes)
            if ask:
                _confirm(name)
    except BaseException:
        _discard(aws, change_set, created=stack is None)
        raise
    if changes:
        _execute(aws, name, change_set, len(changes))
    else:
        _discard(aws, change_set, created=False)
        say(f"Nothing to change: stack '{name}' in {aws.place} is up to date.")
    for key, value in stack_outputs(aws, name).items():
        print(f"{key}\t{reachable_url(aws, value)}")
    return 0


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ArgumentTypeError(f"'{text}' is not of the form Key=Value")
    return key, value


def _existing_stack(aws: Aws, name: str) -> dict[str, Any] | None:
    stack = describe_stack(aws, name)
    if stack is None:
        return None
    status = stack["StackStatus"]
    if status == "REVIEW_IN_PROGRESS":  # a change set was made and never executed: there is no stack yet
        return None
    if status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"):
        say(f"Removing what a failed deployment left of stack '{name}' ({status}) ...")
        delete_stack(aws, name, stack["StackId"], len(resources(aws, stack["StackId"])))
        return None
    if status.endswith("_IN_PROGRESS"):
        # The local AWS forgets what it was doing when it is killed; AWS does not.
        way = ", or start anew with scripts/local.sh reset" if aws.is_local else ""
        raise CommandError(f"stack '{name}' is being changed ({status}): wait until that has ended{way}")
    return stack


def _refuse_what_would_hide_data(name: str, previous: dict[str, str], given: dict[str, str]) -> None:
    for parameter, reason in FIXED_PARAMETERS.items():
        before, after = previous.get(parameter), given.get(parameter)
        # What is DISABLED or empty can be switched on.
        if after is not None and before not in (None, "", "DISABLED", after):
            raise CommandError(
                f"{parameter} cannot change from '{before}' to '{after}' on stack '{name}': {reason}. Deploy a second "
                f"stack beside it with --stack-name, and send events there"
            )


def _refuse_an_unusable_key(aws: Aws, key: str) -> None:
    account = aws.client("sts").get_caller_identity()["Account"]
    if key.split(":")[3:5] != [aws.region, account]:
        raise CommandError(
            f"KmsKeyArn must be a key of account {account} in {aws.region}, as the stack is (got '{key}')"
        )
    try:
        found = aws.client("kms").describe_key(KeyId=key)["KeyMetadata"]
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise CommandError(
            f"KmsKeyArn '{key}' cannot be used ({code}): it must exist, and you need kms:DescribeKey on it"
        ) from error
    for name, wanted in (("KeyManager", "CUSTOMER"), ("KeySpec", "SYMMETRIC_DEFAULT"), ("KeyState", "Enabled")):
        if found[name] != wanted:
            raise CommandError(f"KmsKeyArn '{key}' cannot be used: its {name} is {found[name]} and must be {wanted}")


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


def _upload_content(aws: Aws, bucket: str, name: str, content: bytes) -> str:
    """Put content under a key of this name that carries its hash, so that what is the same is uploaded once."""
    draft = build.BUILD / name
    draft.write_bytes(content)
    return _upload(aws, bucket, f"{draft.stem}-{hashlib.sha256(content).hexdigest()[:16]}{draft.suffix}", draft)


def _upload_template(aws: Aws, bucket: str, name: str, text: str) -> str:
    """Put a template into the bucket (CloudFormation takes no more than 51,200 bytes inline) and return its URL."""
    key = _upload_content(aws, bucket, name, text.encode())
    if aws.is_local:
        return f"{aws.endpoint}/{bucket}/{key}"
    suffix = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
    return f"https://{bucket}.s3.{aws.region}.{suffix}/{key}"


def _create_change_set(aws: Aws, name: str, url: str, parameters: dict[str, str], exists: bool) -> dict[str, str]:
    """Ask for a change set: the names by which the other calls find it, and its stack."""
    try:
        made = aws.client("cloudformation").create_change_set(
            StackName=name,
            ChangeSetName=f"deploy-{uuid.uuid4().hex[:12]}",
            ChangeSetType="UPDATE" if exists else "CREATE",
            TemplateURL=url,
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        # A Rule that does not hold, or a template that CloudFormation cannot read: nothing has been created.
        raise CommandError(f"CloudFormation refuses this: {error.response['Error']['Message']}") from error
    return {"ChangeSetName": made["Id"], "StackName": made["StackId"]}


def _changes(aws: Aws, change_set: dict[str, str]) -> list[dict[str, Any]]:
    """Wait for a change set: CloudFormation's ResourceChange structures, none when there is nothing to change."""
    cloudformation = aws.client("cloudformation")
    while (page := cloudformation.describe_change_set(**change_set))["Status"].startswith(("CREATE_P", "CREATE_IN")):
        time.sleep(0.2 if aws.is_local else 1)
    if page["Status"] == "FAILED":
        reason = page.get("StatusReason", "")
        if "didn't contain changes" in reason or "No updates are to be performed" in reason:
            return []
        raise CommandError(f"CloudFormation refuses this: {reason}")
    changes = page["Changes"]
    while token := page.get("NextToken"):
        page = cloudformation.describe_change_set(**change_set, NextToken=token)
        changes += page["Changes"]
    return [change["ResourceChange"] for change in changes]


def _discard(aws: Aws, change_set: dict[str, str], *, created: bool) -> None:
    aws.client("cloudformation").delete_change_set(**change_set)
    if created:  # the shell of a stack that the change set made
        aws.client("cloudformation").delete_stack(StackName=change_set["StackName"])


def _show(changes: list[dict[str, Any]], name: str, aws: Aws) -> None:
    table = Table(title=f"Changes to stack '{name}' in {aws.place}", title_justify="left")
    for heading in ("Action", "Resource", "Type", "Replaced"):
        table.add_column(heading, overflow="fold")
    for resource in changes:
        names = (resource["Action"], resource["LogicalResourceId"], resource["ResourceType"])
        table.add_row(*names, resource.get("Replacement", ""))
    Console(stderr=True).print(table)


def _refuse_replacements(changes: list[dict[str, Any]]) -> None:
    for resource in changes:
        gone = resource["Action"] == "Remove" or resource.get("Replacement") == "True"
        if gone and resource["ResourceType"] in FIXED_RESOURCES:
            raise CommandError(
                f"{resource['LogicalResourceId']} ({resource['ResourceType']}) would be replaced or removed, and with "
                f"it the way to stored data: deploy a second stack with --stack-name instead"
            )


def _confirm(name: str) -> None:
    if not is_agreed(f"Deploy these changes to '{name}'?"):
        raise CommandError("nothing was changed")


def _execute(aws: Aws, name: str, change_set: dict[str, str], total: int) -> None:
    """Execute the change set; shows the stack's events as they come, and raises the first failure's reason."""
    stack_id = change_set["StackName"]
    seen = {event["EventId"] for event in stack_events(aws, stack_id)}
    # A first deployment that fails leaves no empty bucket behind; what holds data is retained all the same.
    aws.client("cloudformation").execute_change_set(**change_set, RetainExceptOnCreate=True)
    failures: list[str] = []
    with progress() as display:
        task = display.add_task(f"Deploying '{name}'", total=total)
        try:
            for event in follow(aws, stack_id, seen):
                resource, state = event["LogicalResourceId"], event["ResourceStatus"]
                reason = event.get("ResourceStatusReason", "")
                is_stack = event.get("PhysicalResourceId") == stack_id
                # One failure has the others cancelled, which then are failures too.
                if state.endswith("_FAILED") and not is_stack and "cancelled" not in reason.lower():
                    failures.append(failure(aws, event))
                if state in ("CREATE_COMPLETE", "UPDATE_COMPLETE") and not is_stack:
                    display.advance(task)
                if reason or not state.endswith("_IN_PROGRESS"):
                    text = f"{state:<20} {resource} {reason}".rstrip()
                    display.console.print(text, markup=False, highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            way = f"scripts/deploy.sh{aws.flag} --stack-name {name}"
            say(f"CloudFormation goes on without this script; see how it ends with {way}")
            raise
    status = (describe_stack(aws, stack_id) or {}).get("StackStatus", "gone")
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        raise CommandError(f"{[*failures, 'see its events'][0]}. Stack '{name}' is now {status}")


def failure(aws: Aws, event: dict[str, Any]) -> str:
    """What failed and why; for a nested stack, the first that failed in it, as its own event only lists names."""
    if event["ResourceType"] == "AWS::CloudFormation::Stack" and event.get("PhysicalResourceId"):
        for inner in reversed(list(stack_events(aws, event["PhysicalResourceId"]))):
            if inner["ResourceStatus"].endswith("_FAILED") and inner["ResourceType"] != event["ResourceType"]:
                return f"{event['LogicalResourceId']}: {failure(aws, inner)}"
    return f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', '')}"


if __name__ == "__main__":
    main(deploy)
