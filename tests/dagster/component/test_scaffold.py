"""What `dg scaffold defs llm_assets.dagster.LLMTable` writes."""

import re

import pytest
import sqlalchemy as sa
import yaml
from dagster.components.component_scaffolding import scaffold_object

from llm_assets.dagster import LLMTable
from llm_assets.dagster.scaffold import TEMPLATE
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


# A setting in a comment begins with a small letter or a dash, and prose with a capital or a number.
COMMENTED = re.findall(r"^ *# [a-z-].*\n(?: *#  .*\n)*", TEMPLATE.partition("attributes:\n")[2], re.M)
BESIDE = {"query": ("key",), "schedule": ("partitions",), "sensors": ("partitions",)}
"""Settings that need others beside them."""


def name_of(commented: str) -> str:
    first, _, rest = commented.strip(" #").partition(":")
    return rest.split()[0] if first == "- type" else first


@pytest.mark.parametrize("name", map(name_of, COMMENTED))
def test_each_comment_of_the_scaffold_is_a_setting_once_it_is_uncommented(project: Project, name: str) -> None:
    file = project.sandbox.scaffold_component(LLMTable, "reviews") / "defs.yaml"
    without_model = {**FIVE_LINES, "    model:": ""}
    text = fill_in(file.read_text(), without_model if name == "type" else FIVE_LINES)
    before = yaml.safe_load(text)["attributes"]
    for each in COMMENTED:
        if name_of(each) in (name, *BESIDE.get(name, ())):
            written = each.format(table="reviews", group="reviews")
            assert text.count(written) == 1
            text = text.replace(written, re.sub(r"^( *)# ", r"\1", written, flags=re.M))
    attributes = yaml.safe_load(text)["attributes"]
    assert attributes != before
    assert "  " not in str(attributes), "an explanation became part of the value"
    assert schema_errors(yaml.safe_dump(attributes)) == {}
    file.write_text(text)
    project.load(file.parent)


def test_a_second_table_is_appended_and_python_is_scaffolded_too(project: Project) -> None:
    folder = project.sandbox.scaffold_component(LLMTable, "reviews")
    scaffold_object(folder / "defs.yaml", "llm_assets.dagster.LLMTable", None, "yaml", None, append=True)
    first, second = yaml.safe_load_all((folder / "defs.yaml").read_text())
    assert first["attributes"] == second["attributes"]
    python = project.sandbox.scaffold_component(LLMTable, "letters", scaffold_format="python")
    assert "LLMTable" in (python / "component.py").read_text()
