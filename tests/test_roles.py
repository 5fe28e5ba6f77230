"""Each permission in the template is needed: without it, the pipeline fails at that call, where AWS documents it to.

One stack, with all of its real roles. Each case takes one action away from one statement of one role, sends events, and
looks for the failure; then it gives the action back.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scripts.commands.deploy import template as templates
from scripts.commands.deploy.template import TEMPLATE
from tests.conftest import ROOT
from tests.forgetful_server import PERMISSION_CACHE_SECONDS
from tests.local_process import LocalProcess, eventually, post

pytestmark = pytest.mark.slow

Json = dict[str, Any]
Action = tuple[str, str, str]  # Logical id of the role, Sid, action.

# Nothing waits for a full buffer, except for the transform's: see Stack.flush. No statement is left out.
PARAMETERS = ("VisitorIds=DAILY", "FirehoseBufferingInterval=0", "ThrottleRateLimit=10000", "ThrottleBurstLimit=5000")


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def always(items: list[Json]) -> list[Json]:
    """Policies or statements, including those under a condition with no alternative."""
    return [one["Fn::If"][1] if "Fn::If" in one else one for one in items]


def actions_of_the_template() -> list[Action]:
    """Every action allowed to a role by a policy of template.yaml."""
    found = []
    for name, resource in templates.load(TEMPLATE.read_text())["Resources"].items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::IAM::Role":
            documents = [(name, policy["PolicyDocument"]) for policy in always(properties["Policies"])]
        elif resource["Type"] == "AWS::IAM::Policy":
            documents = [(role["Ref"], properties["PolicyDocument"]) for role in properties["Roles"]]
        else:
            continue
        for role, document in documents:
            for statement in always(document["Statement"]):
                found += [(role, statement["Sid"], action) for action in as_list(statement["Action"])]
    return found


def only_on_aws() -> set[tuple[str, str]]:
    """The roles and actions of the table in docs/architecture.md under "What only AWS asks for"."""
    text = (ROOT / "docs" / "architecture.md").read_text().split("### What only AWS asks for\n")[1].split("\n#")[0]
    cells = [[re.findall("`(.+?)`", cell) for cell in line.split("|")[1:3]] for line in text.splitlines()]
    return {pair for pairs in cells if len(pairs) == 2 for pair in itertools.product(*pairs)}


class ForgetfulProcess(LocalProcess):
    """A local AWS where a changed policy counts at once."""

    module = "tests.forgetful_server"


class Stack:
    """The deployed stack, and ways to send to it and to look at its results."""

    def __init__(self, local: LocalProcess) -> None:
        self.local, self.outputs = local, local.deploy(*PARAMETERS, f"KmsKeyArn={local.key()}")
        self.bucket = local.bucket(self.outputs["BucketName"])
        self.log_group = local.resource("StreamLogGroup")
        self.iam, self.firehose, self.logs = (local.client(name) for name in ("iam", "firehose", "logs"))
        self.cloudwatch = local.client("cloudwatch")

    @contextmanager
    def without(self, *actions: Action) -> Iterator[None]:
        """Take actions away from statements of roles, for a while."""
        policies = self._policies({role for role, _, _ in actions})
        for key, document in policies.items():
            less = copy.deepcopy(document)
            for statement in less["Statement"]:
                taken = {action for role, sid, action in actions if (role, sid) == (key[0], statement["Sid"])}
                statement["Action"] = [one for one in as_list(statement["Action"]) if one not in taken]
            less["Statement"] = [statement for statement in less["Statement"] if statement["Action"]]
            self._put(*key, less)
        time.sleep(PERMISSION_CACHE_SECONDS + 0.05)
        try:
            yield
        finally:
            for key, document in policies.items():
                self._put(*key, document)
            time.sleep(PERMISSION_CACHE_SECONDS + 0.05)

    def _policies(self, roles: set[str]) -> dict[tuple[str, str], Json]:
        found = {}
        for role in roles:
            role_name = self.local.resource(role)
            for name in self.iam.list_role_policies(RoleName=role_name)["PolicyNames"]:
                answer = self.iam.get_role_policy(RoleName=role_name, PolicyName=name)
                found[role, name] = answer["PolicyDocument"]
        return found

    def _put(self, role: str, name: str, document: Json) -> None:
        role_name = self.local.resource(role)
        if document["Statement"]:
            self.iam.put_role_policy(RoleName=role_name, PolicyName=name, PolicyDocument=json.dumps(document))
        else:
            self.iam.delete_role_policy(RoleName=role_name, PolicyName=name)

    def track(self, **event: Any) -> tuple[str, int, Json]:
        """Post one event; its event_id, the status and the answer."""
        identifier = str(uuid.uuid4())
        status, text = post(self.outputs["TrackURL"], json.dumps({"event_id": identifier, **event}).encode())
        return identifier, status, json.loads(text)

    def flush(self) -> None:
        """Fill the transform's buffer with dropped events, so the others need not wait for its time."""
        filler = json.dumps({"debug": True, "text": "x" * 600_000}).encode()
        self.put(filler, filler)

    def put(self, *datas: bytes) -> None:
        records = [{"Data": data} for data in datas]
        answer = self.firehose.put_record_batch(DeliveryStreamName=self.outputs["StreamName"], Records=records)
        assert answer["FailedPutCount"] == 0

    def log_lines(self, stream: str, since: float) -> list[Json]:
        arguments = {"logGroupName": self.log_group, "logStreamName": stream, "startTime": int(since * 1000)}
        return [json.loads(event["message"]) for event in self.logs.get_log_events(**arguments)["events"]]

    def counted(self) -> float:
        """How many accepted events the transform's metric counts by now."""
        now = datetime.now(UTC)
        points = self.cloudwatch.get_metric_statistics(
            Namespace="Sluice",
            MetricName="Accepted",
            Dimensions=[{"Name": "FunctionName", "Value": self.outputs["FunctionName"]}],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(minutes=1),
            Period=7200,
            Statistics=["Sum"],
        )["Datapoints"]
        return sum(point["Sum"] for point in points)

    def failures(self, identifier: str) -> list[Json]:
        """The error documents of the records with an event."""
        documents = self.bucket.documents("errors/processing-failed/")
        return [each for each in documents if identifier in _decoded(each["rawData"])]

    def is_row(self, identifier: str) -> bool:
        return identifier in self.bucket.event_ids()

    def is_rejected(self, identifier: str) -> bool:
        return any(identifier.encode() in text for text in self.bucket.rejected_texts())


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "replace")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with ForgetfulProcess(tmp_path_factory.mktemp("roles")) as local:
        yield Stack(local)


# --- Failures without an action -------------------------------------------------------------------------------------


def api_answers_503(stack: Stack, without: Action) -> None:
    """Firehose answers 400 AccessDeniedException to API Gateway, and the sender is told to try again."""
    with stack.without(without):
        _, status, answer = stack.track(name="x")
        assert (status, answer) == (503, {"message": "The event was not taken: try again later"})
    identifier, status, _ = stack.track(name="x")
    assert status == 202
    stack.flush()
    eventually(lambda: stack.is_row(identifier))


def transform_is_not_invoked(stack: Stack, without: Action) -> None:
    """After its retries the batch is in the error output; nothing goes on untransformed."""
    began = time.time()
    with stack.without(without):
        identifier, status, _ = stack.track(name="x")
        assert status == 202
        stack.flush()
        (document,) = eventually(lambda: stack.failures(identifier))
    assert (document["errorCode"], document["attemptsMade"]) == ("Lambda.InvokeAccessDenied", 4)
    assert f"is not authorized to perform: {without[2]} on resource: " in document["errorMessage"]
    assert "Lambda.InvokeAccessDenied" in [line["errorCode"] for line in stack.log_lines("delivery", began)]
    assert not stack.is_row(identifier)


def objects_wait(code: str, stream: str, find: Callable[[Stack, str], bool], **event: Any) -> Callable[..., None]:
    """The stream's log says why, the records wait, and they are delivered when the permission is back."""

    def check(stack: Stack, without: Action) -> None:
        began = time.time()

        def is_logged() -> bool:
            return any(
                line["errorCode"] == code and f"is not authorized to perform: {without[2]} on resource: " in message
                for line in stack.log_lines(stream, began)
                for message in [line["message"]]
            )

        with stack.without(without):
            identifier, status, _ = stack.track(name="x", **event)
            assert status == 202
            stack.flush()
            eventually(is_logged)
            assert not find(stack, identifier)
        eventually(lambda: find(stack, identifier))

    return check


def errors_are_not_logged(stream: str, put_objects: Action, **event: Any) -> Callable[..., None]:
    """A failing delivery says nothing; it fails and recovers as before."""

    def check(stack: Stack, without: Action) -> None:
        began = time.time()
        find = stack.is_rejected if event else stack.is_row
        with stack.without(without, put_objects):
            identifier, status, _ = stack.track(name="x", **event)
            assert status == 202
            stack.flush()
            time.sleep(1)
            assert not find(identifier)
            assert not stack.log_lines(stream, began)
        eventually(lambda: find(identifier))

    return check


def events_are_not_counted(stack: Stack, without: Action) -> None:
    """The function runs on, but its log is lost, with the metrics in it."""

    def accept_one() -> None:
        identifier, status, _ = stack.track(name="x")
        assert status == 202
        stack.flush()
        eventually(lambda: stack.is_row(identifier))

    with stack.without(without):
        before = stack.counted()
        accept_one()
        assert stack.counted() == before
    accept_one()
    assert stack.counted() == before + 1


def record_fails_with_its_reject(stack: Stack, without: Action) -> None:
    """If a rejected event cannot be put on the reject stream, its record fails and is not lost."""
    with stack.without(without):
        identifier, status, _ = stack.track(name="x", value="abc")
        assert status == 202
        stack.flush()
        (document,) = eventually(lambda: stack.failures(identifier))
    assert document["errorCode"] == "Lambda.ProcessingFailedStatus"
    assert not stack.is_rejected(identifier)


def record_fails_that_cannot_go_back(stack: Stack, without: Action) -> None:
    """Rows beyond the reply's limit go back to the stream; without the permission their record fails, whole."""
    with stack.without(without):
        identifier, records = put_more_than_fits_a_reply(stack)
        documents = eventually(lambda: stack.failures(identifier))
    assert {document["errorCode"] for document in documents} == {"Lambda.ProcessingFailedStatus"}
    assert {_decoded(document["rawData"]) for document in documents} <= records


def visitor_has_no_id(stack: Stack, without: Action) -> None:
    """An event of a day whose salt the function cannot write, or cannot read, is a row without its visitor's id."""
    # Each action has a day of its own: a found salt is not asked for again.
    days = {"s3:PutObject": -1, "s3:GetObject": 1}[without[2]]
    at = datetime.now(UTC) + timedelta(days=days)
    if days == 1:
        key = f"salts/{at:%Y-%m-%d}"
        stack.local.client("s3").put_object(Bucket=stack.outputs["BucketName"], Key=key, Body=b"of another function")

    def visitor(moment: datetime) -> Any:
        identifier, milliseconds = str(uuid.uuid4()), round(moment.timestamp() * 1000)
        line = f"sluice/1 request_id=r extended_request_id=e= time={milliseconds} ip=203.0.113.7 user_agent="
        stack.put(f'{line}\n{{"event_id": "{identifier}"}}\nsluice/end extended_request_id=e=\n'.encode())
        stack.flush()
        eventually(lambda: stack.is_row(identifier))
        return dict(zip(stack.bucket.column("event_id"), stack.bucket.column("visitor_id"), strict=True))[identifier]

    assert visitor(datetime.now(UTC)) is not None
    with stack.without(without):
        assert visitor(at) is None


def put_more_than_fits_a_reply(stack: Stack) -> tuple[str, set[str]]:
    """Three records in one batch, each of 8,000 small events, whose rows take some 3 MB of a reply of 6 MB."""
    identifier = str(uuid.uuid4())
    records = [
        "\n".join(f'{{"event_id": "{identifier}-{number}-{index}", "name": "back"}}' for index in range(8_000))
        for number in range(3)
    ]
    stack.put(*(record.encode() for record in records))
    stack.flush()
    return identifier, set(records)


_PUT_EVENTS = ("StreamRole", "WriteObjects", "s3:PutObject")
_PUT_REJECTS = ("StreamRejectsRole", "WriteObjects", "s3:PutObject")
NEEDED: dict[Action, Callable[[Stack, Action], None]] = {
    ("IngestRole", "PutRecords", "firehose:PutRecord"): api_answers_503,
    ("StreamRole", "InvokeTransform", "lambda:InvokeFunction"): transform_is_not_invoked,
    ("StreamRole", "InvokeTransform", "lambda:GetFunctionConfiguration"): transform_is_not_invoked,
    _PUT_EVENTS: objects_wait("S3.AccessDenied", "delivery", Stack.is_row),
    **{
        ("StreamRole", "ReadSchema", f"glue:{action}"): objects_wait(
            "DataFormatConversion.AccessDenied", "delivery", Stack.is_row
        )
        for action in ("GetTable", "GetTableVersion", "GetTableVersions")
    },
    ("StreamRole", "WriteErrorLog", "logs:PutLogEvents"): errors_are_not_logged("delivery", _PUT_EVENTS),
    _PUT_REJECTS: objects_wait("S3.AccessDenied", "rejects", Stack.is_rejected, value="abc"),
    ("StreamRejectsRole", "WriteErrorLog", "logs:PutLogEvents"): errors_are_not_logged(
        "rejects", _PUT_REJECTS, value="abc"
    ),
    ("TransformRole", "PutRejects", "firehose:PutRecordBatch"): record_fails_with_its_reject,
    **{("TransformRole", "KeepSalts", f"s3:{action}Object"): visitor_has_no_id for action in ("Get", "Put")},
    **{
        (role, "UseKey", f"kms:{action}"): check
        for role, check in (
            ("IngestRole", api_answers_503),
            ("StreamRole", objects_wait("S3.AccessDenied", "delivery", Stack.is_row)),
            ("StreamRejectsRole", objects_wait("S3.AccessDenied", "rejects", Stack.is_rejected, value="abc")),
            ("TransformRole", record_fails_with_its_reject),
        )
        for action in ("Decrypt", "GenerateDataKey")
    },
    ("TransformRole", "PutBack", "firehose:PutRecordBatch"): record_fails_that_cannot_go_back,
    **{
        ("TransformRole", "WriteLog", f"logs:{action}"): events_are_not_counted
        for action in ("CreateLogStream", "PutLogEvents")
    },
}

# Actions not needed here, by docs/architecture.md, each with its reason there.
ONLY_ON_AWS = [action for action in actions_of_the_template() if action[::2] in only_on_aws()]


def test_every_action_of_the_template_is_tried_here_or_documented_as_only_asked_for_on_aws() -> None:
    assert sorted(actions_of_the_template()) == sorted([*NEEDED, *ONLY_ON_AWS])
    assert {action[::2] for action in ONLY_ON_AWS} == only_on_aws()


def everything_arrives(stack: Stack) -> None:
    began, before = time.time(), len(stack.bucket.documents("errors/"))
    accepted, _, _ = stack.track(name="x")
    rejected, _, _ = stack.track(name="x", value="abc")
    many, _ = put_more_than_fits_a_reply(stack)
    eventually(lambda: stack.is_row(accepted) and stack.is_rejected(rejected))
    eventually(lambda: sum(identifier.startswith(many) for identifier in stack.bucket.event_ids()) == 24_000)
    assert len(stack.bucket.documents("errors/")) == before
    assert not stack.log_lines("delivery", began) + stack.log_lines("rejects", began)


def test_with_all_permissions_every_event_arrives_and_nothing_fails(stack: Stack) -> None:
    everything_arrives(stack)


def test_what_only_aws_needs_is_not_asked_for_here(stack: Stack) -> None:
    with stack.without(*ONLY_ON_AWS):
        everything_arrives(stack)


@pytest.mark.parametrize("action", NEEDED, ids=["-".join(action) for action in NEEDED])
def test_without_an_action_the_pipeline_fails_at_that_call(stack: Stack, action: Action) -> None:
    NEEDED[action](stack, action)
