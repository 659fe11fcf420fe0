"""What a materialization says about itself. Every metadata key of this package is named here."""

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

from llm_assets.errors import printable
from llm_assets.pipeline import PartitionResult, Pipeline
from llm_assets.records import Column
from llm_assets.secrets import masked
from llm_assets.tasks import Classify, Task

PREFIX = "llm_assets/"
PREVIEW_ROWS = 10
PREVIEW_CHARACTERS = 160

_SQL_TYPES = {
    "text": "text",
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "date": "date",
    "datetime": "timestamp with time zone",
    "json": "json",
}


def column_schema(task: Task) -> dg.TableSchema:
    """Return the answer's columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[dg.TableColumn(c.name, type=_SQL_TYPES[c.type], description=c.comment) for c in task.columns]
    )


def asset_metadata(task: Task, table: str, source: str) -> dict[str, Any]:
    """Return what is known of an asset before it ever ran."""
    return {
        "dagster/table_name": table,
        "dagster/column_schema": column_schema(task),
        f"{PREFIX}source": masked(source),
        f"{PREFIX}task": _masked(task.model_dump(mode="json", by_alias=True, exclude_defaults=True)),
    }


def _masked(value: Any) -> Any:
    """Return a JSON value with the secrets in its texts masked."""
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return masked(value) if isinstance(value, str) else value


def materialization_metadata(pipeline: Pipeline, task: Task, result: PartitionResult) -> dict[str, Any]:
    """Return what a run did to one partition of one task, in numbers that the UI plots and tables that it shows."""
    counts = result.counts[task.name]
    seconds = sum(value for stage, value in result.seconds.items() if stage != "load")
    tokens = counts.prompt_tokens + counts.output_tokens
    stored = counts.rows_done - counts.rows_failed
    metadata: dict[str, Any] = {}
    if isinstance(task, Classify):
        metadata[f"{PREFIX}labels"] = label_table(pipeline.store.value_counts(task.name, "label", result.partition_key))
    sample = pipeline.store.sample(task.name, result.partition_key, PREVIEW_ROWS)
    if sample:
        metadata[f"{PREFIX}preview"] = preview_table(sample, task.columns)
    metadata |= {
        "dagster/partition_row_count": stored,
        "dagster/table_name": pipeline.store.table_name(task.name),
        f"{PREFIX}rows_read": counts.rows_read,
        f"{PREFIX}rows_answered": counts.rows_answered,
        f"{PREFIX}rows_reused": counts.rows_reused,
        f"{PREFIX}rows_skipped": counts.rows_skipped,
        f"{PREFIX}rows_failed": counts.rows_failed,
        f"{PREFIX}rows_left": counts.rows_left,
        f"{PREFIX}rows_removed": counts.rows_removed,
        f"{PREFIX}failed_share": round(counts.rows_failed / counts.rows_read, 4) if counts.rows_read else 0.0,
        f"{PREFIX}prompt_tokens": counts.prompt_tokens,
        f"{PREFIX}output_tokens": counts.output_tokens,
        f"{PREFIX}layout": counts.layout,
        f"{PREFIX}computed_tokens": counts.computed_tokens,
        f"{PREFIX}expected_tokens": counts.expected_tokens,
        f"{PREFIX}seconds": round(seconds, 2),
        f"{PREFIX}model": masked(pipeline.model),
        f"{PREFIX}fingerprint": pipeline.fingerprints[task.name],
    }
    if counts.rows_answered:
        metadata[f"{PREFIX}rows_per_second"] = round(counts.rows_answered / seconds, 2)
        metadata[f"{PREFIX}tokens_per_second"] = round(tokens / seconds, 1)
        metadata[f"{PREFIX}cached_share"] = round(counts.cached_tokens / counts.prompt_tokens, 4)
    confidence = pipeline.store.mean(task.name, "confidence", result.partition_key)
    if confidence is not None:
        metadata[f"{PREFIX}mean_confidence"] = round(float(confidence), 4)
    return metadata


def label_table(counts: Mapping[str, int]) -> dg.TableMetadataValue:
    """Return how many rows have each label, and their share."""
    total = sum(counts.values())
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord({"label": plain(label), "rows": count, "share": round(count / total, 3)})
            for label, count in sorted(counts.items(), key=lambda item: -item[1])
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("label", type="string"),
                dg.TableColumn("rows", type="int"),
                dg.TableColumn("share", type="float"),
            ]
        ),
    )


def preview_table(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> dg.TableMetadataValue:
    """Return some answers as a table: text cut, and nothing in it that a terminal or browser would act on."""
    comments = {column.name: column.comment for column in columns}
    return dg.MetadataValue.table(
        records=[dg.TableRecord({name: plain(value) for name, value in row.items()}) for row in rows],
        schema=dg.TableSchema(
            columns=[dg.TableColumn(name, type="string", description=comments.get(name)) for name in rows[0]]
        ),
    )


def plain(value: object) -> str | int | float | bool | None:
    """Return a value as it can be shown: short, on one line, without control characters."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 4)
    text = printable(re.sub(r"\s+", " ", str(value)))
    return text if len(text) <= PREVIEW_CHARACTERS else text[: PREVIEW_CHARACTERS - 1] + "…"
