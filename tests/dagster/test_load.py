"""A project's tables are found in its definitions, and its resources are set up as in a run."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_assets.dagster.load import load_project, partitions_of
from llm_assets.errors import ConfigError
from llm_assets.inspection.explain import explain
from tests.tables.shop import Shop

DEFINITIONS = """
import dagster as dg
from llm_assets.dagster import DatabaseResource, DummyEngineResource, StaticPartitions, build_llm_assets
from llm_assets.tables import Source
from llm_assets.tasks import Classify

TASK = Classify(name="sentiment", labels=("good", "bad"))
days = StaticPartitions(column="day", values=("mon", "tue", "wed"))
reviews = build_llm_assets(Source(table="reviews"), [TASK], days)
orders = build_llm_assets(Source(table="orders"), [TASK, TASK.model_copy(update={"name": "kind"})])
resources = {"database": DatabaseResource(url=dg.EnvVar("SHOP_URL")), "engine": DummyEngineResource(max_model_len=999)}
"""
PLAIN = DEFINITIONS + "defs = dg.Definitions(assets=[*reviews, *orders], resources=resources)\n"
LAZY = DEFINITIONS + "@dg.definitions\ndef defs():\n    return dg.Definitions(assets=reviews, resources=resources)\n"
PARTS = DEFINITIONS + (
    "part = dg.Definitions(assets=reviews, resources=resources)\nother = dg.Definitions(assets=orders)\n"
)


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("definitions", "my_project", "elsewhere")):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "definitions.py").write_text(PLAIN)
    return tmp_path


def test_the_tables_are_found_in_the_directory_and_in_a_file(project: Path) -> None:
    (project / "elsewhere.py").write_text(LAZY)
    assert sorted(load_project(directory=project).tables) == ["orders", "reviews"]
    assert sorted(load_project(file=project / "elsewhere.py").tables) == ["reviews"]


@pytest.mark.parametrize("layout", ["src", "."])
@pytest.mark.parametrize(
    ("settings", "module"),
    [
        ('[tool.dg.project]\nroot_module = "my_project"', "definitions"),
        ('[tool.dg.project]\nroot_module = "x"\ncode_location_target_module = "my_project.other"', "other"),
        ('[tool.dagster]\nmodule_name = "my_project.definitions"', "definitions"),
    ],
)
def test_the_module_is_found_as_dg_finds_it(tmp_path: Path, layout: str, settings: str, module: str) -> None:
    package = tmp_path / layout / "my_project"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / f"{module}.py").write_text(LAZY)
    (tmp_path / "pyproject.toml").write_text(settings)
    project = load_project(directory=tmp_path)
    assert (project.name, list(project.tables)) == (f"my_project.{module}", ["reviews"])
    assert load_project(module=f"my_project.{module}", directory=tmp_path).tables.keys() == {"reviews"}


def test_a_pipeline_has_the_resources_of_a_run(project: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URL", shop.url)
    shop.insert("reviews", [{"id": n, "day": day, "text": f"text {n}"} for n, day in enumerate(("mon", "tue", "tue"))])
    loaded = load_project(directory=project)
    table = loaded.table("reviews")
    with loaded.pipeline(table) as pipeline:
        assert pipeline.engine.max_model_len == 999
        assert pipeline.store.database.url == shop.url
        assert [explain(pipeline, partitions_of(table, key)).rows for key in ("tue", "mon...tue")] == [2, 3]
    assert shop.column("SELECT count(*) FROM reviews") == [3]


def test_partitions_are_a_key_or_a_range(project: Path) -> None:
    loaded = load_project(directory=project)
    table = loaded.table("reviews")
    assert [part.key for part in partitions_of(table, "tue...wed")] == ["tue", "wed"]
    for text, message in [
        ("thu", "'thu' is no partition of column 'day'. Valid: mon, tue, wed"),
        ("mon...thu", "'thu' is no partition"),
    ]:
        with pytest.raises(ConfigError, match=message):
            partitions_of(table, text)
    with pytest.raises(ConfigError, match="has no partitions"):
        partitions_of(loaded.table("orders"), "mon")


def test_a_table_and_a_task_have_names(project: Path) -> None:
    loaded = load_project(directory=project)
    assert loaded.task("kind")[0].source.table == "orders"
    assert loaded.task("orders_sentiment")[0].source.table == "orders"
    assert loaded.task("sentiment", "reviews")[0].source.table == "reviews"
    for wrong, message in [
        (lambda: loaded.table(None), "several tables. Say which: orders, reviews"),
        (lambda: loaded.table("revews"), "no table 'revews' in .*Did you mean 'reviews'"),
        (lambda: loaded.task("sentimen"), "no task 'sentimen' in .*Did you mean 'sentiment'"),
        (lambda: loaded.task("kind", "reviews"), "no task 'kind' in table 'reviews'. Valid: sentiment"),
        (lambda: loaded.task("sentiment"), "by its output table: .*orders_sentiment"),
    ]:
        with pytest.raises(ConfigError, match=message):
            wrong()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    def expect(message: str, **arguments) -> None:
        with pytest.raises(ConfigError, match=message):
            load_project(directory=tmp_path, **arguments)

    expect(r"no definitions.py in .*Give the definitions with -f FILE or -m MODULE")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'")
    expect("root_module")
    (tmp_path / "pyproject.toml").write_text("[project")
    expect("cannot be read")
    expect("no file 'nothing.py'", file="nothing.py")
    expect("no module 'elsewhere.no'", module="elsewhere.no")
    (tmp_path / "elsewhere.py").write_text(DEFINITIONS)
    expect("no dg.Definitions", file=tmp_path / "elsewhere.py")
    (tmp_path / "elsewhere.py").write_text(PARTS)
    expect("several dg.Definitions: part, other. Name the right one defs", file=tmp_path / "elsewhere.py")
    (tmp_path / "elsewhere.py").write_text("import dagster as dg\ndefs = dg.Definitions()")
    expect("has no table of llm_assets", file=tmp_path / "elsewhere.py")
    (tmp_path / "elsewhere_broken.py").write_text("import does_not_exist")
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="does_not_exist"):
        load_project(module="elsewhere_broken", directory=tmp_path)
