"""scripts/save-queries.sh: the queries in template.yaml, and deploy.sh refusing until it has run."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.commands.common.console import UsageError, guarded
from scripts.commands.deploy import product, queries, template

HOW = "edit queries.sql alone, and run scripts/save-queries.sh, which copies them"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one's own: its queries and its template."""
    for module, name in ((queries, "QUERIES"), (queries, "TEMPLATE"), (template, "TEMPLATE")):
        mine = tmp_path / getattr(module, name).name
        mine.write_text(getattr(module, name).read_text())
        monkeypatch.setattr(module, name, mine)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param("queries.sql", "LIMIT 50", "LIMIT 100", id="changed SQL"),
        pytest.param("queries.sql", "What came in last?", "What is new?", id="changed question"),
        pytest.param("queries.sql", "-- latest-events:", "-- newest:", id="renamed"),
        pytest.param("queries.sql", "-- failures:", "-- one: One?\nSELECT 1;\n\n-- failures:", id="added"),
        pytest.param("template.yaml", "LIMIT 50", "LIMIT 100", id="edited in the template"),
        pytest.param("template.yaml", "  QueryFailures:", "  QueryMisses:", id="another id"),
        pytest.param("template.yaml", "      Name: failures\n", "", id="half a query"),
    ],
)
def test_queries_that_differ_are_refused_until_they_are_saved(checkout: Path, file: str, old: str, new: str) -> None:
    edit(checkout / file, old, new)
    with pytest.raises(UsageError, match=HOW):
        product.read_product()
    assert guarded(queries.save_into_template, []) == 0
    product.read_product()


def test_the_edited_text_is_in_the_template_and_all_else_as_it_was(checkout: Path) -> None:
    before = (checkout / "template.yaml").read_text()
    edit(checkout / "queries.sql", "LIMIT 50", "LIMIT 100")
    assert guarded(queries.save_into_template, []) == 0
    assert (checkout / "template.yaml").read_text() == before.replace("LIMIT 50", "LIMIT 100", 1), HOW


def test_a_template_without_a_saved_query_gets_them_all(checkout: Path) -> None:
    mine = checkout / "template.yaml"
    before = mine.read_text()
    mine.write_text(queries.save(before, []))
    assert "NamedQuery" not in mine.read_text()
    assert guarded(queries.save_into_template, []) == 0
    assert mine.read_text() == before, HOW


@pytest.mark.parametrize(("text", "words"), [(None, "there is no file"), ("SELECT 1", "queries.sql has no query")])
def test_queries_that_cannot_be_read_leave_the_template_alone(
    checkout: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    before = (checkout / "template.yaml").read_text()
    (checkout / "queries.sql").unlink()
    if text:
        (checkout / "queries.sql").write_text(text)
    assert guarded(queries.save_into_template, []) == 2
    assert words in capsys.readouterr().err
    with pytest.raises(UsageError, match=words):
        product.read_product()
    assert (checkout / "template.yaml").read_text() == before
