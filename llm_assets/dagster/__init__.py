"""The Dagster side: resources, and a factory of assets."""

from llm_assets.dagster.assets import build_failed_rows_job, build_llm_assets
from llm_assets.dagster.automation import Automation, Duration, Freshness, OnCron, automation_condition
from llm_assets.dagster.checks import Checks
from llm_assets.dagster.component import LLMTable
from llm_assets.dagster.execute import RunConfig, execute_table
from llm_assets.dagster.partitions import (
    AnyPartitions,
    DynamicPartitions,
    MultiPartitions,
    Partitions,
    StaticPartitions,
    TimePartitions,
)
from llm_assets.dagster.resources import (
    DatabaseResource,
    DummyEngineResource,
    EngineResource,
    RayEngineResource,
    ServerResource,
    VllmResource,
)
from llm_assets.dagster.schedules import Schedule, build_schedule
from llm_assets.dagster.sensors import build_partitions_sensor, build_source_sensor, build_unanswered_sensor
from llm_assets.dagster.table import TableDefinition

__all__ = [
    "AnyPartitions",
    "Automation",
    "Checks",
    "DatabaseResource",
    "DummyEngineResource",
    "Duration",
    "DynamicPartitions",
    "EngineResource",
    "Freshness",
    "LLMTable",
    "MultiPartitions",
    "OnCron",
    "Partitions",
    "RayEngineResource",
    "RunConfig",
    "Schedule",
    "ServerResource",
    "StaticPartitions",
    "TableDefinition",
    "TimePartitions",
    "VllmResource",
    "automation_condition",
    "build_failed_rows_job",
    "build_llm_assets",
    "build_partitions_sensor",
    "build_schedule",
    "build_source_sensor",
    "build_unanswered_sensor",
    "execute_table",
]
