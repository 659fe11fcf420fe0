"""Each partition of a run is recorded when it is complete, with what waits for it, checks it and retries it."""

from collections.abc import Iterator

import dagster as dg
import pytest

from llm_assets.dagster import (
    Checks,
    DatabaseResource,
    DummyEngineResource,
    RunConfig,
    StaticPartitions,
    build_llm_assets,
    execute_table,
)
from llm_assets.dagster import execute as execute_module
from llm_assets.dagster.table import TABLE_METADATA
from llm_assets.engines import DummyEngine
from llm_assets.errors import FailureThresholdError, SourceError
from llm_assets.pipeline import PipelineSettings
from llm_assets.tables import Source
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, RecordingEngine, Shop

DAYS = ("monday", "tuesday", "wednesday")
BY_DAY = StaticPartitions(column="day", values=DAYS)
ALL_DAYS = {"dagster/asset_partition_range_start": DAYS[0], "dagster/asset_partition_range_end": DAYS[-1]}
ROWS: dict[str, object] = {"monday": 1, "tuesday": 2, "wednesday": 3}
LABELS = dg.AssetKey("reviews_sentiment")

ENGINES: dict[int, DummyEngine] = {}


class EngineIs(DummyEngineResource):
    """Gives an engine that a test has made. Dagster makes resources anew, so only a name is theirs."""

    name: int

    def make_engine(self) -> DummyEngine:
        return ENGINES[self.name]


@pytest.fixture
def shop(sqlite_url: str) -> Iterator[Shop]:
    """Reviews of three days; what is recorded of them does not depend on the kind of the database."""
    shop = Shop(sqlite_url)
    for number, name in enumerate(DAYS):
        shop.add([f"{name} {i}" for i in range(number + 1)], first_id=10 * number, day=name)
    yield shop
    shop.database.close()


def resources(shop: Shop, engine: DummyEngine) -> dict[str, dg.ConfigurableResource]:
    ENGINES[id(engine)] = engine
    return {"database": DatabaseResource(url=shop.url), "engine": EngineIs(name=id(engine))}


def materialize(
    shop: Shop, instance: dg.DagsterInstance, assets, engine: DummyEngine | None = None, **options
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        assets,
        instance=instance,
        resources=resources(shop, engine or RecordingEngine()),
        **{"tags": ALL_DAYS, **options},
    )


def assets_of_days(*tasks, **arguments):
    return build_llm_assets(Source(table="reviews"), tasks or [SENTIMENT], BY_DAY, **arguments)


def recorded(instance: dg.DagsterInstance, asset: dg.AssetKey = LABELS) -> list[dg.AssetMaterialization]:
    """Return an asset's materializations in the order in which they were recorded."""
    records = instance.fetch_materializations(asset, limit=100, ascending=True).records
    return [record.asset_materialization for record in records if record.asset_materialization]


def days(materializations: list[dg.AssetMaterialization]) -> list[str]:
    return [str(materialization.partition) for materialization in materializations]


def data_versions(materializations: list[dg.AssetMaterialization]) -> set[str]:
    return {(materialization.tags or {})["dagster/data_version"] for materialization in materializations}


def rows_read(materialization: dg.AssetMaterialization) -> object:
    return materialization.metadata["llm_assets/rows_read"].value


class Looking(RecordingEngine):
    """Notes what is recorded when it is asked about each text."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        super().__init__()
        self.instance = instance
        self.seen: dict[str, list[str]] = {}

    def answer(self, request):
        self.seen[self.text_of(request)] = days(recorded(self.instance))
        return super().answer(request)


def test_each_partition_is_recorded_once_and_when_it_is_complete(shop: Shop, instance: dg.DagsterInstance) -> None:
    engine = Looking(instance)
    assert materialize(shop, instance, assets_of_days(SENTIMENT, NOTE), engine).success
    assert engine.loads == 1
    assert engine.seen["wednesday 2"] == ["monday", "tuesday"]
    for asset in (LABELS, dg.AssetKey("reviews_note")):
        found = recorded(instance, asset)
        assert days(found) == list(DAYS)
        assert [rows_read(materialization) for materialization in found] == [1, 2, 3]


def test_a_single_partition_is_recorded_once(shop: Shop, instance: dg.DagsterInstance) -> None:
    assert materialize(shop, instance, assets_of_days(), tags={}, partition_key="tuesday").success
    [found] = recorded(instance)
    assert (found.partition, rows_read(found)) == ("tuesday", 2)


def test_what_waits_for_the_answers_in_the_same_run_comes_after_all_of_them(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    @dg.asset(deps=[LABELS], partitions_def=BY_DAY.definition(), backfill_policy=dg.BackfillPolicy.single_run())
    def report() -> None:
        report_seen.append(days(recorded(instance)))

    report_seen: list[list[str]] = []
    engine = Looking(instance)
    result = materialize(shop, instance, [*assets_of_days(SENTIMENT, NOTE), report], engine)
    assert result.success
    assert engine.seen["wednesday 2"] == ["monday", "tuesday"]
    # Dagster records them again, in an order of its own, with the step's outputs, without which `report` is skipped.
    [seen] = report_seen
    assert seen[:3] == list(DAYS)
    assert sorted(seen[3:]) == sorted(DAYS)
    found = recorded(instance)
    assert all(rows_read(materialization) == ROWS[str(materialization.partition)] for materialization in found)
    assert len(data_versions(found)) == 1
    assert len(instance.fetch_materializations(report.key, limit=10).records) == 3


def test_a_check_of_its_own_runs_after_the_answers(shop: Shop, instance: dg.DagsterInstance) -> None:
    @dg.asset_check(asset=LABELS, blocking=True)
    def has_rows() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [6])

    job = dg.define_asset_job("answer", selection=dg.AssetSelection.assets(LABELS))
    definitions = dg.Definitions(
        assets=assets_of_days(checks=Checks.off()),
        asset_checks=[has_rows],
        jobs=[job],
        resources=resources(shop, RecordingEngine()),
    )
    result = definitions.resolve_job_def("answer").execute_in_process(instance=instance, tags=ALL_DAYS)
    [evaluation] = result.get_asset_check_evaluations()
    assert evaluation.passed
    assert set(days(recorded(instance))) == set(DAYS)


def checked_assets(assets) -> list:
    """Return assets whose step checks its answers at its end."""
    [source, answers] = assets

    @dg.multi_asset(
        specs=list(answers.specs),
        check_specs=[dg.AssetCheckSpec("complete", asset=LABELS)],
        can_subset=True,
        required_resource_keys={"database", "engine"},
    )
    def checked(context: dg.AssetExecutionContext, config: RunConfig):
        [table] = {spec.metadata[TABLE_METADATA] for spec in answers.specs}
        yield from execute_table(context, table, config)
        yield dg.AssetCheckResult(
            passed=len(recorded(context.instance)) == 3, asset_key=LABELS, check_name="complete", metadata={"n": 3}
        )

    return [source, checked]


def test_checks_that_the_step_yields_at_its_end_are_recorded(shop: Shop, instance: dg.DagsterInstance) -> None:
    result = materialize(shop, instance, checked_assets(assets_of_days()))
    assert result.success
    [evaluation] = result.get_asset_check_evaluations()
    assert evaluation.passed
    assert evaluation.target_materialization_data is not None
    assert days(recorded(instance)) == list(DAYS)


def test_every_time_a_partition_is_recorded_what_depends_on_it_is_due(shop: Shop, instance: dg.DagsterInstance) -> None:
    @dg.asset(deps=[LABELS], partitions_def=BY_DAY.definition(), automation_condition=dg.AutomationCondition.eager())
    def report() -> None: ...

    assets = [*assets_of_days(), report]
    definitions = dg.Definitions(assets=assets, resources=resources(shop, RecordingEngine()))
    cursor = None
    for _ in range(2):
        before = dg.evaluate_automation_conditions(defs=definitions, instance=instance, cursor=cursor)
        assert materialize(shop, instance, assets_of_days()).success
        after = dg.evaluate_automation_conditions(defs=definitions, instance=instance, cursor=before.cursor)
        assert after.get_requested_partitions(report.key) == set(DAYS)
        for day in DAYS:
            materialize(shop, instance, assets, selection=[report], tags={}, partition_key=day)
        cursor = after.cursor
    assert len(data_versions(recorded(instance))) == 2


def test_partitions_that_are_complete_are_recorded_though_others_fail(shop: Shop, instance: dg.DagsterInstance) -> None:
    settings = PipelineSettings(max_failed_share=0.4)
    shop.execute("UPDATE reviews SET text = NULL WHERE day = 'tuesday'")
    with pytest.raises(FailureThresholdError, match=r"^1 of 3 partitions failed.*\ntuesday: 2 of 2 answers failed"):
        materialize(shop, instance, assets_of_days(settings=settings))
    assert days(recorded(instance)) == ["monday", "wednesday"]

    shop.execute("UPDATE reviews SET text = 'mended' WHERE day = 'tuesday'")
    engine = RecordingEngine()
    assert materialize(shop, instance, assets_of_days(), engine, tags={}, partition_key="tuesday").success
    assert engine.texts == ["mended"]
    assert days(recorded(instance)) == ["monday", "wednesday", "tuesday"]


@pytest.mark.parametrize("waits", [False, True], ids=["alone", "with a downstream asset"])
def test_a_step_that_is_tried_again_takes_up_only_what_it_has_not_recorded(
    shop: Shop, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    class DiesOnce(FaultyEngine):
        def run(self, requests):
            self.faults.stop_at = None if self.runs else "wednesday 1"
            yield from super().run(requests)

    @dg.asset(deps=[LABELS], partitions_def=BY_DAY.definition(), backfill_policy=dg.BackfillPolicy.single_run())
    def report() -> None: ...

    monkeypatch.setattr(execute_module, "STEP_RETRY_SECONDS", 0)
    engine = DiesOnce()
    assets = assets_of_days(settings=PipelineSettings(max_engine_deaths=0))
    config = dg.RunConfig(ops={"reviews__answers": RunConfig(full_refresh=True)})
    result = materialize(shop, instance, [*assets, report] if waits else assets, engine, run_config=config)
    assert result.success
    assert engine.texts.count("monday 0") == engine.texts.count("tuesday 0") == 1
    found = recorded(instance)
    assert len(found) == (6 if waits else 3)
    assert {str(materialization.partition): rows_read(materialization) for materialization in found[-3:]} == ROWS


def test_a_source_without_rows_is_a_partition_of_no_rows(shop: Shop, instance: dg.DagsterInstance) -> None:
    shop.execute("DELETE FROM reviews")
    engine = RecordingEngine()
    assert materialize(shop, instance, assets_of_days(), engine).success
    assert engine.loads == 0
    found = recorded(instance)
    assert days(found) == list(DAYS)
    assert [m.metadata["dagster/partition_row_count"].value for m in found] == [0, 0, 0]


def test_a_column_that_has_vanished_since_the_code_was_loaded_is_named(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    assets = assets_of_days()
    shop.execute("ALTER TABLE reviews RENAME COLUMN text TO txt")
    with pytest.raises(
        SourceError, match=r"Table 'reviews' has no column 'text', which a text template names\. Did you"
    ):
        materialize(shop, instance, assets)
    assert recorded(instance) == []
