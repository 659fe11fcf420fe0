"""What docs/a-billion-rows.md says: its tables, the connections of a run, and its changes to large tables."""

import math
import re

import pytest
import sqlalchemy as sa

from llm_assets.pipeline import task_outputs
from llm_assets.tables import AnsweredView, Source
from llm_assets.tables.roles import roles_sql
from scripts.scale import (
    CONNECTIONS,
    JSON_HOST,
    LABELS,
    LOAD_SECONDS,
    PAGE,
    gpu_hours,
    json_host_seconds,
    night,
    rounded,
    written,
)
from tests.tables.shop import SENTIMENT, RecordingEngine, Shop, only

SQL = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

OTHER_CONNECTIONS = """
SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def postgres_shop(postgres_url: str) -> Shop:
    shop = Shop(postgres_url)
    shop.add([f"It arrived late, number {n}." for n in range(50)])
    return shop


def test_the_tables_of_the_page_are_what_the_script_computes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert written(text) == text, "run python -m scripts.scale --write"


def test_gpu_hours_are_rows_over_rows_per_second() -> None:
    assert gpu_hours(LABELS.rows_per_second * 3600) == 1
    assert [rounded(value) for value in (0, 0.0455, 4.55, 456.9, 1_644_737)] == [
        "0",
        "0.045",
        "4.5",
        "460",
        "1,600,000",
    ]


def test_a_night_is_whole_rounds_of_whole_partitions() -> None:
    found = night(10**9)
    assert (found.partitions, found.rounds) == (1000, math.ceil(1000 / found.gpus))
    each = found.hours / found.rounds
    fewer, rounds = found.gpus - 1, math.ceil(1000 / (found.gpus - 1))
    assert found.hours <= 8 < rounds * each
    hours = f"{rounds} rounds and take {rounds * each:.1f} hours"
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"{fewer} GPUs in place of {found.gpus}, a billion rows are {hours}" in page
    assert each == pytest.approx(gpu_hours(10**6) / (1 - found.loading))


def test_the_page_on_many_machines_says_what_of_one_run_is_loading() -> None:
    page = " ".join((PAGE.parent / "many-machines.md").read_text(encoding="utf-8").split())
    million, ten_millions = (100 * LOAD_SECONDS / (LOAD_SECONDS + 3600 * gpu_hours(rows)) for rows in (10**6, 10**7))
    assert f"loading is under {math.ceil(ten_millions)} % of the time, and of a million it is {million:.1f} %" in page


def test_longer_json_costs_the_host_more() -> None:
    assert json_host_seconds(37) == JSON_HOST
    assert json_host_seconds(86) == pytest.approx(1.86, abs=0.01)


def test_a_run_holds_so_many_connections(postgres_shop: Shop, postgres_url: str) -> None:
    watching = sa.create_engine(postgres_url)
    counts: list[int] = []

    class Watching(RecordingEngine):
        def ask(self, request):
            with watching.connect() as connection:
                counts.append(connection.exec_driver_sql(OTHER_CONNECTIONS).scalar_one())
            return super().ask(request)

    postgres_shop.database.close()
    postgres_shop.run(SENTIMENT, engine=Watching())
    watching.dispose()
    assert max(counts) == CONNECTIONS


def test_runs_go_on_after_the_changes_to_large_tables(postgres_shop: Shop) -> None:
    postgres_shop.run(SENTIMENT)
    before = postgres_shop.rows("SELECT id, label FROM reviews_sentiment ORDER BY id")
    source = Source(table="reviews")
    view = AnsweredView(postgres_shop.database, source, task_outputs(source, [SENTIMENT]))
    view.create()
    postgres_shop.execute(
        "CREATE ROLE scale_reader", "GRANT SELECT ON reviews_sentiment, reviews_answered TO scale_reader"
    )
    unlog, cut, drop = SQL
    with postgres_shop.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        run = connection.execution_options(no_parameters=True).exec_driver_sql
        run(unlog)
        run(cut)
        with pytest.raises(sa.exc.DBAPIError, match="other objects depend on it"):
            run(drop)
        view.create()
        tables = ["reviews_sentiment"]
        run(roles_sql(source, tables, views=["reviews_answered"], pipeline="scale_writer", analyst="scale_reader"))
        run(drop)
    assert readable(postgres_shop, "reviews_sentiment", "reviews_answered") == [True, True]
    kinds = postgres_shop.rows(
        "SELECT relname, relpersistence, relkind FROM pg_class WHERE relname IN ('llm_answers', "
        "'reviews_sentiment') ORDER BY 1"
    )
    assert kinds == [("llm_answers", "u", "r"), ("reviews_sentiment", "p", "p")]
    assert postgres_shop.rows("SELECT id, label FROM reviews_sentiment ORDER BY id") == before
    assert postgres_shop.rows("SELECT id, sentiment_label FROM reviews_answered ORDER BY id") == before
    postgres_shop.execute("UPDATE reviews SET text = 'Other.' WHERE id <= 5", "DELETE FROM reviews WHERE id > 45")
    postgres_shop.add(["It arrived late, number 7."], first_id=100)
    counts = only(postgres_shop.run(SENTIMENT))
    assert (counts.rows_answered, counts.rows_removed) == (1, 5)
    assert counts.rows_reused == 5
    assert len(postgres_shop.rows("SELECT id FROM reviews_sentiment")) == 46
    drop_roles(postgres_shop, "scale_reader", "scale_writer")


def readable(shop: Shop, *names: str) -> list[bool]:
    return [shop.column(f"SELECT has_table_privilege('scale_reader', '{name}', 'SELECT')")[0] for name in names]


def drop_roles(shop: Shop, *names: str) -> None:
    """Roles belong to the server, which other tests use too."""
    for name in names:
        shop.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER", f"DROP OWNED BY {name}", f"DROP ROLE {name}")
