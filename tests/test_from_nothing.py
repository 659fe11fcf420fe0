"""The built wheel in projects apart from this repository: one made from nothing, and the one in `examples`."""

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.lives import wait_for
from tests.dagster.dagster_processes import Dagster, end, free_port
from tests.scratch_project import FIVE_LINES, ROOT, DagsterProject, ScratchProject, install, make_scratch_project
from tests.ui.browser import browser_on


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository, installed into a directory of its own."""
    return install(tmp_path_factory.mktemp("installed"), ROOT)


@pytest.fixture
def scratch(tmp_path: Path, site: Path) -> ScratchProject:
    project = make_scratch_project(tmp_path / "scratch", site)
    said = project.run("dg", "scaffold", "defs", "llm_assets.dagster.LLMTable", "reviews")
    assert "Creating defs at" in said
    return project


def test_the_wheel_is_what_is_used(scratch: ScratchProject, site: Path) -> None:
    said = scratch.run("python", "-c", "import llm_assets; print(llm_assets.__file__)")
    assert Path(said.strip()) == site / "llm_assets" / "__init__.py"


def test_dg_lists_the_component_with_what_it_does(scratch: ScratchProject) -> None:
    said = " ".join(scratch.run("dg", "list", "components", "--json").split())
    assert '"llm_assets.dagster.LLMTable"' in said
    assert "Label, extract from and summarize the text rows of a table" in said


def test_five_lines_filled_in_are_answers_in_the_table(scratch: ScratchProject) -> None:
    scratch.fill_in(FIVE_LINES)
    assert "All definitions loaded successfully." in scratch.run("dg", "check", "defs")
    scratch.run("dg", "launch", "--assets", "reviews_sentiment")
    rows = scratch.query("SELECT r.id, s.label FROM reviews r JOIN reviews_sentiment s ON s.id = r.id")
    assert {key for key, _ in rows} == set(range(1, 7))
    assert {label for _, label in rows} <= {"positive", "negative"}


def test_five_lines_filled_in_are_answers_of_a_real_model(scratch: ScratchProject, smollm2: Path) -> None:
    scratch.fill_in({**FIVE_LINES, 3: f"model: {smollm2}"})
    text = scratch.defs_yaml.read_text()
    assert "    # max_model_len: 8192\n" in text
    scratch.defs_yaml.write_text(
        text.replace("    # max_model_len: 8192\n", "    max_model_len: 1024\n    cpu_kv_cache_gib: 1\n")
    )
    scratch.run("dg", "launch", "--assets", "reviews_sentiment")
    rows = scratch.query("SELECT label, confidence, model FROM reviews_sentiment")
    assert len(rows) == 6
    assert all(label in ("positive", "negative") and 0.5 <= confidence <= 1 for label, confidence, _ in rows)
    assert all(model.endswith(smollm2.name) for _, _, model in rows)
    assert len({confidence for _, confidence, _ in rows}) > 1


def test_five_lines_filled_in_are_answers_when_a_button_is_pressed_in_the_browser(scratch: ScratchProject) -> None:
    scratch.fill_in(FIVE_LINES)
    dagster = Dagster(free_port())
    command = ["dg", "dev", "--port", dagster.address.rpartition(":")[2]]
    with (scratch.root / "dev.log").open("wb") as log:
        dev = subprocess.Popen(command, cwd=scratch.root, env=scratch.environment, stdout=log, stderr=log)
    try:
        wait_for("the webserver", dagster.answers, 120.0)
        with browser_on(dagster) as browser:
            browser.open("/assets/reviews_sentiment")
            browser.sees("Latest materialization")
            browser.materialize()
            browser.comes_to_see("/assets/reviews_sentiment?view=overview", "llm_assets/rows_read")
    finally:
        end(dev)
    assert [count for [count] in scratch.query("SELECT count(*) FROM reviews_sentiment")] == [6]


def test_lines_that_are_not_filled_in_are_named(scratch: ScratchProject) -> None:
    said = scratch.run("dg", "check", "defs", fails=True)
    text = scratch.defs_yaml.read_text().splitlines()
    for place in ("database.url", "engine.model", "tasks.0.text", "tasks.0.labels"):
        number = next(n for n, line in enumerate(text, 1) if line.strip() == f"{place.rpartition('.')[2]}:")
        assert f"{scratch.defs_yaml}:{number} - llm_assets.dagster.LLMTable attributes.{place} " in said


def test_a_key_that_does_not_exist_is_told_with_file_line_and_the_key_that_was_meant(scratch: ScratchProject) -> None:
    scratch.fill_in({**FIVE_LINES, 5: "lables: [positive, negative]"})
    number = 1 + scratch.defs_yaml.read_text().splitlines().index("      lables: [positive, negative]")
    said = scratch.run("dg", "check", "yaml", fails=True)
    assert f"{scratch.defs_yaml}:{number} - llm_assets.dagster.LLMTable attributes.tasks.0.lables" in said
    assert "'lables' was unexpected" in said
    said = scratch.run("dg", "check", "defs", "--no-check-yaml", fails=True)
    assert f"{scratch.defs_yaml}:{number}: attributes.tasks.0.lables: There is no such setting." in said
    assert "Did you mean 'labels'?" in said


def test_the_example_project_answers_its_reviews(tmp_path: Path, site: Path, smollm2: Path) -> None:
    root = tmp_path / "shop"
    shutil.copytree(ROOT / "examples" / "shop", root, ignore=shutil.ignore_patterns("shop.db", ".dagster_home"))
    project = DagsterProject(root, site, SHOP_MODEL=str(smollm2))
    project.run("python", "seed.py")
    assert "All definitions loaded successfully." in project.run("dg", "check", "defs")
    project.run("dg", "launch", "--job", "answer_reviews", "--partition-range", "2025-03-01...2025-05-01")
    with closing(sqlite3.connect(root / "shop.db")) as connection:
        labels = dict(connection.execute("SELECT id, label FROM reviews_sentiment"))
        assert labels.keys() == set(range(1, 8))
        assert set(labels.values()) <= {"positive", "negative"}
        for table in ("reviews_facts", "reviews_summary"):
            [[answered]] = connection.execute(f"SELECT count(*) FROM {table}")
            task = table.removeprefix("reviews_")
            [[failed]] = connection.execute(f"SELECT count(*) FROM llm_failures WHERE task = '{task}'")
            assert answered + failed == 7
        months = connection.execute("SELECT DISTINCT partition_key FROM llm_throughput ORDER BY partition_key")
        assert [month for [month] in months] == ["2025-03-01", "2025-04-01", "2025-05-01"]


def test_the_commands_of_the_example_are_those_that_are_tested() -> None:
    readme, tested = (ROOT / "examples" / "shop" / "README.md").read_text(), Path(__file__).read_text()
    commands = [line.removeprefix("$ ").partition("  #")[0].strip() for line in readme.splitlines() if line[:2] == "$ "]
    for command in ("python seed.py", "dg check defs"):
        assert command in commands
        assert ", ".join(f'"{word}"' for word in command.split()) in tested
    assert "dg launch --job answer_reviews --partition-range '2025-03-01...2025-05-01'" in commands
