"""The SQL files of refinement: their compilation, and errors with their place before anything is deployed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from scripts.commands.common.console import CommandError
from scripts.commands.deploy.template import TEMPLATE
from stacks.refine.folder import MAX_BYTES, compile_folder

HEADER = "-- target: made\n-- zone: processed\n-- partitions: dt\n"
SELECT = (
    """SELECT name, dt FROM "${AthenaDatabaseName}"."${AthenaTableName}" WHERE dt BETWEEN '${from}' AND '${to}'\n"""
)
NEEDY = "-- target: needy\n-- zone: curated\n-- needs: made\n-- partitions: dt\n"
NEEDY_SELECT = "SELECT count(*) AS rows_, dt\nFROM made\nWHERE dt BETWEEN '${from}' AND '${to}' GROUP BY dt\n"


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name}.sql").write_text(text)
    return path


def test_the_files_of_the_repository_are_compiled_in_the_order_of_their_needs() -> None:
    targets = json.loads(compile_folder(TEMPLATE.parent / "stacks/refine/sql"))["targets"]
    assert [target["table"] for target in targets] == ["processed_events", "daily_events", "quality"]
    assert targets[2]["metrics"] == ["rows_in", "rows_out", "duplicates", "completeness", "nulls"]


def test_the_example_of_the_page_is_a_file_that_fits_beside_them(tmp_path: Path) -> None:
    page = (TEMPLATE.parent / "docs/refine.md").read_text()
    [example] = re.findall(r"^```sql\n(-- target: .+?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(TEMPLATE.parent / "stacks/refine/sql", tmp_path, dirs_exist_ok=True)
    (tmp_path / "example.sql").write_text(example)
    assert len(json.loads(compile_folder(tmp_path))["targets"]) == 4


def test_what_a_file_declares_stands_in_the_document_with_its_sql_line_by_line(tmp_path: Path) -> None:
    header = (
        "-- target: by_type\n-- zone: curated\n-- needs: made\n-- partitions: dt\n-- days: 10\n-- metrics: n\n"
        "-- received: at\n-- moves: yes\n"
    )
    select = (
        "SELECT count(*) AS n, min(at) AS at, kind, dt FROM made\n"
        "WHERE dt BETWEEN '${from}' AND '${to}' GROUP BY dt, kind;\n"
    )
    made = HEADER + SELECT
    document = json.loads(compile_folder(folder(tmp_path, a_by_type=f"{header}--\n-- prose: any\n{select}", made=made)))
    assert document["targets"][0]["sql"] == made
    assert document["targets"][1] == {
        "file": "a_by_type.sql",
        "table": "by_type",
        "zone": "curated",
        "needs": ["made"],
        "days": 10,
        "metrics": ["n"],
        "received": "at",
        "moves": True,
        "sql": f"{header}--\n-- prose: any\n{select}".replace(";", ""),
    }


def test_the_same_files_are_the_same_document(tmp_path: Path) -> None:
    folder(tmp_path, needy=NEEDY + NEEDY_SELECT, made=HEADER + SELECT)
    assert compile_folder(tmp_path) == compile_folder(tmp_path)


REFUSED = {
    "unknown header key": (
        "-- target: made\n-- zne: processed\n" + SELECT,
        2,
        "'-- zne: processed' is not a line of the header, .*: did you mean 'zone'?",
    ),
    "prose in the header": (HEADER + "-- Rows.\n" + SELECT, 4, "an empty comment line .* ends the header"),
    "key twice": (HEADER + "-- zone: curated\n" + SELECT, 4, "'zone' is in line 2 already"),
    "no target": (
        "-- zone: processed\n-- partitions: dt\n" + SELECT,
        1,
        "the header lacks a value for 'target': add a line `-- target: ...`",
    ),
    "no header at all": (SELECT, 1, "lacks a value for 'target'"),
    "bad table name": (HEADER.replace("made", "Made-It") + SELECT, 1, "'Made-It' is not a table name"),
    "name of a temporary table": (HEADER.replace("made", "made__run_1") + SELECT, 1, "is not a table name"),
    "unknown zone": (HEADER.replace("processed", "raw") + SELECT, 2, "zone must be processed or curated .got 'raw'"),
    "more than dt": (
        HEADER.replace("dt", "dt, kind") + "-- days: 10\n" + SELECT,
        3,
        "partitions must be dt alone .got 'dt, kind'.: a day of several partitions would not change in one step, so ",
    ),
    "another than dt": (HEADER.replace("dt", "day") + SELECT, 3, "partitions must be dt alone .got 'day'."),
    "moves maybe": (HEADER + "-- moves: no\n" + SELECT, 4, "moves can only be yes .got 'no'.: or leave it out"),
    "bad column name": (HEADER + "-- metrics: Rows In\n" + SELECT, 4, "'Rows In' is not a column name"),
    "days that Athena does not write": (HEADER + "-- days: 101\n" + SELECT, 4, "from 1 to 100 .got '101'"),
    "no from": (HEADER + SELECT.replace("${from}", "2026-01-01"), 4, r"the SELECT has no \${from}"),
    "from in a comment alone": (
        HEADER + "-- days: 3\n--\n-- ${from}\n" + SELECT.replace("${from}", "2026-01-01"),
        7,
        r"the SELECT has no \${from}",
    ),
    "unknown placeholder": (
        HEADER + SELECT + "AND name = '${form}'\n",
        5,
        r"'\${form}' is not a placeholder: there are",
    ),
    "open placeholder": (HEADER + SELECT + "AND name = '${from'\n", 5, "is not a placeholder"),
    "no SQL": (
        HEADER + SELECT.replace("name, dt", "name,\n(dt"),
        5,
        "this is not valid Athena SQL: Expecting [)] near 'FROM'",
    ),
    "open string": (HEADER + SELECT + "AND name = 'x\n", 5, "this is not valid Athena SQL: Missing '"),
    "two statements": (HEADER + SELECT + ";" + SELECT, 5, "a file has one SELECT, .* .got 2 statements"),
    "no SELECT": (HEADER + "DELETE FROM made WHERE dt BETWEEN '${from}' AND '${to}'\n", 4, "got a DELETE"),
    "partition column not last": (
        HEADER + SELECT.replace("name, dt", "dt, name"),
        4,
        "must end with dt, after at least one other column .it ends with name",
    ),
    "nothing but partition columns": (HEADER + SELECT.replace("name, dt", "dt"), 4, "after at least one other column"),
    "star": (HEADER + SELECT.replace("name, dt", "*"), 4, "the last SELECT has a [*]: name its columns"),
    "column without a name": (HEADER + SELECT.replace("name", "\nupper(name)"), 5, "'UPPER.name.' needs a name"),
    "column twice": (HEADER + SELECT.replace("name", "name, action AS\nname"), 4, "two columns named 'name'"),
    "unknown metric": (
        HEADER + "-- metrics: nam\n" + SELECT,
        4,
        "'nam' is not a column of the SELECT: did you mean 'name'?",
    ),
    "unknown column of the time": (HEADER + "-- received: at\n" + SELECT, 4, "'at' is not a column of the SELECT"),
    "two columns of the time": (HEADER + "-- received: a, b\n" + SELECT, 4, "'a, b' is not a column name"),
    "column of the time without a name": (HEADER + "-- received:\n" + SELECT, 4, "'' is not a column name"),
    "needs what no file makes": (HEADER + "-- needs: mad\n" + SELECT, 4, "needs 'mad', which no file makes"),
    "unknown table": (
        HEADER + SELECT.replace('"${AthenaDatabaseName}"."${AthenaTableName}"', "\nmades"),
        5,
        "no file makes the table 'mades': did you mean 'made'?",
    ),
}


@pytest.mark.parametrize(("text", "line", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    folder(tmp_path, made=text)
    with pytest.raises(CommandError, match=message) as refusal:
        compile_folder(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path / 'made.sql'}:{line}: ")
    assert refusal.value.exit_code == 2


REFUSED_TOGETHER = {
    "same target": ({"a": HEADER + SELECT, "b": HEADER + SELECT}, "b.sql:1: a.sql makes the table made already"),
    "reads what it does not need": (
        {"made": HEADER + SELECT, "needy": NEEDY.replace("-- needs: made\n", "") + NEEDY_SELECT},
        "needy.sql:5: reads made and does not say so: add `-- needs: made`",
    ),
    "needs what it does not read": (
        {"made": HEADER + SELECT, "needy": NEEDY + SELECT},
        "needy.sql:3: needs made and does not read it",
    ),
    "circle": (
        {
            "made": HEADER + "-- needs: needy\n" + NEEDY_SELECT.replace("made", "needy"),
            "needy": NEEDY + NEEDY_SELECT,
        },
        ".sql:[34]: the files need each other in a circle: ",
    ),
    "itself": (
        {"made": HEADER + "-- needs: made\n" + NEEDY_SELECT},
        "made.sql:4: the files need each other in a circle: made <- made",
    ),
    "no file": ({}, "has no file that ends in .sql"),
}


@pytest.mark.parametrize(("files", "message"), REFUSED_TOGETHER.values(), ids=REFUSED_TOGETHER.keys())
def test_files_that_do_not_go_together_are_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        compile_folder(folder(tmp_path, **files))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not a folder: name one with SQL files, such as refine"):
        compile_folder(tmp_path / "refined")


def test_a_file_that_is_not_text_or_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "made.sql").write_bytes(HEADER.encode() + b"\xff")
    with pytest.raises(CommandError, match=r"made.sql:4: this is not UTF-8 text"):
        compile_folder(tmp_path)
    (tmp_path / "made.sql").write_text(HEADER + SELECT + "-- " + "x" * MAX_BYTES)
    with pytest.raises(CommandError, match=r"it has 100,\d+ bytes, and may have 100,000"):
        compile_folder(tmp_path)


@pytest.mark.parametrize(
    "table",
    ['"${AthenaDatabaseName}"."${AthenaTableName}_rejected"', "${AthenaTableName}", '"reference"."places"'],
)
def test_a_file_may_read_tables_that_no_file_makes(tmp_path: Path, table: str) -> None:
    select = f"WITH days AS (SELECT name, dt FROM {table}) SELECT name, dt FROM days WHERE dt >= '${{from}}${{to}}'\n"
    compile_folder(folder(tmp_path, made=HEADER + select))
