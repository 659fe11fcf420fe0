"""What a single run can be told, the job that asks failed rows again, and steps that are tried again."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from llm_assets.dagster import (
    DatabaseResource,
    DummyEngineResource,
    RunConfig,
    StaticPartitions,
    build_failed_rows_job,
    build_llm_assets,
    execute,
)
from llm_assets.engines import DummyEngine
from llm_assets.errors import ConfigError, EngineError
from llm_assets.pipeline import PipelineSettings
from llm_assets.records import Completion, FailureKind, Request
from llm_assets.tables import Source
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, Shop

DAYS = StaticPartitions(column="day", values=("monday", "tuesday"))
STEP = "reviews__answers"


class EngineIs(DummyEngineResource):
    """Gives an engine that a test has made. Dagster makes resources anew, so only a name is theirs."""

    name: int

    def make_engine(self) -> DummyEngine:
        return ENGINES[self.name]


ENGINES: dict[int, DummyEngine] = {}


def given(engine: DummyEngine) -> EngineIs:
    ENGINES[id(engine)] = engine
    return EngineIs(name=id(engine))


class DyingEngine(DummyEngine):
    """Dies a number of times, each time at its first request."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.runs = times, 0

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.runs += 1
        if self.runs <= self.times:
            next(iter(requests), None)
            raise EngineError("the GPU is gone")
        return super().run(requests)


def materialize(
    shop: Shop, engine: DummyEngine, config: RunConfig | None = None, **options
) -> dg.ExecuteInProcessResult:
    assets = options.pop("assets", None) or build_llm_assets(Source(table="reviews"), [SENTIMENT, NOTE])
    return dg.materialize(
        assets,
        resources={"database": DatabaseResource(url=shop.url), "engine": given(engine)},
        run_config=dg.RunConfig(ops={STEP: config}) if config else None,
        **options,
    )


def test_a_limit_of_one_run_stands_in_its_metadata_and_its_log(shop: Shop, capfd) -> None:
    shop.add(["a", "b", "c"])
    result = materialize(shop, DummyEngine(), RunConfig(max_rows=4))
    assert result.success
    materializations = {m.asset_key.path[-1]: m for m in result.asset_materializations_for_node(STEP)}
    assert materializations["reviews_sentiment"].metadata["llm_assets/rows_left"].value == 1
    assert (
        "reviews_note, partition all: 1 left for another run, because this one reached max_rows=4."
        in capfd.readouterr().err
    )
    assert materialize(shop, DummyEngine()).success
    assert shop.column("SELECT COUNT(*) FROM reviews_note") == [3]


def test_a_setting_of_a_run_goes_before_the_tables_own() -> None:
    own = PipelineSettings(max_rows=5, commit_rows=7)
    assert RunConfig().applied_to(own) == own
    assert RunConfig(max_rows=9).applied_to(own) == own.model_copy(update={"max_rows": 9})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RunConfig(failure_kinds=["poison"]), "failure_kinds says which failures only_failed asks again"),
        (RunConfig(only_failed=True, failure_kinds=["poisn"]), "no failure kind 'poisn'. Did you mean 'poison'"),
        (RunConfig(max_rows=0), "max_rows: Input should be greater than or equal to 1"),
        (RunConfig(full_refresh=True, only_failed=True), "set one of them"),
    ],
)
def test_a_config_that_cannot_be_is_refused_before_anything_is_asked(
    shop: Shop, config: RunConfig, message: str
) -> None:
    shop.add(["a"])
    with pytest.raises(ConfigError, match=f"^The run's config: .*{message}"):
        materialize(shop, DummyEngine(), config)
    assert shop.rows("SELECT name FROM (SELECT text AS name FROM reviews) AS r") == [("a",)]


@pytest.mark.parametrize("kinds", [(), ("engine_error",)])
def test_the_failed_rows_job_asks_only_rows_that_failed(shop: Shop, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    shop.add(["a", "bad", "worse"], day="monday")
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT, NOTE], DAYS)
    errors = {"bad": FailureKind.ENGINE_ERROR, "worse": FailureKind.REFUSED_REQUEST}
    materialize(shop, FaultyEngine(errors=errors), assets=assets, partition_key="monday")
    shop.add(["new"], first_id=9, day="monday")

    engine = FaultyEngine()
    resources = {"database": DatabaseResource(url=shop.url), "engine": given(engine)}
    job = build_failed_rows_job(assets, kinds)
    definitions = dg.Definitions(assets=assets, jobs=[job], resources=resources)
    result = definitions.resolve_job_def("ask_failed_reviews").execute_in_process(partition_key="monday")
    assert result.success
    assert sorted(set(engine.texts)) == (["bad"] if kinds else ["bad", "worse"])
    kept = shop.column("SELECT DISTINCT row_key FROM llm_failures")
    assert kept == (["3"] if kinds else [])


def test_the_failed_rows_job_checks_its_kinds() -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT])
    with pytest.raises(ConfigError, match="no failure kind 'truncate'"):
        build_failed_rows_job(assets, ["truncate"])


def test_the_failed_rows_job_is_not_for_a_table_that_asks_all_rows() -> None:
    assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], settings=PipelineSettings(full_refresh=True))
    with pytest.raises(ConfigError, match=r"settings\.full_refresh asks about every row again in each run"):
        build_failed_rows_job(assets)


def test_a_step_whose_engine_died_for_good_is_tried_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "STEP_RETRY_SECONDS", 0)
    shop.add(["a", "b"])
    assets = build_llm_assets(Source(table="reviews"), [NOTE], settings=PipelineSettings(max_engine_deaths=0))
    result = materialize(shop, DyingEngine(2), assets=assets)
    assert result.success
    assert shop.column("SELECT COUNT(*) FROM reviews_note") == [2]
    assert [event.event_type_value for event in result.all_events].count("STEP_RESTARTED") == 2


def test_a_step_that_fails_because_of_its_rows_is_not_tried_again(shop: Shop) -> None:
    shop.add(["bad"])
    settings = PipelineSettings(max_failed_rows=0)
    assets = build_llm_assets(Source(table="reviews"), [NOTE], settings=settings)
    engine = FaultyEngine(errors={"bad": FailureKind.REFUSED_REQUEST})
    result = materialize(shop, engine, assets=assets, raise_on_error=False)
    assert not result.success
    assert "STEP_UP_FOR_RETRY" not in [event.event_type_value for event in result.all_events]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuchsql://host/shop", "The driver of nosuchsql://host/shop is not installed"),
        ("nonsense", "The database URL does not parse"),
    ],
)
def test_a_step_with_a_database_that_cannot_be_is_not_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.setattr(execute, "STEP_RETRY_SECONDS", 0)
    shop.url = url
    result = materialize(shop, DummyEngine(), raise_on_error=False)
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert "STEP_UP_FOR_RETRY" not in [event.event_type_value for event in result.all_events]
    assert message in str(failed.step_failure_data.error)


def test_the_package_logs_into_the_run(shop: Shop, tmp_path: Path) -> None:
    from llm_assets.dagster.local import prepare_instance

    shop.add(["a", "b"])
    with dg.DagsterInstance.from_config(str(prepare_instance(tmp_path / "dagster"))) as instance:
        result = materialize(shop, DyingEngine(1), instance=instance)
        lines = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any(
        "The engine died with 1 requests in flight; it is started again. the GPU is gone" in line for line in lines
    )
