"""What a materialization says about itself. Every metadata key of this package begins with `PREFIX`."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from llm_assets.dagster.plots import histogram_plot, label_plot, markdown_image
from llm_assets.dagster.shown import PREFIX, code_block, code_span, markdown, middle_cut, plain, records_table
from llm_assets.pipeline import PartitionResult, Pipeline
from llm_assets.prompts.template import ROW_TEXT
from llm_assets.records import Column, Row
from llm_assets.secrets import masked
from llm_assets.tables import Source, Statistics
from llm_assets.tasks import Classify, Task

WIDE_COLUMNS = ("scores", "logprobs")
"""Columns that sample answers are shown without: JSON with an entry for each label or token."""

PREVIEW_ROWS = 10
SHOWN_LABELS = 50
SHOWN_COLUMNS = 100

PROMPT_CHARACTERS = 6000
"""Of a longer prompt, the beginning and the end are shown."""

BINS = 20

_SQL_TYPES = {
    "text": "text",
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "date": "date",
    "datetime": "timestamp with time zone",
    "json": "json",
}


def column_schema(task: Task, key: Mapping[str, str] | None = None) -> dg.TableSchema:
    """Return the columns of a task's table as Dagster shows them: the answer's behind the key's, if types are given."""
    return dg.TableSchema(
        columns=[
            *(
                dg.TableColumn(name, type=kind, description="Key of the source row.")
                for name, kind in (key or {}).items()
            ),
            *(
                dg.TableColumn(c.name, type=_SQL_TYPES[c.type], description=markdown(masked(c.comment)[:200]))
                for c in task.columns[:SHOWN_COLUMNS]
            ),
        ]
    )


def column_lineage(task: Task, key: tuple[str, ...], source: dg.AssetKey) -> dg.TableColumnLineage:
    """Return which columns of the source each column comes from: an answer's from the columns of the text."""
    text = [dg.TableColumnDep(asset_key=source, column_name=name) for name in task.template.columns]
    return dg.TableColumnLineage(
        {
            **{name: [dg.TableColumnDep(asset_key=source, column_name=name)] for name in key},
            **{column.name: text for column in task.columns[:SHOWN_COLUMNS]},
        }
    )


def asset_metadata(task: Task, table: str, source: str) -> dict[str, Any]:
    """Return what is known of an asset before it ever ran."""
    return {
        "dagster/table_name": table,
        "dagster/column_schema": column_schema(task),
        f"{PREFIX}source": masked(source),
        f"{PREFIX}task": _masked(task.model_dump(mode="json", by_alias=True, exclude_defaults=True)),
    }


def source_metadata(source: Source) -> dict[str, Any]:
    """Return what is known of the asset that stands for a source: its table, or its query."""
    if source.query is None:
        return {"dagster/table_name": source.name}
    return {f"{PREFIX}query": dg.MetadataValue.md(code_block(masked(source.query.strip()), "sql"))}


def _masked(value: Any) -> Any:
    """Return a JSON value with the secrets in its texts masked."""
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return masked(value) if isinstance(value, str) else value


def materialization_metadata(
    pipeline: Pipeline,
    task: Task,
    result: PartitionResult,
    source: dg.AssetKey | None = None,
    whole_table: bool = False,
) -> dict[str, Any]:
    """Return what a run did to one partition of one task: numbers that the UI plots, pictures, rows and the prompt.

    Its size is bounded, whatever the rows hold.

    Args:
        pipeline: What did it.
        task: The task.
        result: What it did.
        source: The asset that stands for the source table, to tell from which of its columns the answers are.
        whole_table: Whether the table has no partitions, so that its rows are counted too.
    """
    counts, statistics = result.counts[task.name], pipeline.store.statistics(task.name)
    key, partition = pipeline.source.key_columns, result.partition_key
    seconds = result.seconds_total
    tokens = counts.prompt_tokens + counts.output_tokens
    metadata: dict[str, Any] = {
        "dagster/column_schema": column_schema(task, dict(zip(key, statistics.key_types, strict=True)))
    }
    if source is not None:
        metadata["dagster/column_lineage"] = column_lineage(task, key, source)
    if isinstance(task, Classify):
        labels = {str(label): count for label, count in statistics.value_counts("label", [partition]).items()}
        metadata[f"{PREFIX}labels"] = label_table(labels)
        if labels:
            metadata[f"{PREFIX}plot_labels"] = dg.MetadataValue.md(markdown_image("Labels", label_plot(labels)))
    metadata |= _histograms(statistics, partition)
    sample = statistics.first(partition, PREVIEW_ROWS)
    rows = pipeline.source.rows([statistics.key_of(row) for row in sample])
    if sample:
        texts = [rows.get(statistics.key_of(row)) for row in sample]
        metadata[f"{PREFIX}preview"] = preview_table(
            [
                _beside(row, key, text and task.template.render(text.values))
                for row, text in zip(sample, texts, strict=True)
            ],
            task.columns,
        )
        shown = next((row for row in texts if row is not None), None)
        if shown is not None:
            metadata[f"{PREFIX}prompt"] = dg.MetadataValue.md(_prompt(pipeline, task, shown, counts.rows_answered > 0))
    metadata[f"{PREFIX}failures"] = dg.MetadataValue.md(failures_query(statistics, partition))
    if whole_table:
        metadata["dagster/row_count"] = statistics.answers()
    metadata |= {
        "dagster/partition_row_count": statistics.answers(partition),
        "dagster/table_name": statistics.table_name,
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
        f"{PREFIX}revision": masked(pipeline.engine.info.revision),
        f"{PREFIX}fingerprint": pipeline.fingerprints[task.name],
    }
    if counts.rows_answered:
        metadata[f"{PREFIX}rows_per_second"] = round(counts.rows_answered / seconds, 2)
        metadata[f"{PREFIX}tokens_per_second"] = round(tokens / seconds, 1)
        metadata[f"{PREFIX}cached_share"] = round(counts.cached_tokens / max(counts.prompt_tokens, 1), 4)
    prices = pipeline.engine.info.prices
    if prices is not None:
        metadata[f"{PREFIX}cost"] = round(counts.cost(prices) or 0.0, 6)
        metadata[f"{PREFIX}currency"] = prices.currency
    confidence = statistics.mean("confidence", partition) if statistics.has_column("confidence") else None
    if confidence is not None:
        metadata[f"{PREFIX}mean_confidence"] = round(float(confidence), 4)
    return metadata


def label_table(counts: Mapping[str, int]) -> dg.TableMetadataValue:
    """Return how many rows have each label, and their share; of many labels, the commonest."""
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return records_table(
        [{"label": label, "rows": count, "share": round(count / total, 3)} for label, count in ranked[:SHOWN_LABELS]],
        {"label": "string", "rows": "int", "share": "float"},
    )


def _beside(row: Mapping[str, Any], key: Sequence[str], text: str | None) -> dict[str, Any]:
    """Return an answer with its text behind the key, without what would make the table too wide for the page."""
    answer = {name: value for name, value in row.items() if name not in (*key, *WIDE_COLUMNS)}
    return {**{name: row[name] for name in key}, "source text": text, **answer}


def preview_table(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> dg.TableMetadataValue:
    """Return some answers as a table: text cut, and nothing in it that a terminal or browser would act on."""
    return records_table(rows, descriptions={column.name: column.comment for column in columns})


def failures_query(statistics: Statistics, partition_key: str) -> str:
    """Return Markdown with SQL that lists a partition's failures of a task."""
    return code_block(statistics.failures_sql(partition_key), "sql")


def _histograms(statistics: Statistics, partition_key: str) -> dict[str, Any]:
    """Return a picture of how each number that answers have is distributed in a partition."""
    metadata: dict[str, Any] = {}
    for column, span, name in (
        ("confidence", (0.0, 1.0), "confidence (0 to 1)"),
        ("prompt_tokens", None, "prompt tokens of a row"),
        ("output_tokens", None, "output tokens of a row"),
    ):
        if statistics.has_column(column):
            histogram = statistics.histogram(column, partition_key, BINS, span)
            if any(histogram.counts):
                picture = markdown_image(name, histogram_plot(histogram, name))
                metadata[f"{PREFIX}plot_{column}"] = dg.MetadataValue.md(picture)
    return metadata


def _prompt(pipeline: Pipeline, task: Task, row: Row, asked: bool) -> str:
    """Return Markdown with the prompt of a row, in which nothing of the row has any effect."""
    text = task.template.render(row.values)
    name = ", ".join(f"{name} {plain(value)}" for name, value in zip(pipeline.source.key_columns, row.key, strict=True))
    if asked:
        # The run has made its plans, so this loads nothing: the very tokens, as text.
        tokenizer = pipeline.engine.tokenizer
        [(token_ids, _), *_] = pipeline.plans()[task.name].requests(tokenizer.encode_literal([text])[0])
        said, prompt = f"{len(token_ids):,} tokens, as text:", tokenizer.decode(token_ids)
    else:
        layout = pipeline.layouts[task.name]
        messages = [f"[{m['role']}]\n{m['content']}" for m in task.messages(layout)]
        prompt = "\n\n".join(messages).replace(ROW_TEXT, text)
        said = "the messages, which the model's chat template joins:"
    return f"Row {code_span(name)}; {said}\n\n{code_block(middle_cut(masked(prompt), PROMPT_CHARACTERS))}"
