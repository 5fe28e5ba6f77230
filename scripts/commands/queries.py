"""The saved queries of queries.sql, and the named queries of the template, which carry the same SQL.

    python -m scripts.commands.queries      write queries.sql into template.yaml

CloudFormation cannot read a file, so that the SQL stands twice; this command makes the second from the first, and a
test holds them together.
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.console import CommandError
from scripts.commands.template import TEMPLATE

QUERIES = TEMPLATE.parent / "queries.sql"
_HEADING = re.compile(r"^-- ([a-z][a-z0-9-]*): (.+)$", re.MULTILINE)
_FIRST = "  # The saved queries: generated from queries.sql by `python -m scripts.commands.queries`.\n"


@dataclass(frozen=True)
class SavedQuery:
    """One query under its question. `sql` is what stands below the heading, without the comment lines there."""

    name: str
    question: str
    sql: str

    @property
    def logical_id(self) -> str:
        """`latest-events` is the resource QueryLatestEvents."""
        return "Query" + "".join(word.capitalize() for word in self.name.split("-"))


def read(path: Path = QUERIES) -> list[SavedQuery]:
    """The queries in their order. A heading is a comment line `-- name-of-the-query: The question?`."""
    text = path.read_text()
    headings = list(_HEADING.finditer(text))
    if not headings:
        raise CommandError(f"{path.name} has no query: each begins with a line `-- its-name: Its question?`")
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return [
        SavedQuery(heading[1], heading[2], _sql(text[heading.end() : end]))
        for heading, end in zip(headings, ends, strict=True)
    ]


def _sql(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if not line.startswith("--")]
    return "\n".join(lines).removesuffix(";") + "\n"


def resources(queries: list[SavedQuery]) -> str:
    """The AWS::Athena::NamedQuery resources as they stand in the template."""
    return _FIRST + "\n" + "\n".join(map(_resource, queries))


def _resource(query: SavedQuery) -> str:
    return (
        f"  {query.logical_id}:\n"
        "    Type: AWS::Athena::NamedQuery\n"
        "    Properties:\n"
        f"      Name: {query.name}\n"
        f"      Description: {json.dumps(query.question)}\n"
        "      Database: !Ref CatalogDatabase\n"
        "      WorkGroup: !Ref QueryWorkGroup\n"
        "      QueryString: !Sub |\n" + textwrap.indent(query.sql, " " * 8)
    )


def write(template: str, queries: list[SavedQuery]) -> str:
    """The template with its named queries replaced by these."""
    before, _, rest = template.partition(_FIRST)
    _, outputs, after = rest.partition("\nOutputs:\n")
    return before + resources(queries) + outputs + after


if __name__ == "__main__":
    TEMPLATE.write_text(write(TEMPLATE.read_text(), read()))
