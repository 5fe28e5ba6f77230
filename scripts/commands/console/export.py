"""The answers of the saved queries as one HTML file, readable without console, AWS and network."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from scripts.commands.common.athena import SavedQuery, place, run
from scripts.commands.common.console import CommandError, say
from scripts.commands.common.stack import Stack
from scripts.commands.console.pages import FOLDER, templates
from scripts.commands.console.questions import Questions, Result, Run, parameters_of


@dataclass(frozen=True)
class Answer:
    """A saved query's answer; or the reason for none, in `problem`."""

    query: SavedQuery
    run: Run | None = None
    result: Result | None = None
    problem: str = ""


def export(stack: Stack) -> tuple[str, int]:
    """The file's text, and how many of its queries have no answer. Each query runs once, one after the other."""
    questions = Questions(stack)
    saved = [query for query in questions.saved() if not parameters_of(query.sql)]
    say(f"{len(saved)} saved queries run, each {questions.price}.")
    answers = [_answer(stack, questions, query) for query in saved]
    style = (FOLDER / "console.css").read_text()
    text = (
        templates()
        .get_template("export.html")
        .render(
            answers=answers,
            name=stack.name,
            at=datetime.now(UTC),
            style=style,
            # Of the text between the tags, to the last blank.
            hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )
    return text, sum(bool(answer.problem) for answer in answers)


def _answer(stack: Stack, questions: Questions, query: SavedQuery) -> Answer:
    try:
        done = run(questions.athena, place(stack), query.database, query.sql, [])
        found = questions.look(done["QueryExecutionId"])
        return Answer(query, found, questions.result(found.id))
    except CommandError as error:
        say(f"{query.name}: {error}")
        return Answer(query, problem=str(error))
