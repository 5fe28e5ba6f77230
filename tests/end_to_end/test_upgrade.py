"""An operator brings a stack with data to the next release, and adds a column."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.commands.deploy import build
from tests.conftest import ROOT
from tests.local_process import LocalProcess, eventually, module_of

pytestmark = pytest.mark.slow

# The templates of earlier releases, as scripts/deploy.sh deployed them: people upgrade from the last one.
RELEASES = sorted((ROOT / "tests/releases").glob("*.yaml.gz"))
ARTIFACTS = "sluice-artifacts-000000000000-us-east-1"
COLUMN = {"name": "plan", "type": "string", "set_by": "sender", "description": "Which plan the user has"}


@pytest.fixture
def aws(tmp_path: Path) -> Iterator[LocalProcess]:
    with LocalProcess(tmp_path / "aws") as process:
        (process.directory / "server.json").write_text(json.dumps({"endpoint": process.endpoint, "pid": process.pid}))
        yield process


def deploy_release(aws: LocalProcess, template: str) -> dict[str, str]:
    """Deploy the template of an earlier release; its function is today's."""
    s3, cloudformation = aws.client("s3"), aws.client("cloudformation")
    archive = build.build(build.LOCAL)
    s3.create_bucket(Bucket=ARTIFACTS)
    s3.upload_file(str(archive), ARTIFACTS, archive.name)
    s3.put_object(Bucket=ARTIFACTS, Key="release.yaml", Body=importable(template).encode())
    given = {"ArtifactBucket": ARTIFACTS, "TransformCodeKey": archive.name, "FirehoseBufferingInterval": "1"}
    cloudformation.create_stack(
        StackName="sluice",
        TemplateURL=f"{aws.endpoint}/{ARTIFACTS}/release.yaml",
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    return outputs(aws)


def importable(template: str) -> str:
    """The template as API Gateway imports it.

    It keeps one of two integration responses with one status code, and nothing of a required body.
    """
    template = template.replace("                required: true\n", "")
    return re.sub(r" +4\\d\{2\}:\n.*?(?= +default:)", "", template, flags=re.DOTALL)


def outputs(aws: LocalProcess) -> dict[str, str]:
    """The stack's outputs, as soon as its operation is complete."""

    def look() -> Any:
        [stack] = aws.client("cloudformation").describe_stacks(StackName="sluice")["Stacks"]
        assert not stack["StackStatus"].endswith(("FAILED", "ROLLBACK_COMPLETE")), stack
        return stack if stack["StackStatus"].endswith("_COMPLETE") else None

    return {output["OutputKey"]: output["OutputValue"] for output in eventually(look)["Outputs"]}


def run(aws: LocalProcess, repository: Path, command: str, *arguments: str) -> str:
    path = f"{repository}:{repository}/lambda"
    environment = {**os.environ, "PYTHONPATH": path, "SLUICE_LOCAL_STATE": str(aws.directory)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", module_of(command), "--local", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def track(aws: LocalProcess, repository: Path, *events: dict[str, Any]) -> None:
    for event in events:
        run(aws, repository, "track", json.dumps(event))


def rows(aws: LocalProcess, columns: str, count: int) -> list[dict[str, Any]]:
    """This many rows of the events table, as soon as they are there."""
    bucket = aws.bucket(outputs(aws)["BucketName"])
    eventually(lambda: bucket.event_ids().total() == count)
    sql = f'SELECT {columns} FROM "${{AthenaDatabaseName}}"."${{AthenaTableName}}" ORDER BY event_id'
    found = run(aws, ROOT, "query", "--format", "json", "--sql", sql).splitlines()
    assert len(found) == count
    return [json.loads(line) for line in found]


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_stack_of_an_earlier_release_is_brought_to_this_one_with_its_data_in_place(
    aws: LocalProcess, release: Path
) -> None:
    before = deploy_release(aws, gzip.decompress(release.read_bytes()).decode())
    track(aws, ROOT, {"event_id": "1", "name": "before"})
    rows(aws, "event_id", 1)
    aws.deploy()
    after = outputs(aws)
    assert {key: after[key] for key in before} == before, "an address or a name that users know has changed"
    track(aws, ROOT, {"event_id": "2", "name": "after", "path": "/prices"})
    assert rows(aws, "event_id, name, path", 2) == [
        {"event_id": "1", "name": "before", "path": None},
        {"event_id": "2", "name": "after", "path": "/prices"},
    ]


def test_a_new_column_is_filled_from_then_on_and_old_objects_still_read(local: LocalProcess, tmp_path: Path) -> None:
    track(local, ROOT, {"event_id": "1", "plan": "free"})
    rows(local, "event_id", 1)

    # As docs/rules-and-schema.md tells, in a repository of one's own.
    mine = tmp_path / "mine"
    left_out = shutil.ignore_patterns(".git", ".sluice", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, mine, ignore=left_out)
    schema = json.loads((mine / "lambda/transform/schema.json").read_text())
    schema["columns"].insert([one["name"] for one in schema["columns"]].index("user_id") + 1, COLUMN)
    (mine / "lambda/transform/schema.json").write_text(json.dumps(schema))
    template = (mine / "template.yaml").read_text()
    after = "            - {Name: user_id, Type: string, Comment: Who did it}\n"
    added = f"            - {{Name: plan, Type: string, Comment: {COLUMN['description']}}}\n"
    assert after in template
    (mine / "template.yaml").write_text(template.replace(after, after + added))
    (mine / ".sluice/build").mkdir(parents=True)
    run(local, mine, "deploy", "--yes")

    track(local, mine, {"event_id": "2", "plan": "pro"})
    found = rows(local, "event_id, plan, json_extract_scalar(properties, '$.plan') AS property", 2)
    assert found == [
        {"event_id": "1", "plan": None, "property": "free"},
        {"event_id": "2", "plan": "pro", "property": None},
    ]
