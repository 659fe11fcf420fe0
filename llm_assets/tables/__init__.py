"""The databases: a source to read, and the tables that answers are written to."""

from llm_assets.tables.database import Database
from llm_assets.tables.ledger import prune_ledger
from llm_assets.tables.source import Source, SourceTable
from llm_assets.tables.store import AnswerToWrite, Batch, FailureToWrite, Output, Store

__all__ = [
    "AnswerToWrite",
    "Batch",
    "Database",
    "FailureToWrite",
    "Output",
    "Source",
    "SourceTable",
    "Store",
    "prune_ledger",
]
