"""Imports point downward, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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


def room_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(file):
    """The dotted names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import; write it absolute"
            # `from llm_assets import tasks` imports a room, too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


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
