"""The demo: make the tables, run the assets in a real Dagster run, print what stands in the tables."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from llm_assets.demo.data import load_csv, load_reviews, load_tickets
from llm_assets.demo.model import MODEL_DIRECTORY, prepare_model
from llm_assets.demo.report import print_report
from llm_assets.engines.vllm.hardware import CPU_ENVIRONMENT, silence_libraries
from llm_assets.errors import ConfigError, OutputTableError
from llm_assets.pipeline import task_outputs
from llm_assets.progress import terminal_bar
from llm_assets.tables import AnsweredView, Database, Source
from llm_assets.tasks import Task

HOME = Path(".llm_assets")


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A file of the user's own, and which of its columns are what."""

    file: Path
    text: str
    key: str
    gold: str | None
    encoding: str


def run_demo(console: Console, root: Path, csv: CsvFile | None) -> None:
    """Answer the demo's rows, or those of a CSV file, and print the result.

    Raises:
        LLMAssetsError: something the user can mend.
    """
    silence_libraries()
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    home = root / HOME
    home.mkdir(exist_ok=True)
    database = Database(f"sqlite:///{home / ('demo.db' if csv is None else 'csv.db')}")
    os.environ["LLM_ASSETS_DATABASE_URL"] = database.url
    if csv is None:
        table, rows = "reviews", load_reviews(database, root / "sql" / "demo")
        console.print(f"Table {table} in {database.name}: {rows} rows added.")
        load_tickets(database, root / "sql" / "demo")
    else:
        table, rows = load_csv(database, csv.file, csv.key, csv.text, csv.encoding, csv.gold)
        console.print(f"Table {table} in {database.name}: {rows:,} rows from {csv.file}.")
    if not (root / MODEL_DIRECTORY / "config.json").is_file():
        console.print("Converting the model, once ...")
    prepare_model(root / MODEL_DIRECTORY)
    definitions = load_definitions(root)

    from llm_assets.dagster.local import prepare_instance, run_job

    tasks = definitions.TASKS
    source, defs = definitions.REVIEWS, definitions.defs
    if csv is not None:
        source, tasks = Source(table=table), [task.model_copy(update={"text": f"{{{csv.text}}}"}) for task in tasks]
        defs = definitions.table_definitions(source, tasks)
    instance = prepare_instance(home / "dagster")
    with terminal_bar(console):
        run_id = run_job(defs, f"answer_{table}", instance)
    text, gold = ("text", "gold_label") if csv is None else (csv.text, csv.gold)
    print_report(console, database, source, tasks, run_id, text, gold)
    console.print(
        f"\nThe tables {table}_sentiment, {table}_facts and {table}_summary of {database.name} hold the answers."
    )
    console.print(join_answers(database, source, tasks), markup=False)
    if csv is None:
        console.print("See them in the Dagster UI: make ui")


def join_answers(database: Database, source: Source, tasks: Sequence[Task]) -> str:
    """Make the view of all answers; return what there is to say of it."""
    try:
        view = AnsweredView(database, source, task_outputs(source, tasks))
        view.create()
    except (ConfigError, OutputTableError) as error:  # a file's columns, or a view of someone's own
        return str(error)
    return f"The view {view.name} joins them with the rows. What to ask it: docs/query-the-answers.md"


def serve_ui(root: Path, host: str, port: int) -> None:
    """Become `dagster dev` on the demo's instance, with its tables in place."""
    from llm_assets.dagster.local import prepare_instance

    home = root / HOME
    home.mkdir(exist_ok=True)
    database = Database(f"sqlite:///{home / 'demo.db'}")
    load_reviews(database, root / "sql" / "demo")
    load_tickets(database, root / "sql" / "demo")
    prepare_model(root / MODEL_DIRECTORY)
    os.environ["DAGSTER_HOME"] = str(prepare_instance(home / "dagster"))
    program = Path(sys.executable).with_name("dagster")
    arguments = ["dev", "-f", str(root / "definitions.py"), "-h", host, "-p", str(port)]
    os.execv(program, [str(program), *arguments])


def load_definitions(root: Path) -> Any:
    """Import the repository's definitions.py.

    Raises:
        ConfigError: it is not there.
    """
    path = root / "definitions.py"
    spec = importlib.util.spec_from_file_location("definitions", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"There is no definitions.py in {root}. Run the demo from a clone of the repository.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
