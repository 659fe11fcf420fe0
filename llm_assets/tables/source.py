"""The settings of a source: which table or SELECT is read, and what names its rows."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llm_assets.errors import ConfigError


class Source(BaseModel):
    """Where rows come from."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    table: str = Field(description="Table or view to read; with a query, the name that assets and outputs begin with.")
    query: str | None = Field(default=None, description="SELECT whose rows are read. Trusted, never from row text.")
    db_schema: str | None = Field(default=None, alias="schema", description="Its schema, when not the default one.")
    key: tuple[str, ...] = Field(default=(), description="Columns that name a row; the primary key if not given.")
    where: str | None = Field(default=None, description="SQL condition: only these rows. Trusted, never from row text.")

    @field_validator("key", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_column_is_a_key(cls, key: Any) -> Any:
        return (key,) if isinstance(key, str) else key

    @field_validator("key")
    @classmethod
    def _key_names_each_column_once(cls, key: tuple[str, ...]) -> tuple[str, ...]:
        if twice := next((name for name in key if key.count(name) > 1), None):
            raise ConfigError(f"The key ({', '.join(key)}) has the column {twice!r} twice. Name it once.")
        return key

    @field_validator("table")
    @classmethod
    def _table_has_a_name(cls, table: str) -> str:
        if not table.strip():
            raise ConfigError("The source has no table name. Write the name of a table or view.")
        return table

    @model_validator(mode="after")
    def _query_names_its_key(self) -> "Source":
        if self.query is None:
            return self
        if not self.query.strip():
            raise ConfigError("The source's query is empty. Write a SELECT, or remove it to read the table itself.")
        if not self.key:
            raise ConfigError("A query has no primary key. Say which of its columns name a row: key=['id'].")
        if self.db_schema is not None:
            raise ConfigError(
                f"schema={self.db_schema!r} says where a table is, and rows come from a query. Name it in the query."
            )
        return self

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"Table {self.name!r}" if self.query is None else f"The query of {self.name!r}"

    @property
    def name(self) -> str:
        """The table's name as it stands in the package's tables: schema and table."""
        return f"{self.db_schema}.{self.table}" if self.db_schema else self.table

    @property
    def output_prefix(self) -> str:
        """What the names of output tables begin with."""
        return output_prefix(self.table)


def output_prefix(table: str) -> str:
    """Return what the names of a table's output tables begin with: its name, as an identifier."""
    return re.sub(r"\W", "_", table)
