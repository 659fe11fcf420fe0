"""Ray as a Dagster resource: on a cluster that another resource has set up, or one of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest

from llm_assets.dagster import DatabaseResource, DummyEngineResource, RayEngineResource, VllmResource, build_llm_assets
from llm_assets.dagster.resource_choice import RayChoice, resource_of
from llm_assets.engines import RayEngine, VllmSettings
from llm_assets.errors import ConfigError
from llm_assets.tables import Source
from tests.tables.shop import SENTIMENT, Shop

happened: list[str] = []


class ClusterResource(dg.ConfigurableResource):
    """Initialises Ray in the run, and says when: as dagster-ray's resources do, in their lifecycle."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["ClusterResource"]:
        import ray

        assert ray.is_initialized()  # by the fixture, which stands for the cluster that is reached here
        happened.append("cluster is there")
        yield self
        happened.append("cluster goes")


class Telling(RayEngineResource):
    """Says when its engine is made and freed."""

    def make_engine(self) -> Any:
        happened.append("engine is made")
        return super().make_engine()

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        super().teardown_after_execution(context)
        happened.append("engine is freed")


def test_a_run_answers_with_replicas_on_a_cluster_that_another_resource_sets_up(
    ray_dummy_engine: RayEngine, sqlite_url: str
) -> None:
    import ray

    shop = Shop(sqlite_url)
    shop.add([f"text {number}" for number in range(50)])
    engine = Telling(engine=DummyEngineResource(), replicas=2, num_cpus=0.25, cluster=ClusterResource())
    resources = {"database": DatabaseResource(url=sqlite_url), "engine": engine}
    happened.clear()
    result = dg.materialize(build_llm_assets(Source(table="reviews"), [SENTIMENT]), resources=resources)
    assert result.success
    assert shop.column("SELECT COUNT(*) FROM reviews_sentiment") == [50]
    assert shop.column("SELECT DISTINCT engine FROM llm_throughput") == ["ray"]
    assert happened == ["cluster is there", "engine is made", "engine is freed", "cluster goes"]
    assert ray.is_initialized()  # it was not this engine that had initialised it


def test_replicas_have_the_settings_of_the_resource_that_they_are_made_from() -> None:
    vllm = VllmResource(model="Qwen/Qwen2.5-0.5B-Instruct", max_model_len=99, block_size=32)
    engine = RayEngineResource(engine=vllm, replicas=4, num_gpus=0.5, resources={"fast": 1}).make_engine()
    assert isinstance(engine, RayEngine)
    assert isinstance(engine.settings.engine, VllmSettings)
    assert engine.settings.engine.arguments() == vllm.settings().arguments()
    assert engine.settings.replicas == 4
    assert engine.settings.demand == {"CPU": 1, "GPU": 0.5, "fast": 1}
    assert engine.max_model_len == 99


def test_replicas_in_ray_hold_no_replicas_in_ray() -> None:
    engine = RayEngineResource(engine=RayEngineResource(engine=DummyEngineResource()))
    with pytest.raises(ConfigError, match="A RayEngineResource cannot be a replica in Ray"):
        engine.make_engine()


def test_yaml_says_what_python_says() -> None:
    settings = {"type": "ray", "replicas": 3, "address": "auto", "engine": {"type": "dummy", "max_model_len": 99}}
    key, made = resource_of(RayChoice.model_validate(settings), "engine")
    assert key.startswith("engine_ray_dummy_")
    engine = made[key].make_engine()
    assert isinstance(engine, RayEngine)
    assert (engine.settings.replicas, engine.settings.address, engine.max_model_len) == (3, "auto", 99)
    vllm = RayChoice.model_validate({"type": "ray", "engine": {"model": "org/small", "block_size": 32}})
    assert vllm.name == "ray small"
    assert vllm.resource().make_engine().identity == "org/small|main"
