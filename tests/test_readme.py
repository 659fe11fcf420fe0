"""What the README says is so."""

import re
from pathlib import Path

import dagster as dg
import pytest

from llm_assets.tasks import Classify
from scripts.settings import updated

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_of_settings_are_current() -> None:
    assert updated(README) == README, "Run: python -m scripts.settings"


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


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`(sql/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_every_kind_of_failure_is_explained() -> None:
    from llm_assets.records import FailureKind

    assert set(re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", README, re.M)) >= set(FailureKind)
