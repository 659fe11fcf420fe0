"""What `dg scaffold defs llm_assets.dagster.LLMTable` writes."""

import re

import pytest
import sqlalchemy as sa
import yaml
from dagster.components.component_scaffolding import scaffold_object

from llm_assets.dagster import LLMTable
from tests.dagster.component.project import Project, count, run, schema_errors


def fill_in(text: str, lines: dict[str, str]) -> str:
    for written, filled in lines.items():
        assert text.count(f"\n{written}") == 1
        text = re.sub(rf"\n{re.escape(written)}.*", lambda _, filled=filled: f"\n{filled}", text)
    return text


FIVE_LINES = {
    "    table:": "    table: reviews",
    "    url:": '    url: "{{ env.SHOP_URL }}"',
    "    model:": "    type: dummy",
    "      text:": '      text: "{text}"',
    "      labels:": "      labels: [positive, negative]",
}


def test_what_is_scaffolded_works_with_five_lines_filled_in(project: Project, shop: sa.Engine) -> None:
    folder = project.sandbox.scaffold_component(LLMTable, "reviews")
    file = folder / "defs.yaml"
    assert [int(number) for number in re.findall(r"# (\d)\. ", file.read_text())] == [1, 2, 3, 4, 5]
    file.write_text(fill_in(file.read_text(), FIVE_LINES))
    _, definitions = project.load(folder)
    with run(definitions, "answer_reviews") as result:
        assert result.success
    assert count(shop, "reviews_sentiment") == 6


def test_what_is_scaffolded_says_which_lines_are_not_filled_in(project: Project) -> None:
    folder = project.sandbox.scaffold_component(LLMTable, "reviews")
    text = (folder / "defs.yaml").read_text()
    with pytest.raises(Exception, match="reviews") as caught:
        project.load(folder)
    found = {int(line) for line in re.findall(r"defs\.yaml:(\d+):", str(caught.value.__cause__))}
    empty = {n for n, line in enumerate(text.splitlines(), 1) if re.fullmatch(r" +(url|model|text|labels):", line)}
    assert found == empty
    assert len(empty) == 4
    assert str(caught.value.__cause__).count("Nothing is written here.") == 4


def test_every_comment_of_the_scaffold_is_a_setting_that_there_is(project: Project) -> None:
    folder = project.sandbox.scaffold_component(LLMTable, "reviews")
    text = fill_in((folder / "defs.yaml").read_text(), FIVE_LINES)
    attributes = text.partition("attributes:\n")[2]
    # A setting stands in a comment with what it is for far to the right; prose begins with a capital or a number.
    commented = re.sub(r"^( *)# (?=[a-z -])(.*?)(?:(?<=\S) {3,}[a-z].*)?$", r"\1\2", attributes, flags=re.M)
    settings = "\n".join(line for line in commented.splitlines() if not line.lstrip().startswith("#"))
    settings = re.sub(r"^  engine: \{type: dummy\}.*$", "", settings, flags=re.M)
    found = yaml.safe_load(settings)
    assert {"partitions", "schedule", "settings", "owners", "tags"} <= found.keys()
    assert [task["type"] for task in found["tasks"]] == ["classify", "extract", "summarize"]
    found["source"]["key"] = "id"
    assert schema_errors(yaml.safe_dump(found)) == {}
    project.load(project.write(yaml.safe_dump(found)))


def test_a_second_table_is_appended_and_python_is_scaffolded_too(project: Project) -> None:
    folder = project.sandbox.scaffold_component(LLMTable, "reviews")
    scaffold_object(folder / "defs.yaml", "llm_assets.dagster.LLMTable", None, "yaml", None, append=True)
    first, second = yaml.safe_load_all((folder / "defs.yaml").read_text())
    assert first["attributes"] == second["attributes"]
    python = project.sandbox.scaffold_component(LLMTable, "letters", scaffold_format="python")
    assert "LLMTable" in (python / "component.py").read_text()
