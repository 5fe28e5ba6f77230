"""Work groups and named queries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lake import Client, Lake, day

CONFIGURATION = {
    "EnforceWorkGroupConfiguration": "true",
    "BytesScannedCutoffPerQuery": "10000000",
    "PublishCloudWatchMetricsEnabled": "false",
    "ResultConfiguration": {
        "OutputLocation": "s3://lake/athena-results/",
        "EncryptionConfiguration": {"EncryptionOption": "SSE_S3"},
    },
}


@pytest.fixture
def group(client: Client) -> dict[str, Callable[..., Any]]:
    """The resource handlers of AWS::Athena::WorkGroup, with the work group `sluice` made."""
    handlers = client.lake.resources["AWS::Athena::WorkGroup"]
    assert handlers["create"]("Group", {"Name": "sluice", "WorkGroupConfiguration": CONFIGURATION}, "s") == (
        "sluice",
        {},
    )
    return handlers


def test_an_enforced_work_group_says_where_results_go(client: Client, group: dict[str, Callable[..., Any]]) -> None:
    answer = client.run("SELECT 1 AS one", WorkGroup="sluice")
    assert answer.execution["ResultConfiguration"]["OutputLocation"].startswith("s3://lake/athena-results/")
    loose = {**CONFIGURATION, "EnforceWorkGroupConfiguration": "false"}
    group["update"]("sluice", {}, {"Name": "sluice", "WorkGroupConfiguration": loose}, "s")
    answer = client.run("SELECT 1 AS one", WorkGroup="sluice")
    assert answer.execution["ResultConfiguration"]["OutputLocation"].startswith("s3://lake/results/")


def test_a_query_that_would_scan_more_than_the_limit_is_cancelled(
    client: Client, lake: Lake, group: dict[str, Callable[..., Any]]
) -> None:
    lake.put(f"events/dt={day(1)}/big.parquet", bytes(10_000_001))
    answer = client.run("SELECT count(*) AS n FROM records", WorkGroup="sluice")
    assert (answer.state, answer.reason) == ("CANCELLED", "Bytes scanned limit was exceeded")
    answer = client.run(f"SELECT count(*) AS n FROM records WHERE dt = '{day()}'", WorkGroup="sluice")
    assert (answer.state, answer.rows) == ("SUCCEEDED", [["3"]])


GROUP_FAULTS = {
    "a limit below the minimum": ({"BytesScannedCutoffPerQuery": "9999999"}, "from 10000000 (got '9999999')"),
    "a setting that is not implemented": ({"ManagedQueryResultsConfiguration": {}}, "ManagedQueryResultsConfiguration"),
    "an engine version": ({"EngineVersion": {}}, "EngineVersion"),
    "another result setting": ({"ResultConfiguration": {"AclConfiguration": {}}}, "AclConfiguration"),
    "another setting of encryption": ({"ResultConfiguration": {"EncryptionConfiguration": {"Key": "k"}}}, "Key"),
}


@pytest.mark.parametrize(("changes", "words"), GROUP_FAULTS.values(), ids=GROUP_FAULTS.keys())
def test_a_work_group_that_cannot_be_is_refused_with_the_reason(
    group: dict[str, Callable[..., Any]], changes: dict[str, Any], words: str
) -> None:
    properties = {"Name": "other", "WorkGroupConfiguration": {**CONFIGURATION, **changes}}
    with pytest.raises(ValueError, match=r".") as error:
        group["create"]("Group", properties, "s")
    assert words in str(error.value)


def test_a_work_group_has_a_name_of_its_own(group: dict[str, Callable[..., Any]]) -> None:
    for name, words in (("sluice", "WorkGroup sluice is already created"), ("a b", "(got 'a b')")):
        with pytest.raises(ValueError, match=r".") as error:
            group["create"]("Group", {"Name": name}, "s")
        assert words in str(error.value)


def test_a_work_group_that_is_disabled_or_unknown_runs_nothing(
    client: Client, group: dict[str, Callable[..., Any]]
) -> None:
    group["update"]("sluice", {}, {"Name": "sluice", "State": "DISABLED"}, "s")
    for name, words in (("sluice", "WorkGroup sluice is disabled"), ("none", "WorkGroup none was not found")):
        assert client.refusal("StartQueryExecution", QueryString="SELECT 1", WorkGroup=name) == words
    assert client.refusal("StartQueryExecution", QueryString="SELECT 1").startswith("No output location provided.")


def test_a_work_group_with_queries_or_a_history_goes_only_recursively(
    client: Client, group: dict[str, Callable[..., Any]]
) -> None:
    client.run("SELECT 1 AS one", WorkGroup="sluice")
    with pytest.raises(ValueError, match=r"WorkGroup sluice is not empty"):
        group["delete"]("sluice", {"Name": "sluice"})
    group["delete"]("sluice", {"Name": "sluice", "RecursiveDeleteOption": "true"})
    assert client.refusal("ListNamedQueries", WorkGroup="sluice") == "WorkGroup sluice was not found"


def test_named_queries_are_listed_by_work_group_and_survive_a_restart(
    client: Client, lake: Lake, group: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    handlers = lake.resources["AWS::Athena::NamedQuery"]
    query = {"Name": "latest", "Database": "sluice", "QueryString": "not even SQL", "WorkGroup": "sluice"}
    made = [handlers["create"](f"Query{n}", query, "s")[0] for n in range(3)]
    handlers["create"]("Other", {"Database": "sluice", "QueryString": "SELECT 1"}, "s")
    client = Client(lake, tmp_path / "athena")
    _, first = asyncio.run(client.call("ListNamedQueries", WorkGroup="sluice", MaxResults=2))
    _, second = asyncio.run(client.call("ListNamedQueries", WorkGroup="sluice", NextToken=first["NextToken"]))
    assert first["NamedQueryIds"] + second["NamedQueryIds"] == made
    assert "NextToken" not in second
    _, found = asyncio.run(client.call("GetNamedQuery", NamedQueryId=made[1]))
    assert found == {"NamedQuery": {**query, "NamedQueryId": made[1]}}
    lake.resources["AWS::Athena::NamedQuery"]["delete"](made[0], query)
    assert client.refusal("GetNamedQuery", NamedQueryId=made[0]) == f"NamedQuery {made[0]} was not found"


def test_named_queries_are_read_together_and_the_work_group_of_each_call_is_known(
    client: Client, lake: Lake, group: dict[str, Callable[..., Any]]
) -> None:
    query = {"Name": "n", "Database": "sluice", "QueryString": "SELECT 1 AS n", "WorkGroup": "sluice"}
    made = lake.resources["AWS::Athena::NamedQuery"]["create"]("Query", query, "s")[0]
    _, found = asyncio.run(client.call("BatchGetNamedQuery", NamedQueryIds=[made, "gone"]))
    assert [one["NamedQueryId"] for one in found["NamedQueries"]] == [made]
    assert found["UnprocessedNamedQueryIds"] == [{"NamedQueryId": "gone"}]
    assert client.refusal("BatchGetNamedQuery", NamedQueryIds=["x"] * 51).endswith("(got 51)")
    run = client.run("SELECT 1 AS n", WorkGroup="sluice").execution["QueryExecutionId"]
    for body in ({"NamedQueryIds": [made]}, {"NamedQueryId": made}, {"QueryExecutionId": run}, {"WorkGroup": "sluice"}):
        assert client.athena.resource(body) == "arn:aws:athena:us-east-1:000000000000:workgroup/sluice"
    assert client.athena.resource({}).endswith(":workgroup/primary")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"QueryString": "x" * 262_145}, "262144"), ({"Database": ""}, "Database"), ({"WorkGroup": "none"}, "none")],
    ids=["too long", "no database", "no such work group"],
)
def test_a_named_query_that_cannot_be_is_refused(
    lake: Lake, client: Client, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        lake.resources["AWS::Athena::NamedQuery"]["create"]("Q", {"Database": "d", "QueryString": "q", **changes}, "s")
