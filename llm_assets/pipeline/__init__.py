"""Bring a table's answers up to date: read, compare, ask, parse, write."""

from llm_assets.pipeline.accounting import Counts, PartitionResult, Progress, ProgressListener, Stopwatch
from llm_assets.pipeline.comparison import MAX_ATTEMPTS
from llm_assets.pipeline.pipeline import Pipeline, PipelineSettings, output_table_name, task_outputs

__all__ = [
    "MAX_ATTEMPTS",
    "Counts",
    "PartitionResult",
    "Pipeline",
    "PipelineSettings",
    "Progress",
    "ProgressListener",
    "Stopwatch",
    "output_table_name",
    "task_outputs",
]
