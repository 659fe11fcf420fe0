"""Imports point downward, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = Path(__file__).resolve().parent.parent / "llm_assets"

# From the top. A room imports from the rooms below it and from itself.
ROOMS = (
    "cli",
    "demo",
    "dagster",
    "progress",
    "inspection",
    "pipeline",
    "tasks",
    "engines",
    "prompts",
    "tables",
    "json_schema",
    "json_schema_syntax",
    "sampling",
    "records",
    "errors",
    "secrets",
)
ONLY_IN = {
    "dagster": {"dagster"},
    "sqlalchemy": {"tables", "demo"},  # the demo makes and reads the tables that are the user's elsewhere
    "vllm": {"engines"},
    "ray": {"engines"},
    "openai": {"engines"},
    "aiohttp": {"engines"},
    "xgrammar": {"engines"},
    "tokenizers": {"prompts", "demo"},  # the demo makes a tokenizer
    "transformers": {"prompts", "engines", "demo"},
    "torch": set(),
}
HEAVY = ("dagster", "torch", "vllm", "transformers", "tokenizers", "xgrammar", "ray", "openai", "aiohttp")
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
COMES_WITH = {
    "jinja2": "dagster",
    "tokenizers": "transformers",
    "transformers": "vllm",
    "xgrammar": "vllm",
    "llguidance": "vllm",
}
"""What need not be declared beside a package that cannot be without it."""


def room_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(file, at_once=False):
    """The dotted names of all modules that a file imports, inside functions too; or only when it is itself imported."""
    tree = ast.parse(file.read_text())
    for node in at_import(tree) if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import; write it absolute"
            # `from llm_assets import tasks` imports a room, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree):
    """The nodes that run when a module is imported: not those of functions, nor those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def distributions(requirements):
    """The names of what is required."""
    return {canonicalize_name(Requirement(each).name) for each in requirements}


INSTALLED = packages_distributions()
BASE = distributions(PROJECT["dependencies"])
EXTRAS = {name: distributions(each) for name, each in PROJECT["optional-dependencies"].items() if name != "dev"}


def foreign(file, at_once=False):
    """The packages that a file imports from elsewhere."""
    packages = {name.split(".")[0] for name in imported_modules(file, at_once)}
    return packages - set(sys.stdlib_module_names) - {"llm_assets"}


def distributions_of(package):
    """What a package is installed from, by the names that pip knows."""
    found = {canonicalize_name(name) for name in INSTALLED.get(package, ())}
    assert found, f"{package} is not installed, so it cannot be told what it comes from"
    return found


@pytest.mark.parametrize("package", sorted(set().union(*map(foreign, MODULES))))
def test_what_is_imported_is_declared(package):
    """Tests run where everything is installed, so a dependency that is missing would not be missed."""
    declared = BASE.union(*EXTRAS.values())
    carrier = COMES_WITH.get(package)
    if carrier is None:
        assert distributions_of(package) & declared, f"{package}: name it in pyproject.toml"
        return
    [name] = distributions_of(carrier)
    assert distributions_of(package) & distributions(requires(name) or ()), (
        f"{carrier} does not bring {package} any more"
    )
    assert name in declared or carrier in COMES_WITH


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_extra_is_needed_to_import_a_module(file):
    for package in foreign(file, at_once=True):
        assert distributions_of(package) & BASE, f"{package} is of an extra: import it where it is used"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downward(file):
    room = room_of(file)
    if room == "__init__":
        return  # what it imports, it imports at its first use; see below
    assert room in ROOMS, f"{room} is a new room: say here which rooms it stands above"
    below = ROOMS[ROOMS.index(room) :]
    rooms = {name.split(".")[1] for name in imported_modules(file) if name.startswith("llm_assets.")}
    assert rooms - set(below) == set()


@pytest.mark.parametrize("room", ["records", "secrets"])
def test_the_lowest_rooms_import_nothing_of_ours(room):
    assert [name for name in imported_modules(PACKAGE / f"{room}.py") if name.startswith("llm_assets")] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_is_imported_in_its_own_rooms_only(library):
    rooms = {room_of(file) for file in MODULES if library in {name.split(".")[0] for name in imported_modules(file)}}
    assert rooms - ONLY_IN[library] == set()


def loaded_by(statement, *modules):
    """Which of some modules a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {modules!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.mark.parametrize(
    "module",
    [
        "llm_assets",
        "llm_assets.prompts",
        "llm_assets.tasks",
        "llm_assets.engines",
        "llm_assets.tables",
        "llm_assets.pipeline",
        "llm_assets.demo.model",
    ],
)
def test_importing_the_package_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}", *HEAVY) == []


def test_importing_the_package_alone_loads_none_of_its_rooms():
    assert loaded_by("import llm_assets", "llm_assets.errors", "llm_assets.tables", "sqlalchemy", "pandas") == []


def test_answers_are_read_as_dataframes_without_dagster_or_an_engine():
    statement = "from llm_assets import to_pandas\nimport pandas"
    assert loaded_by(statement, *HEAVY, "llm_assets.tables", "pandas") == ["llm_assets.tables", "pandas"]


def test_the_settings_of_an_engine_and_a_task_are_checked_without_vllm():
    statement = (
        "from llm_assets.engines import VllmEngine, VllmSettings\n"
        "from llm_assets.tasks import Classify\n"
        "VllmEngine(VllmSettings(model='Qwen/Qwen2.5-0.5B-Instruct', block_size=32)).identity\n"
        "Classify(name='mood', labels=('good', 'bad')).fingerprint('model')"
    )
    assert loaded_by(statement, *HEAVY) == []


def test_only_the_dagster_room_loads_dagster():
    assert loaded_by("import llm_assets.dagster", "dagster", "torch", "vllm", "transformers") == ["dagster"]
