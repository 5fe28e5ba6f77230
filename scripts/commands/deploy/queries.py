"""The saved queries of queries.sql, and their copies as named queries in template.yaml.

CloudFormation cannot read a file, so scripts/save-queries.sh copies the SQL into the template.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.commands.common.console import Parser, UsageError, main, say
from scripts.commands.common.paths import REPOSITORY, TEMPLATE

QUERIES = REPOSITORY / "queries.sql"
_HEADING = re.compile(r"^-- ([a-z][a-z0-9-]*): (.+)$", re.MULTILINE)
_NAMED_QUERIES = re.compile(r"^  \w+:\n    Type: AWS::Athena::NamedQuery\n(?:(?:    .*)?\n)*", re.MULTILINE)


@dataclass(frozen=True)
class SavedQuery:
    """One query under its question. `text` is the SQL below the heading, its comments included."""

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
    """The queries of several files; a name may be in one of them only."""
    found: dict[str, SavedQuery] = {}
    for path in paths:
        if not path.is_file():
            raise UsageError(f"there is no file '{path}' with saved queries")
        for query in read(path):
            if query.name in found:
                raise UsageError(f"{path} has a query '{query.name}', as another file has: rename one of them")
            found[query.name] = query
    return list(found.values())


def save(template: str, queries: Sequence[SavedQuery]) -> str:
    """The template's text with its saved queries replaced by these."""
    without = _NAMED_QUERIES.sub("", template)
    return without.replace("\nOutputs:\n", "".join(map(_resource, queries)) + "\nOutputs:\n", 1)


def check(template: str) -> None:
    """Refuse a template whose saved queries are not those of queries.sql: people edit queries.sql, and it would lie."""
    if save(template, read_all([QUERIES])) != template:
        raise UsageError(
            "template.yaml does not have the saved queries of queries.sql: edit queries.sql alone, and run "
            "scripts/save-queries.sh, which copies them"
        )


def _resource(query: SavedQuery) -> str:
    return (
        f"\n  {query.logical_id}:\n"
        "    Type: AWS::Athena::NamedQuery\n"
        "    Properties:\n"
        f"      Name: {query.name}\n"
        f"      Description: {json.dumps(query.question)}\n"
        "      Database: !Ref CatalogDatabase\n"
        "      WorkGroup: !Ref QueryWorkGroup\n"
        "      QueryString: !Sub |\n" + textwrap.indent(query.text, " " * 8)
    )


def save_into_template(arguments: list[str]) -> int:
    """Entry point of scripts/save-queries.sh; returns the exit code."""
    Parser("save-queries").parse_args(arguments)
    saved = read_all([QUERIES])
    text = TEMPLATE.read_text()
    TEMPLATE.write_text(save(text, saved))
    say(f"template.yaml has the {len(saved)} saved queries of queries.sql.")
    return 0


if __name__ == "__main__":
    main(save_into_template)
