"""The commands for those who read answers: views over them, and the rights to do so."""

import click

from llm_assets.cli.inspection import definitions_options


@click.command()
@click.argument("table", required=False)
@definitions_options
@click.option("--create", is_flag=True, help="Make the view, or replace it, rather than print its SQL.")
@click.option("--name", help="The view's name, in place of <table>_answered.")
def views(table: str | None, file: str | None, module: str | None, create: bool, name: str | None) -> None:
    """Print the SQL of the view of TABLE's rows with all their answers, or make that view.

    TABLE is the source table; all tables of the definitions if left out. Source and answers must be in one database.
    The SQL replaces the view too; where columns are gone, which Postgres refuses, --create makes it anew and keeps the
    rights granted on it.
    """
    from llm_assets.dagster.analysts import answered_view, shared_database
    from llm_assets.dagster.load import load_project

    project = load_project(file, module)
    sources = project.sources(table)
    if name is not None and len(sources) > 1:
        project.table(table)  # says which there are: several views cannot have one name
    for definition in sources:
        with shared_database(definition, project.resources) as database:
            view = answered_view(definition, database, name)
            if create:
                view.create()
                click.echo(f"The view {view.name} of {len(view.columns)} columns is made in {database.name}.")
            else:
                click.echo(view.sql, nl=False)


@click.command()
@click.argument("table", required=False)
@definitions_options
@click.option("--pipeline", default="llm_pipeline", show_default=True, help="Role that runs the pipeline.")
@click.option("--analyst", default="llm_analyst", show_default=True, help="Role that reads the answers.")
def roles(table: str | None, file: str | None, module: str | None, pipeline: str, analyst: str) -> None:
    """Print the SQL that makes two Postgres roles with the least rights that they need on TABLE and its answers.

    TABLE is the source table; it may be left out if the definitions have only one. Nothing is connected or changed.
    """
    from llm_assets.dagster.analysts import table_databases, table_roles_sql
    from llm_assets.dagster.load import load_project

    project = load_project(file, module)
    sources = project.sources(table)
    definition = sources[0] if len(sources) == 1 else project.table(table)
    same = True
    if definition.source_database_key != definition.database_key:
        with table_databases(definition, project.resources) as (source, answers):
            same = answers.is_same(source)
    click.echo(table_roles_sql(definition, same_database=same, pipeline=pipeline, analyst=analyst), nl=False)
