"""A user of a local AWS with the policies of examples/deploy-policy.yaml, and the user's actions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
from botocore.exceptions import ClientError

from tests.conftest import ROOT
from tests.deploy_policy import POLICY
from tests.granted import RecordingProcess
from tests.local_process import eventually, module_of
from tests.recording_server import RECORD

Json = dict[str, Any]
Done = subprocess.CompletedProcess[str]

USER = "deployer"
STACK = "team-events"


class DeployingUser:
    """The user; everything runs in the given local AWS."""

    def __init__(self, aws: RecordingProcess) -> None:
        self.aws, self.iam, self.cloudformation = aws, aws.client("iam"), aws.client("cloudformation")
        self.key = aws.key()
        given = {"StackNames": "team", "KmsKeyArn": self.key}
        self.cloudformation.create_stack(
            StackName="admins",
            TemplateBody=POLICY.read_text(),
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        (stack,) = eventually(self._policies)
        self.policies = {output["OutputKey"].removesuffix("Arn"): output["OutputValue"] for output in stack["Outputs"]}
        self.documents = {name: self._document(arn) for name, arn in self.policies.items()}
        self.iam.create_user(UserName=USER)
        for arn in self.policies.values():
            self.iam.attach_user_policy(UserName=USER, PolicyArn=arn)
        access = self.iam.create_access_key(UserName=USER)["AccessKey"]
        self.environment = {
            **os.environ,
            "SLUICE_LOCAL_STATE": str(aws.directory),
            "SLUICE_LOCAL_ACCESS_KEY_ID": access["AccessKeyId"],
            "SLUICE_LOCAL_SECRET_ACCESS_KEY": access["SecretAccessKey"],
        }

    def _policies(self) -> list[Json]:
        found = self.cloudformation.describe_stacks(StackName="admins")["Stacks"]
        return [stack for stack in found if stack["StackStatus"] == "CREATE_COMPLETE"]

    def _document(self, arn: str) -> Json:
        (version,) = self._versions(arn, is_default=True)
        found = self.iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
        document: Json = found if isinstance(found, dict) else json.loads(unquote(found))
        return document

    def _versions(self, arn: str, *, is_default: bool) -> list[str]:
        found = self.iam.list_policy_versions(PolicyArn=arn)["Versions"]
        return [version["VersionId"] for version in found if version["IsDefaultVersion"] == is_default]

    @contextmanager
    def holding(self, documents: dict[str, Json]) -> Iterator[None]:
        """The user holds these policies instead, and then the first ones again."""
        self._hold(documents)
        try:
            yield
        finally:
            self._hold(self.documents)

    def _hold(self, documents: dict[str, Json]) -> None:
        for name, document in documents.items():
            arn = self.policies[name]
            self.iam.create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(document), SetAsDefault=True)
            for version in self._versions(arn, is_default=False):
                self.iam.delete_policy_version(PolicyArn=arn, VersionId=version)

    def run(self, command: str, *arguments: str, repository: Path = ROOT) -> Done:
        """Run scripts/<command>.sh on the stack without a question."""
        script = [sys.executable, "-P", "-m", module_of(command), "--local", "--yes"]
        return subprocess.run(
            [*script, "--stack-name", STACK, *arguments],
            capture_output=True,
            text=True,
            env={**self.environment, "PYTHONPATH": f"{repository}:{repository / 'lambda'}"},
            timeout=500,
        )

    def deploy(self, *arguments: str, repository: Path = ROOT, **parameters: str) -> Done:
        """Run scripts/deploy.sh with these parameters."""
        options = [option for name, value in parameters.items() for option in ("--parameter", f"{name}={value}")]
        return self.run("deploy", *arguments, *options, repository=repository)

    def asked(self) -> Iterator[tuple[str, str, str, Json]]:
        """The checks of the user's calls: the allowing Sid or nothing, the action, the resource, the context."""
        for line in (self.aws.directory / RECORD).read_text().splitlines():
            principal, sid, action, resource, context = json.loads(line)
            if principal.endswith(f":user/{USER}"):
                yield sid, action, resource, context

    def stack(self) -> Json | None:
        """The stack; None where there is none."""
        try:
            (found,) = self.cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        except ClientError:
            return None
        return dict(found)

    def status(self) -> str:
        """The stack's status; empty where there is none."""
        return str((self.stack() or {}).get("StackStatus", ""))

    def parts(self) -> set[str]:
        """The physical ids of the stack's resources."""
        if not self.stack():
            return set()
        found = self.cloudformation.list_stack_resources(StackName=STACK)["StackResourceSummaries"]
        return {one["PhysicalResourceId"] for one in found if one["ResourceStatus"] != "DELETE_COMPLETE"}

    def update(self, *, roll_back: bool = True, **parameters: str) -> str:
        """Change parameters as the console does, and return the final status."""
        cloudformation = boto3.client(
            "cloudformation",
            endpoint_url=self.aws.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.environment["SLUICE_LOCAL_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["SLUICE_LOCAL_SECRET_ACCESS_KEY"],
        )
        (stack,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
        values = {one["ParameterKey"]: one["ParameterValue"] for one in stack["Parameters"]} | parameters
        change_set = cloudformation.create_change_set(
            StackName=STACK,
            ChangeSetName="-".join(parameters),
            UsePreviousTemplate=True,
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
            Capabilities=["CAPABILITY_IAM"],
        )["Id"]
        cloudformation.execute_change_set(StackName=STACK, ChangeSetName=change_set, DisableRollback=not roll_back)
        status: str = eventually(lambda: self.status() if not self.status().endswith("_IN_PROGRESS") else "")
        return status
