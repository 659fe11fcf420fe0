"""Running SQL files as a person's client does: statement by statement, nothing in them read as a parameter."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from definitions import ROOT
from llm_assets.tables import Database

SQL = ROOT / "sql"


def statements(path: Path) -> list[str]:
    """Return a file's statements. Only a semicolon at the end of a line ends one; a body in $$ is one statement."""
    text = re.sub(r"^\s*--.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    bodies: list[str] = []
    text = re.sub(r"\$\$.*?\$\$", lambda match: bodies.append(match[0]) or f"$body{len(bodies) - 1}$", text, flags=re.S)
    found = [piece.strip() for piece in re.split(r";\s*$", text, flags=re.MULTILINE)]
    return [re.sub(r"\$body(\d+)\$", lambda match: bodies[int(match[1])], piece) for piece in found if piece]


class Answer(NamedTuple):
    """What a query gave."""

    columns: list[str]
    rows: list[tuple[Any, ...]]

    def column(self, name: str) -> list[Any]:
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def by(self, *names: str) -> dict[Any, dict[str, Any]]:
        """Return the rows as dicts, by the value of a column or the values of several."""
        found = {}
        for row in self.rows:
            values = dict(zip(self.columns, row, strict=True))
            found[values[names[0]] if len(names) == 1 else tuple(values[name] for name in names)] = values
        assert len(found) == len(self.rows)
        return found


class Sql:
    """A database that statements are sent to as they are."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def execute(self, *commands: str) -> None:
        with self.database.engine.begin() as connection:
            cursor = connection.connection.cursor()
            for command in commands:
                cursor.execute(command)

    def read(self, query: str) -> Answer:
        with self.database.engine.connect() as connection:
            cursor = connection.connection.cursor()
            cursor.execute(query)
            return Answer([column[0] for column in cursor.description], [tuple(row) for row in cursor.fetchall()])

    def query(self, name: str) -> Answer:
        """Run the one statement of a file in sql/queries."""
        [statement] = statements(SQL / "queries" / f"{name}.sql")
        return self.read(statement)
