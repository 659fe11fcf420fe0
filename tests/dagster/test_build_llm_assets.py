"""The assets in real Dagster runs, with the dummy engine."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from llm_assets.dagster import (
    DatabaseResource,
    DummyEngineResource,
    RunConfig,
    StaticPartitions,
    TableDefinition,
    TimePartitions,
    VllmResource,
    build_llm_assets,
    execute_table,
)
from llm_assets.errors import ConfigError
from llm_assets.records import Within
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Summarize

SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"))
SUMMARY = Summarize(name="summary")
DAYS = TimePartitions(column="created_at", start="2026-11-01", end="2026-11-05")


class CountingEngineResource(DummyEngineResource):
    """Counts in a file how often an engine was made."""

    log: str

    def make_engine(self):
        with Path(self.log).open("a") as file:
            file.write("engine\n")
        return super().make_engine()


class Shop:
    """A table of reviews, and runs on it."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.log = directory / "engines"
        self.database = sa.create_engine(url)
        metadata = sa.MetaData()
        self.reviews = sa.Table(
            "reviews",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("created_at", sa.DateTime),
            sa.Column("country", sa.Text),
            sa.Column("text", sa.Text),
        )
        metadata.create_all(self.database)
        rows = [
            {
                "id": n,
                "created_at": datetime(2026, 11, 1 + n % 4, n),
                "country": "de" if n % 2 else "fr",
                "text": f"row {n}",
            }
            for n in range(12)
        ]
        with self.database.begin() as connection:
            connection.execute(self.reviews.insert(), [*rows, {**rows[0], "id": 100, "text": ""}])

    def resources(self) -> dict:
        return {
            "database": DatabaseResource(url=self.url),
            "engine": CountingEngineResource(log=str(self.log)),
        }

    def materialize(self, assets, **options) -> dg.ExecuteInProcessResult:
        return dg.materialize(assets, resources=self.resources(), **options)

    def engines_made(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def query(self, sql: str) -> list[tuple]:
        with self.database.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql))]


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(database_url, tmp_path)
    yield shop
    shop.database.dispose()


def metadata_of(instance: dg.DagsterInstance, asset: str, partition: str | None = None) -> dict:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition] if partition else None),
        limit=1,
    ).records
    [materialization] = [record.asset_materialization for record in records]
    assert materialization is not None
    return {
        name: [record.data for record in value.records] if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in materialization.metadata.items()
    }


def test_one_asset_for_each_task_is_upstream_of_the_table(shop: Shop) -> None:
    table, answers = build_llm_assets(Source(table="reviews"), [SENTIMENT, SUMMARY])
    assert isinstance(answers, dg.AssetsDefinition)
    assert table.key == dg.AssetKey("reviews")
    assert answers.keys == {dg.AssetKey("reviews_sentiment"), dg.AssetKey("reviews_summary")}
    for spec in answers.specs:
        assert [dep.asset_key for dep in spec.deps] == [table.key]


def test_a_run_without_partitions_answers_the_whole_table(shop: Shop, instance: dg.DagsterInstance) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT, SUMMARY])
    assert shop.materialize(assets, instance=instance).success
    assert shop.query("SELECT count(*) FROM reviews_sentiment") == [(12,)]
    assert shop.query("SELECT task, row_key, kind FROM llm_failures ORDER BY task") == [
        ("sentiment", "100", "empty_text"),
        ("summary", "100", "empty_text"),
    ]
    assert shop.engines_made() == 1


def test_a_subset_of_the_tasks_can_be_materialized(shop: Shop, instance: dg.DagsterInstance) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT, SUMMARY])
    assert shop.materialize(assets, instance=instance, selection="reviews_summary").success
    assert not sa.inspect(shop.database).has_table("reviews_sentiment")
    assert shop.query("SELECT DISTINCT task FROM llm_throughput") == [("summary",)]


def test_one_partition_answers_its_rows_only(shop: Shop, instance: dg.DagsterInstance) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], DAYS)
    assert shop.materialize(assets, instance=instance, partition_key="2026-11-02").success
    assert shop.query("SELECT id FROM reviews_sentiment ORDER BY id") == [(1,), (5,), (9,)]
    assert shop.query("SELECT DISTINCT partition_key FROM reviews_sentiment") == [("2026-11-02",)]


def test_a_range_of_partitions_is_one_run_with_one_engine_and_metadata_for_each(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT, SUMMARY], DAYS)
    tags = {"dagster/asset_partition_range_start": "2026-11-01", "dagster/asset_partition_range_end": "2026-11-04"}
    assert shop.materialize(assets, instance=instance, tags=tags).success
    assert shop.engines_made() == 1
    for day in range(1, 5):
        metadata = metadata_of(instance, "reviews_sentiment", f"2026-11-0{day}")
        assert metadata["llm_assets/rows_answered"] == 3
        assert metadata["llm_assets/rows_failed"] == (1 if day == 1 else 0)
        assert metadata["dagster/partition_row_count"] == 3
        assert metadata["dagster/table_name"].endswith("reviews_sentiment")
        assert sum(record["rows"] for record in metadata["llm_assets/labels"]) == 3
        assert len(metadata["llm_assets/preview"]) == 3


def test_static_partitions_cut_by_a_column(shop: Shop, instance: dg.DagsterInstance) -> None:
    countries = StaticPartitions(column="country", values=("de", "fr"))
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], countries)
    assert shop.materialize(assets, instance=instance, partition_key="de").success
    assert shop.query("SELECT id FROM reviews_sentiment ORDER BY id") == [(1,), (3,), (5,), (7,), (9,), (11,)]


def test_a_second_run_asks_nothing_and_says_so(shop: Shop, instance: dg.DagsterInstance) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT])
    shop.materialize(assets, instance=instance)
    shop.materialize(assets, instance=instance)
    metadata = metadata_of(instance, "reviews_sentiment")
    assert metadata["llm_assets/rows_answered"] == 0
    assert metadata["llm_assets/rows_skipped"] == 12
    assert "llm_assets/rows_per_second" not in metadata


def test_full_refresh_is_a_setting_of_the_run(shop: Shop, instance: dg.DagsterInstance) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT])
    shop.materialize(assets, instance=instance)
    config = {"ops": {"reviews__answers": {"config": {"full_refresh": True}}}}
    shop.materialize(assets, instance=instance, run_config=config)
    assert metadata_of(instance, "reviews_sentiment")["llm_assets/rows_answered"] == 12


def test_metadata_says_what_was_done_in_numbers_that_the_ui_plots(shop: Shop, instance: dg.DagsterInstance) -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT])
    shop.materialize(assets, instance=instance)
    metadata = metadata_of(instance, "reviews_sentiment")
    for name in (
        "rows_read",
        "rows_answered",
        "rows_per_second",
        "tokens_per_second",
        "cached_share",
        "mean_confidence",
        "computed_tokens",
        "expected_tokens",
    ):
        assert isinstance(metadata[f"llm_assets/{name}"], int | float)
    assert metadata["llm_assets/layout"] == "instruction_first"
    # The dummy engine has no cache: everything is computed.
    assert metadata["llm_assets/expected_tokens"] == metadata["llm_assets/computed_tokens"] > 0
    assert 0 < metadata["llm_assets/mean_confidence"] <= 1


def test_the_preview_shows_hostile_text_as_text(shop: Shop, instance: dg.DagsterInstance) -> None:
    from llm_assets.dagster.shown import CELL_CHARACTERS, plain

    shown = plain("a\x1b[31mred\x00\u202eb\nc " + "x" * 500)
    assert isinstance(shown, str)
    assert shown.startswith("a\ufffd[31mred\ufffd\ufffdb c ")
    assert shown.isprintable()
    assert len(shown) == CELL_CHARACTERS


def test_the_column_schema_of_an_asset_is_known_before_it_ran() -> None:
    _, answers = build_llm_assets(Source(table="reviews"), [SENTIMENT])
    assert isinstance(answers, dg.AssetsDefinition)
    [spec] = answers.specs
    columns = spec.metadata["dagster/column_schema"].columns
    assert [(column.name, column.type) for column in columns] == [
        ("label", "text"),
        ("confidence", "double precision"),
        ("margin", "double precision"),
        ("scores", "json"),
    ]
    json.dumps(spec.metadata["llm_assets/task"])


@pytest.mark.parametrize(
    ("cadence", "key", "start", "end"),
    [
        ("hourly", "2026-06-02-05:00", "2026-06-02T05:00:00+02:00", "2026-06-02T06:00:00+02:00"),
        ("daily", "2026-03-29", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"),
        ("weekly", "2026-06-07", "2026-06-07T00:00:00+02:00", "2026-06-14T00:00:00+02:00"),
        ("monthly", "2026-02-01", "2026-02-01T00:00:00+01:00", "2026-03-01T00:00:00+01:00"),
    ],
)
def test_a_time_partition_is_the_span_its_key_means(cadence: str, key: str, start: str, end: str) -> None:
    partitions = TimePartitions(
        column="t", cadence=cadence, start="2026-01-01", end="2026-08-01", timezone="Europe/Berlin"
    )
    [condition] = partitions.partition(key).conditions
    assert isinstance(condition, Within)
    assert (condition.start.isoformat(), condition.end.isoformat()) == (start, end)


@pytest.mark.parametrize("key", ["2026-11-31", "yesterday", "2025-01-01", ""])
def test_a_partition_key_that_is_none_is_refused_with_the_valid_range(key: str) -> None:
    with pytest.raises(ConfigError, match=r"is no daily partition. They run from 2026-11-01 to 2026-11-04"):
        DAYS.partition(key)


def test_an_unknown_static_partition_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"'it' is no partition of column 'country'. Valid: de, fr"):
        StaticPartitions(column="country", values=("de", "fr")).partition("it")


@pytest.mark.parametrize(("field", "value"), [("start", "soon"), ("timezone", "Mars/Olympus"), ("cadence", "secondly")])
def test_partitions_that_cannot_be_are_refused_with_the_value(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        TimePartitions.model_validate({"column": "t", "start": "2026-11-01", field: value})


def test_the_vllm_resource_hands_every_setting_to_the_engine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    resource = VllmResource(model=str(tmp_path), max_model_len=100, engine_args={"block_size": 32})
    arguments = resource.make_engine().settings.arguments()  # pyright: ignore[reportAttributeAccessIssue]
    assert arguments["model"] == str(tmp_path)
    assert (arguments["max_model_len"], arguments["block_size"], arguments["trust_remote_code"]) == (100, 32, False)


def test_the_code_location_of_this_repository_loads() -> None:
    import definitions

    repository = definitions.defs.get_repository_def()
    dg.Definitions.validate_loadable(definitions.defs)
    assert "answer_reviews" in repository.job_names
    names = {schedule.name for schedule in repository.schedule_defs}
    assert names == {"answer_reviews_schedule", "answer_tickets_schedule"}


def test_the_spec_of_a_task_can_be_changed(shop: Shop) -> None:
    assets = build_llm_assets(
        Source(table="reviews"),
        [SENTIMENT, SUMMARY],
        translate=lambda spec: spec.replace_attributes(description=f"{spec.key.path[-1]}!", metadata={"mine": 1}),
    )
    [answers] = [item for item in assets if isinstance(item, dg.AssetsDefinition)]
    assert {spec.description for spec in answers.specs} == {"reviews_sentiment!", "reviews_summary!"}
    assert all(spec.metadata["mine"] == 1 for spec in answers.specs)
    assert shop.materialize(assets).success


def test_a_changed_spec_must_keep_its_key() -> None:
    with pytest.raises(ConfigError, match=r"translate gave reviews_sentiment the key mine\. An asset has the name of"):
        build_llm_assets(
            Source(table="reviews"),
            [SENTIMENT],
            translate=lambda spec: spec.replace_attributes(key=dg.AssetKey("mine")),
        )


def test_the_step_can_be_replaced_and_the_usual_one_called(shop: Shop, instance: dg.DagsterInstance) -> None:
    def execute(context: dg.AssetExecutionContext, table: TableDefinition, config: RunConfig):
        assert table.source.name == "reviews"
        yield from execute_table(context, table, config.model_copy(update={"max_rows": 2}))

    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], execute=execute)
    assert shop.materialize(assets, instance=instance).success
    assert metadata_of(instance, "reviews_sentiment")["llm_assets/rows_answered"] == 2


@pytest.mark.parametrize(("argument", "most"), [(None, None), (1, 1), (7, 7)])
def test_a_backfill_is_one_run_or_as_many_as_are_asked_for(argument: int | None, most: int | None) -> None:
    _, answers = build_llm_assets(Source(table="reviews"), [SENTIMENT], DAYS, max_partitions_per_run=argument)
    assert isinstance(answers, dg.AssetsDefinition)
    assert answers.backfill_policy is not None
    assert answers.backfill_policy.max_partitions_per_run == most


def test_a_backfill_in_runs_of_no_partition_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_partitions_per_run is 0\. Give 1 or more"):
        build_llm_assets(Source(table="reviews"), [SENTIMENT], DAYS, max_partitions_per_run=0)


def test_a_backfill_of_a_table_without_partitions_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_partitions_per_run=5 has no effect on a table without partitions"):
        build_llm_assets(Source(table="reviews"), [SENTIMENT], max_partitions_per_run=5)


@pytest.mark.parametrize(("names", "message"), [(["mood", "mood"], "Two tasks are named 'mood'"), ([], "no task")])
def test_tasks_that_cannot_be_are_refused_when_the_assets_are_made(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_llm_assets(Source(table="reviews"), [Summarize(name=name) for name in names])
