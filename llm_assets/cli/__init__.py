"""The command line: argument parsing, and errors without a traceback."""

import io
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from pydantic import ValidationError
from rich.console import Console

from llm_assets.cli import analysts, inspection
from llm_assets.errors import LLMAssetsError, validation_message
from llm_assets.secrets import masked, masked_errors


class _Group(click.Group):
    """Prints an error of this package as one message, and no secret in any error."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            with masked_errors():
                try:
                    return super().invoke(ctx)
                except click.ClickException as error:
                    # It quotes the arguments, and one of them may be a URL.
                    error.message = masked(error.message)  # pyright: ignore[reportAttributeAccessIssue]
                    raise
        except (LLMAssetsError, ValidationError) as error:
            message = validation_message(error) if isinstance(error, ValidationError) else str(error)
            Console(stderr=True, soft_wrap=True).print("[bold red]Error:[/]", end=" ")
            click.echo(message, err=True)
            sys.exit(1)


@click.group(cls=_Group)
@click.version_option(package_name="llm_assets")
def main() -> None:
    """Label, extract from and summarize the text rows of a database with vLLM, inside Dagster runs."""


for _command in (inspection.explain, inspection.preview, inspection.inspect, analysts.views, analysts.roles):
    main.add_command(_command)


@main.command()
@click.option("--csv", "file", type=click.Path(path_type=Path), help="Use the rows of this CSV file.")
@click.option("--text", help="With --csv: the column with the text.")
@click.option("--key", help="With --csv: the column that names a row.")
@click.option("--gold", help="With --csv: a column with the right label (positive or negative), to measure accuracy.")
@click.option("--encoding", default="utf-8-sig", show_default=True, help="With --csv: the file's encoding.")
def demo(file: Path | None, text: str | None, key: str | None, gold: str | None, encoding: str) -> None:
    """Answer the demo's 300 reviews, or the rows of a CSV file, with a small model on this machine."""
    from llm_assets.demo.run import CsvFile, run_demo

    csv = None
    if file is not None:
        if not text or not key:
            raise click.UsageError(
                "--csv needs --text COLUMN and --key COLUMN (make demo CSV=file TEXT=column KEY=column)."
            )
        csv = CsvFile(file, text, key, gold, encoding)
    elif text or key or gold:
        raise click.UsageError("--text, --key and --gold belong to --csv FILE (make demo CSV=file TEXT=... KEY=...).")
    run_demo(Console(), Path.cwd(), csv)


@main.command()
@click.option("--port", default=3000, show_default=True, help="Port to serve on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
def ui(port: int, host: str) -> None:
    """Serve the Dagster UI on the demo's database, with the daemon that runs schedules and backfills."""
    from llm_assets.demo.run import serve_ui

    serve_ui(Path.cwd(), host, port)


@main.command()
@click.option("--url", envvar="LLM_ASSETS_DATABASE_URL", required=True, help="SQLAlchemy URL of the answers' database.")
@click.option("--days", type=click.IntRange(min=0), required=True, help="Delete what is older than this many days.")
@click.option("--schema", help="Schema of the output tables, when not the default one.")
def prune(url: str, days: int, schema: str | None) -> None:
    """Delete old entries of the ledger llm_answers. The answers in the output tables stay.

    Give the URL in LLM_ASSETS_DATABASE_URL rather than on the command line, where others can read a password.
    """
    from llm_assets.tables import Database, prune_ledger

    database = Database(url)
    removed = prune_ledger(database, datetime.now(UTC) - timedelta(days=days), schema)
    click.echo(f"{removed:,} answers older than {days} days removed from llm_answers in {database.name}.")


@main.command()
@click.argument("table")
@click.option("--url", envvar="LLM_ASSETS_DATABASE_URL", required=True, help="SQLAlchemy URL of the answers' database.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write, in place of stdout.")
@click.option("--schema", help="Schema of the table, when not the default one.")
@click.option("--raw", is_flag=True, help="Leave text alone that a spreadsheet would take for a formula.")
def export(table: str, url: str, output: Path | None, schema: str | None, raw: bool) -> None:
    """Write an output table or a view as CSV: UTF-8, with a header.

    Text that a spreadsheet would take for a formula gets an apostrophe before it. Programs that read the file may want
    the text as it is: use --raw for them, and do not open such a file in a spreadsheet.

    Give the URL in LLM_ASSETS_DATABASE_URL rather than on the command line, where others can read a password.
    """
    from llm_assets.tables import Database, export_csv, export_file

    database = Database(url)
    if output is None:
        # Not the terminal's encoding and line ends: whoever redirects the output wants the same file.
        stream = io.TextIOWrapper(sys.stdout.buffer, "utf-8", newline="")
        try:
            export_csv(database, table, stream, schema, raw)
        finally:
            stream.detach()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ctrl-C does: what was begun is removed
    rows = export_file(database, table, output, schema, raw)
    click.echo(f"{rows:,} rows of {table} in {database.name} written to {output}.")
