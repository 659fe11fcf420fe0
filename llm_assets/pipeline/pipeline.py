"""A source table with its tasks, engine and output tables, checked before any model is loaded."""

from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llm_assets.engines import Engine
from llm_assets.errors import ConfigError, DatabaseError, did_you_mean
from llm_assets.pipeline.accounting import PartitionResult, ProgressListener
from llm_assets.pipeline.layout import LAYOUTS, SAMPLE_ROWS, Expected, choose, groups, plan_group
from llm_assets.pipeline.run import Run
from llm_assets.prompts import Layout
from llm_assets.records import FailureKind, Partition
from llm_assets.secrets import masked
from llm_assets.tables import Database, Output, ReadOnlyStore, Source, SourceTable, Store
from llm_assets.tasks import PROVENANCE_COLUMNS, Plan, Task, check_tasks


class PipelineSettings(BaseModel):
    """How rows are worked through."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit_rows: int = Field(default=200, ge=1, description="Commit when this many answers are ready ...")
    commit_seconds: float = Field(default=5.0, gt=0, description="... or when this many seconds have passed.")
    full_refresh: bool = Field(default=False, description="Ask about every row again, answered or not.")
    only_failed: bool = Field(default=False, description="Ask only rows that failed before, however often.")
    failure_kinds: tuple[FailureKind, ...] = Field(
        default=(), description="With only_failed: ask only failures of these kinds; empty is all."
    )
    keep_removed: bool = Field(default=False, description="Keep the answers of rows that are gone from the source.")
    max_seconds: float | None = Field(default=None, gt=0, description="Stop asking in time to end after this long.")
    max_rows: int | None = Field(
        default=None, ge=1, description="Ask at most this many questions in a run, counted once for each task."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="Use at most this many tokens of prompts and output."
    )
    max_cost: float | None = Field(
        default=None, gt=0, description="Spend at most this much, in the currency of the engine's prices."
    )
    max_engine_deaths: int = Field(
        default=10, ge=0, description="Start a dead engine again so often in a run; a row that kills it takes three."
    )
    max_failed_share: float | None = Field(
        default=None, ge=0, le=1, description="Fail a partition if a larger share of its answers failed."
    )
    max_failed_rows: int | None = Field(
        default=None, ge=0, description="Fail a partition if more of its answers failed, counted once for each task."
    )
    layout: Literal["auto", "instruction_first", "row_first"] = Field(
        default="auto", description="What prompts begin with; auto keeps what the answers have, or counts tokens."
    )
    output_schema: str | None = Field(default=None, description="Database schema of the output tables.")

    @field_validator("failure_kinds", mode="before")
    @classmethod
    def _kinds_exist(cls, kinds: Any) -> Any:
        for kind in kinds:
            if kind not in list(FailureKind):
                raise ConfigError(
                    f"There is no failure kind {kind!r}. {did_you_mean(str(kind), map(str, FailureKind))}"
                )
        return kinds

    @model_validator(mode="after")
    def _modes_agree(self) -> Self:
        if self.failure_kinds and not self.only_failed:
            raise ConfigError("failure_kinds says which failures only_failed asks again: set only_failed too.")
        if self.only_failed and self.full_refresh:
            raise ConfigError("full_refresh asks every row and only_failed asks failed rows: set one of them.")
        return self


class Pipeline:
    """A source table, its tasks, and the engine and output tables they share. Checked before any model is loaded.

    With `read_only` nothing is written, and output tables that do not exist count as empty; it cannot run.

    Raises:
        LLMAssetsError: a setting, a database, the source or an output table is not as it must be.
    """

    def __init__(
        self,
        source: Source,
        tasks: Sequence[Task],
        engine: Engine,
        source_database: Database,
        output_database: Database,
        partition_columns: Sequence[str] = (),
        settings: PipelineSettings | None = None,
        read_only: bool = False,
    ) -> None:
        check_tasks(tasks)
        self.tasks = tuple(tasks)
        self.engine = engine
        self.settings = settings or PipelineSettings()
        if self.settings.max_cost is not None and engine.info.prices is None:
            raise ConfigError(
                f"max_cost is {self.settings.max_cost:.15g}, and the engine has no prices. Give a ServerEngine "
                "`prices`, such as {prompt: 0.15, output: 0.6} per million tokens, or set max_tokens."
            )
        if read_only and source_database.is_absent:
            raise DatabaseError(f"There is no database {source_database.name}. Check the path.")
        for database in dict.fromkeys((source_database, output_database)):
            if not (read_only and database.is_absent):
                database.check()
        columns = dict.fromkeys(column for task in tasks for column in task.template.columns)
        self.source = SourceTable(source_database, source, tuple(columns), partition_columns)
        for name in self.source.key_columns:
            if name.lower() in PROVENANCE_COLUMNS:
                raise ConfigError(
                    f"The key column {name!r} of {source.name!r} has the name of a column that every answer has. Give "
                    f"it another name in a view, and read that. Taken are {', '.join(PROVENANCE_COLUMNS)}."
                )
        outputs = task_outputs(source, tasks)
        kind = ReadOnlyStore if read_only else Store
        self.store = kind(output_database, self.source, outputs, self.settings.output_schema)
        self.store.prepare()
        self.model = masked(engine.info.model)
        self._plans: dict[str, Plan] | None = None

    @cached_property
    def layouts(self) -> dict[str, Layout]:
        """What each task's prompts begin with, by the task's name. Decided once, before anything is asked."""
        if self.settings.layout != "auto":
            return {task.name: self.settings.layout for task in self.tasks}
        found: dict[str, Layout] = {}
        for group in groups(self.tasks):
            layout = self.stored_layout(group) or self._counted_layout(group)
            found |= {task.name: layout for task in group}
        return found

    def stored_layout(self, group: Sequence[Task]) -> Layout | None:
        """Return the layout that more of the answers have. To turn from it would ask about every one of them again."""
        totals = dict.fromkeys(LAYOUTS, 0)
        for task in group:
            by_layout = {layout: task.fingerprint(self.engine.identity, layout) for layout in LAYOUTS}
            counts = self.store.fingerprint_counts(task.name, list(by_layout.values()))
            for layout in LAYOUTS:
                totals[layout] += counts.get(by_layout[layout], 0)
        return max(LAYOUTS, key=lambda layout: totals[layout]) if any(totals.values()) else None

    def _counted_layout(self, group: Sequence[Task]) -> Layout:
        """Return the layout that is cheaper for the first rows of the source, whatever partition is to be answered."""
        engine = self.engine
        if len(group) < 2 or not engine.cache_block:
            return "instruction_first"
        texts = [text for values in self.source.sample(SAMPLE_ROWS) if (text := group[0].template.render(values))]
        if not texts:
            return "instruction_first"
        return choose(group, engine.tokenizer, engine.max_model_len, engine.cache_block, texts)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The hash of all that each task's answers depend on besides the text, by the task's name."""
        return {task.name: task.fingerprint(self.engine.identity, self.layouts[task.name]) for task in self.tasks}

    def plans(self) -> dict[str, Plan]:
        """Return the tasks made ready for the engine's model, by name; made once, without loading the model."""
        if self._plans is None:
            for task in self.tasks:
                if task.constraint is not None:
                    self.engine.check(task.constraint)
            self._plans = self.unchecked_plans()
        return self._plans

    def unchecked_plans(self) -> dict[str, Plan]:
        """Return the plans though the engine might refuse their constraints: to ask vLLM, it has to be imported."""
        tokenizer, length = self.engine.tokenizer, self.engine.max_model_len
        grouped = [plan_group(group, tokenizer, length, self.layouts[group[0].name]) for group in groups(self.tasks)]
        return {plan.task.name: plan for group in grouped for plan in group}

    def expected(self) -> Expected:
        """Return a count of the tokens that a run's questions leave to compute."""
        plans = self.plans()
        grouped = [[plans[task.name] for task in group] for group in groups(self.tasks)]
        return Expected(grouped, self.engine.cache_block)

    def run(self, partition: Partition, run_id: str, listener: ProgressListener | None = None) -> PartitionResult:
        """Bring one partition's answers up to date; see `run_all`."""
        [result] = self.run_all([partition], run_id, listener)
        return result

    def run_all(
        self, partitions: Sequence[Partition], run_id: str, listener: ProgressListener | None = None
    ) -> Generator[PartitionResult]:
        """Bring partitions' answers up to date and yield what was done to each as it is complete.

        All partitions share one queue of the engine, which is loaded only if a row must be asked. Answers are committed
        while it runs; whatever stops the run, they stay. A partition that another run works on is taken last, when
        that run has finished it.

        A partition that fails does not stop the others: the error comes when all of them have come to their end. It
        names each partition that failed and why, and is a plain LLMAssetsError where they failed for different reasons.
        Of a partition that failed, too, everything is committed that was answered.

        Raises:
            SourceError: a partition cannot be read, or has a key that is NULL or stands twice.
            FailureThresholdError: more of a partition failed than the settings accept.
            DatabaseError: a database refused; at once, unless it is only the end of a partition.
            DatabaseAwayError: at once: a database was away for long.
            EngineError: at once: the engine died again and again.
            AccountingError: at once: the engine lost, doubled or invented a request.
            ConfigError: the pipeline is read-only.
        """
        if isinstance(self.store, ReadOnlyStore):
            raise ConfigError("A read-only pipeline writes no answers. Make one without read_only=True to run it.")
        return Run(self, partitions, run_id, listener).results()


def output_table_name(source: Source, task: Task) -> str:
    """Return the name of a task's output table."""
    return f"{source.output_prefix}_{task.name}"


def task_outputs(source: Source, tasks: Sequence[Task]) -> list[Output]:
    """Return the output tables of some tasks."""
    return [
        Output(task.name, output_table_name(source, task), task.columns, f"{type(task).__name__} of {source.name}.")
        for task in tasks
    ]
