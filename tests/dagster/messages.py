"""A table of messages, its assets, and ticks of their sensors on an instance that remembers the runs."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from llm_assets.dagster import (
    DatabaseResource,
    DummyEngineResource,
    DynamicPartitions,
    MultiPartitions,
    StaticPartitions,
    TimePartitions,
    build_llm_assets,
)
from llm_assets.dagster.partitions import Partitions
from llm_assets.dagster.ranges import RANGE_END, RANGE_START
from llm_assets.tables import Source
from llm_assets.tasks import Task
from tests.tables.shop import SENTIMENT, Shop

COUNTRIES = DynamicPartitions(column="country")
DAYS = TimePartitions(column="at", start="2026-11-01", end="2026-11-08")
BY_COUNTRY = StaticPartitions(column="country", values=("de", "fr", "it"))
PAIRS = MultiPartitions(dimensions={"country": BY_COUNTRY, "day": DAYS})

Row = tuple[int, str | None, str | None]


class Table:
    """A table of messages (id, country, at, text) with assets, and an instance that remembers their runs."""

    def __init__(self, shop: Shop, instance: dg.DagsterInstance) -> None:
        self.shop = shop
        self.instance = instance
        shop.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, country TEXT, at TIMESTAMP, text TEXT)")
        self.resources: dict[str, Any] = {"database": DatabaseResource(url=shop.url), "engine": DummyEngineResource()}

    def assets(
        self, partitions: Partitions | None = None, tasks: Sequence[Task] = (SENTIMENT,), **options: Any
    ) -> list[dg.AssetsDefinition | dg.AssetSpec]:
        return build_llm_assets(Source(table="messages"), tasks, partitions, **options)

    def add(self, *rows: Row) -> None:
        """Add rows of id, country and time of 2026-11, such as 03 10:00."""
        self.shop.insert(
            "messages",
            [{"id": i, "country": c, "at": at and f"2026-11-{at}:00", "text": f"text {i}"} for i, c, at in rows],
        )

    def tick(self, sensor: dg.SensorDefinition, assets: Sequence[Any]) -> Any:
        """Evaluate a sensor as its code location's."""
        definitions = dg.Definitions(assets=assets, sensors=[sensor], resources=self.resources)
        repository = definitions.get_repository_def()
        found = repository.get_sensor_def(sensor.name)
        with dg.build_sensor_context(
            instance_ref=self.instance.get_ref() if self.instance.is_persistent else None,
            instance=None if self.instance.is_persistent else self.instance,
            repository_def=repository,
            resources={name: self.resources[name] for name in found.required_resource_keys},
            sensor_name=sensor.name,
        ) as context:
            result = found.evaluate_tick(context)
        for request in result.dynamic_partitions_requests or ():
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
            else:
                for key in request.partition_keys:
                    self.instance.delete_dynamic_partition(request.partitions_def_name, key)
        return result

    def run(self, assets: Sequence[Any], request: dg.RunRequest | None = None, **options: Any) -> bool:
        """Do what a request asks for."""
        if request is not None:
            options |= {"partition_key": request.partition_key, "tags": request.tags}
        done = dg.materialize(assets, resources=self.resources, instance=self.instance, raise_on_error=False, **options)
        return done.success


def spans(result: Any) -> list[str | tuple[str, str]]:
    """Return the partitions of each requested run: one, or a range."""
    requests = result.run_requests or ()
    return [each.partition_key or (each.tags[RANGE_START], each.tags[RANGE_END]) for each in requests]


def reason(result: Any) -> str:
    assert not result.run_requests
    return result.skip_message
