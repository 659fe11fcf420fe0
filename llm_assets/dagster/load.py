"""The tables of a Dagster project: its definitions are loaded as Dagster would, and searched for llm_assets' own."""

import importlib
import importlib.util
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg

from llm_assets.dagster.partitions import DynamicPartitions, MultiPartitions
from llm_assets.dagster.ranges import Range, members
from llm_assets.dagster.table import TABLE_METADATA, TableDefinition, check_outputs
from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.pipeline import Pipeline, output_table_name
from llm_assets.records import Partition
from llm_assets.tasks import Task

RANGE = "..."
"""Between the first and the last key of a range of partitions, as in the UI and the command line of Dagster."""


@dataclass(frozen=True)
class Project:
    """The tables of some definitions, by their names, and the resources that they need."""

    name: str
    """Where the definitions stand: a file or a module."""
    tables: dict[str, TableDefinition]
    resources: dict[str, Any]

    def table(self, name: str | None) -> TableDefinition:
        """Return a table by its name, or that of its source, or what its output tables begin with.

        Without a name, that is the only table.

        Raises:
            ConfigError: there is no such table, or several may be meant.
        """
        found = self.tables_of(name)
        if len(found) == 1:
            return found[0]
        if name in self.tables:
            return self.tables[name]
        several = f"{self.name} has several tables" + ("" if name is None else f" over {name!r}")
        raise ConfigError(f"{several}. Say which: {', '.join(table.name for table in found)}.")

    def tables_of(self, name: str | None) -> list[TableDefinition]:
        """Return the tables of a name, or over a source of that name; all without a name.

        Raises:
            ConfigError: there is none.
        """
        found = [
            table
            for table in self.tables.values()
            if name in (None, table.name, table.source.name, table.source.table, table.source.output_prefix)
        ]
        if not found:
            raise ConfigError(f"There is no table {name!r} in {self.name}. {did_you_mean(str(name), self.tables)}")
        return found

    def sources(self, name: str | None) -> list[TableDefinition]:
        """Return all that is asked about a source, or about each: its tables as one, if the answers are in one place.

        Raises:
            ConfigError: there is none of that name.
        """
        together: dict[Any, list[TableDefinition]] = {}
        for table in self.tables.values():
            place = (table.source_database_key, table.database_key, table.settings.output_schema)
            together.setdefault((table.source, *place), []).append(table)
        found = [self.tables[name]] if name in self.tables else self.tables_of(name)
        return [
            replace(tables[0], tasks=tuple({task.name: task for table in tables for task in table.tasks}.values()))
            for tables in together.values()
            if any(table in found for table in tables)
        ]

    def task(self, name: str, table: str | None = None) -> tuple[TableDefinition, Task]:
        """Return a task by its own name or that of its output table, with its table.

        Raises:
            ConfigError: there is no such task, or several tables have one and none was named.
        """
        tables = self.tables_of(table)
        found = [
            (definition, task)
            for definition in tables
            for task in definition.tasks
            if name in (task.name, output_table_name(definition.source, task))
        ]
        if not found:
            names = {task.name for definition in tables for task in definition.tasks}
            place = self.name if table is None else f"table {table!r}"
            raise ConfigError(f"There is no task {name!r} in {place}. {did_you_mean(name, names)}")
        if len(found) == 1:
            return found[0]
        for definition, task in found:
            if table == definition.name:
                return definition, task
        outputs = [output_table_name(definition.source, task) for definition, task in found]
        if len(set(outputs)) < len(found):
            names = ", ".join(definition.name for definition, _ in found)
            raise ConfigError(f"Several tables have a task {name!r}. Say which by the table: {names}.")
        raise ConfigError(
            f"Several tables have a task {name!r}. Say which one by its output table: {', '.join(outputs)}."
        )

    @contextmanager
    def pipeline(self, table: TableDefinition, tasks: Sequence[Task] | None = None) -> Iterator[Pipeline]:
        """Give the read-only pipeline of a table, with resources set up as for a run and torn down at the end."""
        keys = {table.database_key, table.source_database_key, table.engine_key}
        with dg.build_resources({key: self.resources[key] for key in keys}) as resources:
            yield table.pipeline({key: getattr(resources, key) for key in keys}, tasks, read_only=True)


def load_project(
    file: str | Path | None = None, module: str | None = None, directory: str | Path | None = None
) -> Project:
    """Load the definitions of a project and find the tables of llm_assets in them.

    Args:
        file: The Python file that has the definitions.
        module: Or the module that has them. Of neither, `definitions.py` in the directory, else the module that the
            directory's `pyproject.toml` names for `dg`.
        directory: Where to look; the working directory if not given.

    Raises:
        ConfigError: there are no definitions, no table of llm_assets is among them, or two tables write to one output
            table about other rows. What the project's own code raises is raised as it is.
    """
    place = Path(directory or Path.cwd())
    if file is None and module is None:
        if (place / "definitions.py").is_file():
            file = place / "definitions.py"
        else:
            module = _module_of_project(place)
    if file is not None:
        name, loaded = str(file), _load_file(Path(file))
    else:
        assert module is not None
        name, loaded = module, _load_module(module, place)
    definitions = _definitions_in(loaded, name)
    tables: dict[str, TableDefinition] = {}
    for spec in definitions.resolve_all_asset_specs():
        table = spec.metadata.get(TABLE_METADATA)
        if isinstance(table, TableDefinition):
            for other in tables.values():
                check_outputs(table, other)
            tables[table.name] = table
    if not tables:
        raise ConfigError(
            f"{name} has no table of llm_assets. Add the assets of build_llm_assets(...) to its dg.Definitions."
        )
    return Project(name, dict(sorted(tables.items())), dict(definitions.resources or {}))


def partitions_of(table: TableDefinition, text: str) -> list[Partition]:
    """Return the partitions that a key means, or a range of keys as START...END.

    Raises:
        ConfigError: the table has no partitions, or no such one.
    """
    if table.partitions is None:
        raise ConfigError(f"The table {table.source.name!r} has no partitions, so there is no partition {text!r}.")
    if RANGE not in text:
        return [table.partition(text)]
    first, _, last = text.partition(RANGE)
    for key in (first, last):
        table.partition(key)
    if any(isinstance(dimension, DynamicPartitions) for dimension in table.dimensions):
        raise ConfigError(
            f"{text!r} is a range, and the partitions of {table.source.name!r} are the values of a column, which have "
            "no order. Name one partition."
        )
    assert table.partitions_definition is not None
    every = table.partitions_definition.get_partition_keys()
    keys = members(every, Range(first, last), isinstance(table.partitions, MultiPartitions))
    if not keys:
        raise ConfigError(f"The range {text!r} is empty: {first!r} comes after {last!r}.")
    return [table.partition(key) for key in keys]


def _module_of_project(directory: Path) -> str:
    """Return the module with the definitions that a project's settings name, as `dg` reads them."""
    path = directory / "pyproject.toml"
    none = f"There is no definitions.py in {directory}, and no pyproject.toml"
    if not path.is_file():
        raise ConfigError(f"{none}. Give the definitions with -f FILE or -m MODULE.")
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    project = tool.get("dg", {}).get("project", {})
    if target := project.get("code_location_target_module"):
        return target
    if root := project.get("root_module"):
        return f"{root}.definitions"
    if named := tool.get("dagster", {}).get("module_name"):
        return named
    raise ConfigError(f"{none} that names them in [tool.dg.project] root_module. Give -f FILE or -m MODULE.")


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"There is no file {str(path)!r}. Give the Python file with the definitions.")
    _look_in(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pydantic looks a class's annotations up there
    spec.loader.exec_module(module)
    return module


def _load_module(name: str, directory: Path) -> ModuleType:
    for place in (directory, directory / "src"):
        if place.is_dir():
            _look_in(place.resolve())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # something that the module itself imports
        raise ConfigError(
            f"There is no module {name!r}: {error}. Run this in the project's directory, or install the project."
        ) from None


def _look_in(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _definitions_in(module: ModuleType, name: str) -> dg.Definitions:
    """Return a module's definitions: a `dg.Definitions`, or what its function with `@dg.definitions` returns."""
    values = vars(module)
    objects = {key: value for key, value in values.items() if isinstance(value, dg.Definitions)}
    if not objects:
        # What @dg.definitions returns has no public type, but it can be known by its own.
        lazy: type = type(dg.definitions(lambda: dg.Definitions()))
        objects = {key: value() for key, value in values.items() if isinstance(value, lazy)}
    if not objects:
        raise ConfigError(f"{name} has no dg.Definitions. Write defs = dg.Definitions(assets=..., resources=...).")
    if len(objects) > 1 and "defs" not in objects:
        raise ConfigError(f"{name} has several dg.Definitions: {', '.join(objects)}. Name the right one defs.")
    found = objects.get("defs", next(iter(objects.values())))
    assert isinstance(found, dg.Definitions)
    return found
