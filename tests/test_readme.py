"""What the README says is so."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from packaging.requirements import Requirement
from packaging.version import Version
from pydantic import TypeAdapter

from llm_assets.cli import main
from llm_assets.dagster import DummyEngineResource, VllmResource, build_failed_rows_job
from llm_assets.dagster.resource_choice import EngineChoice
from llm_assets.dagster.table import assets_of
from llm_assets.engines.vllm.settings import VllmSettings
from llm_assets.json_schema import MAX_ITEMS, MAX_STRING_LENGTH
from llm_assets.pipeline.run import SECOND_TRY_ROOM
from llm_assets.tables.database import OUTPUT_DIALECTS
from llm_assets.tasks import Classify, extract, generate, summarize
from scripts.settings import updated

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_of_settings_are_current() -> None:
    assert updated(README) == README, "Run: python -m scripts.settings"


def test_it_is_said_first_which_databases_take_answers() -> None:
    beginning = README.partition("## Try it")[0].lower()
    assert all(dialect.removesuffix("ql") in beginning for dialect in OUTPUT_DIALECTS)


def test_the_python_example_builds_its_assets(monkeypatch) -> None:
    example, *_ = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(example.splitlines()) <= 25
    namespace: dict = {}
    exec(example, namespace)
    keys = {key.to_user_string() for key in namespace["defs"].resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"tickets", "tickets_urgency", "tickets_summary"}


def test_the_example_of_sensors_and_schedules_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = re.findall(r"```python\n(.*?)```", README, re.S)
    [example] = [each for each in others if "build_unanswered_sensor" in each]
    monkeypatch.setenv("SHOP_DATABASE_URL", "sqlite://")
    namespace: dict = {}
    exec(first, namespace)
    namespace["tasks"] = [Classify(name="urgency", labels=("urgent", "normal"))]
    resources = namespace["defs"].resources
    exec(example, namespace)
    merged = dg.Definitions.merge(namespace["defs"], dg.Definitions(resources=resources))
    dg.Definitions.validate_loadable(merged)
    names = {each.name for each in namespace["defs"].sensors}
    assert names == {"find_partitions_of_tickets", "answer_new_rows_of_tickets"}


def test_the_yaml_example_answers_a_partition_as_it_stands(database_url: str, monkeypatch) -> None:
    [example] = re.findall(r"```yaml\n(type: llm_assets.*?)```", README, re.S)
    monkeypatch.setenv("SHOP_DATABASE_URL", database_url)
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        columns = "id INTEGER PRIMARY KEY, created_at TIMESTAMP, channel TEXT, subject TEXT, body TEXT"
        connection.execute(sa.text(f"CREATE TABLE tickets ({columns})"))
        for number, channel in enumerate(("mail", "spam", "shop")):
            row = f"({number}, '2026-01-02 10:00:00', '{channel}', 'Lamp', 'It broke.')"
            connection.execute(sa.text(f"INSERT INTO tickets VALUES {row}"))
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "tickets"
        folder.mkdir()
        (folder / "defs.yaml").write_text(example)
        with sandbox.load_component_and_build_defs(folder) as (_, definitions):
            # All as it stands, but for the model, which is 15 GB.
            resources = {
                key: DummyEngineResource() if isinstance(resource, VllmResource) else resource
                for key, resource in (definitions.resources or {}).items()
            }
            assert dg.materialize(definitions.assets, partition_key="2026-01-02", resources=resources).success
    with engine.connect() as connection:
        for table in ("tickets_urgency", "tickets_facts"):
            assert connection.execute(sa.text(f"SELECT id FROM {table} ORDER BY id")).all() == [(0,), (2,)]
    engine.dispose()


def test_the_example_of_a_config_is_one_of_both_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = re.findall(r"```python\n(.*?)```", README, re.S)
    [example] = re.findall(r"```yaml\n(ops:.*?)```", README, re.S)
    namespace: dict = {}
    exec(first, namespace)
    assets = namespace["assets"]
    answer = dg.define_asset_job("answer_tickets", selection=dg.AssetSelection.assets(*assets_of(assets)[0].keys))
    monkeypatch.setenv("SHOP_DATABASE_URL", "sqlite://")
    definitions = dg.Definitions.merge(namespace["defs"], dg.Definitions(jobs=[answer, build_failed_rows_job(assets)]))
    for name in ("answer_tickets", "ask_failed_tickets"):
        config = dg.validate_run_config(definitions.resolve_job_def(name), yaml.safe_load(example))
        assert config["ops"]["tickets__answers"]["config"]["only_failed"] is True


def test_the_example_of_tasks_is_as_the_text_beside_it_says() -> None:
    [example] = [each for each in re.findall(r"```python\n(.*?)```", README, re.S) if "Extract(" in each]
    namespace: dict = {}
    exec(example, namespace)
    facts, language = namespace["tasks"]
    assert facts.json_schema["properties"]["faults"]["maxItems"] == 5
    assert facts.answer_model.model_validate_json(facts.examples[0].answer).request == "refund"
    assert facts.template.render({"subject": None, "body": "{x}"}) == "{x}"
    assert language.constraint.value == "[a-z]{2}"


def test_the_limits_of_answers_are_those_of_the_code() -> None:
    text = " ".join(README.split())
    assert f"a string at {MAX_STRING_LENGTH} characters and a list at {MAX_ITEMS} items" in text
    assert f"is {extract.DEFAULT_MAX_TOKENS} for `Extract` and {generate.DEFAULT_MAX_TOKENS} for `Generate`" in text
    assert f"and {summarize.TOKENS_PER_WORD} for each of `max_words` for `Summarize`" in text
    assert SECOND_TRY_ROOM == 4
    assert "into four times as many" in text


@pytest.mark.parametrize(
    "setting",
    [
        {"max_model_len": 99},
        {"dtype": "float32"},
        {"seed": 1},
        {"speculative_config": {"method": "ngram"}},
        {"structured_outputs_config": {"backend": "xgrammar"}},
        {"kv_cache_dtype": "fp8"},
        {"quantization": "awq"},
    ],
    ids=" ".join,
)
def test_the_settings_that_ask_nothing_again_are_named(setting: dict[str, Any]) -> None:
    [named] = re.findall(r"The engine's ([^:]*), are not in it", README)
    plain, changed = VllmSettings(model="a/b"), VllmSettings(model="a/b", **setting)
    assert set(re.findall(r"`(\w+)`", named)).isdisjoint(setting) == (plain.identity != changed.identity)


def test_the_examples_of_servers_are_engines() -> None:
    python = [each for each in re.findall(r"```python\n(.*?)```", README, re.S) if "ServerResource(" in each]
    namespace: dict = {}
    exec(python[0], namespace)
    assert namespace["engine"].urls == ["http://gpu1:8000"]
    examples = [each for each in re.findall(r"```yaml\n(engine:.*?)```", README, re.S) if "type: server" in each]
    resources = [TypeAdapter(EngineChoice).validate_python(yaml.safe_load(each)["engine"]) for each in examples]
    assert [each.resource().make_engine().info.engine for each in resources] == ["server", "chat"]


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    assert not re.findall(r"`sql/[\w/.]+`", README), "link files of this repository: a wheel does not have them"


def commands(text: str) -> list[list[str]]:
    """Return the words of each command that a text has one type in."""
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, re.S)).replace("\\\n", " ")
    return [shlex.split(line[2:], comments=True) for line in blocks.splitlines() if line.startswith("$ ")]


def test_what_is_installed_brings_the_commands_that_follow() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lists = [set(found.split(",")) for found in re.findall(r"clone\[([\w,]+)\]", README)]
    assert {"cuda", "postgres", "ui"} in lists
    assert set().union(*lists) <= extras.keys()
    assert {"dg"} <= {words[0] for words in commands(README)}
    assert any(each.startswith("dagster-dg-cli") for each in extras["ui"])


def test_vllm_for_gpus_is_of_no_later_version_than_the_one_for_cpus() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    cuda, cpu = (next(map(Requirement, extras[name])).specifier for name in ("cuda", "cpu"))
    major, minor, *_ = Version(next(iter(cpu)).version).release
    assert f"{major}.{minor}.0" in cuda
    assert f"{major}.{minor + 1}.0" not in cuda


def test_an_install_for_cpus_says_where_their_torch_is() -> None:
    for file in ("README.md", "examples/shop/README.md"):
        text = (ROOT / file).read_text()
        assert "[cpu" in text
        assert "--extra-index-url" in text


@pytest.mark.parametrize("file", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_every_command_of_ours_and_its_options_exist(file: str) -> None:
    text = (ROOT / file).read_text()
    typed = [words[1:] for words in commands(text) if words[0] == "llm-assets"]
    named = [line.split() for line in re.findall(r"`llm-assets ([^`]+)`", text)]
    for name, *words in typed + named:
        options = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, (name, words)
    for name, *words in typed:
        assert name != "roles" or words[0].isidentifier(), "this repository has several tables: say which"


def test_every_kind_of_failure_is_explained() -> None:
    from llm_assets.records import FailureKind

    assert set(re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", README, re.M)) >= set(FailureKind)
