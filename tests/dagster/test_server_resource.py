"""A server as an engine of Dagster runs: as a resource, and as the settings of a component."""

import dagster as dg
import pytest
from pydantic import TypeAdapter, ValidationError

from llm_assets.dagster import DatabaseResource, ServerResource, build_llm_assets
from llm_assets.dagster.resource_choice import EngineChoice, resource_of
from llm_assets.engines import ServerEngine
from llm_assets.errors import validation_message
from llm_assets.tables import Source
from llm_assets.tasks import Generate
from tests.engines.odd_servers import OddServer
from tests.tables.shop import Shop

SETTINGS = {"type": "server", "urls": "http://gpu1:8000", "model": "shop/model", "prices": {"prompt": 1, "output": 2}}
STEP = "reviews__answers"
KEY = "sk-very-secret-0123456789"


def test_settings_in_yaml_become_a_resource_that_is_shared() -> None:
    first, second = (TypeAdapter(EngineChoice).validate_python(SETTINGS) for _ in range(2))
    key, resources = resource_of(first, "engine")
    assert key.startswith("engine_model_")
    assert resource_of(second, "engine") == (key, resources)
    engine = resources[key].make_engine()
    assert isinstance(engine, ServerEngine)
    assert engine.settings.urls == ["http://gpu1:8000"]
    assert engine.info.prices is not None


def test_a_password_in_the_address_is_refused_in_yaml() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(EngineChoice).validate_python({**SETTINGS, "urls": [f"http://me:{KEY}@gpu1"]})
    shown = validation_message(caught.value)
    assert "has a user or a password in it" in shown
    assert KEY not in shown


@pytest.mark.parametrize("max_cost", [None, 0.00005])
def test_a_run_asks_the_server_and_says_what_it_cost(smollm2, sqlite_url, monkeypatch, max_cost) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    shop = Shop(sqlite_url)
    shop.add([f"text {number}" for number in range(30)])
    task = Generate(name="note", instruction="Say something.", sampling={"max_tokens": 1})
    with OddServer() as server:
        resources = {
            "engine": ServerResource(
                urls=[server.url],
                model="model",
                weights=str(smollm2),
                max_model_len=2048,
                max_in_flight=2,
                prices={"prompt": 0.1, "output": 1.0},
                currency="EUR",
            ),
            "database": DatabaseResource(url=sqlite_url),
        }
        config = {"ops": {STEP: {"config": {"max_cost": max_cost}}}} if max_cost else None
        assets = build_llm_assets(Source(table="reviews"), [task])
        result = dg.materialize(assets, resources=resources, run_config=config)
        assert set(server.keys) == {f"Bearer {KEY}"}
    [materialization] = result.asset_materializations_for_node(STEP)
    metadata = materialization.metadata
    [(cost, currency)] = shop.rows("SELECT cost, currency FROM llm_throughput")
    assert metadata["llm_assets/cost"].value == pytest.approx(cost, abs=1e-6)
    assert metadata["llm_assets/currency"].value == currency == "EUR"
    assert 0 < cost <= (max_cost or 1)
    assert (metadata["llm_assets/rows_left"].value > 0) == (max_cost is not None)
    assert metadata["llm_assets/rows_answered"].value + metadata["llm_assets/rows_left"].value == 30
    shop.database.close()
