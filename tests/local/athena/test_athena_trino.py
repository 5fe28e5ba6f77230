"""The local Athena gives Trino's answers, or refuses by name.

`trino_answers.ndjson` holds statements with the answers of Trino 435 over a lake of the rows of `trino_lake`, through
the Hive connector and with the Glue tables of this pipeline: the columns with their types, the rows as text
(timestamps with milliseconds, as Athena prints them), or the error's name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.lake import Client, Lake, day
from tests.local.athena.trino_lake import rows

Json = dict[str, Any]

ANSWERS: list[Json] = [json.loads(line) for line in (Path(__file__).parent / "trino_answers.ndjson").open()]
# The local Athena agrees on at least this share of the statements, in percent.
AGREED = 92


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    """The local Athena's answer to each statement."""
    directory = tmp_path_factory.mktemp("lake")
    lake = Lake(directory)
    lake.add_table("records")
    lake.put_parquet(f"events/dt={day()}/a.parquet", list(rows()))
    client = Client(lake, directory / "athena")
    return [ask(client, asked["sql"]) for asked in ANSWERS]


def ask(client: Client, sql: str) -> Json:
    """The answer of the local Athena in the form of the recording, with the whole message of an error."""
    try:
        answer = client.run(sql)
    except AssertionError as refused:  # at the start, as Athena refuses bad syntax
        return {"error": "SYNTAX_ERROR", "message": str(refused)}
    if answer.state != "SUCCEEDED":
        return {"error": answer.reason.partition(":")[0], "message": answer.reason}
    columns = [list(column) for column in zip(answer.header, answer.types, strict=True)]
    return {"columns": columns, "rows": answer.rows}


def judge(asked: Json, answered: Json) -> str:
    """agree: the same columns and rows (in order if the last clause orders), or an error of the same name. refused: the
    local Athena does not implement this, by its own message. wrong: another answer, or one where Trino refuses.
    misworded: another error than Trino's, or one where Trino answers."""
    if "the local Athena does not implement" in answered.get("message", ""):
        return "refused"
    if "error" in answered:
        return "agree" if asked.get("error") == answered["error"] else "misworded"
    if "error" in asked:
        return "wrong"
    got, wanted = answered["rows"], asked["rows"]
    if "ORDER BY" not in asked["sql"].upper().rpartition(")")[2]:
        got, wanted = sorted(got, key=str), sorted(wanted, key=str)
    return "agree" if (answered["columns"], got) == (asked["columns"], wanted) else "wrong"


@pytest.mark.parametrize("number", range(len(ANSWERS)), ids=[f"{n}: {one['topic']}" for n, one in enumerate(ANSWERS)])
def test_the_local_athena_agrees_with_trino_or_refuses_by_name(answers: list[Json], number: int) -> None:
    assert judge(ANSWERS[number], answers[number]) in ("agree", "refused"), (ANSWERS[number], answers[number])


def test_nearly_every_statement_is_answered(answers: list[Json]) -> None:
    verdicts = Counter(map(judge, ANSWERS, answers))
    assert 100 * verdicts["agree"] / verdicts.total() >= AGREED, verdicts


def test_no_error_has_words_of_duckdb_or_python(answers: list[Json]) -> None:
    foreign = re.compile(r"(?i)duckdb|binder|catalog error|traceback|exception:|\bINT(32|64|128)\b")
    assert not [one["message"] for one in answers if foreign.search(one.get("message", ""))]


ONE: Json = {"sql": "SELECT 1 ORDER BY 1", "columns": [["_col0", "integer"]], "rows": [["1"], ["2"]]}
VERDICTS: dict[str, tuple[Json, Json, str]] = {
    "the same": (ONE, {"columns": ONE["columns"], "rows": [["1"], ["2"]]}, "agree"),
    "another order": (ONE, {"columns": ONE["columns"], "rows": [["2"], ["1"]]}, "wrong"),
    "another order where none is asked for": (
        {**ONE, "sql": "SELECT 1"}, {"columns": ONE["columns"], "rows": [["2"], ["1"]]}, "agree"),
    "another type": (ONE, {"columns": [["_col0", "bigint"]], "rows": ONE["rows"]}, "wrong"),
    "an answer where Trino refuses": ({"sql": "x", "error": "TYPE_MISMATCH"}, {"columns": [], "rows": []}, "wrong"),
    "the same error": ({"sql": "x", "error": "A"}, {"error": "A", "message": "A: b"}, "agree"),
    "another error": ({"sql": "x", "error": "A"}, {"error": "B", "message": "B: b"}, "misworded"),
    "an error where Trino answers": (ONE, {"error": "B", "message": "B: b"}, "misworded"),
    "not implemented": (ONE, {"error": "N", "message": "N: the local Athena does not implement x"}, "refused"),
}  # fmt: skip


@pytest.mark.parametrize(("asked", "answered", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_the_judge_tells_four_verdicts(asked: Json, answered: Json, verdict: str) -> None:
    assert judge(asked, answered) == verdict
