"""What the README says is so."""

import re
from pathlib import Path

from scripts.settings import updated

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_of_settings_are_current() -> None:
    assert updated(README) == README, "Run: python -m scripts.settings"


def test_the_python_example_builds_its_assets(monkeypatch) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(example.splitlines()) <= 25
    namespace: dict = {}
    exec(example, namespace)
    keys = {key.to_user_string() for key in namespace["defs"].resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"tickets", "tickets_urgency", "tickets_summary"}


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`(sql/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_every_kind_of_failure_is_explained() -> None:
    from llm_assets.records import FailureKind

    assert set(re.findall(r"^\| `(\w+)` \| .+ \| .+ \|$", README, re.M)) >= set(FailureKind)
