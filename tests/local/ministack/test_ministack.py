"""MiniStack's private names in our code, and our requirements for its evaluator of policies."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from local.ministack import ACCOUNT, AccessDenied, Emulator, MetricDatum, ServiceError
from local.ministack.resources import Resources
from tests.conftest import ROOT

FIREHOSE = "firehose.amazonaws.com"
BUCKET = "arn:aws:s3:::bucket"


def test_every_private_name_of_ministack_is_where_we_look_for_it(tmp_path: Path) -> None:
    """In a process of its own: a new release without one of the names fails here, in words, and not at a user's."""
    code = f"from pathlib import Path; from local.ministack import Emulator; Emulator(Path({str(tmp_path)!r}), 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"MiniStack has moved what local/ministack/ uses:\n{done.stderr}"


def test_a_service_is_loaded_at_its_first_use_and_then_saved(tmp_path: Path) -> None:
    code = f"""
        import asyncio, sys
        from pathlib import Path
        from local.ministack import Emulator
        emulator = Emulator(Path({str(tmp_path)!r}), 1)
        before = "cognito" in emulator.services(), len(vars(sys.modules["ministack.services.cognito"])) > 20
        target = "AWSCognitoIdentityProviderService.ListUserPools"
        status, _, _ = asyncio.run(emulator.call("cognito-idp", "POST", "/", b'{{"MaxResults": 1}}', target=target))
        print(before, status, "cognito" in emulator.services())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.stdout == "(False, False) 200 True\n", done.stderr


def test_no_other_module_of_the_local_aws_knows_ministack() -> None:
    knowing = re.compile(r"^\s*(from|import) ministack\b|\bemulator\._", re.MULTILINE)
    assert [path.name for path in (ROOT / "local").glob("*.py") if knowing.search(path.read_text())] == []


def role(emulator: Emulator, name: str, statement: dict[str, Any], condition: dict[str, Any] | None = None) -> str:
    trust = {"Effect": "Allow", "Principal": {"Service": FIREHOSE}, "Action": "sts:AssumeRole"}
    if condition is not None:
        trust["Condition"] = condition
    policies = [{"PolicyName": "policy", "PolicyDocument": {"Version": "2012-10-17", "Statement": [statement]}}]
    properties = {"RoleName": name, "AssumeRolePolicyDocument": {"Statement": [trust]}, "Policies": policies}
    _, attributes = emulator.resource_handlers["AWS::IAM::Role"]["create"]("Role", properties, "stack")
    return str(attributes["Arn"])


ALLOWED = [
    ("exact", {"Action": "s3:PutObject", "Resource": f"{BUCKET}/events/a"}),
    ("one of several actions", {"Action": ["s3:GetObject", "s3:PutObject"], "Resource": f"{BUCKET}/events/a"}),
    ("a wildcard at the end", {"Action": "s3:PutObject", "Resource": f"{BUCKET}/events/*"}),
    ("one of several resources", {"Action": "s3:PutObject", "Resource": [BUCKET, f"{BUCKET}/*"]}),
    ("another case of the action", {"Action": "S3:putobject", "Resource": f"{BUCKET}/*"}),
]
DENIED = [
    ("another action", {"Action": "s3:GetObject", "Resource": f"{BUCKET}/*"}),
    ("another prefix", {"Action": "s3:PutObject", "Resource": f"{BUCKET}/errors/*"}),
    ("the bucket alone", {"Action": "s3:PutObject", "Resource": BUCKET}),
    ("another case of the key", {"Action": "s3:PutObject", "Resource": f"{BUCKET}/EVENTS/*"}),
    (
        "a condition that does not hold",
        {
            "Action": "s3:PutObject",
            "Resource": f"{BUCKET}/*",
            "Condition": {"StringEquals": {"aws:SourceAccount": "111111111111"}},
        },
    ),
]


@pytest.mark.parametrize("statement", [one for _, one in ALLOWED], ids=[name for name, _ in ALLOWED])
def test_a_role_may_do_what_its_policy_allows(
    emulator: Emulator, statement: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    arn = role(emulator, f"allowed-{abs(hash(request.node.name))}", {"Effect": "Allow", **statement})
    emulator.authorize(arn, FIREHOSE, "s3:PutObject", f"{BUCKET}/events/a")


@pytest.mark.parametrize("statement", [one for _, one in DENIED], ids=[name for name, _ in DENIED])
def test_a_role_may_do_nothing_else(
    emulator: Emulator, statement: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    arn = role(emulator, f"denied-{abs(hash(request.node.name))}", {"Effect": "Allow", **statement})
    with pytest.raises(AccessDenied, match=r"is not authorized to perform: s3:PutObject on resource: .*/events/a"):
        emulator.authorize(arn, FIREHOSE, "s3:PutObject", f"{BUCKET}/events/a")


@pytest.mark.parametrize(
    ("service", "external_id"),
    [
        pytest.param("lambda.amazonaws.com", ACCOUNT, id="another service"),
        pytest.param(FIREHOSE, "111111111111", id="another external id"),
    ],
)
def test_a_role_is_assumed_only_by_whom_it_trusts(emulator: Emulator, service: str, external_id: str) -> None:
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    arn = role(emulator, f"trust-{service}", everything, {"StringEquals": {"sts:ExternalId": external_id}})
    with pytest.raises(AccessDenied, match="not authorized to assume role"):
        emulator.authorize(arn, service, "s3:PutObject", f"{BUCKET}/events/a")


def read_id(emulator: Emulator, kind: str, name: str) -> str:
    """The unique id of a role or a user."""
    body = f"Action=Get{kind}&{kind}Name={name}".encode()
    found = re.search(rf"<{kind}Id>(\w+)<", asyncio.run(emulator.call("iam", "POST", "/", body))[2].decode())
    assert found
    return found[1]


def test_variables_in_a_policy_stand_for_what_is_known_of_the_caller(emulator: Emulator) -> None:
    own = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/${{aws:userid}}/${{aws:username}}*"}
    variables = role(emulator, "variables", {**own, "Resource": f"{BUCKET}/${{aws:userid}}/*"})
    policies = [{"PolicyName": "own", "PolicyDocument": {"Version": "2012-10-17", "Statement": [own]}}]
    emulator.resource_handlers["AWS::IAM::User"]["create"]("User", {"UserName": "eve", "Policies": policies}, "stack")
    role_id, user_id = read_id(emulator, "Role", "variables"), read_id(emulator, "User", "eve")
    ada = emulator.session(variables, "ada")
    for caller, key in ((ada, f"{role_id}:ada/x"), (f"arn:aws:iam::{ACCOUNT}:user/eve", f"{user_id}/eve-x")):
        emulator.authorize_session(caller, "s3:GetObject", f"{BUCKET}/{key}")
        for another in (f"{role_id}:bob/x", f"{role_id}/x", f"{user_id}/adam", "x"):
            with pytest.raises(AccessDenied):
                emulator.authorize_session(caller, "s3:GetObject", f"{BUCKET}/{another}")


def test_a_role_may_list_what_begins_with_a_prefix_and_no_more(emulator: Emulator) -> None:
    condition = {"StringLike": {"s3:prefix": "events/*"}}
    arn = role(
        emulator, "lists", {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": BUCKET, "Condition": condition}
    )
    session = emulator.session(arn, "ada")
    emulator.authorize_session(session, "s3:ListBucket", BUCKET, "events/dt=2026-01-01/")
    for prefix in ("", "raw/"):
        with pytest.raises(AccessDenied):
            emulator.authorize_session(session, "s3:ListBucket", BUCKET, prefix)


def test_a_role_that_does_not_exist_allows_nothing(emulator: Emulator) -> None:
    with pytest.raises(AccessDenied, match="not authorized to assume role"):
        emulator.authorize(f"arn:aws:iam::{ACCOUNT}:role/none", FIREHOSE, "s3:PutObject", BUCKET)


def test_objects_are_files_under_their_keys(emulator: Emulator) -> None:
    async def put() -> None:
        await emulator.call("s3", "PUT", "/bucket")
        await emulator.put_object("bucket", "events/dt=2026-01-01/b.json", b"b")
        await emulator.put_object("bucket", "events/dt=2026-01-01/a b.json", b"a", "gzip")
        for key, encoding in (("b.json", None), ("a b.json", "gzip")):
            _, headers, body = await emulator.call("s3", "GET", f"/bucket/events/dt=2026-01-01/{key}")
            assert (headers["Content-Type"], headers.get("Content-Encoding")) == ("application/octet-stream", encoding)
            assert body == key[:1].encode()

    asyncio.run(put())
    found = emulator.object_paths("bucket", "events/dt=2026-01-01/")
    assert [(key, path.read_bytes()) for key, path in found] == [
        ("events/dt=2026-01-01/a b.json", b"a"),
        ("events/dt=2026-01-01/b.json", b"b"),
    ]
    assert emulator.object_paths("bucket", "events/dt=2026-01-02/") == []


def test_a_deleted_object_of_a_versioned_bucket_is_none(emulator: Emulator) -> None:
    async def delete() -> None:
        await emulator.call("s3", "PUT", "/versioned")
        status = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        await emulator.call("s3", "PUT", "/versioned", status, query={"versioning": [""]})
        for key in ("a", "b"):
            await emulator.put_object("versioned", f"events/{key}", b"x")
        await emulator.call("s3", "DELETE", "/versioned/events/a")

    asyncio.run(delete())
    assert [key for key, _ in emulator.object_paths("versioned", "events/")] == ["events/b"]


def test_an_object_that_s3_refuses_is_an_error(emulator: Emulator) -> None:
    with pytest.raises(ServiceError, match=r"^NoSuchBucket: ."):
        asyncio.run(emulator.put_object("none", "events/a.json", b"a"))


def test_an_object_that_the_disk_did_not_take_is_an_error(emulator: Emulator, tmp_path: Path) -> None:
    async def put() -> None:
        await emulator.call("s3", "PUT", "/lost")
        (emulator.directory / "s3" / ACCOUNT / "lost").rename(tmp_path / "lost")
        (emulator.directory / "s3" / ACCOUNT / "lost").write_text("no directory any more")
        await emulator.put_object("lost", "events/a.json", b"a")

    with pytest.raises(ServiceError, match="could not be written"):
        asyncio.run(put())


def test_metrics_are_statistic_sets_in_cloudwatch(emulator: Emulator) -> None:
    datum = MetricDatum.of("IncomingBytes", "Bytes", 5)
    datum.add(2)
    emulator.put_metric_data("AWS/Firehose", {"DeliveryStreamName": "events"}, [datum])
    query = {
        "Namespace": "AWS/Firehose",
        "MetricName": "IncomingBytes",
        "Dimensions": [{"Name": "DeliveryStreamName", "Value": "events"}],
        "StartTime": time.time() - 60,
        "EndTime": time.time() + 60,
        "Period": 3600,
        "Statistics": ["SampleCount", "Sum", "Minimum", "Maximum"],
    }
    target = "GraniteServiceVersion20100801.GetMetricStatistics"
    _, _, body = asyncio.run(emulator.call("monitoring", "POST", "/", json.dumps(query).encode(), target=target))
    (point,) = json.loads(body)["Datapoints"]
    seen = (point["SampleCount"], point["Sum"], point["Minimum"], point["Maximum"], point["Unit"])
    assert seen == (2, 7, 2, 5, "Bytes")


def test_resources_are_on_disk_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "state" / "resources.json"
    resources = Resources(path)
    resources["id"] = {"Name": "x"}
    resources.save()
    assert Resources(path) == {"id": {"Name": "x"}}
    assert [file.name for file in path.parent.iterdir()] == ["resources.json"]


def test_a_session_may_do_what_the_policy_of_its_role_allows(emulator: Emulator) -> None:
    arn = role(emulator, "session", {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/*"})
    session = emulator.session(arn, "me")
    emulator.authorize_session(session, "s3:GetObject", f"{BUCKET}/a")
    with pytest.raises(AccessDenied, match=r"assumed-role/session/me is not authorized to perform: s3:PutObject"):
        emulator.authorize_session(session, "s3:PutObject", f"{BUCKET}/a")
    with pytest.raises(AccessDenied):
        emulator.authorize_session(emulator.session("none", "me"), "s3:GetObject", f"{BUCKET}/a")


def test_a_partition_that_is_being_replaced_is_seen_before_or_after(emulator: Emulator) -> None:
    """MiniStack empties it first."""
    partition: dict[str, Any] = {"Values": ["1"], "StorageDescriptor": {"Location": "s3://bucket/old/"}}
    glue = sys.modules["ministack.services.glue"]
    glue._partitions.set_scoped(ACCOUNT, emulator.region, "d/t", [partition])
    assert emulator.glue_partitions("d", "t") == [partition]
    partition.clear()
    new = {"Values": ["1"], "StorageDescriptor": {"Location": "s3://bucket/new/"}}
    timer = threading.Timer(0.05, partition.update, [new])
    timer.start()
    assert emulator.glue_partitions("d", "t") == [new]
    assert emulator.glue_partitions("d", "none") == []


def test_a_log_group_is_named_after_its_stack_and_keeps_its_name(emulator: Emulator) -> None:
    handlers = emulator.resource_handlers["AWS::Logs::LogGroup"]
    name, _ = handlers["create"]("Log", {}, "team-events")
    assert re.fullmatch("team-events-Log-[0-9A-F]{13}", name)
    assert handlers["update"](name, {}, {"RetentionInDays": 3}, "team-events", "Log")[0] == name
    older, _ = handlers["create"]("Log", {"LogGroupName": "/aws/cloudformation/team-events/Log"}, "team-events")
    assert handlers["update"](older, {}, {"RetentionInDays": 3}, "team-events", "Log")[0] == older


def test_a_resource_whose_name_is_left_out_is_made_all_the_same(emulator: Emulator) -> None:
    group, _ = emulator.resource_handlers["AWS::Logs::LogGroup"]["create"]("Nameless", {}, "stack")
    create = emulator.resource_handlers["AWS::Logs::LogStream"]["create"]
    assert create("Stream", {"LogGroupName": group}, "stack")[0].startswith("stack-Stream-")


def test_what_an_engine_changes_in_the_catalog_is_told(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    changed: list[str] = []
    monkeypatch.setattr(emulator, "on_change", changed.append)
    asyncio.run(emulator.glue("CreateDatabase", DatabaseInput={"Name": "told"}))
    assert changed == ["glue"]


def test_policies_on_a_service_are_asked_about_the_resource_that_its_engine_names(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ministack.core import iam_actions

    before = iam_actions.extract_resource_arn
    monkeypatch.setattr(iam_actions, "extract_resource_arn", before)  # taken back at the end
    emulator.name_resources("athena", lambda body: f"group/{body.get('QueryExecutionId')}")
    ask = iam_actions.extract_resource_arn
    rest: tuple[Any, ...] = ("POST", "/", {}, b'{"QueryExecutionId": "q"}', {}, "us-east-1", ACCOUNT)
    assert ask("athena", *rest) == "group/q"
    assert ask("glue", *rest) == before("glue", *rest)


def test_a_function_that_is_not_there_has_no_role(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="Function not found: none"):
        emulator.function_role("none")


def test_a_function_without_a_client_starts_without_botocore(emulator: Emulator) -> None:
    """The calls of one with a client carry MiniStack's count of nested functions all the same."""
    code = """
        import sys
        def before(event, context):
            return "botocore" in sys.modules
        def after(event, context):
            import boto3
            sent = []
            def answer(request, **_):
                sent.extend(request.headers)
                raise InterruptedError
            client = boto3.client("sts")
            client.meta.events.register("before-send", answer)
            try:
                client.get_caller_identity()
            except InterruptedError:
                return "X-Ministack-Invoke-Depth" in sent
    """
    arn = role(emulator, "starts", {"Effect": "Allow", "Action": "sts:*", "Resource": "*"})
    for handler, expected in (("before", b"false"), ("after", b"true")):
        properties = {"Runtime": "python3.13", "Role": arn, "Code": {"ZipFile": textwrap.dedent(code)}}
        name, _ = emulator.resource_handlers["AWS::Lambda::Function"]["create"](
            "Starts", {**properties, "Handler": f"index.{handler}"}, "stack"
        )
        invoked = asyncio.run(emulator.invoke(f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{name}", b"{}"))
        assert (invoked.function_error, invoked.payload) == (None, expected)
