"""A user of a local AWS with the policies of examples/deploy-policy.yaml deploys, updates and destroys a stack.

CloudFormation acts with this user's rights. All checks of them are noted, so one life of a stack shows the use of each
action of the policies; and a few actions, chosen at random, are really taken away.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from local.ministack import Emulator
from local.ministack.deployer import Call
from tests.conftest import ROOT
from tests.deploy_policy import ACTIONS, is_allowed, without
from tests.deploying_user import DeployingUser, Done
from tests.granted import RecordingProcess

pytestmark = pytest.mark.slow

SOURCE = {
    "name": "things",
    "auth": {"type": "bearer", "secret": "things"},
    "items": "data",
    "url": "http://127.0.0.1:1/",
    "event": {"event_id": ["id"], "name": {"constant": "thing"}, "value": "value"},
}
EVERYTHING = {
    "AnalystPolicy": "EVENTS",
    "ApiAuth": "API_KEY",
    "DeliverQuery": "latest-events",
    "DeliverSchedule": "rate(2 hours)",
    "DeliverUrl": "https://example.com/hook",
    "ObserveEmail": "team@example.com",
    "PullSchedule": "rate(2 hours)",
    "RefineSchedule": "rate(2 days)",
}
# With a key; it cannot be changed afterwards.
OTHERWISE = {
    "ApiAuth": "NONE",
    "AthenaBytesScannedLimit": "20000000",
    "DeliverBatchSize": "7",
    "DeliverSchedule": "rate(1 hour)",
    "IpHandling": "NONE",
    "LambdaMemorySize": "512",
    "LogRetentionInDays": "30",
    "ObserveRejectedPercent": "7",
    "PullSchedule": "rate(1 hour)",
    "RefineSchedule": "rate(1 day)",
    "ResultsRetentionInDays": "9",
    "ThrottleRateLimit": "50",
}
CORE_ALONE = {"AnalystPolicy": "", "DeliverUrl": "", "ObserveEmail": ""}
# Texts no parameter changes, but a later release may.
NEXT_RELEASE = {
    "template.yaml": {
        "Events of the stack ${": "All events of the stack ${",
        "Description: One row an event\n": "Description: One event a row\n",
    },
    "stacks/refine/template.yaml": {"        StartAt: Plan\n": "        Comment: A run\n        StartAt: Plan\n"},
    "stacks/observe/template.yaml": {"{Protocol: email, ": "{Protocol: email, FilterPolicyScope: MessageBody, "},
}
NOT_ASKED = {("Look", "lakeformation:GetDataLakeSettings"): "the local AWS has no Lake Formation to ask"}
# Asked for in a first deployment only: later ones find the bucket and the objects.
ONCE = {"s3:CreateBucket", "s3:PutBucketPublicAccessBlock", "s3:PutObject"}
# The last is for a user without cloudformation:UpdateStack: it rolls back a nested stack, too.
ENDS = ("", "ROLLBACK_COMPLETE", "CREATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED")

Check = tuple[str, Call]  # The Sid of the allowing statement, or nothing, and the call.


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployingUser]:
    """The user, with a local AWS and a folder of sources in it."""
    aws = RecordingProcess(tmp_path_factory.mktemp("aws"))
    with aws:
        (aws.directory / "sources").mkdir()
        (aws.directory / "sources" / "things.json").write_text(json.dumps(SOURCE))
        yield DeployingUser(aws)


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with another template."""
    repository = tmp_path_factory.mktemp("next") / "repository"
    left_out = shutil.ignore_patterns(".git", ".sluice", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, repository, ignore=left_out)
    for name, changes in NEXT_RELEASE.items():
        text = (repository / name).read_text()
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        (repository / name).write_text(text)
    return repository


def deploy_everything(user: DeployingUser) -> Done:
    folders = ("--pull", str(user.aws.directory / "sources"), "--refine", str(ROOT / "stacks/refine/sql"))
    return user.deploy(*folders, **EVERYTHING)


def change_everything(user: DeployingUser) -> Done:
    return user.deploy("--environment", "dev", KmsKeyArn=user.key, **OTHERWISE)


def holding_less(user: DeployingUser, *less: tuple[str, str]) -> AbstractContextManager[None]:
    documents = user.documents
    for sid, action in less:
        documents = without(documents, sid, action)
    return user.holding(documents)


@pytest.fixture(scope="module")
def life(user: DeployingUser, next_release: Path) -> dict[str, list[Check]]:
    """The checks of the user's rights in each chapter of a stack's life and in none before."""
    chapters: dict[str, list[Check]] = {}

    def end(chapter: str, done: Done) -> None:
        assert done.returncode == 0, f"{chapter}: {done.stderr}"
        known = sum(map(len, chapters.values()))
        chapters[chapter] = [
            (sid, Call(action, resource, tuple((key, value) for key, value in context.items() if value)))
            for sid, action, resource, context in [*user.asked()][known:]
        ]

    change_functions, lend_key = ("Functions", "lambda:UpdateFunctionConfiguration"), ("Key", "kms:CreateGrant")
    end("deploy", deploy_everything(user))
    end("update", change_everything(user))
    shutil.copytree(ROOT / ".sluice" / "build", next_release / ".sluice" / "build")
    end("upgrade", user.deploy(repository=next_release))
    end("no change", user.deploy(repository=next_release))
    with holding_less(user, change_functions, lend_key):
        assert user.update(KmsKeyArn="", LambdaMemorySize="1024") == "UPDATE_ROLLBACK_FAILED"
    end("a rollback that goes on", user.deploy(repository=next_release))
    with holding_less(user, change_functions):
        assert user.update(LambdaMemorySize="1024", roll_back=False) == "UPDATE_FAILED"
    end("a rollback at last", user.deploy(repository=next_release))
    end("optional stacks off", user.deploy("--pull", "off", "--refine", "off", **CORE_ALONE))
    end("destroy", user.run("destroy"))
    with holding_less(user, ("StateMachines", "states:CreateStateMachine")):
        assert deploy_everything(user).returncode == 1
    end("a second try", deploy_everything(user))
    end("destroyed again", user.run("destroy"))
    return chapters


def test_nothing_is_refused_that_was_not_taken_away_for_a_while(life: dict[str, list[Check]]) -> None:
    asked = [check for checks in life.values() for check in checks]
    assert {call for _, call in asked} - {call for sid, call in asked if sid} == set()


@pytest.mark.parametrize(("sid", "action"), ACTIONS, ids=[f"{sid} {action}" for sid, action in ACTIONS])
def test_without_any_one_action_something_is_refused(
    user: DeployingUser, life: dict[str, list[Check]], emulator: Emulator, sid: str, action: str
) -> None:
    less = [*without(user.documents, sid, action).values()]
    asked = [call for checks in life.values() for _, call in checks if call.action == action]
    refused = {call.action for call in asked if not is_allowed(emulator, less, call)}
    assert refused == ({action} if (sid, action) not in NOT_ASKED else set())


@pytest.mark.parametrize("chapter", ["deploy", "update", "destroy"])
def test_a_script_that_lacks_an_action_names_it_and_leaves_nothing_half_made(
    user: DeployingUser, life: dict[str, list[Check]], chapter: str
) -> None:
    seed = random.randrange(2**32)
    asked = {(sid, call.action) for sid, call in life[chapter] if sid in dict(ACTIONS) and call.action not in ONCE}
    less = random.Random(seed).choice(sorted(asked))
    print(f"seed {seed}: {less}")  # pytest shows it if this fails

    script: Callable[[], Done] = {
        "deploy": lambda: deploy_everything(user),
        "update": lambda: change_everything(user),
        "destroy": lambda: user.run("destroy"),
    }[chapter]
    if chapter != "deploy":
        assert deploy_everything(user).returncode == 0
    before = user.parts()
    with holding_less(user, less):
        done = script()
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert less[1] in error
    if chapter != "destroy":
        assert user.parts() == before
        assert user.status() in ENDS
        assert script().returncode == 0
    assert user.run("destroy").returncode == 0
    assert user.parts() == set()


def test_a_nested_stack_that_may_not_be_deleted_as_a_whole_is_still_there(user: DeployingUser) -> None:
    assert deploy_everything(user).returncode == 0
    machines = user.aws.client("stepfunctions")
    with holding_less(user, ("StateMachines", "states:DeleteStateMachine")):
        done = user.run("destroy")
    assert done.returncode == 1
    assert "Stack: RunMachine (AWS::StepFunctions::StateMachine) could not be deleted: " in done.stderr
    assert "is not authorized to perform: states:DeleteStateMachine" in done.stderr.splitlines()[-1]
    assert user.status() == "DELETE_FAILED"
    assert machines.list_state_machines()["stateMachines"] != []
    assert user.run("destroy").returncode == 0
    assert machines.list_state_machines()["stateMachines"] == []
