"""The databases: a source to read, and the tables that answers are written to."""

from llm_assets.tables.batch import AnsweredRow, AnswerToWrite, Batch, FailedRow, FailureToWrite, UnstorableError
from llm_assets.tables.columns import clean, key_text
from llm_assets.tables.database import Database
from llm_assets.tables.export import export_csv, export_file
from llm_assets.tables.ledger import prune_ledger
from llm_assets.tables.locks import POLL_SECONDS, run_locks
from llm_assets.tables.reading import PastPartition, ReadOnlyStore, StoredAnswers
from llm_assets.tables.roles import roles_sql
from llm_assets.tables.source import Source
from llm_assets.tables.source_table import SourceTable
from llm_assets.tables.statistics import Histogram, Statistics
from llm_assets.tables.store import Output, Store
from llm_assets.tables.unanswered import RowOutcomes, Unanswered, UnansweredRows
from llm_assets.tables.views import AnsweredView

__all__ = [
    "POLL_SECONDS",
    "AnswerToWrite",
    "AnsweredRow",
    "AnsweredView",
    "Batch",
    "Database",
    "FailedRow",
    "FailureToWrite",
    "Histogram",
    "Output",
    "PastPartition",
    "ReadOnlyStore",
    "RowOutcomes",
    "Source",
    "SourceTable",
    "Statistics",
    "Store",
    "StoredAnswers",
    "Unanswered",
    "UnansweredRows",
    "UnstorableError",
    "clean",
    "export_csv",
    "export_file",
    "key_text",
    "prune_ledger",
    "roles_sql",
    "run_locks",
]
