"""What analysts read answers with, made from a table's definition: the view over its answers, and the roles."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from llm_assets.dagster.table import TableDefinition
from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.pipeline import output_table_name, task_outputs
from llm_assets.tables import AnsweredView, Database, roles_sql


def answered_view(table: TableDefinition, database: Database, name: str | None = None) -> AnsweredView:
    """Return the view of a table's rows with all their answers, which is not made yet.

    Args:
        table: The table's definition, as each of its assets has it in its metadata under `TABLE_METADATA`.
        database: The database that has both the source and the answers.
        name: The view's name, in place of `<table>_answered`.

    Raises:
        LLMAssetsError: see `AnsweredView`.
    """
    outputs = task_outputs(table.source, table.tasks)
    return AnsweredView(database, table.source, outputs, table.settings.output_schema, name)


def create_view(table: TableDefinition, database: Database, name: str | None = None) -> str:
    """Make the view of a table's rows with all their answers, or replace it; return its name.

    Raises:
        LLMAssetsError: see `AnsweredView` and its `create`; nothing is changed.
    """
    view = answered_view(table, database, name)
    view.create()
    return view.name


@contextmanager
def table_databases(table: TableDefinition, resources: Mapping[str, Any]) -> Iterator[tuple[Database, Database]]:
    """Give the databases of a table's source and of its answers, from the resources of its definitions.

    Raises:
        ConfigError: the definitions lack a resource that the table names.
    """
    keys = (table.source_database_key, table.database_key)
    for key in keys:
        if key not in resources:
            raise ConfigError(f"The definitions have no resource {key!r}. {did_you_mean(key, resources)}")
    with dg.build_resources({key: resources[key] for key in dict.fromkeys(keys)}) as built:
        source, answers = (getattr(built, key).get_database() for key in keys)
        yield source, answers


@contextmanager
def shared_database(table: TableDefinition, resources: Mapping[str, Any]) -> Iterator[Database]:
    """Give the database that has both a table's source and its answers.

    Raises:
        ConfigError: they are in two databases, or the definitions lack a resource that the table names.
    """
    with table_databases(table, resources) as (source, answers):
        if not answers.is_same(source):
            raise ConfigError(
                f"A view joins tables of one database, but {table.source.name!r} is in {source.name} and its answers "
                f"are in {answers.name}. Write the answers to the source's database, or join them elsewhere."
            )
        yield answers


def table_roles_sql(
    table: TableDefinition,
    *,
    same_database: bool = True,
    pipeline: str = "llm_pipeline",
    analyst: str = "llm_analyst",
) -> str:
    """Return a script that makes the roles of a table's pipeline and its analysts; see `roles_sql`."""
    return roles_sql(
        table.source,
        [output_table_name(table.source, task) for task in table.tasks],
        table.settings.output_schema,
        views=[f"{table.source.output_prefix}_answered"],
        same_database=same_database,
        pipeline=pipeline,
        analyst=analyst,
    )
