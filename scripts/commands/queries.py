"""The saved queries of queries.sql, and the named queries that they become in the template.

CloudFormation cannot read a file, so that the resources are made from it when the template is rendered: the SQL stands
in one place.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.console import UsageError

QUERIES = Path(__file__).resolve().parents[2] / "queries.sql"
_HEADING = re.compile(r"^-- ([a-z][a-z0-9-]*): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class SavedQuery:
    """One query under its question. `text` is what stands below the heading, its comments included."""

    name: str
    question: str
    text: str

    @property
    def logical_id(self) -> str:
        """`latest-events` is the resource QueryLatestEvents."""
        return "Query" + "".join(word.capitalize() for word in self.name.split("-"))


def read(path: Path = QUERIES) -> list[SavedQuery]:
    """The queries in their order. A heading is a comment line `-- name-of-the-query: The question?`."""
    text = path.read_text()
    headings = list(_HEADING.finditer(text))
    if not headings:
        raise UsageError(f"{path.name} has no query: each begins with a line `-- its-name: Its question?`")
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    return [
        SavedQuery(heading[1], heading[2], text[heading.end() : end].strip().removesuffix(";") + "\n")
        for heading, end in zip(headings, ends, strict=True)
    ]


def read_all(paths: Sequence[Path]) -> list[SavedQuery]:
    """The queries of several files; a name may stand in one of them only."""
    found: dict[str, SavedQuery] = {}
    for path in paths:
        if not path.is_file():
            raise UsageError(f"there is no file '{path}' with saved queries")
        for query in read(path):
            if query.name in found:
                raise UsageError(f"{path} has a query '{query.name}', as another file has: rename one of them")
            found[query.name] = query
    return list(found.values())


def resources(queries: list[SavedQuery]) -> str:
    """The queries as AWS::Athena::NamedQuery resources of the template."""
    return "".join(
        f"\n  {query.logical_id}:\n"
        "    Type: AWS::Athena::NamedQuery\n"
        "    Properties:\n"
        f"      Name: {query.name}\n"
        f"      Description: {json.dumps(query.question)}\n"
        "      Database: !Ref CatalogDatabase\n"
        "      WorkGroup: !Ref QueryWorkGroup\n"
        "      QueryString: !Sub |\n" + textwrap.indent(query.text, " " * 8)
        for query in queries
    )
