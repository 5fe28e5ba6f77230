"""Questions about every resource of the template, and its facts repeated elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from scripts.commands.deploy import nested, queries
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.template import TEMPLATE, references, render
from scripts.commands.lake.zones import BESIDE_EVENTS, SALTS

ROOT = TEMPLATE.parent
TEXT = TEMPLATE.read_text()
STACK = templates.load(TEXT)
CORE: dict[str, dict[str, Any]] = STACK["Resources"]
TEXTS = {"": TEXT, **{f"{stack.name}.": stack.text for stack in nested.read()}}
# With those of the nested stacks, as in `refine.RefineMachine`.
RESOURCES: dict[str, dict[str, Any]] = {
    f"{stack}{name}": resource
    for stack, text in TEXTS.items()
    for name, resource in templates.load(text)["Resources"].items()
}
PARAMETERS: dict[str, dict[str, Any]] = STACK["Parameters"]
DEFAULTS = templates.effective_parameters(STACK, {}, {"ArtifactBucket": "artifacts", "TransformCodeKey": "code.zip"})
STAGES = ("Ingest", "Stream", "Transform", "Store", "Catalog", "Query")


def of_type(*types: str) -> list[str]:
    return [name for name, resource in RESOURCES.items() if resource["Type"] in types]


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = RESOURCES[name].get("Properties", {})
    return found


def documents(node: Any) -> Iterator[dict[str, Any]]:
    """Every policy below, in conditions too."""
    if isinstance(node, dict) and "Statement" in node:
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from documents(child)


def statements() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name in of_type("AWS::IAM::Role", "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        for document in documents(properties(name)):
            # A statement may depend on a condition, and is nothing without it.
            every = [one["Fn::If"][1] if "Fn::If" in one else one for one in document["Statement"]]
            found += [(f"{name}.{one.get('Sid', '?')}", one) for one in every]
    return found


def test_sections_stand_in_the_order_in_which_cloudformation_documents_them() -> None:
    assert list(STACK) == [
        "AWSTemplateFormatVersion",
        "Description",
        "Metadata",
        "Parameters",
        "Rules",
        "Mappings",
        "Conditions",
        "Resources",
        "Outputs",
    ]


@pytest.mark.parametrize("stack", TEXTS)
def test_every_yaml_parser_takes_a_template(stack: str) -> None:
    """PyYAML's own is stricter than the scripts' libyaml: it takes no plain `? ` within braces."""
    yaml.compose(TEXTS[stack], Loader=yaml.SafeLoader)


def test_every_template_is_linted_and_checked_for_security() -> None:
    script = (ROOT / "scripts" / "test.sh").read_text()
    patterns = re.search(r'^  local templates=\("\$deployed" (.+)\)$', script, re.MULTILINE)
    assert patterns
    found = {path for pattern in patterns[1].split() for path in ROOT.glob(pattern)}
    every = {path for path in ROOT.rglob("[!.]*.yaml") if "AWSTemplateFormatVersion:" in path.read_text()}
    every = {path for path in every if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)}
    assert every - {TEMPLATE} == found
    for check in ("cfn-lint --include-checks I -- template.yaml", "check_security"):
        assert f'{check} "${{templates[@]}}"' in script


def test_the_template_is_pure_cloudformation_that_a_person_can_read() -> None:
    assert "Transform" not in STACK
    # The saved queries are read and edited in queries.sql.
    lines = queries.save(TEXT, []).splitlines()
    # With room for a route of 70 lines.
    assert len(lines) <= 1_300, f"template.yaml has {len(lines)} lines, at most 1,300: move a part into stacks/"
    assert [line for line in lines if len(line) > 120] == [], "break these lines: at most 120 characters"


@pytest.mark.parametrize("name", CORE)
def test_a_logical_id_begins_with_its_stage(name: str) -> None:
    assert name.startswith(STAGES), f"begin the name of {name} with one of {', '.join(STAGES)}"


# A saved query is one of its stack's own workgroup.
@pytest.mark.parametrize("name", [name for name in RESOURCES if name not in of_type("AWS::Athena::NamedQuery")])
def test_nothing_has_a_fixed_physical_name_so_that_two_stacks_fit_in_one_account(name: str) -> None:
    named = ("BucketName", "FunctionName", "RoleName", "DeliveryStreamName", "LogGroupName", "Name")
    for key in named:
        value = properties(name).get(key)
        assert value is None or not isinstance(value, str)


@pytest.mark.parametrize("name", of_type("AWS::Logs::LogGroup"))
def test_every_log_group_has_a_retention(name: str) -> None:
    assert properties(name)["RetentionInDays"] == {"Ref": "LogRetentionInDays"}


@pytest.mark.parametrize("name", of_type("AWS::Lambda::Function"))
def test_every_function_logs_json_into_a_log_group_of_the_template(name: str) -> None:
    logging = properties(name)["LoggingConfig"]
    assert logging["LogFormat"] == "JSON"
    # The counts are a printed line and the failures are logged at INFO and above.
    assert logging["ApplicationLogLevel"] == "INFO"
    stack = name.rpartition(".")[0]
    assert f"{stack}{'.' if stack else ''}{logging['LogGroup']['Ref']}" in of_type("AWS::Logs::LogGroup")


@pytest.mark.parametrize("name", of_type("AWS::ApiGateway::Stage", "AWS::Lambda::Function"))
def test_tracing_is_off_outright_as_a_stack_of_0_1_0_has_it_on(name: str) -> None:
    expected = {
        "AWS::ApiGateway::Stage": {"TracingEnabled": False},
        "AWS::Lambda::Function": {"TracingConfig": {"Mode": "PassThrough"}},
    }
    assert expected[RESOURCES[name]["Type"]].items() <= properties(name).items()


@pytest.mark.parametrize("name", of_type("AWS::KinesisFirehose::DeliveryStream"))
def test_every_stream_has_a_log_group_and_a_log_stream_as_firehose_makes_neither(name: str) -> None:
    logging = properties(name)["ExtendedS3DestinationConfiguration"]["CloudWatchLoggingOptions"]
    assert logging["Enabled"] is True
    assert RESOURCES[logging["LogGroupName"]["Ref"]]["Type"] == "AWS::Logs::LogGroup"
    assert RESOURCES[logging["LogStreamName"]["Ref"]]["Type"] == "AWS::Logs::LogStream"


def test_the_stream_says_whether_it_converts_as_an_update_would_keep_what_is_left_out() -> None:
    destination = properties("StreamDelivery")["ExtendedS3DestinationConfiguration"]
    conversion = destination["DataFormatConversionConfiguration"]
    assert conversion["Enabled"] == {"Fn::If": ["UseParquet", True, False]}


@pytest.mark.parametrize("name", of_type("AWS::S3::Bucket"))
def test_every_bucket_is_private_encrypted_and_kept(name: str) -> None:
    bucket = RESOURCES[name]
    assert all(properties(name)["PublicAccessBlockConfiguration"].values())
    assert properties(name)["BucketEncryption"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize("name", of_type("AWS::S3::Bucket"))
def test_every_bucket_refuses_plain_http(name: str) -> None:
    policies = [properties(policy) for policy in of_type("AWS::S3::BucketPolicy")]
    document = next(policy["PolicyDocument"] for policy in policies if policy["Bucket"] == {"Ref": name})
    refusal = next(one for one in document["Statement"] if one["Effect"] == "Deny")
    assert refusal["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert refusal["Resource"] == [{"Fn::GetAtt": [name, "Arn"]}, {"Fn::Sub": f"${{{name}.Arn}}/*"}]


@pytest.mark.parametrize(("name", "statement"), statements(), ids=[name for name, _ in statements()])
def test_every_statement_of_a_role_is_named_and_exact(name: str, statement: dict[str, Any]) -> None:
    assert re.fullmatch(r"[A-Za-z]+", statement["Sid"])
    actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
    assert not [action for action in actions if "*" in action]
    if "Resource" in statement and statement["Resource"] == "*":
        text = next(TEXTS[stack] for stack in sorted(TEXTS, reverse=True) if name.startswith(stack))
        line = next(line for line in text.split(f"Sid: {statement['Sid']}")[1].splitlines() if "Resource:" in line)
        assert "#" in line, "a * needs its reason on the same line"


@pytest.mark.parametrize("stack", TEXTS)
def test_arns_name_the_partition_by_its_pseudo_parameter(stack: str) -> None:
    assert "arn:aws:" not in TEXTS[stack]


@pytest.mark.parametrize("name", of_type("AWS::Glue::Table"))
def test_every_partition_column_is_projected_and_stands_in_the_location(name: str) -> None:
    table = properties(name)["TableInput"]
    assert table["TableType"] == "EXTERNAL_TABLE"
    location = table["Parameters"]["storage.location.template"]["Fn::Sub"]
    assert location.endswith("/")
    for key in table["PartitionKeys"]:
        assert f"projection.{key['Name']}.type" in table["Parameters"]
        assert f"${{!{key['Name']}}}" in location
    assert all(isinstance(value, str | dict) for value in table["Parameters"].values()), "Glue takes strings alone"


def test_the_saved_queries_are_those_of_queries_sql() -> None:
    saved = {name: one["Properties"] for name, one in CORE.items() if one["Type"] == "AWS::Athena::NamedQuery"}
    expected = {
        query.logical_id: {
            "Name": query.name,
            "Description": query.question,
            "Database": {"Ref": "CatalogDatabase"},
            "WorkGroup": {"Ref": "QueryWorkGroup"},
            "QueryString": {"Fn::Sub": query.text},
        }
        for query in queries.read()
    }
    assert list(saved) == list(expected) and saved == expected, "run scripts/save-queries.sh"


@pytest.mark.parametrize(
    ("table", "part"), [("CatalogEventsTable", "columns"), ("CatalogRejectedTable", "rejected_columns")]
)
def test_the_columns_of_a_table_are_those_of_the_schema(table: str, part: str) -> None:
    schema = json.loads((ROOT / "lambda/transform/schema.json").read_text())
    columns = properties(table)["TableInput"]["StorageDescriptor"]["Columns"]
    declared = [(column["Name"], column["Type"]) for column in columns]
    wanted = [(column["name"], column["type"]) for column in schema[part]]
    assert declared == wanted, f"edit {table}'s Columns in template.yaml to match lambda/transform/schema.json"


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_described_constrained_and_in_a_group_of_the_console(name: str) -> None:
    parameter = PARAMETERS[name]
    assert len(parameter["Description"]) > 20
    assert "AllowedValues" in parameter or parameter["ConstraintDescription"].startswith("must ")
    groups = STACK["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sum(name in group["Parameters"] for group in groups) == 1
    assert parameter["Description"].startswith("Optional") == (parameter.get("Default") == "")


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_parameter_is_used(name: str) -> None:
    used = set(references([STACK["Resources"], STACK["Rules"], STACK["Conditions"], STACK["Outputs"]]))
    assert name in used


def test_the_parameters_and_outputs_that_users_know_keep_their_names() -> None:
    assert {
        "ApiStageName",
        "FirehoseS3Prefix",
        "FirehoseCompressionFormat",
        "FirehoseBufferingInterval",
        "FirehoseBufferingSize",
        "LambdaTimeout",
        "LambdaMemorySize",
        "AthenaDatabaseName",
        "AthenaTableName",
    } <= PARAMETERS.keys()
    assert {"TrackURL", "BucketName", "FunctionName"} <= STACK["Outputs"].keys()
    assert all(output["Description"] for output in STACK["Outputs"].values())


def test_no_integration_passes_a_body_through_that_has_no_template() -> None:
    for operations in properties("IngestApi")["Body"]["paths"].values():
        for verb, operation in operations.items():
            integration = operation["x-amazon-apigateway-integration"]
            assert integration["type"] == "mock" or integration["passthroughBehavior"] == "never", verb


def test_every_answer_of_the_api_carries_the_cors_header() -> None:
    body = properties("IngestApi")["Body"]
    first = {"Fn::Select": [0, {"Fn::Split": [",", {"Ref": "CorsAllowOrigin"}]}]}
    origin = {"Fn::Join": ["'", ["", first, ""]]}
    for operations in body["paths"].values():
        for operation in operations.values():
            for response in operation["x-amazon-apigateway-integration"]["responses"].values():
                parameters = response["responseParameters"]
                assert parameters["method.response.header.Access-Control-Allow-Origin"] == origin
    responses = body["x-amazon-apigateway-gateway-responses"]
    assert {"DEFAULT_4XX", "DEFAULT_5XX"} <= responses.keys()
    for response in responses.values():
        assert response["responseParameters"]["gatewayresponse.header.Access-Control-Allow-Origin"] == origin
        assert "statusCode" not in response, "it would turn every refusal of its class into one"


def test_every_status_that_an_integration_answers_is_declared() -> None:
    for operations in properties("IngestApi")["Body"]["paths"].values():
        for operation in operations.values():
            for response in operation["x-amazon-apigateway-integration"]["responses"].values():
                declared = operation["responses"][response["statusCode"]].get("headers", {})
                for name in response["responseParameters"]:
                    assert name.removeprefix("method.response.header.") in declared


def test_no_two_integration_responses_have_one_status_and_no_template_is_empty() -> None:
    # API Gateway keeps integration responses by their status code, and an empty template as none.
    for path, operations in properties("IngestApi")["Body"]["paths"].items():
        for verb, operation in operations.items():
            integration = operation["x-amazon-apigateway-integration"]
            statuses = [response["statusCode"] for response in integration["responses"].values()]
            assert len(statuses) == len(set(statuses)), f"{verb} {path}"
            for one in (integration["requestTemplates"], *integration["responses"].values()):
                assert "" not in one.get("responseTemplates", one).values(), f"{verb} {path}"


def test_the_api_says_nothing_of_compression() -> None:
    # Below minimumCompressionSize, API Gateway unpacks no request: packed events would not be JSON.
    assert "ompression" not in json.dumps(properties("IngestApi"))


def rendered_deployment(text: str, **parameters: str) -> str:
    match = re.search(
        r"^  (IngestDeployment\w+):$", render(text, templates.load(text), {**DEFAULTS, **parameters}), re.MULTILINE
    )
    assert match
    return match[1]


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        pytest.param(TEXT.replace("/track:", "/event:"), {}, id="another route"),
        pytest.param(TEXT.replace("sluice/1 $request", "sluice/1  $request"), {}, id="another mapping template"),
        pytest.param(TEXT, {"CorsAllowOrigin": "https://example.com"}, id="a parameter of the API"),
        pytest.param(TEXT, {"CorsAllowOrigin": "https://example.com,https://b.com"}, id="more than one origin"),
    ],
)
def test_a_changed_api_gets_a_new_deployment_as_the_old_one_is_a_snapshot(
    text: str, parameters: dict[str, str]
) -> None:
    assert rendered_deployment(text, **parameters) != rendered_deployment(TEXT)


def test_what_the_api_does_not_depend_on_leaves_its_deployment_alone() -> None:
    assert rendered_deployment(TEXT, LambdaTimeout="120") == rendered_deployment(TEXT)


@pytest.mark.parametrize("zone", [*BESIDE_EVENTS, SALTS])
def test_no_zone_of_the_stack_itself_can_be_the_folder_of_the_events(zone: str) -> None:
    pattern = STACK["Parameters"]["FirehoseS3Prefix"]["AllowedPattern"]
    assert re.fullmatch(pattern, "mine/")
    assert not re.fullmatch(pattern, zone), f"{zone} of scripts/commands/lake/zones.py is missing in FirehoseS3Prefix"


def test_the_stage_serves_the_renamed_deployment() -> None:
    rendered = templates.load(render(TEXT, STACK, DEFAULTS))
    name = rendered_deployment(TEXT)
    assert rendered["Resources"]["IngestStage"]["Properties"]["DeploymentId"] == {"Ref": name}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Nope": "1"}, "no parameter 'Nope'"),
        ({"OutputFormat": "CSV"}, r"OutputFormat must be one of PARQUET, JSON \(got 'CSV'\)"),
        ({"LambdaTimeout": "3000"}, r"LambdaTimeout must be 10 to 300 seconds \(got '3000'\)"),
        ({"LambdaTimeout": "soon"}, r"LambdaTimeout must be 10 to 300 seconds \(got 'soon'\)"),
        ({"FirehoseS3Prefix": "/events"}, r"FirehoseS3Prefix must end with / .*\(got '/events'\)"),
        ({"FirehoseS3Prefix": "errors/mine/"}, r"outside the folders.*\(got 'errors/mine/'\)"),
        (
            {"EventsRetentionInDays": "3w"},
            r"EventsRetentionInDays must be empty or a whole number of days.*\(got '3w'\)",
        ),
        ({"CorsAllowOrigin": "https://a.b/path"}, r"without a path.*\(got 'https://a.b/path'\)"),
        ({"CorsAllowOrigin": "https://a.b, https://c.d"}, r"separated by commas without blanks.*\(got 'https://a.b, h"),
        ({"CorsAllowOrigin": "*,https://a.b"}, r"must be \*, or origins .*\(got '\*,https://a.b'\)"),
        ({"CorsAllowOrigin": ",".join(["https://a.b"] * 43)}, r"at most 512 characters"),
        ({"KmsKeyArn": "alias/mine"}, r"ARN of a key \(not of an alias\).*\(got 'alias/mine'\)"),
        ({"AthenaDatabaseName": "my-db"}, r"\(got 'my-db'\)"),
    ],
)
def test_a_bad_parameter_is_named_with_its_value_and_the_way_out(given: dict[str, str], message: str) -> None:
    with pytest.raises(templates.UsageError, match=message):
        templates.effective_parameters(STACK, DEFAULTS, given)
