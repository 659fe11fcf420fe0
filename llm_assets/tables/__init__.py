"""The databases: a source to read, and the tables that answers are written to."""

from llm_assets.tables.batch import AnsweredRow, AnswerToWrite, Batch, FailedRow, FailureToWrite, UnstorableError
from llm_assets.tables.database import Database
from llm_assets.tables.export import export_csv, export_file
from llm_assets.tables.ledger import prune_ledger
from llm_assets.tables.locks import POLL_SECONDS, run_locks
from llm_assets.tables.source import Source, SourceTable
from llm_assets.tables.statistics import Histogram, Statistics
from llm_assets.tables.store import Output, Store
from llm_assets.tables.unanswered import Unanswered, UnansweredRows

__all__ = [
    "POLL_SECONDS",
    "AnswerToWrite",
    "AnsweredRow",
    "Batch",
    "Database",
    "FailedRow",
    "FailureToWrite",
    "Histogram",
    "Output",
    "Source",
    "SourceTable",
    "Statistics",
    "Store",
    "Unanswered",
    "UnansweredRows",
    "UnstorableError",
    "export_csv",
    "export_file",
    "prune_ledger",
    "run_locks",
]
