"""A table of reviews, runs of its assets on the dummy engine, and what their checks say."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import dagster as dg
import sqlalchemy as sa
from pydantic import BaseModel

from llm_assets.dagster import Checks, DatabaseResource, DummyEngineResource, TimePartitions, build_llm_assets
from llm_assets.engines import DummyEngine
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Extract, Summarize, Task

FIRST = "2026-11-01"
DAYS = TimePartitions(column="created_at", start=FIRST, end="2026-11-08")


class Facts(BaseModel):
    """What is extracted."""

    product: str | None
    request: Literal["refund", "none"]
    tags: list[str]


SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"))
FACTS = Extract(name="facts", schema=Facts)
SUMMARY = Summarize(name="summary", max_words=10)


class LoadCountingEngine(DummyEngine):
    """Counts how often its model was loaded."""

    loads = 0

    def load(self) -> None:
        type(self).loads += 1


class CountingResource(DummyEngineResource):
    """Makes engines that count their loads."""

    def make_engine(self):
        return LoadCountingEngine(self.max_model_len)


class Reviews:
    """A database with a table `reviews` (id, created_at, text, gold)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        metadata = sa.MetaData()
        self.table = sa.Table(
            "reviews",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("created_at", sa.DateTime),
            sa.Column("text", sa.Text),
            sa.Column("gold", sa.Text),
        )
        metadata.create_all(self.engine)

    def add(
        self, texts: Sequence[str | None], day: int = 1, first_id: int = 1, gold: Sequence[str | None] = ()
    ) -> None:
        rows = [
            {
                "id": first_id + index,
                "created_at": datetime(2026, 11, day, 12),
                "text": text,
                "gold": gold[index] if gold else None,
            }
            for index, text in enumerate(texts)
        ]
        with self.engine.begin() as connection:
            connection.execute(self.table.insert(), rows)

    def execute(self, sql: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(sql), values)

    def column(self, sql: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(sql)).scalars())

    def assets(self, *tasks: Task, checks: Mapping[str, Any] | None = None, days: bool = True, **options: Any):
        """Return the assets of some tasks, cut by days."""
        settings = Checks.model_validate(checks or {})
        return build_llm_assets(
            Source(table="reviews"), tasks, DAYS if days else None, checks=settings, pool=None, **options
        )

    def run(self, assets, more_resources: Mapping[str, Any] | None = None, **options: Any) -> dg.ExecuteInProcessResult:
        """Materialize assets, or what `selection` says."""
        resources = {"database": DatabaseResource(url=self.url), "engine": CountingResource(), **(more_resources or {})}
        return dg.materialize(assets, resources=resources, **options)

    def check(self, assets, instance: dg.DagsterInstance, partition: str | None = None, **options: Any):
        """Evaluate all checks and nothing else; return the results by name."""
        selection = dg.AssetSelection.all_asset_checks()
        # Dagster takes no partition_key where no asset is selected, but a run's tag says it as well.
        tags = {"dagster/partition": partition} if partition else {}
        result = self.run(assets, selection=selection, instance=instance, tags=tags, **options)
        assert not result.asset_materializations_for_node("reviews__answers")
        return by_name(result)


def by_name(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Return the results of checks by their names, where each has one."""
    found = result.get_asset_check_evaluations()
    assert len({evaluation.check_name for evaluation in found}) == len(found)
    return {evaluation.check_name: evaluation for evaluation in found}


def number(evaluation: dg.AssetCheckEvaluation, name: str) -> Any:
    """Return a number of a result's metadata."""
    return evaluation.metadata[f"llm_assets/{name}"].value


def examples(evaluation: dg.AssetCheckEvaluation, name: str = "examples") -> list[Mapping[str, Any]]:
    """Return the rows of a table in a result's metadata."""
    value = evaluation.metadata[f"llm_assets/{name}"]
    assert isinstance(value, dg.TableMetadataValue)
    return [record.data for record in value.records]
