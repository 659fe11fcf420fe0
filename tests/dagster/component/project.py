"""A Dagster project with tables in YAML."""

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster.components.testing import DefsFolderSandbox
from jsonschema import Draft202012Validator

from llm_assets.dagster import LLMTable
from llm_assets.errors import ConfigError

SMALL = """
source: {table: reviews}
database: {url: "{{ env.SHOP_URL }}"}
engine: {type: dummy}
tasks:
  - {type: classify, name: sentiment, labels: [positive, negative]}
"""


class Project:
    """A Dagster project whose folder `defs` has a file for each table."""

    def __init__(self, sandbox: DefsFolderSandbox) -> None:
        self.sandbox = sandbox

    def write(self, attributes: str, name: str = "reviews", kind: type[LLMTable] = LLMTable) -> Path:
        folder = self.sandbox.defs_folder_path / name
        folder.mkdir(exist_ok=True, parents=True)
        place = "llm_assets.dagster" if kind is LLMTable else kind.__module__
        text = f"type: {place}.{kind.__name__}\nattributes:\n{textwrap.indent(attributes.strip(), '  ')}\n"
        (folder / "defs.yaml").write_text(text)
        return folder

    def load(self, folder: Path) -> tuple[LLMTable, dg.Definitions]:
        with self.sandbox.load_component_and_build_defs(folder) as (component, definitions):
            assert isinstance(component, LLMTable)
            return component, definitions

    def everything(self) -> dg.Definitions:
        with self.sandbox.build_all_defs() as definitions:
            return definitions

    def refused(self, attributes: str, kind: type[LLMTable] = LLMTable) -> list[str]:
        """Load attributes that cannot be; return the lines of the error, each as `<line in attributes>: ...`."""
        folder = self.write(attributes, kind=kind)
        with pytest.raises(Exception, match="reviews") as caught:
            self.load(folder)
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, ConfigError):
            error = error.__cause__
        assert error is not None, caught.value
        lines = str(error).splitlines()
        if len(lines) > 1:
            assert lines.pop(0) == f"These attributes are no {kind.__name__}:"
        file = str(folder / "defs.yaml")
        assert all(line.startswith(f"{file}:") for line in lines)
        found = [line.removeprefix(f"{file}:").split(": ", 1) for line in lines]
        return [f"{int(line) - 2}: {text.removeprefix('attributes.')}" for line, text in found]


def count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()


@contextmanager
def run(definitions: dg.Definitions, job: str, **options) -> Iterator[dg.ExecuteInProcessResult]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield definitions.resolve_job_def(job).execute_in_process(instance=instance, **options)


def schema_errors(attributes: str, kind: type[LLMTable] = LLMTable) -> dict[str, str]:
    """What `dg check yaml` finds: for each place, the message."""
    model = kind.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    Draft202012Validator.check_schema(schema)
    found = Draft202012Validator(schema).iter_errors(json.loads(json.dumps(yaml.safe_load(attributes), default=str)))
    return {".".join(map(str, error.absolute_path)): error.message for error in found}
