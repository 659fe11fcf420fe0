"""The tables this package writes. Their comments stand in the database for whoever reads it."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from llm_assets.records import Column
from llm_assets.tables.columns import Json, Moment, answer_column


def results_table(
    metadata: sa.MetaData, name: str, key: Sequence[tuple[str, Any]], columns: Sequence[Column], comment: str
) -> sa.Table:
    """Return the table of one task's answers: the source's key, the answer, and how it came to be."""
    return sa.Table(
        name,
        metadata,
        *(
            sa.Column(column, kind, primary_key=True, autoincrement=False, comment="Key of the source row.")
            for column, kind in key
        ),
        *(answer_column(column) for column in columns),
        sa.Column("model", sa.Text, nullable=False, comment="Model that answered."),
        sa.Column(
            "fingerprint", sa.String(32), nullable=False, comment="Hash of task, prompt, schema, sampling and model."
        ),
        sa.Column("content_hash", sa.String(32), nullable=False, comment="Hash of the text that was asked about."),
        sa.Column("prompt_tokens", sa.Integer, nullable=False, comment="Tokens of the prompts."),
        sa.Column("output_tokens", sa.Integer, nullable=False, comment="Tokens generated."),
        sa.Column(
            "finish_reason", sa.Text, nullable=False, comment="stop: ended by itself. length: cut at max_tokens."
        ),
        sa.Column("run_id", sa.Text, nullable=False, comment="Run that wrote this row."),
        sa.Column("answered_at", Moment, nullable=False, comment="When the row was written (UTC)."),
        sa.Column("partition_key", sa.Text, nullable=False, index=True, comment="Partition that the row belongs to."),
        comment=comment,
    )


def ledger_table(metadata: sa.MetaData) -> sa.Table:
    """Return the ledger: every answer by what was asked, shared by partitions, tables and backfills."""
    return sa.Table(
        "llm_answers",
        metadata,
        sa.Column(
            "fingerprint", sa.String(32), primary_key=True, comment="Hash of task, prompt, schema, sampling and model."
        ),
        sa.Column("content_hash", sa.String(32), primary_key=True, comment="Hash of the text that was asked about."),
        sa.Column("answer", Json, nullable=False, comment="The answer's columns."),
        sa.Column("prompt_tokens", sa.Integer, nullable=False, comment="Tokens of the prompts."),
        sa.Column("output_tokens", sa.Integer, nullable=False, comment="Tokens generated."),
        sa.Column(
            "finish_reason", sa.Text, nullable=False, comment="stop: ended by itself. length: cut at max_tokens."
        ),
        sa.Column("answered_at", Moment, nullable=False, index=True, comment="When the answer was given (UTC)."),
        comment="Answers by question and text: an equal text is asked once.",
    )


def failures_table(metadata: sa.MetaData) -> sa.Table:
    """Return the rows that have no answer, with the reason."""
    return sa.Table(
        "llm_failures",
        metadata,
        sa.Column("source", sa.Text, primary_key=True, comment="Source table."),
        sa.Column("task", sa.Text, primary_key=True, comment="Task that has no answer for the row."),
        sa.Column(
            "row_key",
            sa.Text,
            primary_key=True,
            comment="Key of the source row; a JSON list if it has several columns.",
        ),
        sa.Column("partition_key", sa.Text, nullable=False, comment="Partition that the row belongs to."),
        sa.Column("kind", sa.Text, nullable=False, comment="Kind of failure."),
        sa.Column("message", sa.Text, nullable=False, comment="What went wrong and what would help."),
        sa.Column("raw_output", sa.Text, comment="What the model said, if it said anything."),
        sa.Column("attempts", sa.Integer, nullable=False, comment="How often the row was tried in vain."),
        sa.Column(
            "fingerprint", sa.String(32), nullable=False, comment="Hash of task, prompt, schema, sampling and model."
        ),
        sa.Column("content_hash", sa.String(32), nullable=False, comment="Hash of the text that was asked about."),
        sa.Column("run_id", sa.Text, nullable=False, comment="Last run that found the row failing."),
        sa.Column("failed_at", Moment, nullable=False, comment="When it last failed (UTC)."),
        comment="Source rows that a task has no answer for.",
    )


def version_table(metadata: sa.MetaData) -> sa.Table:
    """Return the layouts that the package's tables have had; the highest is the present one."""
    return sa.Table(
        "llm_version",
        metadata,
        sa.Column("layout", sa.Integer, primary_key=True, autoincrement=False, comment="Layout of the tables."),
        sa.Column("since", Moment, nullable=False, comment="When the tables were given it (UTC)."),
        comment="Layout of the tables that llm_assets writes.",
    )


def throughput_table(metadata: sa.MetaData) -> sa.Table:
    """Return what runs did: one row for each run, task and partition."""
    counts = {
        "rows_read": "Source rows in the partition.",
        "rows_answered": "Rows the model was asked about and answered.",
        "rows_reused": "Rows that took the answer to an equal text.",
        "rows_skipped": "Rows already answered, unchanged.",
        "rows_failed": "Rows without an answer; see llm_failures.",
        "rows_left": "Rows not asked: a limit of the run was reached, or it asked only failed rows.",
        "rows_removed": "Answers removed because their source row is gone.",
        "prompt_tokens": "Prompt tokens of the rows asked.",
        "cached_tokens": "Those of them that came from the prefix cache.",
        "output_tokens": "Tokens generated.",
        "expected_tokens": "Prompt tokens that, counted beforehand, were to be computed.",
    }
    seconds = {
        "seconds_total": "Seconds for the partition, all tasks of the run together, without loading the model.",
        "seconds_load": "Seconds to load the model, counted for the partition that needed it first.",
        "seconds_read": "Of the total: reading and comparing.",
        "seconds_prompt": "Of the total: rendering and tokenising.",
        "seconds_generate": "Of the total: waiting for the engine.",
        "seconds_write": "Of the total: writing.",
    }
    return sa.Table(
        "llm_throughput",
        metadata,
        sa.Column("run_id", sa.Text, primary_key=True, comment="Run."),
        sa.Column("source", sa.Text, primary_key=True, comment="Source table."),
        sa.Column("task", sa.Text, primary_key=True, comment="Task."),
        sa.Column("partition_key", sa.Text, primary_key=True, comment="Partition."),
        sa.Column(
            "status",
            sa.Text,
            nullable=False,
            server_default="complete",
            comment="complete; failed; limit: the run reached one before; running: so far, or the run was stopped.",
        ),
        sa.Column("started_at", Moment, nullable=False, comment="When the partition was begun (UTC)."),
        sa.Column("finished_at", Moment, nullable=False, comment="When it was done, or last written to (UTC)."),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default="0", comment=comment)
            for name, comment in counts.items()
        ),
        sa.Column(
            "layout",
            sa.Text,
            nullable=False,
            server_default="instruction_first",
            comment="What the prompts begin with: instruction_first or row_first.",
        ),
        *(sa.Column(name, sa.Double, nullable=False, comment=comment) for name, comment in seconds.items()),
        sa.Column("seconds_idle", sa.Double, comment="Of the total: the loaded model had nothing to compute."),
        sa.Column("rows_per_second", sa.Double, comment="Rows asked per second of the total; NULL if none was."),
        sa.Column(
            "tokens_per_second", sa.Double, comment="Prompt and output tokens per second of the total; NULL if none."
        ),
        sa.Column("tokens_per_second_per_gpu", sa.Double, comment="That divided by gpus; NULL without."),
        sa.Column("cost", sa.Double, comment="What the tokens cost by the engine's prices; NULL if it has none."),
        sa.Column("currency", sa.Text, comment="Currency of the cost."),
        sa.Column("engine", sa.Text, nullable=False, comment="Engine."),
        sa.Column("model", sa.Text, nullable=False, comment="Model."),
        sa.Column(
            "revision", sa.Text, nullable=False, comment="Revision of the model; for a directory, a hash of its files."
        ),
        sa.Column("device", sa.Text, nullable=False, comment="Hardware; empty if the model was not loaded."),
        sa.Column(
            "peak_memory_bytes", sa.BigInteger, comment="Memory in use: of the process on a CPU, of the fullest GPU."
        ),
        sa.Column("gpus", sa.BigInteger, comment="GPUs that the model ran on; NULL without one, or if nobody knows."),
        comment="What each run did and how fast, by task and partition.",
    )
