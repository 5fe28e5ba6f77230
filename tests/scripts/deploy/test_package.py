"""scripts/deploy.sh --package: the folder, and a deployment with the printed commands."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.common.console import guarded
from scripts.commands.deploy import build, command, template
from tests.conftest import ROOT
from tests.local_process import LocalProcess, eventually, module_of, post

BUCKET = "pipeline-artifacts"
THE_BUCKET = ("--parameter", f"ArtifactBucket={BUCKET}")


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The zip of the functions, made without pip."""
    archive = tmp_path / "lambda-python3.13-arm64-0123.zip"
    archive.write_bytes(b"code")
    monkeypatch.setattr(build, "build", {build.AWS: archive}.__getitem__)
    return archive


def packaged(folder: Path, *arguments: str) -> dict[str, str]:
    """Package into the folder; the value of each parameter."""
    assert guarded(command.deploy, ["--package", str(folder), *THE_BUCKET, *arguments]) == 0
    return values(folder / "parameters.json")


def values(file: Path) -> dict[str, str]:
    """Read this file as `--parameter-overrides` of the AWS CLI does."""
    return dict(each.split("=", 1) for each in json.loads(file.read_text()))


def test_a_package_has_each_file_that_its_template_names(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my package"
    given = packaged(folder, "--refine", str(ROOT / "stacks/refine/sql"))
    files = {path.name for path in (folder / "files").iterdir()}
    found = template.load((folder / "template.yaml").read_text())
    urls = [one["Properties"]["TemplateURL"]["Fn::Sub"] for one in nested_stacks(found)]
    assert files == {given["TransformCodeKey"], given["RefineFilesKey"], *(url.rpartition("/")[2] for url in urls)}
    assert (folder / "files" / given["TransformCodeKey"]).read_bytes() == b"code"
    assert given.keys() == found["Parameters"].keys(), "a value of the stack before would fit another deployment"


def nested_stacks(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in found["Resources"].values() if one["Type"] == "AWS::CloudFormation::Stack"]


def test_the_commands_are_alone_on_stdout_and_the_rest_says_what_they_must_not_change(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my package"
    packaged(folder, "--environment", "prod", "--parameter", "ObserveEmail=oncall@example.com")
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"aws s3 cp '{folder}/files' s3://{BUCKET}/ --recursive",
        f"aws cloudformation deploy --stack-name sluice-prod --template-file '{folder}/template.yaml' --s3-bucket "
        f"{BUCKET} --parameter-overrides 'file://{folder}/parameters.json' --capabilities CAPABILITY_IAM",
        "aws cloudformation update-termination-protection --enable-termination-protection --stack-name sluice-prod",
    ]
    assert "To change ApiAuth or CorsAllowOrigin, package again" in err


def test_each_stack_has_a_database_of_its_own(archive: Path, tmp_path: Path) -> None:
    assert packaged(tmp_path / "1")["AthenaDatabaseName"] == "serverless_data_pipeline"
    assert packaged(tmp_path / "2", "--stack-name", "My-Shop")["AthenaDatabaseName"] == "my_shop"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], "ArtifactBucket has no value: give one with --parameter ArtifactBucket=", id="no bucket"),
        pytest.param([*THE_BUCKET, "--environment", "prod"], "prod needs ObserveEmail or", id="environment"),
        pytest.param(
            [*THE_BUCKET, "--parameter", "DeliverUrl=https://a.b", "--parameter", "DeliverQuery=no"],
            "DeliverQuery must be the name of a saved query (got 'no')",
            id="no such query",
        ),
        pytest.param([*THE_BUCKET, "--package", str(ROOT)], f"{ROOT} is not an empty folder", id="full folder"),
        pytest.param(
            [*THE_BUCKET, "--package", str(ROOT / "LICENSE")], "LICENSE is not an empty folder", id="no folder"
        ),
    ],
)
def test_what_cannot_be_packaged_is_refused_and_leaves_nothing(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    folder = tmp_path / "package"
    assert guarded(command.deploy, ["--package", str(folder), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and words in err and err.count("\n") == 1
    assert not folder.exists()


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[LocalProcess]:
    with LocalProcess(tmp_path / "aws") as process:
        process.client("s3").create_bucket(Bucket=BUCKET)
        yield process


def package(aws: LocalProcess, folder: Path, *arguments: str) -> list[list[str]]:
    """Make a package for the local AWS; return the words of the commands to deploy it."""
    run = [sys.executable, "-P", "-m", module_of("deploy"), "--local", "--package", str(folder), *THE_BUCKET]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'lambda'}"}
    done = subprocess.run([*run, *arguments], capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def carry_out(aws: LocalProcess, commands: list[list[str]], **overrides: str) -> dict[str, str]:
    """Make the AWS CLI's calls for these commands; return the stack's outputs."""
    copy, deploy = commands
    assert copy[:3] == ["aws", "s3", "cp"] and copy[4:] == [f"s3://{BUCKET}/", "--recursive"]
    for path in Path(copy[3]).iterdir():
        aws.client("s3").upload_file(str(path), BUCKET, path.name)
    assert deploy[:3] == ["aws", "cloudformation", "deploy"]
    option = dict(zip(deploy[3::2], deploy[4::2], strict=True))
    given = {**values(Path(option["--parameter-overrides"].removeprefix("file://"))), **overrides}
    aws.client("s3").upload_file(option["--template-file"], option["--s3-bucket"], "0123.template")
    cloudformation, name = aws.client("cloudformation"), option["--stack-name"]
    is_new = name not in [each["StackName"] for each in cloudformation.describe_stacks()["Stacks"]]
    change_set = cloudformation.create_change_set(
        ChangeSetName=f"awscli-cloudformation-package-deploy-{uuid.uuid4().hex}",
        StackName=name,
        TemplateURL=f"{aws.endpoint}/{BUCKET}/0123.template",
        ChangeSetType="CREATE" if is_new else "UPDATE",
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=[option["--capabilities"]],
    )["Id"]
    cloudformation.get_waiter("change_set_create_complete").wait(ChangeSetName=change_set, WaiterConfig={"Delay": 1})
    cloudformation.execute_change_set(ChangeSetName=change_set, StackName=name)

    def outputs() -> dict[str, str] | None:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        if stack["StackStatus"].endswith("_IN_PROGRESS"):
            return None
        assert stack["StackStatus"] == ("CREATE_COMPLETE" if is_new else "UPDATE_COMPLETE"), stack
        return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}

    found: dict[str, str] = eventually(outputs)
    return found


@pytest.mark.slow
def test_the_commands_deploy_the_stack_and_only_a_new_package_closes_its_api(aws: LocalProcess, tmp_path: Path) -> None:
    first = package(aws, tmp_path / "1", "--refine", str(ROOT / "stacks/refine/sql"))
    outputs = carry_out(aws, first)
    assert "RefineMachineArn" in outputs, "a nested stack of the package"
    event = json.dumps({"name": "John"}).encode()

    def status() -> int:
        url = f"{aws.endpoint}/_aws/execute-api/{outputs['TrackURL'].split('/')[2].partition('.')[0]}/prod/track"
        return post(url, event)[0]

    assert status() == 202
    carry_out(aws, first, ApiAuth="API_KEY")
    assert status() == 202, "the stage serves the deployment that the package names: it stays public"
    carry_out(aws, package(aws, tmp_path / "2", "--parameter", "ApiAuth=API_KEY"))
    assert status() == 403
