"""A table in YAML whose source is made by an asset of the project."""

import dagster as dg
import pytest
import sqlalchemy as sa

from tests.dagster.component.project import SMALL, Project, count, run, schema_errors

OWN = """
import os
import dagster as dg
import sqlalchemy as sa

@dg.asset(key={key})
def make_reviews() -> None:
    engine = sa.create_engine(os.environ["SHOP_URL"])
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO reviews VALUES (100, 'de', 'a new row')"))
    engine.dispose()
"""
JOB = "\neverything = dg.define_asset_job('everything', selection='*')\n"


@pytest.mark.parametrize(
    ("written", "key"),
    [("reviews", ["reviews"]), ("crm/letters", ["crm", "letters"]), ("[crm, letters]", ["crm", "letters"])],
)
def test_the_answers_come_after_an_asset_of_the_project(
    project: Project, shop: sa.Engine, written: str, key: list[str]
) -> None:
    project.write(SMALL + f"source_asset: {written}\n")
    own = project.sandbox.defs_folder_path / "own"
    own.mkdir()
    (own / "reviews.py").write_text(OWN.format(key=key) + JOB)
    definitions = project.everything()
    assert definitions.resolve_asset_graph().get_all_asset_keys() == {
        dg.AssetKey(key),
        dg.AssetKey("reviews_sentiment"),
    }
    with run(definitions, "everything") as result:
        assert result.success
    assert count(shop, "reviews_sentiment") == 7


def test_the_key_is_checked_with_its_line(project: Project) -> None:
    [line] = project.refused(SMALL + "source_asset: crm//letters\n")
    assert line.startswith("6: source_asset: 'crm//letters' is no asset key, because a part of it is empty.")
    lines = project.refused(SMALL + "source_asset: 5\n")
    assert lines == ["6: source_asset: Input should be a valid list, not 5."]
    assert schema_errors(SMALL + "source_asset: crm/letters\n") == {}
    assert schema_errors(SMALL + "source_asset: [crm, letters]\n") == {}
    assert schema_errors(SMALL + "source_asset: {a: b}\n").keys() == {"source_asset"}
