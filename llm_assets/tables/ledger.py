"""The ledger's upkeep."""

from datetime import datetime

import sqlalchemy as sa

from llm_assets.errors import DatabaseError
from llm_assets.tables.database import Database
from llm_assets.tables.layout import ledger_table


def prune_ledger(database: Database, before: datetime, schema: str | None = None) -> int:
    """Delete the ledger's answers given before a time; return how many.

    Answers in the output tables stay. A text whose ledger entry is gone is asked about anew when another row has it.

    Raises:
        DatabaseError: the database cannot be opened, or has no ledger.
    """
    database.check()
    ledger = ledger_table(sa.MetaData(schema=schema))
    if not sa.inspect(database.engine).has_table(ledger.name, schema=schema):
        raise DatabaseError(
            f"There is no table {ledger.fullname!r} in {database.name}. Give the database of the answers."
        )
    with database.engine.begin() as connection:
        return connection.execute(ledger.delete().where(ledger.c.answered_at < before)).rowcount
