"""A Dagster project outside this repository that uses the built wheel, as somebody makes one from nothing."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from llm_assets.dagster.local import prepare_instance

ROOT = Path(__file__).resolve().parents[1]

PYPROJECT = """\
[project]
name = "scratch"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "scratch"
"""
DEFINITIONS = """\
from pathlib import Path

import dagster as dg


@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
FIVE_LINES = {
    1: "table: reviews",
    2: 'url: "{{ env.SHOP_DATABASE_URL }}"',
    3: "type: dummy",
    4: 'text: "{text}"',
    5: "labels: [positive, negative]",
}
"""What is filled in behind each number that the scaffolded file has in its comments; 3 is the engine."""


def install(directory: Path, project: Path = ROOT) -> Path:
    """Build a project's wheel and install it into a directory of its own, which is returned.

    Its dependencies come from the environment that the tests run in.
    """
    wheels, site = directory / "wheels", directory / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(project)]
    subprocess.run([*pip, *build], check=True, timeout=300)
    [wheel] = wheels.glob("*.whl")
    into = ["install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([*pip, *into], check=True, timeout=300)
    return site


class DagsterProject:
    """A project, and the commands that somebody gives in its directory."""

    def __init__(self, root: Path, site: Path, **environment: str) -> None:
        self.root = root
        home = prepare_instance(root / ".dagster_home")
        # What was installed goes before the checkout that the tests run from.
        path = os.pathsep.join(map(str, (site, root / "src")))
        self.environment = {**os.environ, "PYTHONPATH": path, "DAGSTER_HOME": str(home), **environment}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command and return what it says; `fails` says whether it is to end with an error."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)


class ScratchProject(DagsterProject):
    """A project with nothing in it yet, and a SQLite file with a table of reviews."""

    def __init__(self, root: Path, site: Path) -> None:
        self.database = root / "shop.db"
        self.defs_yaml = root / "src" / "scratch" / "defs" / "reviews" / "defs.yaml"
        super().__init__(root, site, SHOP_DATABASE_URL=f"sqlite:///{self.database}")

    def fill_in(self, lines: dict[int, str]) -> None:
        """Fill in the lines that the comments of the scaffolded file number."""
        text = self.defs_yaml.read_text().splitlines()
        for number, line in lines.items():
            [index] = [i for i, each in enumerate(text) if f"# {number}. " in each]
            if text[index].lstrip().startswith("#"):
                index += 1  # the comment stands above its line
            indent = len(text[index]) - len(text[index].lstrip())
            text[index] = " " * indent + line
        self.defs_yaml.write_text("\n".join(text) + "\n")

    def query(self, sql: str) -> list[tuple]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(sql).fetchall()


def make_scratch_project(root: Path, site: Path, rows: int = 6) -> ScratchProject:
    """Make an empty project with its database; the table still has to be scaffolded.

    Args:
        root: Where it is made.
        site: What `install` returned.
        rows: Rows of its table `reviews`, with the columns id and text.
    """
    package = root / "src" / "scratch"
    (package / "defs").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (package / "definitions.py").write_text(DEFINITIONS)
    for module in (package, package / "defs"):
        (module / "__init__.py").touch()
    project = ScratchProject(root, site)
    texts = ["Lovely lamp, warm light.", "It broke on the first day.", "Does it come with a plug?"]
    with closing(sqlite3.connect(project.database)) as connection:
        connection.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)")
        values = [(n + 1, f"{texts[n % 3]} ({n + 1})") for n in range(rows)]
        connection.executemany("INSERT INTO reviews VALUES (?, ?)", values)
        connection.commit()
    return project
