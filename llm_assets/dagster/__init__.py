"""The Dagster side: resources, and a factory of assets."""

from llm_assets.dagster.assets import build_failed_rows_job, build_llm_assets
from llm_assets.dagster.checks import Checks
from llm_assets.dagster.execute import RunConfig, execute_table
from llm_assets.dagster.partitions import StaticPartitions, TimePartitions
from llm_assets.dagster.resources import DatabaseResource, DummyEngineResource, EngineResource, VllmResource
from llm_assets.dagster.table import TableDefinition

__all__ = [
    "Checks",
    "DatabaseResource",
    "DummyEngineResource",
    "EngineResource",
    "RunConfig",
    "StaticPartitions",
    "TableDefinition",
    "TimePartitions",
    "VllmResource",
    "build_failed_rows_job",
    "build_llm_assets",
    "execute_table",
]
