"""The assets of a table as a Dagster component: everything that Python can say, in YAML."""

from collections.abc import Iterator
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, field_validator, model_validator

from llm_assets.dagster.assets import build_failed_rows_job, build_llm_assets
from llm_assets.dagster.automation import Automation, Freshness, automation_condition
from llm_assets.dagster.checks import Checks
from llm_assets.dagster.component_ticks import Sensors, TableSchedule
from llm_assets.dagster.execute import RunConfig, TableEvent, execute_table
from llm_assets.dagster.keys import AssetKeyParts, GroupName, KeyPrefix, Name, Owner, Tags, asset_key
from llm_assets.dagster.partitions import AnyPartitions
from llm_assets.dagster.resource_choice import DatabaseOrKey, EngineChoice, resource_of
from llm_assets.dagster.scaffold import LLMTableScaffolder
from llm_assets.dagster.table import TableDefinition, assets_of, check_together
from llm_assets.dagster.yaml_schema import SettingsSchema
from llm_assets.dagster.yaml_values import environment_variable, located, rendered, told_at
from llm_assets.errors import ConfigError
from llm_assets.pipeline import PipelineSettings
from llm_assets.tables import Source
from llm_assets.tasks import AnyTask, check_tasks


@dg.scaffold_with(LLMTableScaffolder)
class LLMTable(dg.Component, dg.Model, dg.Resolvable):
    """Label, extract from and summarize the text rows of a table, with vLLM inside the Dagster run.

    Each task becomes an asset and a table `<table>_<task>`, downstream of an asset for the table itself, or of the one
    that makes it. There are two jobs, `answer_<table>` and `ask_failed_<table>`, and a schedule if one is set.

    In YAML:

    ```yaml
    type: llm_assets.dagster.LLMTable
    attributes:
      source: {table: reviews}
      database: {url: "{{ env.SHOP_DATABASE_URL }}"}
      engine: {model: Qwen/Qwen2.5-7B-Instruct, max_model_len: 8192}
      tasks:
        - {type: classify, name: sentiment, labels: [positive, negative]}
    ```

    A subclass can change what is done and what the assets are:

    ```python
    class SupportTable(LLMTable):
        team: str = Field(description="Who is asked about these answers.")

        def execute(self, context, table, config):
            context.log.info(f"{len(table.tasks)} tasks for {self.team}")
            yield from super().execute(context, table, config)

        def get_asset_spec(self, spec):
            return spec.replace_attributes(owners=[f"team:{self.team}"])
    ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source = Field(description="The rows to ask about: a table, a view or a SELECT.")
    tasks: tuple[AnyTask, ...] = Field(
        json_schema_extra={"minItems": 1},
        description="What to ask about each row. Each becomes the asset and table `<table>_<task>`.",
    )
    partitions: AnyPartitions | None = Field(default=None, description="How the table is cut; none takes it whole.")
    engine: EngineChoice = Field(
        default="engine", description="What answers: vLLM's settings, or the key of a resource of the project."
    )
    database: DatabaseOrKey = Field(
        default="database", description="Where answers are written: a URL, or the key of a resource of the project."
    )
    source_database: DatabaseOrKey | None = Field(
        default=None, description="Where rows are read, if it is another database."
    )
    settings: PipelineSettings = Field(default=PipelineSettings(), description="How rows are worked through.")
    checks: Checks = Field(default=Checks(), description="What is checked of the answers.")
    schedule: TableSchedule | None = Field(default=None, description="When the table is answered by the clock.")
    sensors: Sensors = Field(default=Sensors(), description="What looks at the source and asks for runs.")
    automation: Automation | None = Field(
        default=None, description="Dagster's own automation: eager, on_missing, or {cron: '0 2 * * *'}."
    )
    freshness: Freshness | None = Field(default=None, description="How old the answers may become.")
    name: Name | None = Field(
        default=None,
        description="What the step, jobs, schedule and sensors are named for; key_prefix and table if not given.",
    )
    source_asset: AssetKeyParts | None = Field(
        default=None, description="Key of the asset that makes the table, such as crm/reviews; null declares one."
    )
    key_prefix: KeyPrefix = Field(default=(), description="Put before the asset keys.")
    group_name: GroupName = Field(default="llm_assets", description="Dagster group of the assets.")
    owners: tuple[Owner, ...] = Field(default=(), description="Dagster owners: addresses, or team:name.")
    tags: Tags = Field(default={}, description="Dagster tags of the assets.")
    pool: str | None = Field(
        default="gpu", description="Concurrency pool, so that runs take turns at the GPU; null sets no limit."
    )
    max_partitions_per_run: int | None = Field(
        default=None, ge=1, description="A backfill starts a run for each so many partitions; null takes all in one."
    )

    @field_validator("tasks")
    @classmethod
    def _are_tasks(cls, tasks: tuple[AnyTask, ...]) -> tuple[AnyTask, ...]:
        check_tasks(tasks)
        return tasks

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if self.schedule is not None:
            self.schedule.expression(self._definition())
        return self

    def execute(
        self, context: dg.AssetExecutionContext, table: TableDefinition, config: RunConfig
    ) -> Iterator[TableEvent]:
        """Do a step's work: bring the run's partitions of the selected assets up to date. Override it to wrap that.

        Args:
            context: The step's context.
            table: What is asked about which rows.
            config: What this run does otherwise, from the launchpad.

        Yields:
            What Dagster is to record.
        """
        yield from execute_table(context, table, config)

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """Return the spec of a task's asset. Override it to change anything but the key, which is the table's name.

        Args:
            spec: The spec as it would be.
        """
        return spec

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the table's assets, checks, jobs and schedule, and the resources that are its own."""
        engine_key, engine = resource_of(self.engine, "engine")
        database_key, database = resource_of(self.database, "database")
        source_key, source = resource_of(self.source_database or self.database, "database")
        assets = self._assets(database_key, source_key, engine_key)
        answers, table = assets_of(assets)
        if self._shares_source(context):
            assets = [answers]
        job = dg.define_asset_job(
            f"answer_{table.name}",
            selection=dg.AssetSelection.assets(*answers.keys),
            description=f"Answer the rows of {self.source.name} that are new or changed.",
        )
        return dg.Definitions(
            assets=assets,
            jobs=[job, build_failed_rows_job(assets)],
            schedules=[] if self.schedule is None else [self.schedule.build(assets, job)],
            sensors=[each.build(assets) for each in self.sensors.given().values()],
            resources={**engine, **database, **source},
        )

    def _assets(
        self, database_key: str = "database", source_database_key: str = "database", engine_key: str = "engine"
    ) -> list[dg.AssetsDefinition | dg.AssetSpec]:
        return build_llm_assets(
            self.source,
            self.tasks,
            self.partitions,
            settings=self.settings,
            checks=self.checks,
            name=self.name,
            source_asset=self.source_asset,
            key_prefix=self.key_prefix,
            group_name=self.group_name,
            owners=self.owners,
            tags=self.tags,
            automation_condition=None if self.automation is None else automation_condition(self.automation),
            freshness_policy=None if self.freshness is None else self.freshness.policy(),
            pool=self.pool,
            max_partitions_per_run=self.max_partitions_per_run,
            database_key=database_key,
            source_database_key=source_database_key,
            engine_key=engine_key,
            execute=self.execute,
            translate=self.get_asset_spec,
        )

    def _definition(self) -> TableDefinition:
        """What the table is; its engine's key is not the one that it has."""
        return TableDefinition(
            self.source,
            self.tasks,
            self.partitions,
            self.settings,
            self.key_prefix,
            resource_of(self.database, "database")[0],
            resource_of(self.source_database or self.database, "database")[0],
            "engine",
            self.checks,
            None if self.source_asset is None else asset_key(self.source_asset),
            self.name,
        )

    def _shares_source(self, context: dg.ComponentLoadContext) -> bool:
        """Whether another table in the project's files, one that comes before, declares the asset of the same source.

        Raises:
            ConfigError: another table has the same name, an asset of the same key, the same set of partitions, or the
                same output table for other rows.
        """
        if context.path == context.defs_module_path:
            return False  # made in Python, it stands in no folder of the project
        place, file = context.resolution_context, getattr(context.component_decl, "source_tree", None)
        if file is not None:
            place = place.with_source_position_tree(file.source_position_tree).at_path("attributes")
        own, before, found = self._definition(), True, False
        for each in context.component_tree.get_all_components(of_type=LLMTable):
            if each is self:
                before = False
                continue
            other = each._definition()
            with told_at(place):
                check_together(own, other)
            found = found or (before and not other.made_by and other.source_asset == own.source_asset)
        return found

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        return dg.ComponentTypeSpec(
            tags=["llm", "vllm"], produces=["asset", "asset_check", "job", "schedule", "sensor", "resource"]
        )

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Return the attributes as Dagster reads them: a mapping, which `resolve_from_model` checks."""
        return _attributes(cls)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        return super().load(cls.model().model_validate({}) if attributes is None else attributes, context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """Return the component with some attributes.

        Raises:
            ConfigError: each setting that cannot be so, with its place in the file.
        """
        written = model.model_dump()
        later: dict[str, Any] = {}
        for name in ("database", "source_database"):
            choice = written.get(name)
            if isinstance(choice, dict) and (variable := environment_variable(choice.get("url"))):
                later[name] = {**choice, "url": variable}
        values = rendered(context, {**written, **later})
        try:
            table = cls.model_validate(values)
        except ValidationError as error:
            schema = SettingsSchema(cls.model_json_schema())
            problems = located(error, written, values, schema, context)
            raise ConfigError(f"These attributes are no {cls.__name__}:\n{problems}") from None
        with told_at(context, values):
            assets = table._assets()
            build_failed_rows_job(assets)
        for name, sensor in table.sensors.given().items():
            with told_at(context, values, "sensors", name):
                sensor.build(assets)
        return table


def _attributes(component: type[LLMTable]) -> type[BaseModel]:
    class Attributes(RootModel[dict[str, Any]]):
        @classmethod
        def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
            return SettingsSchema(component.model_json_schema()).for_files()

    return Attributes
