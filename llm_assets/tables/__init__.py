"""The databases: a source to read, and the tables that answers are written to."""

from llm_assets.tables.database import Database
from llm_assets.tables.source import Source, SourceTable
from llm_assets.tables.store import AnsweredRow, Batch, FailedRow, Store

__all__ = ["AnsweredRow", "Batch", "Database", "FailedRow", "Source", "SourceTable", "Store"]
