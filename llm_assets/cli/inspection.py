"""The commands that look before a run: explain, preview and inspect."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from llm_assets.errors import ConfigError


def definitions_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where the definitions are."""
    file = click.option("-f", "--python-file", "file", metavar="FILE", help="Python file with the Dagster definitions.")
    module = click.option("-m", "--module-name", "module", metavar="MODULE", help="Or the module that has them.")
    return file(module(command))


partition_option = click.option(
    "--partition",
    metavar="KEY",
    help="Only this partition, or those of a range: START...END; every partition if left out.",
)


@click.command()
@click.argument("table", required=False)
@definitions_options
@partition_option
@click.option("--since-edit", is_flag=True, help="Show what an edit of a prompt or of the model makes stale.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    table: str | None, file: str | None, module: str | None, partition: str | None, since_edit: bool, as_json: bool
) -> None:
    """Say what a run would do with TABLE: rows, tokens and time. Loads no model and writes nothing.

    TABLE is the source table; it may be left out if the definitions have only one.
    """
    from llm_assets.engines.vllm.hardware import silence_libraries

    silence_libraries()
    from llm_assets.dagster.every_partition import every_partition
    from llm_assets.dagster.load import load_project, partitions_of
    from llm_assets.inspection import edits
    from llm_assets.inspection import explain as explaining
    from llm_assets.inspection import explain_view as view
    from llm_assets.inspection.reading import read_only_store
    from llm_assets.prompts.light import without_torch

    project = load_project(file, module)
    definition = project.table(table)
    named = None if partition is None else partitions_of(definition, partition)
    console = Console()
    with without_torch(), project.pipeline(definition) as pipeline:
        if since_edit:
            keys = None if named is None else [item.key for item in named]
            found = edits.since_edit(pipeline, read_only_store(pipeline), keys)
            if as_json:
                click.echo(json.dumps(view.edits_json(found), ensure_ascii=False, indent=2))
            else:
                view.print_edits(console, found)
            return
        explanation = explaining.explain(pipeline, named or [every_partition(definition, pipeline.source)])
    if as_json:
        click.echo(json.dumps(view.explanation_json(explanation), ensure_ascii=False, indent=2))
    else:
        view.print_explanation(console, explanation)


@click.command()
@click.argument("task")
@definitions_options
@partition_option
@click.option("--table", metavar="TABLE", help="The source table, where several have such a task.")
@click.option("-n", "count", default=10, show_default=True, type=click.IntRange(1, 1000), help="Rows, at random.")
@click.option("--seed", default=0, show_default=True, help="Other rows for another seed.")
@click.option(
    "--key", "keys", multiple=True, help="This row, in place of random ones; a JSON list for several columns."
)
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=A,B",
    help="Side by side: a setting of the task, or model=A,B. A value with a comma stands in quotes: 'NAME=\"A, B\"'.",
)
@click.option("--canary", type=click.IntRange(1, 10_000), metavar="N", help="Compare N rows with their stored answers.")
def preview(
    task: str,
    file: str | None,
    module: str | None,
    partition: str | None,
    table: str | None,
    count: int,
    seed: int,
    keys: tuple[str, ...],
    vary: tuple[str, ...],
    canary: int | None,
) -> None:
    """Ask TASK about ten rows and show the answers. Nothing is written.

    With --vary several ways of asking stand side by side: --vary temperature=0,0.7,1.2, or --vary model=DIRECTORY,NAME.
    With --canary 200 the task as it is now is compared with the stored answers of 200 rows, from before an edit.
    """
    from llm_assets.engines.vllm.hardware import silence_libraries

    silence_libraries()
    from llm_assets.dagster.every_partition import every_partition
    from llm_assets.dagster.load import load_project, partitions_of
    from llm_assets.inspection import asking
    from llm_assets.inspection import canary as comparing
    from llm_assets.inspection import preview as previewing
    from llm_assets.inspection.canary_view import print_canary
    from llm_assets.inspection.preview_view import print_preview
    from llm_assets.inspection.variants import make_variants

    if keys and (partition or canary):
        raise click.UsageError("--key names the rows, so it does not go with --partition or --canary.")
    project = load_project(file, module)
    definition, asked = project.task(task, table)
    variants = make_variants(asked, vary)
    if canary and len(variants) > 1:
        raise click.UsageError("A canary compares one edit with what is stored: give --vary one value of each name.")
    named = None if partition is None else partitions_of(definition, partition)
    console = Console()
    with project.pipeline(definition) as pipeline:
        if canary:
            partition_keys = None if named is None else [item.key for item in named]
            print_canary(console, comparing.canary(pipeline, variants[0], canary, seed, partition_keys))
            return
        if keys:
            rows = [pipeline.source.find(_key_values(key, len(pipeline.source.key_columns))) for key in keys]
        else:
            chosen = named or [every_partition(definition, pipeline.source)]
            rows = asking.random_rows(pipeline, chosen, count, seed)
        print_preview(console, previewing.preview(pipeline, variants, rows), pipeline.model)


@click.command()
@click.argument("task")
@click.argument("key", nargs=-1, required=True)
@definitions_options
@click.option("--table", metavar="TABLE", help="The source table, where several have such a task.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write it as a page to this file, in place of the terminal.",
)
def inspect(
    task: str, key: tuple[str, ...], file: str | None, module: str | None, table: str | None, page: Path | None
) -> None:
    """Ask TASK about the row with KEY and show how the answer came about, token by token. Nothing is written.

    A key of several columns is given as so many values.
    """
    from llm_assets.engines.vllm.hardware import silence_libraries

    silence_libraries()
    from llm_assets.dagster.load import load_project
    from llm_assets.inspection.row import inspect_row
    from llm_assets.inspection.row_html import inspection_page
    from llm_assets.inspection.row_view import print_inspection

    project = load_project(file, module)
    definition, asked = project.task(task, table)
    with project.pipeline(definition) as pipeline:
        found = inspect_row(pipeline, asked, pipeline.source.find(key))
    if page is None:
        print_inspection(Console(), found)
        return
    try:
        page.write_text(inspection_page(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The file {str(page)!r} cannot be written: {error.strerror}.") from None
    click.echo(f"Written to {page}.")


def _key_values(text: str, columns: int) -> list[str]:
    """Return the values of a key that is given as one text."""
    if columns == 1:
        return [text]
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list):
        raise ConfigError(f"The key {text!r} is for {columns} columns. Write a JSON list, such as '[\"de\", 17]'.")
    return [str(value) for value in values]
