"""The local AWS implements everything the template and the scripts use, and refuses the rest by name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local.apigateway.service import ApiGateway
from local.athena.glue import Glue
from local.athena.service import Athena
from local.athena.syntax import parse
from local.firehose.service import Firehose
from local.ministack import Emulator
from local.stepfunctions import StepFunctions
from scripts.commands.deploy import nested, queries
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.deployed import deployed
from stacks.refine import folder as refine_files
from stacks.refine.function import plan
from tests.conftest import ROOT
from tests.gateway import ACCOUNT, REGION
from tests.lake import BUCKET, Client, Lake
from tests.resolved import Resolver

Json = dict[str, Any]

# As it is deployed: the saved queries are resources, too.
RENDERED = templates.load(deployed())
RESOURCES: dict[str, Json] = RENDERED["Resources"]
STACKS = {stack.name: stack.template["Resources"] for stack in nested.read()}
STACK_TYPES = {resource["Type"] for resources in STACKS.values() for resource in resources.values()}
TYPES = {resource["Type"] for resource in RESOURCES.values()} | STACK_TYPES
# Folders of SQL files for refinement's tables.
REFINE_FOLDERS = [ROOT / "stacks/refine/sql", *ROOT.glob("examples/*/refine")]
ENGINES = {
    "AWS::ApiGateway": "apigateway",
    "AWS::KinesisFirehose": "firehose",
    "AWS::Athena": "athena",
    "AWS::Glue": "glue",
}
# Values of parameters, each for parts of the template that the others hide.
VARIANTS: dict[str, dict[str, str]] = {
    "the defaults": {},
    "JSON": {"OutputFormat": "JSON"},
    "raw backup": {"RawBackup": "ENABLED"},
    "API keys": {"ApiAuth": "API_KEY"},
    "IAM": {"ApiAuth": "AWS_IAM"},
    "a key": {"KmsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/one"},
    **{f"{codec} Parquet": {"FirehoseCompressionFormat": codec} for codec in ("SNAPPY", "UNCOMPRESSED")},
    **{f"{codec} JSON": {"OutputFormat": "JSON", "FirehoseCompressionFormat": codec} for codec in ("SNAPPY", "GZIP")},
}
ARNS = {
    "AWS::S3::Bucket": "arn:aws:s3:::{}",
    "AWS::Lambda::Function": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}",
    "AWS::IAM::Role": f"arn:aws:iam::{ACCOUNT}:role/{{}}",
    "AWS::KinesisFirehose::DeliveryStream": f"arn:aws:firehose:{REGION}:{ACCOUNT}:deliverystream/{{}}",
}
LAKE = plan.Lake(database="sluice", bucket=BUCKET, events_table="records")
# Names chosen by the user, documentation, JSON schemas, and unreferenced parts.
FREE = re.compile(
    r"Variables|Body\.(info|paths|x-amazon-apigateway-request-validators)|Body\.components\.(schemas|securitySchemes).*"
    r"|TableInput\.Parameters|Body\.paths\./[\w/{}]+\.\w+\.(responses|requestBody|parameters).*|.*\.(requestTemplates|responseTemplates)"
)


class Registry:
    """An emulator that keeps the engines' handlers."""

    account, region = ACCOUNT, REGION

    def __init__(self) -> None:
        self.made: dict[str, SimpleNamespace] = {}
        self.checked: dict[str, Callable[[Json], None]] = {}

    def add_resource(self, resource_type: str, **handlers: Any) -> None:
        self.made[resource_type] = SimpleNamespace(**handlers)

    def check_resource(self, resource_type: str, check: Callable[[Json], None]) -> None:
        self.checked[resource_type] = check

    def add_service(self, name: str, handler: Any) -> None:
        pass

    def service(self, name: str) -> Any:
        return None

    def name_resources(self, service: str, name: Any) -> None:
        pass

    def add_tasks(self, perform: Any, count: Any) -> None:
        pass

    def check_schedules(self, check: Any) -> None:
        pass

    def authorize(self, role_arn: str, service: str, action: str, resource: str) -> None:
        pass

    def glue_table(self, database: str, table: str) -> Json:
        (found,) = [one for name, one in RESOURCES.items() if name == table]
        described: Json = found["Properties"]["TableInput"]
        return described

    def create(self, logical_id: str, resource_type: str, properties: Json) -> str:
        if resource_type in self.checked:
            self.checked[resource_type](properties)
            return logical_id
        physical_id: str = self.made[resource_type].create(logical_id, properties, "stack")[0]
        return physical_id


def registry(directory: Path) -> Registry:
    made: Any = Registry()
    firehose, athena = Firehose(made, directory / "firehose"), Athena(made, directory / "athena")
    for engine in (
        firehose,
        athena,
        Glue(made),
        StepFunctions(made, athena),
        ApiGateway(made, directory / "apigateway", integrations={"firehose": firehose.request}),
    ):
        engine.register()
    registered: Registry = made
    return registered


def names(node: Any) -> set[str]:
    return {name for name in templates.references(node) if name in RESOURCES}


def in_order() -> Iterator[str]:
    """The engines' resources, each after those it refers to."""
    waiting = [name for name, one in RESOURCES.items() if one["Type"].rpartition("::")[0] in ENGINES]
    done: set[str] = set()
    while waiting:
        name = next(one for one in waiting if not (names(RESOURCES[one]["Properties"]) & set(waiting)) - {one})
        waiting.remove(name)
        done.add(name)
        yield name


ORDER = list(in_order())


def create_all(made: Registry, parameters: dict[str, str]) -> Iterator[tuple[str, str, Json]]:
    """Create the engines' resources of the template; yields (logical id, type, resolved properties) before each."""
    defaults = {name: str(one.get("Default", "x")) for name, one in RENDERED["Parameters"].items()}
    known = {**defaults, "AWS::StackName": "stack", "AWS::AccountId": ACCOUNT, "AWS::Partition": "aws"}
    known |= {"AWS::Region": REGION, "StoreBucket": "storebucket", **parameters}
    resolver = Resolver(RENDERED, known, lambda name, _: ARNS[RESOURCES[name]["Type"]].format(name.lower()))
    for logical_id in ORDER:
        resource = RESOURCES[logical_id]
        properties = resolver.resolve(resource.get("Properties", {}))
        yield logical_id, resource["Type"], properties
        known[logical_id] = made.create(logical_id, resource["Type"], properties)


@pytest.mark.parametrize("resource_type", sorted(TYPES))
def test_every_type_of_resource_can_be_made_locally(resource_type: str, emulator: Emulator, tmp_path: Path) -> None:
    made = registry(tmp_path)
    assert resource_type in {*made.made, *made.checked, *emulator.resource_handlers}


def test_the_engines_implement_no_type_that_the_template_does_not_use(tmp_path: Path) -> None:
    made = registry(tmp_path)
    assert {*made.made, *made.checked} <= TYPES


@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS)
def test_every_property_that_the_template_uses_is_accepted(parameters: dict[str, str], tmp_path: Path) -> None:
    assert [logical_id for logical_id, _, _ in create_all(registry(tmp_path), parameters)] == ORDER


def objects(node: Any, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every JSON object below, the node itself included, with its path."""
    if isinstance(node, list):
        for item in node:
            yield from objects(item, path)
    elif isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from objects(value, f"{path}.{key}".lstrip("."))


@pytest.mark.parametrize("variant", ["the defaults", "raw backup", "API keys", "a key"])
def test_a_property_that_is_not_implemented_is_refused_by_name(variant: str, tmp_path: Path) -> None:
    """At every place of every resource: an engine silent about a property would differ from AWS."""
    made, tried, passed = registry(tmp_path), 0, []
    for logical_id, resource_type, properties in create_all(made, VARIANTS[variant]):
        for index, (path, _) in enumerate(objects(properties)):
            if FREE.fullmatch(path):
                continue
            wrong = copy.deepcopy(properties)
            [*objects(wrong)][index][1]["Unheard-of"] = {}
            tried += 1
            try:
                physical_id = made.create("Other", resource_type, wrong)
            except ValueError as error:
                # By its own name, or by the name required in its place.
                if re.search("Unheard-of|must be", str(error)):
                    continue
                passed.append(f"{logical_id} {path}: {error}")
            else:
                passed.append(f"{logical_id} {path}")
                if resource_type in made.made:
                    made.made[resource_type].delete(physical_id, wrong)
    assert tried > len(ORDER)
    assert not passed, "\n".join(passed)


CALL = re.compile(r"""\bathena(?:"\))?\.(?:get_paginator\("(\w+)"|(\w+)\()""")


def test_scripts_and_functions_call_no_operation_that_the_local_athena_lacks(tmp_path: Path) -> None:
    paths = [*(ROOT / "scripts" / "commands").rglob("*.py"), *(ROOT / "lambda").rglob("*.py")]
    sources = "".join(path.read_text() for path in paths)
    made: Any = Registry()
    implemented = set(Athena(made, tmp_path).operations)
    found = {paginated or called for paginated, called in CALL.findall(sources)}
    called = {"".join(word.capitalize() for word in name.split("_")) for name in found}
    assert {"StartQueryExecution", "GetQueryExecution", "GetQueryResults"} <= called
    assert called <= implemented


TASK = re.compile(r":states:::([\w:.]+)")


def test_the_tasks_of_the_state_machines_are_those_that_the_local_step_functions_perform(tmp_path: Path) -> None:
    used = {found for path in (ROOT / "stacks").glob("*/template.yaml") for found in TASK.findall(path.read_text())}
    made: Any = Registry()
    assert used == set(StepFunctions(made, Athena(made, tmp_path)).integrations)


SAVED = [path for path in [ROOT / "queries.sql", *ROOT.glob("examples/**/queries.sql")] if path.exists()]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_saved_query_is_one_that_the_local_athena_takes(path: Path) -> None:
    for query in queries.read(path):
        assert parse(re.sub(r"\$\{(\w+)}", r"\1", query.text))


def catalog(directory: Path) -> Lake:
    """A lake with the tables of the template, and nothing in them."""
    lake = Lake(directory)
    for name, resource in RESOURCES.items():
        if resource["Type"] == "AWS::Glue::Table":
            table = resource["Properties"]["TableInput"]
            columns = [*table["StorageDescriptor"]["Columns"], *table["PartitionKeys"]]
            suffix = {"Rejected": "_rejected", "Errors": "_errors"}.get(name[7:-5], "")
            types = {column["Name"]: column["Type"] for column in columns if column["Name"] != "dt"}
            lake.add_table(f"records{suffix}", types)
    return lake


@pytest.mark.parametrize("folder", REFINE_FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_the_local_athena_makes_every_table_of_refinement(folder: Path, tmp_path: Path) -> None:
    lake = catalog(tmp_path)
    client = Client(lake, tmp_path / "athena")
    for target in plan.read_targets(refine_files.compile_folder(folder)):
        statement = plan.Statement(
            table=target.table, file=target.file, first="2026-01-01", last="2026-01-02", attempt=1
        )
        prepared = plan.prepare(target, statement, "20260101t000000_00000000", LAKE)
        for sql in (prepared["create"], prepared["count"]):
            answer = client.run(sql)
            assert answer.state == "SUCCEEDED", f"{target.file}: {answer.reason}"
        lake.tables["sluice", target.table] = lake.tables["sluice", prepared["temporary"]]
