"""The documents against the project: their statements are true."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from scripts.commands.deploy import nested, queries
from scripts.commands.deploy import template as templates
from scripts.commands.deploy.template import TEMPLATE
from transform import records, rules

ROOT = TEMPLATE.parent
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs/reference.md").read_text()
STACK = templates.load(TEMPLATE.read_text())
SCHEMA = json.loads((ROOT / "lambda/transform/schema.json").read_text())
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.sh"))
COMMANDS = [name for name in SCRIPTS if name != "environment.sh"]
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
READMES = [ROOT / "local/README.md", ROOT / "tests/benchmarks/README.md"]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *READMES]
OPERATING = (ROOT / "docs/operating.md").read_text()
RULES_AND_SCHEMA = (ROOT / "docs/rules-and-schema.md").read_text()
A_PAGE = pytest.mark.parametrize("page", DOCUMENTS, ids=[path.name for path in DOCUMENTS])


def code(text: str, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in blocks if language in languages]


def section(heading: str, page: str = REFERENCE) -> str:
    """A page's text under a heading, up to the next of its level."""
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def header(script: str) -> str:
    """A script's header comment, without its marks."""
    lines = (ROOT / "scripts" / script).read_text().splitlines()
    comment: list[str] = []
    for line in lines[1:] if lines[0].startswith("#!") else lines:
        if not line.startswith("#"):
            break
        if "shellcheck" not in line:
            comment.append(line[1:].removeprefix(" "))
    return "\n".join(comment) + "\n"


def typed() -> Iterator[list[str]]:
    """Every call of a script in the documents, as words."""
    for page in DOCUMENTS:
        for block in code(page.read_text(), "bash", "console"):
            for line in block.splitlines():
                if found := re.search(r"scripts/\w+\.sh.*", line.removeprefix("$ ")):
                    # A call inside $( ) ends with the substitution, or before the next command of a pipe.
                    lexer = shlex.shlex(re.split(r" \d?[>|]|\)", found[0])[0], posix=True, punctuation_chars=False)
                    lexer.whitespace_split = True
                    try:
                        yield list(lexer)
                    except ValueError:  # a quote that goes on in the next line
                        yield found[0].split()


# The tables of the reference


@pytest.mark.parametrize("name", STACK["Parameters"])
def test_every_parameter_is_in_the_reference_with_its_default(name: str) -> None:
    default = STACK["Parameters"][name].get("Default")
    shown = "none" if default is None else f"`{default}`" if default != "" else "empty"
    assert f"\n| `{name}` | {shown} | " in REFERENCE, (
        f"edit the table under Parameters in docs/reference.md: | `{name}` | {shown} |"
    )


@pytest.mark.parametrize("name", STACK["Outputs"])
def test_every_output_is_in_the_reference(name: str) -> None:
    row = f"| `{name}` | {STACK['Outputs'][name]['Description']} |"
    assert f"\n{row}\n" in REFERENCE, f"edit the table under Outputs in docs/reference.md: {row}"


@pytest.mark.parametrize("stack", nested.read(), ids=lambda stack: stack.name)
def test_every_parameter_and_output_of_a_nested_stack_stands_on_its_page(stack: nested.NestedStack) -> None:
    path = ROOT / f"docs/{stack.name}.md"
    assert path.exists(), f"write docs/{stack.name}.md with a table of its parameters and one of its outputs"
    page = path.read_text()
    assert f"](docs/{stack.name}.md)" in README, f"add the stack {stack.name} to the table under More in README.md"
    rows = []
    for name, parameter in stack.parameters.items():
        default = parameter.get("Default")
        rows.append(f"| `{name}` | {f'`{default}`' if default != '' else 'empty'} | ")
    rows += [f"| `{name}` | {output['Description']} |\n" for name, output in stack.template["Outputs"].items()]
    assert [row for row in rows if f"\n{row}" not in page] == [], f"edit the tables of docs/{stack.name}.md"
    named = set(re.findall(rf"^\| `({stack.name.capitalize()}\w+)` \|", page, re.MULTILINE))
    assert named == {*stack.parameters, *stack.template["Outputs"]}, f"remove the others from docs/{stack.name}.md"


@pytest.mark.parametrize("column", SCHEMA["columns"] + SCHEMA["partition_keys"], ids=lambda column: column["name"])
def test_every_column_of_the_schema_is_in_the_reference(column: dict[str, str]) -> None:
    row = f"| `{column['name']}` | {column['type']} | {column['set_by']} | {column['description']} |"
    assert f"\n{row}\n" in REFERENCE, f"edit the table under Columns in docs/reference.md: {row}"


@pytest.mark.parametrize("column", SCHEMA["rejected_columns"], ids=lambda column: column["name"])
def test_every_column_of_rejected_events_stands_where_it_is_told_how_to_send_them_again(column: dict[str, str]) -> None:
    row = f"| `{column['name']}` | {column['type']} | {column['description']} |"
    assert f"\n{row}\n" in OPERATING, f"edit the table under Send rejected events again in docs/operating.md: {row}"


def test_the_reference_has_every_reason_for_which_an_event_is_rejected_and_no_other() -> None:
    sentence = section("Outcomes").split("The reasons for a rejection:")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) - {"events"} == set(get_args(records.Reason))


def test_every_reason_for_which_a_record_fails_is_explained() -> None:
    handler = (ROOT / "lambda/transform/handler.py").read_text()
    reasons = {*get_args(records.FaultReason), *re.findall(r'fail\(record, tally, "(\w+)"', handler)}
    reasons |= set(re.findall(r'= put\([^\n]+, "(\w+)", \[', handler))
    assert {"reply_full", "rejected_events", "reject_stream", "requeue"} < reasons
    table = OPERATING.split("Why a record failed, by the reason in the log:")[1].split("\n\n")[1]
    explained = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert explained == reasons


@pytest.mark.parametrize("path", STACK["Resources"]["IngestApi"]["Properties"]["Body"]["paths"])
def test_every_route_is_in_the_reference_with_its_method_and_media_types(path: str) -> None:
    operations = STACK["Resources"]["IngestApi"]["Properties"]["Body"]["paths"][path]
    method = next(name for name in operations if name != "options")
    rows = section("Routes").splitlines()
    begin = f"| `{method.upper()} {path}` |"
    row = next((row for row in rows if row.startswith(begin)), "")
    assert row, f"add the row of this route to the table under Routes in docs/reference.md: {begin}"
    if method == "post":
        types = operations[method]["x-amazon-apigateway-integration"]["requestTemplates"]
        named = set(re.findall(r"`(\w+/[\w.+-]+)`", row))
        assert named == set(types), f"name the media types of its requestTemplates in the row {begin}"
    preflight = next(row for row in rows if row.startswith("| `OPTIONS` on "))
    assert (path in preflight) == ("options" in operations), (
        f"edit the row `OPTIONS` on ... in docs/reference.md: {path}"
    )


def test_every_way_to_authorize_is_in_the_reference_and_no_other() -> None:
    table = section("Routes").split("| `ApiAuth` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == STACK["Parameters"]["ApiAuth"]["AllowedValues"]


@pytest.mark.parametrize("query", queries.read(), ids=lambda query: query.name)
def test_every_saved_query_is_in_the_reference_with_its_question(query: queries.SavedQuery) -> None:
    row = f"| `{query.name}` | {query.question} |"
    assert f"\n{row}\n" in REFERENCE, f"edit the table under Saved queries in docs/reference.md: {row}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_in_the_reference_with_the_first_line_of_its_help(script: str) -> None:
    row = f"| `scripts/{script}` | {header(script).splitlines()[0]} |"
    assert f"\n{row}\n" in REFERENCE, f"edit the table under Scripts in docs/reference.md: {row}"


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("Parameters", set(STACK["Parameters"])),
        ("Outputs", set(STACK["Outputs"])),
        ("Columns", {column["name"] for column in SCHEMA["columns"] + SCHEMA["partition_keys"]}),
        ("Saved queries", {query.name for query in queries.read()}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_table_of_the_reference_names_what_is_gone(heading: str, known: set[str]) -> None:
    named = set(re.findall(r"^\| `([^`]+)` \|", section(heading), re.MULTILINE))
    assert named - known == set(), f"remove these from the table under {heading} in docs/reference.md"


# Commands


def test_the_readme_begins_with_the_demo_and_has_the_command_that_ci_runs() -> None:
    first = code(README, "bash")
    assert first[0] == "scripts/demo.sh\n"
    assert "scripts/test.sh\n" in first
    assert re.findall(r"^exec bash (\S+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE) == ["scripts/test.sh"]


def test_what_the_demo_tells_to_type_next_stands_in_the_readme() -> None:
    demo = (ROOT / "scripts/commands/demo.py").read_text()
    proposed = re.findall(r"^\s+\"+(?:\"\")?(scripts/\w+\.sh [^\n]+?)\"+(?:\"\")?,$", demo, re.MULTILINE)
    assert len(proposed) >= 4
    shown = "".join(code(README, "bash"))
    assert [command for command in proposed if f"{command}\n" not in shown] == []


def test_every_command_that_the_documents_show_exists_with_its_options() -> None:
    calls = list(typed())
    assert len(calls) > 15
    for script, *arguments in calls:
        assert (ROOT / script).exists(), script
        for option in (word for word in arguments if re.fullmatch(r"--[a-z-]+", word)):
            assert option in header(Path(script).name), f"{script} has no {option}: it is in its help or nowhere"


@pytest.mark.parametrize("script", COMMANDS)
def test_help_is_the_header_comment_and_has_every_option(script: str) -> None:
    shown = subprocess.run(["bash", ROOT / "scripts" / script, "-h"], capture_output=True, text=True, check=True).stdout
    assert shown == header(script)
    runs = re.search(r"^run (\S+) ", (ROOT / "scripts" / script).read_text(), re.MULTILINE)
    source = (ROOT / f"{runs[1].replace('.', '/')}.py").read_text() if runs else ""
    options = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source)
    if "add_stack_arguments(" in source:
        options += ["--local", "--profile", "--region", "--stack-name"]
    assert [option for option in options if not re.search(rf"{option}\b(?!-)", shown)] == [], (
        f"document them in the header comment of scripts/{script}"
    )


# Text


def anchors(page: Path) -> set[str]:
    """GitHub's anchors for the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@A_PAGE
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            path = page.parent / file if file else page
            assert path.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(path), f"{page.name} links to {target}: there is no such heading"


@A_PAGE
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:\.ci|docs|lambda|local|scripts|tests)/[\w./-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_files_of_tests_that_are_named_anywhere_exist() -> None:
    folders = ("lambda", "stacks", "scripts", "local", "tests", "docs", "examples")
    paths = [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    texts = {path: path.read_text() for path in paths if path.suffix in (".py", ".sh", ".yaml", ".md", ".toml")}
    named = {(path, name) for path, text in texts.items() for name in re.findall(r"\btests/[\w/]+\.py\b", text)}
    assert [f"{path} names {name}" for path, name in sorted(named) if not (ROOT / name).exists()] == []


@A_PAGE
def test_no_page_names_a_place_of_one_machine(page: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users|opt|mnt)/\S*", page.read_text()) == []


@pytest.mark.parametrize("page", DECISIONS, ids=[path.name for path in DECISIONS])
def test_a_decision_is_one_short_page_of_four_parts_and_is_listed(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Status", "Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= 50
    title = re.match(r"# (\d+)\. (.+)\n", text)
    assert title
    assert int(title[1]) == int(page.name[:4]) == DECISIONS.index(page) + 1
    listed = f"{title[1]}. [{title[2]}]({page.name})"
    assert listed in (ROOT / "docs/decisions/README.md").read_text(), f"docs/decisions/README.md must list: {listed}"


def test_every_module_of_the_local_aws_is_on_its_map() -> None:
    mapped = set(re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "local/README.md").read_text(), re.MULTILINE))
    local = ROOT / "local"
    assert mapped == {str(path.relative_to(local)) for path in local.rglob("*.py") if path.name != "__init__.py"}, (
        "edit the table in local/README.md"
    )


# The documents' promises about the project


def test_the_rules_that_the_readme_shows_are_rules() -> None:
    blocks = code(section("Change rules and columns", README) + RULES_AND_SCHEMA, "python")
    found: dict[str, object] = {}
    for block in blocks:
        exec(block, {**vars(rules)}, found)
    assert len(found) == len(blocks) >= 3
    drop, rename, price = (found[name] for name in ("drop_internal_traffic", "name_the_source", "price_in_dollars"))
    event = {"app": "kiosk-7", "price_in_cents": 1250}
    context = rules.Context(0, ip="198.51.100.7")
    for rule in (rename, price):
        rule(event, context)
    assert event == {"source": "kiosk-7", "value": 12.5}
    with pytest.raises(rules.Drop):
        drop(event, context)


def test_the_local_aws_has_fewer_lines_than_the_product_that_it_serves() -> None:
    def lines(*patterns: str) -> int:
        files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
        written = [path for path in files if "__pycache__" not in path.parts and path.parent.name != "requirements"]
        return sum(len(path.read_bytes().splitlines()) for path in written)

    product = lines("template.yaml", "stacks/**/*", "lambda/**/*.py", "queries.sql", "scripts/**/*")
    assert lines("local/**/*") < product
