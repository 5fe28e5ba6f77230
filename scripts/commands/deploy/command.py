"""Deploys the stack: build, upload, change set, a look at it, execution with its events, outputs."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from argparse import ArgumentTypeError
from contextlib import suppress
from functools import partial
from pathlib import Path

from botocore.exceptions import ClientError
from rich.console import Console
from rich.table import Table

from scripts.commands.common.cloudformation import ResourceChange, StackDescription
from scripts.commands.common.console import CommandError, Parser, UsageError, is_agreed, main, nobody_to_ask, say
from scripts.commands.common.stack import (
    Aws,
    Stack,
    add_stack_arguments,
    describe_stack,
    failure,
    local_endpoint,
    newest_event,
    reachable_url,
    session,
    stack_parameters,
    stack_status,
    usual_stack_name,
    watch,
)
from scripts.commands.deploy import build, environments, package, template
from scripts.commands.deploy.lake_formation import check_new_tables
from scripts.commands.deploy.product import FOLDERS, OFF, Product, file_name, own_database, read_product
from scripts.commands.deploy.states import ROLLBACKS, alone, make_updatable

# The parameters filled in by this script, with values for checking the others before the first call.
FILLED_IN = {"ArtifactBucket": "artifacts", "TransformCodeKey": "key"}

DONE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE"})

# These cannot change on a stack with data: AWS would refuse the change, or it would hide stored data.
FIXED_PARAMETERS = {
    "OutputFormat": "the table would no longer read the events that are stored",
    "FirehoseS3Prefix": "the table would no longer find the events that are stored",
    "AthenaDatabaseName": "the tables would be made anew under another name",
    "AthenaTableName": "the tables would be made anew under another name",
    "RawBackup": "AWS cannot switch it off again",
    "KmsKeyArn": "no role of the stack could read the data under the former key",
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
    parser.add_argument("--package", type=Path, metavar="DIR")
    parser.add_argument("--yes", action="store_true")
    options = parser.parse_args(arguments)
    name, given, environment = options.stack_name, dict(options.parameter), None
    if options.environment is not None:
        environment = environments.read(options.environment)
        name = environment.stack_name if name == usual_stack_name() else name
        given = {**environment.parameters, **given}
    # The bucket of a package is the other pipeline's.
    filled_in = FILLED_IN if options.package is None else {"TransformCodeKey": FILLED_IN["TransformCodeKey"]}
    for parameter in filled_in.keys() & given.keys():
        raise UsageError(f"{parameter} is filled in by this script: leave '{given[parameter]}' out")
    folders = {option: getattr(options, option) for option in FOLDERS if getattr(options, option)}
    product = read_product(folders, options.queries)
    template.effective_parameters(product.template, {}, {**filled_in, **given})
    if options.package is not None:
        is_protected = False
        if environment is not None:
            environment.check(given)
            is_protected = environment.has_termination_protection
        product.check_delivered_query(given)
        target = build.LOCAL if options.local else build.AWS
        package.write(options.package, product, target, {**own_database(name), **given})
        print(*package.commands(options.package, name, given["ArtifactBucket"], protects=is_protected), sep="\n")
        return 0
    if not options.yes and not sys.stdin.isatty():
        raise nobody_to_ask()
    if options.local:
        _start_local_aws()
    aws = session(options)
    if environment is not None:
        environment.check({**stack_parameters(describe_stack(aws, name)), **given})
    code = deploy_stack(aws, name, product, given, ask=not options.yes)
    if environment is not None:
        aws.client("cloudformation").update_termination_protection(
            StackName=name, EnableTerminationProtection=environment.has_termination_protection
        )
    return code


def _start_local_aws() -> None:
    """Start the local AWS unless it runs, to make a first deployment one command."""
    with suppress(UsageError):
        local_endpoint()
        return
    script = template.TEMPLATE.parent / "scripts" / "local.sh"
    if subprocess.run(["bash", str(script), "start"], stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
        raise CommandError("there is no local AWS to deploy to: scripts/local.sh start has failed")


def deploy_stack(aws: Aws, name: str, product: Product, given: dict[str, str], *, ask: bool) -> int:
    """Deploy the product under this stack name with the given parameters; prints the outputs on stdout."""
    stack = make_updatable(aws, name, ask=ask)
    previous = stack_parameters(stack)
    if stack is None:
        given = {**own_database(name), **given}
    if aws.is_local and "HeadlessBrowsers" not in previous:
        given = {"HeadlessBrowsers": "KEEP", **given}  # a test running in one expects its events to be rows
    _refuse_what_would_hide_data(name, previous, given)
    product.check_delivered_query({**previous, **given})
    if key := given.get("KmsKeyArn"):
        _refuse_an_unusable_key(aws, key)
    if stack is None:
        defaults = template.effective_parameters(product.template, {}, {**FILLED_IN, **given})
        check_new_tables(aws, defaults["OutputFormat"])

    say(f"Building lambda/ for {'this machine' if aws.is_local else 'python3.13 on arm64'} ...")
    archive = build.build(build.LOCAL if aws.is_local else build.AWS)
    bucket = _artifact_bucket(aws)
    given = {**given, "ArtifactBucket": bucket}
    text, parameters = product.complete(archive, previous, given, partial(_upload, aws, bucket))
    url = _upload_template(aws, bucket, text)

    change_set = _create_change_set(aws, name, stack, url, parameters)
    if not _apply(aws, name, stack, change_set, ask=ask):
        say(f"Nothing to change: stack '{name}' in {aws.place} is up to date.")
    for key, value in Stack(aws, name).outputs.items():
        print(f"{key}\t{reachable_url(aws, value)}")
    return 0


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ArgumentTypeError(f"'{text}' is not of the form Key=Value")
    return key, value


def _refuse_what_would_hide_data(name: str, previous: dict[str, str], given: dict[str, str]) -> None:
    for parameter, reason in FIXED_PARAMETERS.items():
        before, after = previous.get(parameter), given.get(parameter)
        # A DISABLED or empty one can be switched on.
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


def _upload(aws: Aws, bucket: str, key: str, content: bytes) -> None:
    """Put content under a key with its hash, unless it is there already."""
    s3 = aws.client("s3")
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
        s3.put_object(Bucket=bucket, Key=key, Body=content)


def _upload_template(aws: Aws, bucket: str, text: str) -> str:
    """Put the template into the bucket (CloudFormation takes no more than 51,200 bytes inline) and return its URL."""
    key = file_name("template.yaml", text.encode())
    _upload(aws, bucket, key, text.encode())
    if aws.is_local:
        return f"{aws.endpoint}/{bucket}/{key}"
    suffix = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
    return f"https://{bucket}.s3.{aws.region}.{suffix}/{key}"


def _create_change_set(
    aws: Aws, name: str, stack: StackDescription | None, url: str, parameters: dict[str, str]
) -> dict[str, str]:
    """Ask for a change set; return its id and its stack's, as arguments of the other calls."""
    try:
        with alone(aws, name, stack):
            made = aws.client("cloudformation").create_change_set(
                StackName=name,
                ChangeSetName=f"deploy-{uuid.uuid4().hex[:12]}",
                ChangeSetType="UPDATE" if stack else "CREATE",
                TemplateURL=url,
                Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
                Capabilities=["CAPABILITY_IAM"],
            )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        # A Rule does not hold, or CloudFormation cannot read the template: nothing has been created.
        raise CommandError(f"CloudFormation refuses this: {error.response['Error']['Message']}") from error
    return {"ChangeSetName": made["Id"], "StackName": made["StackId"]}


def _apply(aws: Aws, name: str, stack: StackDescription | None, change_set: dict[str, str], *, ask: bool) -> bool:
    """Show a change set, ask, execute it and follow it to its end. Return whether there was anything to change."""
    try:
        with alone(aws, name, stack):
            changes = _changes(aws, change_set)
        if changes:
            _show(changes, name, aws)
            _refuse_replacements(changes)
            if ask:
                _confirm(name)
            with alone(aws, name, stack):
                newest = newest_event(aws, change_set["StackName"])
                # A failed first deployment leaves no empty bucket behind; one with data is retained all the same.
                aws.client("cloudformation").execute_change_set(**change_set, RetainExceptOnCreate=True)
    except BaseException:
        with suppress(ClientError):  # the first error is the one to tell
            _discard(aws, change_set, created=stack is None)
        raise
    if changes:
        _follow(aws, name, change_set["StackName"], newest, len(changes))
    else:
        _discard(aws, change_set, created=False)
    return bool(changes)


def _changes(aws: Aws, change_set: dict[str, str]) -> list[ResourceChange]:
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
    """Remove a change set, and the stack's shell made by it, unless somebody else has deployed into the shell since."""
    aws.client("cloudformation").delete_change_set(**change_set)
    stack = describe_stack(aws, change_set["StackName"]) if created else None
    if stack and stack["StackStatus"] == "REVIEW_IN_PROGRESS":
        aws.client("cloudformation").delete_stack(StackName=change_set["StackName"])


def _show(changes: list[ResourceChange], name: str, aws: Aws) -> None:
    table = Table(title=f"Changes to stack '{name}' in {aws.place}", title_justify="left")
    for heading in ("Action", "Resource", "Type", "Replaced"):
        table.add_column(heading, overflow="fold")
    for resource in changes:
        names = (resource["Action"], resource["LogicalResourceId"], resource["ResourceType"])
        table.add_row(*names, resource.get("Replacement", ""))
    Console(stderr=True).print(table)


def _refuse_replacements(changes: list[ResourceChange]) -> None:
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


def _follow(aws: Aws, name: str, stack_id: str, after: str, total: int) -> None:
    """Show the stack's events to the end of its deployment; raises the first failure's reason."""
    try:
        display = (f"Deploying '{name}'", total)
        failures = [failure(aws, event) for event in watch(aws, stack_id, after, display, DONE)]
    except KeyboardInterrupt:
        way = f"scripts/deploy.sh{aws.flag} --stack-name {name}"
        say(f"CloudFormation goes on without this script; see how it ends with {way}")
        raise
    status = stack_status(aws, stack_id)
    if status not in DONE:
        way = ": run this again to continue the rollback" if status in ROLLBACKS else ""
        raise CommandError(f"{[*failures, 'see its events'][0]}. Stack '{name}' is now {status}{way}")


if __name__ == "__main__":
    main(deploy)
