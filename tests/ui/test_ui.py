"""The demo in the Dagster UI, as a person uses it: a browser, the production instance on Postgres, the real model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from llm_assets.demo.data import load_reviews, load_tickets
from llm_assets.tables import Database
from tests.dagster.dagster_processes import ROOT, running
from tests.postgres import PostgresServer
from tests.ui.browser import Browser, browser_on

OF_DAY = "/assets/reviews_sentiment?view=partitions&partition=2026-11-03"
DAY, NEXT_DAYS = "2026-11-03", ("2026-11-04", "2026-11-05")


class Scene:
    """The demo's tables, and a browser on the UI."""

    def __init__(self, browser: Browser, database: sa.Engine) -> None:
        self.browser = browser
        self._database = database

    def answered(self, table: str) -> dict[str, int]:
        """Return the number of answers in a table by partition."""
        query = sa.text(f"SELECT partition_key, count(*) FROM {table} GROUP BY partition_key")
        if not sa.inspect(self._database).has_table(table):
            return {}
        with self._database.connect() as connection:
            return dict(connection.execute(query).tuples().all())


@pytest.fixture(scope="module")
def scene(postgres: PostgresServer, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The demo's rows in Postgres, and Dagster with the repository's own dagster.yaml and definitions.py."""
    urls = {}
    server = sa.create_engine(postgres.url(), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        for name in ("ui_shop", "ui_dagster"):
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
            urls[name] = postgres.url(name)
    server.dispose()
    shop = Database(urls["ui_shop"])
    load_reviews(shop, ROOT / "sql" / "demo")
    load_tickets(shop, ROOT / "sql" / "demo")
    environment = {
        "DAGSTER_POSTGRES_URL": urls["ui_dagster"].replace("+psycopg2", ""),
        "LLM_ASSETS_DATABASE_URL": urls["ui_shop"],
        "LLM_ASSETS_MODEL": str(smollm2),
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    instance = (ROOT / "dagster.yaml").read_text()
    home = tmp_path_factory.mktemp("ui") / "home"
    with running("definitions", home, environment, instance) as dagster, browser_on(dagster) as browser:
        yield Scene(browser, shop.engine)
    shop.close()


def test_a_day_is_materialized_on_the_page_of_an_asset(scene: Scene) -> None:
    browser = scene.browser
    browser.open("/assets/reviews_sentiment")
    browser.sees("Decide whether the customer's message is positive or negative.")
    browser.materialize(DAY)
    browser.comes_to_see(OF_DAY, "llm_assets/rows_read")
    assert scene.answered("reviews_sentiment").keys() == {DAY}


def test_the_page_of_an_asset_shows_plots_answers_and_the_prompt(scene: Scene) -> None:
    browser = scene.browser
    browser.open("/assets/reviews_sentiment?view=overview")
    for name in ("llm_assets/labels", "llm_assets/preview", "llm_assets/prompt", "llm_assets/mean_confidence"):
        browser.sees(name)
    pictures = browser.page.locator("img[src^='data:image/svg+xml']")
    assert pictures.count() >= 2
    for picture in pictures.all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.complete && image.naturalWidth > 100")
    browser.open(OF_DAY)
    browser.sees("llm_assets/rows_read")
    browser.screenshot("partition", down_to=browser.row("llm_assets/plot_prompt_tokens"))


def test_a_backfill_is_launched_and_its_days_are_complete(scene: Scene) -> None:
    browser = scene.browser
    browser.open("/assets/reviews_summary")
    browser.materialize(f"[{NEXT_DAYS[0]}...{NEXT_DAYS[1]}]")
    browser.comes_to_see("/runs?view=backfills", "Success")
    assert scene.answered("reviews_summary").keys() == set(NEXT_DAYS)
    browser.open("/assets/reviews_summary?view=partitions")
    browser.sees("Materialized (2)")
    browser.screenshot("backfill")


def test_the_checks_of_an_asset_are_seen_and_one_that_fails_says_why(scene: Scene) -> None:
    browser = scene.browser
    browser.open("/assets/reviews_sentiment?view=checks")
    for name in ("accuracy", "confidence", "coverage", "drift", "failures", "valid"):
        browser.sees(name)
    browser.sees("labels are those of column 'gold_label'")
    browser.sees("80 % is asked for.")
    expect(browser.page.get_by_text("Succeeded")).to_have_count(5)
    browser.screenshot("checks", down_to=browser.row("llm_assets/gold_rows"))


def test_the_graph_shows_the_table_and_what_is_made_of_it(scene: Scene) -> None:
    browser = scene.browser
    browser.open("/locations/definitions/asset-groups/reviews/lineage")
    for name in ("reviews_sentiment", "reviews_facts", "reviews_summary"):
        browser.sees(name)
    browser.screenshot("lineage")
