"""The common readers of Athena, unmodified, against a local AWS: each does one real task."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import boto3
import pytest

from scripts.commands.common.paths import HOME
from tests.conftest import environment_of_a_new_machine
from tests.lake import PARQUET, Lake

PYTHON = HOME / "clients" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.is_file(), reason="the readers are not installed: scripts/test.sh --clients does that"
    ),
]
TOTALS = {"name": ["a", "b"], "n": [2, 1], "total": [3.5, 2.0]}
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def read(local_aws: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each reader's results from a table with three rows."""
    names = {"endpoint_url": local_aws, "region_name": "us-east-1"}
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    s3, glue = boto3.client("s3", **names, **keys), boto3.client("glue", **names, **keys)
    s3.create_bucket(Bucket="readers")
    columns = {"name": "string", "value": "double"}
    rows = [{"name": "a", "value": 1.0}, {"name": "a", "value": 2.5}, {"name": "b", "value": 2.0}]
    lake = Lake(tmp_path_factory.mktemp("readers"))
    lake.put_parquet("events.parquet", rows, columns)
    [written] = lake.directory.rglob("*.parquet")
    s3.put_object(Bucket="readers", Key="events/one.parquet", Body=written.read_bytes())
    glue.create_database(DatabaseInput={"Name": "readers"})
    storage = {
        "Columns": [{"Name": name, "Type": kind} for name, kind in columns.items()],
        "Location": "s3://readers/events/",
        "SerdeInfo": {"SerializationLibrary": PARQUET},
    }
    table = {"Name": "events", "TableType": "EXTERNAL_TABLE", "StorageDescriptor": storage}
    glue.create_table(DatabaseName="readers", TableInput=table)
    environment = environment_of_a_new_machine(
        AWS_ENDPOINT_URL=local_aws, AWS_DEFAULT_REGION="us-east-1", HOME=str(lake.directory), **KEYS
    )
    script = str(Path(__file__).with_name("readers.py"))
    done = subprocess.run([str(PYTHON), script], capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


READ: dict[str, Any] = {
    "with_boto3": [["name", "n", "total"], ["a", "2", "3.5"], ["b", "1", "2.0"]],
    "with_the_cli": ["name", "value"],
    "with_pyathena": [["name"], [["a"], ["a"], ["b"]]],
    "with_a_dict_cursor": [{"name": "a", "n": 2, "total": 3.5}, {"name": "b", "n": 1, "total": 2.0}],
    "with_a_pandas_cursor": TOTALS,
    "with_sqlalchemy": [True, ["events"], ["name", "value"], [["a", 2], ["b", 1]]],
    "with_pandas": TOTALS,
    "with_awswrangler": [columns := {"name": "string", "value": "double"}, True, TOTALS, [*columns]],
}


@pytest.mark.parametrize("reader", READ)
def test_a_reader_works_unmodified(read: dict[str, Any], reader: str) -> None:
    assert read[reader] == READ[reader]


def test_every_reader_is_tried(read: dict[str, Any]) -> None:
    assert read.keys() == READ.keys()
