"""Deployments and stages of the local API Gateway: each is a snapshot."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.local.apigateway.ingest_api import BODY, INTEGRATION, OPERATION, body_with


def with_message(text: str) -> dict[str, Any]:
    return body_with(*INTEGRATION, "responses", r"2\d{2}", "responseTemplates", value={"application/json": text})


def test_a_changed_api_is_served_by_a_new_deployment_only(gateway: Gateway) -> None:
    api = gateway.deploy(with_message("old"))

    def served() -> str:
        return gateway.request().body.decode()

    assert gateway.update("RestApi", api, Name="test", Body=with_message("new")) == api
    assert served() == "old"
    gateway.update("Deployment", gateway.deployment, RestApiId=api, Description="a change, but no snapshot")
    assert served() == "old"
    gateway.restart()
    assert served() == "old"
    new = gateway.create("Deployment", RestApiId=api)
    assert served() == "old"
    gateway.update("Stage", "prod", RestApiId=api, DeploymentId=new, **gateway.stage_properties)
    assert served() == "new"
    gateway.delete("Deployment", gateway.deployment, RestApiId=api)
    assert served() == "new"
    gateway.restart()
    assert served() == "new"


def test_a_snapshot_of_what_is_refused_today_is_a_500_until_the_stack_is_deployed_again(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    api = gateway.deploy(BODY)
    old = body_with(*OPERATION, "requestBody", "required", value=True)
    gateway.engine.deployments[gateway.deployment]["Body"] = old
    answer = gateway.request()
    assert (answer.status, answer.json) == (500, {"message": "Internal server error"})
    assert "does not implement required" in caplog.text and "deploy the stack again" in caplog.text
    new = gateway.create("Deployment", RestApiId=api)
    gateway.update("Stage", "prod", RestApiId=api, DeploymentId=new, **gateway.stage_properties)
    assert gateway.request().status == 202


def test_a_deployment_that_a_stage_points_to_is_not_deleted(live: Gateway) -> None:
    with pytest.raises(ValueError, match="Active stages pointing to this deployment"):
        live.delete("Deployment", live.deployment, RestApiId=live.api)
    live.delete("Stage", "prod", RestApiId=live.api, StageName="prod")
    live.delete("Deployment", live.deployment, RestApiId=live.api)
    live.delete("RestApi", live.api)
    assert live.request().json == {"message": "Forbidden"}
    live.delete("Deployment", live.deployment, RestApiId=live.api)  # a delete that is tried again


def test_two_apis_have_stages_of_the_same_name(gateway: Gateway) -> None:
    first = gateway.deploy(with_message("first"))
    second = gateway.deploy(with_message("second"))
    assert [gateway.request(stage=f"{api}/prod").body for api in (first, second)] == [b"first", b"second"]


def test_the_ids_look_like_those_of_aws(live: Gateway) -> None:
    assert re.fullmatch(r"[a-z0-9]{10}", live.api)
    api = live.emulator.resources["RestApi"]
    physical_id, attributes = api.create("Api", {"Body": BODY}, "stack")
    assert re.fullmatch(r"[a-z0-9]{10}", attributes["RootResourceId"])
    assert api.update(physical_id, {}, {"Body": BODY}, "stack") == (physical_id, attributes)
    deployment = live.emulator.resources["Deployment"].create("D", {"RestApiId": physical_id}, "stack")
    assert deployment[1] == {"DeploymentId": deployment[0]}
    stage = {"RestApiId": physical_id, "DeploymentId": deployment[0], "StageName": "dev"}
    assert live.create("Stage", **stage) == "dev"


def test_changes_that_need_a_new_resource(live: Gateway) -> None:
    assert live.emulator.resources["Stage"].replacing == ("RestApiId", "StageName")
    assert live.emulator.resources["Deployment"].replacing == ("RestApiId",)
