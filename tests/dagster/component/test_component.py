"""The component: what YAML says is what Python says, and a subclass changes what is done."""

import inspect
import re
from datetime import timedelta

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from pydantic import BaseModel, ConfigDict, Field

from llm_assets.dagster import (
    Checks,
    DatabaseResource,
    DummyEngineResource,
    Freshness,
    LLMTable,
    OnCron,
    TableDefinition,
    TimePartitions,
    VllmResource,
)
from llm_assets.dagster.component_ticks import Sensors, SourceSensor, TableSchedule, UnansweredSensor
from llm_assets.dagster.resource_choice import DatabaseChoice, DummyChoice, VllmChoice
from llm_assets.pipeline import PipelineSettings
from llm_assets.sampling import Sampling
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Example, Extract, Generate, Summarize
from tests.dagster.component.project import SMALL, Project, count, run, schema_errors


class ServiceLevel(BaseModel):
    """A setting of a user's own."""

    model_config = ConfigDict(extra="forbid")

    hours: int = Field(ge=1)


class SupportTable(LLMTable):
    """A user's own table."""

    team: str
    level: ServiceLevel = ServiceLevel(hours=24)

    def execute(self, context, table, config):
        context.log.info(f"{len(table.tasks)} tasks for {self.team} within {self.level.hours} hours")
        yield from super().execute(context, table, config)
        yield dg.AssetObservation(asset_key=table.source_asset, metadata={"team": self.team})

    def get_asset_spec(self, spec):
        return spec.replace_attributes(owners=[f"team:{self.team}"]).merge_attributes(tags={"team": self.team})


class Renamed(LLMTable):
    """Gives its assets keys that no table has."""

    def get_asset_spec(self, spec):
        return spec.replace_attributes(key="elsewhere")


def test_what_yaml_says_is_what_python_says(project: Project) -> None:
    component, _ = project.load(
        project.write("""
source:
  table: mail
  query: SELECT id, subject, body FROM letters
  key: id
  where: body IS NOT NULL
tasks:
  - type: classify
    name: mood
    text: "{subject} {body}"
    labels: {"1": bad, "2": "good", "yes": "{{ 'either' }}"}
    examples: [{text: fine, answer: "2"}]
    too_long: fail
  - type: extract
    name: facts
    text: "{body}"
    schema: {type: object, properties: {product: {type: string}}, required: [product]}
    examples: [{text: a lamp, answer: {product: lamp}}]
    sampling: {max_tokens: 64, temperature: 0.5}
  - {type: summarize, name: summary, text: "{body}", max_words: 12}
  - {type: generate, name: reply, text: "{body}", instruction: Answer., choice: ["yes", "no"]}
partitions: {type: time, column: at, cadence: weekly, start: 2026-11-01, timezone: Europe/Berlin}
engine: {model: Qwen/Qwen2.5-0.5B-Instruct, max_model_len: "{{ 2 * 1024 }}", block_size: 32}
database: {url: "{{ env.SHOP_URL }}"}
source_database: letters_database
settings: {commit_rows: 10, max_failed_share: 0.1, output_schema: answers}
checks: {coverage: {blocking: true}, drift: {enabled: false}}
schedule: {hour_of_day: 2, minute_of_hour: 30, running: true}
sensors: {unanswered: {min_rows: 100, max_age: 6h, running: true}, source: {column: changed_at}}
automation: {cron: 0 2 * * *}
freshness: {fail_window: 9d, warn_window: 8d}
key_prefix: [crm]
group_name: letters
owners: [team:support]
tags: {domain: crm}
pool: null
max_partitions_per_run: 7
""")
    )
    assert component == LLMTable(
        source=Source(
            table="mail", query="SELECT id, subject, body FROM letters", key=("id",), where="body IS NOT NULL"
        ),
        tasks=(
            Classify(
                name="mood",
                text="{subject} {body}",
                labels={"1": "bad", "2": "good", "yes": "either"},
                examples=(Example(text="fine", answer="2"),),
                too_long="fail",
            ),
            Extract(
                name="facts",
                text="{body}",
                schema={"type": "object", "properties": {"product": {"type": "string"}}, "required": ["product"]},
                examples=(Example(text="a lamp", answer='{"product": "lamp"}'),),
                sampling=Sampling(max_tokens=64, temperature=0.5),
            ),
            Summarize(name="summary", text="{body}", max_words=12),
            Generate(name="reply", text="{body}", instruction="Answer.", choice=("yes", "no")),
        ),
        partitions=TimePartitions(column="at", cadence="weekly", start="2026-11-01", timezone="Europe/Berlin"),
        engine=VllmChoice.model_validate(
            {"model": "Qwen/Qwen2.5-0.5B-Instruct", "max_model_len": 2048, "block_size": 32}
        ),
        database=DatabaseChoice(url=dg.EnvVar("SHOP_URL")),
        source_database="letters_database",
        settings=PipelineSettings(commit_rows=10, max_failed_share=0.1, output_schema="answers"),
        checks=Checks.model_validate({"coverage": {"blocking": True}, "drift": {"enabled": False}}),
        schedule=TableSchedule(hour_of_day=2, minute_of_hour=30, running=True),
        sensors=Sensors(
            unanswered=UnansweredSensor(min_rows=100, max_age=timedelta(hours=6), running=True),
            source=SourceSensor(column="changed_at"),
        ),
        automation=OnCron(cron="0 2 * * *"),
        freshness=Freshness(fail_window=timedelta(days=9), warn_window=timedelta(days=8)),
        key_prefix=("crm",),
        group_name="letters",
        owners=("team:support",),
        tags={"domain": "crm"},
        pool=None,
        max_partitions_per_run=7,
    )


def test_what_is_set_reaches_the_assets(project: Project) -> None:
    _, definitions = project.load(
        project.write(
            SMALL + "key_prefix: [crm]\ngroup_name: letters\nowners: [team:support]\ntags: {domain: crm}\npool: small\n"
            "max_partitions_per_run: 2\npartitions: {type: static, column: country, values: [de, fr]}\n"
            "settings: {commit_rows: 7}\nautomation: eager\nfreshness: {fail_window: 24h}\n"
        )
    )
    spec = definitions.resolve_asset_graph().get(dg.AssetKey(["crm", "reviews_sentiment"]))
    assert (spec.group_name, spec.owners, spec.tags["domain"]) == ("letters", ["team:support"], "crm")
    assert isinstance(spec.partitions_def, dg.StaticPartitionsDefinition)
    assert spec.automation_condition == dg.AutomationCondition.eager()
    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(hours=24))
    assert spec.backfill_policy == dg.BackfillPolicy.multi_run(2)
    assert spec.metadata["llm_assets/table"].settings == PipelineSettings(commit_rows=7)
    [answers] = [item for item in definitions.assets or [] if isinstance(item, dg.AssetsDefinition)]
    assert answers.op.pool == "small"


def test_a_table_is_answered_by_its_job(project: Project, shop: sa.Engine) -> None:
    _, definitions = project.load(project.write(SMALL))
    with run(definitions, "answer_reviews") as result:
        assert result.success
    assert count(shop, "reviews_sentiment") == 6
    config = {"ops": {"reviews__answers": {"config": {"max_rows": 1, "full_refresh": True}}}}
    with run(definitions, "answer_reviews", run_config=config) as result:
        assert result.success
    assert count(shop, "llm_throughput WHERE status = 'limit'") == 1


def test_rows_of_a_query_are_answered_partition_by_partition(project: Project, shop: sa.Engine) -> None:
    attributes = SMALL.replace(
        "{table: reviews}",
        '{table: upper, key: id, query: "SELECT id, country AS land, upper(text) AS text FROM reviews"}',
    )
    partitions = "partitions: {type: static, column: land, values: [de, fr]}"
    _, definitions = project.load(project.write(attributes + partitions))
    source = definitions.resolve_asset_graph().get(dg.AssetKey("upper"))
    assert "upper(text) AS text FROM reviews" in source.metadata["llm_assets/query"].value
    assert "dagster/table_name" not in source.metadata
    with run(definitions, "answer_upper", partition_key="de") as result:
        assert result.success
    assert count(shop, "upper_sentiment") == 3
    assert count(shop, "upper_sentiment WHERE partition_key = 'de'") == 3


def test_without_settings_a_table_takes_the_resources_of_the_project(project: Project, shop: sa.Engine) -> None:
    attributes = SMALL.replace('database: {url: "{{ env.SHOP_URL }}"}', "").replace("engine: {type: dummy}", "")
    _, definitions = project.load(project.write(attributes))
    assert definitions.resources == {}
    own = dg.Definitions(
        resources={"database": DatabaseResource(url=dg.EnvVar("SHOP_URL")), "engine": DummyEngineResource()}
    )
    with run(dg.Definitions.merge(definitions, own), "answer_reviews") as result:
        assert result.success
    assert count(shop, "reviews_sentiment") == 6


def test_equal_settings_are_one_resource_and_others_do_not_collide(project: Project, shop: sa.Engine) -> None:
    other = SMALL.replace("reviews", "letters")
    engine = "engine: {model: /models/small, max_model_len: 2048, block_size: 32}"
    project.write(SMALL)
    project.write(other, "letters")
    project.write(other.replace("letters", "mail").replace("{type: dummy}", "{type: dummy, max_model_len: 99}"), "mail")
    project.write(SMALL.replace("reviews", "notes").replace("engine: {type: dummy}", engine), "notes")
    project.write(SMALL.replace("reviews", "memos").replace("engine: {type: dummy}", engine), "memos")
    definitions = project.everything()
    keys: dict[str, TableDefinition] = {
        key.to_user_string(): definitions.resolve_asset_graph().get(key).metadata["llm_assets/table"]
        for key in definitions.resolve_asset_graph().materializable_asset_keys
    }
    engines = {name.removesuffix("_sentiment"): table.engine_key for name, table in keys.items()}
    assert engines["reviews"] == engines["letters"] != engines["mail"]
    assert engines["notes"] == engines["memos"]
    assert engines["notes"].startswith("engine_small_")
    resources = definitions.resources or {}
    assert len(resources) == 4
    assert len({table.database_key for table in keys.values()}) == 1
    assert resources[engines["mail"]].max_model_len == 99
    vllm = resources[engines["notes"]]
    assert isinstance(vllm, VllmResource)
    assert (vllm.model, vllm.max_model_len, vllm.engine_args) == ("/models/small", 2048, {"block_size": 32})
    with run(definitions, "answer_reviews") as result:
        assert result.success


def test_the_url_of_a_database_is_read_in_the_run_and_recorded_by_its_name(
    project: Project, shop: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = shop.url.render_as_string(hide_password=False)
    monkeypatch.delenv("SHOP_URL")
    for template in ("{{ env.SHOP_URL }}", "{{env('SHOP_URL')}}"):
        _, definitions = project.load(project.write(SMALL.replace("{{ env.SHOP_URL }}", template)))
        [database] = [each for each in (definitions.resources or {}).values() if isinstance(each, DatabaseResource)]
        assert database.url == dg.EnvVar("SHOP_URL")
    monkeypatch.setenv("SHOP_URL", url)
    with run(definitions, "answer_reviews") as result:
        assert result.success


def test_a_password_in_the_file_is_refused_and_not_repeated(project: Project) -> None:
    for url in ("postgresql://me:hushhush@db/shop", "postgresql://db/shop?password=hushhush"):
        [line] = project.refused(SMALL.replace("{{ env.SHOP_URL }}", url))
        assert line.startswith("2: database.url: The URL has a password, which would stand in Dagster's record")
        assert "hushhush" not in line


def test_a_subclass_wraps_the_execution_changes_the_specs_and_has_settings_of_its_own(
    project: Project, shop: sa.Engine
) -> None:
    attributes = SMALL + "team: crm\nlevel: {hours: 4}\n"
    component, definitions = project.load(project.write(attributes, kind=SupportTable))
    assert isinstance(component, SupportTable)
    assert component.level == ServiceLevel(hours=4)
    spec = definitions.resolve_asset_graph().get(dg.AssetKey("reviews_sentiment"))
    assert (spec.owners, spec.tags["team"]) == (["team:crm"], "crm")
    with run(definitions, "answer_reviews") as result:
        [observation] = result.get_asset_observation_events()
        assert observation.asset_observation_data.asset_observation.metadata["team"].value == "crm"
    assert count(shop, "reviews_sentiment") == 6


def test_the_settings_of_a_subclass_are_checked_like_all_others(project: Project) -> None:
    assert project.refused(SMALL + "team: crm\nlevel: {huors: 4}\n", SupportTable) == [
        "7: level: 'hours' is missing.",
        "7: level.huors: There is no such setting. Did you mean 'hours'? Valid: hours.",
    ]
    assert schema_errors(SMALL + "level: {hours: 0}", SupportTable) == {
        "": "'team' is a required property",
        "level.hours": "0 is less than the minimum of 1",
    }


def test_a_subclass_cannot_give_an_asset_another_key(project: Project) -> None:
    folder = project.write(SMALL, kind=Renamed)
    with pytest.raises(Exception, match="reviews") as caught:
        project.load(folder)
    assert "reviews_sentiment" in str(caught.value.__cause__)
    assert "elsewhere" in str(caught.value.__cause__)


def test_the_example_in_the_documentation_works(project: Project, shop: sa.Engine) -> None:
    documentation = inspect.getdoc(LLMTable) or ""
    [file], [code] = (re.findall(rf"```{language}\n(.*?)```", documentation, re.S) for language in ("yaml", "python"))
    assert schema_errors(yaml.safe_dump(yaml.safe_load(file)["attributes"])) == {}
    folder = project.sandbox.defs_folder_path / "reviews"
    folder.mkdir()
    imports = "from pydantic import Field\nfrom llm_assets.dagster import LLMTable\n"
    (project.sandbox.defs_folder_path.parent / "support.py").write_text(imports + code)
    kind = f"{project.sandbox.project_name}.support.SupportTable"
    attributes = yaml.safe_load(SMALL) | {"team": "crm"}
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": kind, "attributes": attributes}))
    with project.sandbox.load_component_and_build_defs(folder) as (_, definitions):
        assert definitions.resolve_asset_graph().get(dg.AssetKey("reviews_sentiment")).owners == ["team:crm"]
        with run(definitions, "answer_reviews") as result:
            assert result.success
    assert count(shop, "reviews_sentiment") == 6


def test_the_component_can_be_made_in_python(shop: sa.Engine) -> None:
    component = LLMTable(
        source=Source(table="reviews"),
        tasks=(Classify(name="sentiment", labels=("good", "bad")),),
        engine=DummyChoice(type="dummy"),
        database=DatabaseChoice(url=dg.EnvVar("SHOP_URL")),
    )
    with run(dg.build_defs_for_component(component), "answer_reviews") as result:
        assert result.success
    assert count(shop, "reviews_sentiment") == 6
