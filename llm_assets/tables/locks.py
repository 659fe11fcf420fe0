"""Locks on partitions, so that two runs do not work on the same one. The death of a run gives them back."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import DBAPIError

from llm_assets.secrets import masked_logger
from llm_assets.tables.database import Database, retried

logger = masked_logger(__name__)

POLL_SECONDS = 0.5
"""How often a run looks whether another one has given a partition back."""


class Locks(Protocol):
    """Locks of one run on partitions of output tables, by name."""

    def acquire(self, names: Sequence[str]) -> bool:
        """Take all of these locks and return True, or none of them if another run holds one."""
        ...

    def confirm(self) -> None:
        """Make sure that the locks are still held; take them again, waiting if need be, when the database was away."""
        ...

    def release(self, names: Sequence[str]) -> None:
        """Give these locks back."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def run_locks(database: Database) -> Locks:
    """Return the locks of a run that writes to a database."""
    return PostgresLocks(database) if database.dialect == "postgresql" else SqliteLocks(database)


class PostgresLocks:
    """Advisory locks of a session of their own, which end with that session, however it ends."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._connection: sa.Connection | None = None
        self._held: set[str] = set()

    @retried
    def acquire(self, names: Sequence[str]) -> bool:
        self.confirm()
        if not self._take(names):
            return False
        self._held.update(names)
        return True

    @retried
    def confirm(self) -> None:
        if self._connection is not None:
            try:
                self._connection.exec_driver_sql("SELECT 1")
                return
            except DBAPIError:
                self._drop()
            except BaseException:  # an interrupt in the middle of a statement leaves a connection of no further use
                self._drop()
                raise
        while not self._take(sorted(self._held)):
            logger.warning("The connection was lost, and another run has the partition. Waiting for it.")
            time.sleep(POLL_SECONDS)

    def release(self, names: Sequence[str]) -> None:
        self._held.difference_update(names)
        with contextlib.suppress(DBAPIError):  # a connection that broke took its locks along
            for name in names if self._connection is not None else ():
                self._call(sa.func.pg_advisory_unlock, name)

    def close(self) -> None:
        # Postgres gives back what a session held only when that has ended, a moment after its connection.
        self.release(list(self._held))
        self._drop()

    def _take(self, names: Sequence[str]) -> bool:
        taken: list[str] = []
        for name in names:
            if not self._call(sa.func.pg_try_advisory_lock, name):
                for other in taken:
                    self._call(sa.func.pg_advisory_unlock, other)
                return False
            taken.append(name)
        return True

    def _call(self, function: Callable[[int], sa.ColumnElement[bool]], name: str) -> bool:
        if self._connection is None:
            # A transaction left open would keep old row versions from being cleaned up.
            self._connection = self.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        digest = hashlib.blake2b(f"llm_assets {name}".encode(), digest_size=8).digest()
        try:
            return self._connection.execute(sa.select(function(int.from_bytes(digest, signed=True)))).scalar_one()
        except BaseException:  # as in confirm
            self._drop()
            raise

    def _drop(self) -> None:
        """Close the session itself: in the pool it would keep its locks."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


class SqliteLocks:
    """One locked file beside the database for each output table: SQLite has one writer at a time anyway."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._locks: dict[str, FileLock] = {}

    def acquire(self, names: Sequence[str]) -> bool:
        taken: list[str] = []
        for name in names:
            try:
                if lock := self._lock(name):
                    lock.acquire(blocking=False)
            except Timeout:
                self.release(taken)
                return False
            taken.append(name)
        return True

    def confirm(self) -> None:
        pass

    def release(self, names: Sequence[str]) -> None:
        for name in names:
            if lock := self._lock(name):
                lock.release()

    def close(self) -> None:
        for lock in self._locks.values():
            lock.release(force=True)

    def _lock(self, name: str) -> FileLock | None:
        path = self.database.file
        if path is None:
            return None  # in memory, and nobody else's
        table = name.partition(" ")[0]
        if table not in self._locks:
            self._locks[table] = FileLock(f"{path}-{table}.lock", thread_local=False)
        return self._locks[table]
