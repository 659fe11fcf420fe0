"""Write the tables of settings into README.md, from the models that check them. Run it after changing one.

python -m scripts.settings
"""

import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from llm_assets.dagster import (
    DatabaseResource,
    DynamicPartitions,
    Freshness,
    LLMTable,
    MultiPartitions,
    OnCron,
    RunConfig,
    Schedule,
    StaticPartitions,
    TimePartitions,
    build_llm_assets,
)
from llm_assets.dagster.checks import Check, Checks
from llm_assets.dagster.component_ticks import PartitionsSensor, SourceSensor, TableSchedule, UnansweredSensor
from llm_assets.engines import ServerSettings, VllmSettings
from llm_assets.engines.ray.settings import RayOptions
from llm_assets.pipeline import PipelineSettings
from llm_assets.sampling import Sampling
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Extract, Generate, Summarize, Task

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- settings: made by scripts/settings.py -->", "<!-- end of settings -->"

GROUPS: dict[str, list[type[BaseModel]]] = {
    "Every task": [Task],
    "`Classify`": [Classify],
    "`Extract`": [Extract],
    "`Summarize`": [Summarize],
    "`Generate`": [Generate],
    "`sampling` of a task: vLLM's sampling parameters": [Sampling],
    "`Source`": [Source],
    "`TimePartitions`": [TimePartitions],
    "`StaticPartitions`": [StaticPartitions],
    "`DynamicPartitions`": [DynamicPartitions],
    "`MultiPartitions`": [MultiPartitions],
    "`Schedule`": [Schedule],
    "`OnCron`, an automation": [OnCron],
    "`Freshness`": [Freshness],
    "`PipelineSettings`": [PipelineSettings],
    "`DatabaseResource`": [DatabaseResource],
    "`VllmResource`: vLLM's engine arguments": [VllmSettings],
    "`RayEngineResource`, besides its `engine` and `cluster`": [RayOptions],
    "`ServerResource`: a vLLM server, or a hosted API": [ServerSettings],
    "`LLMTable`: a table in YAML": [LLMTable],
    "`schedule` of an `LLMTable`": [TableSchedule],
    "`sensors: {unanswered: ...}` of an `LLMTable`": [UnansweredSensor],
    "`sensors: {partitions: ...}` of an `LLMTable`": [PartitionsSensor],
    "`sensors: {source: ...}` of an `LLMTable`": [SourceSensor],
    "One run, in the launchpad": [RunConfig],
}


def render() -> str:
    """Return the tables in Markdown."""
    parts = []
    for title, [model] in GROUPS.items():
        fields = {
            name: field
            for name, field in model.model_fields.items()
            if name != "type"
            if model is Task or not issubclass(model, Task) or name not in Task.model_fields or field.is_required()
            if not (model is not Task and issubclass(model, Task) and name == "name")
        }
        rows = [
            f"| `{field.alias or name}` | {_default(field)} | {field.description} |" for name, field in fields.items()
        ]
        parts.append(_details(title, ["setting", "default", "meaning"], rows))
    return "\n\n".join([*parts, _checks(), _factory()])


def _checks() -> str:
    """The checks with what each can be told."""
    rows = [
        f"| any check's `{name}` | {_default(field)} | {field.description} |"
        for name, field in Check.model_fields.items()
    ]
    for name, field in Checks.model_fields.items():
        settings = type(field.default).model_fields
        for setting, own in settings.items():
            if setting not in Check.model_fields or own.default != Check.model_fields[setting].default:
                rows.append(f"| `{name}.{setting}` | {_default(own)} | {own.description} |")
    return _details("`Checks`", ["setting", "default", "meaning"], rows)


def _factory() -> str:
    """The arguments of `build_llm_assets`, from its docstring."""
    documented = dict(re.findall(r"^ {4}(\w+): (.+)$", inspect.getdoc(build_llm_assets) or "", re.M))
    rows = []
    for name, parameter in inspect.signature(build_llm_assets).parameters.items():
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        rows.append(f"| `{name}` | {default} | {documented[name]} |")
    return _details("`build_llm_assets`", ["argument", "default", "meaning"], rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if value is PydanticUndefined and field.default_factory is not None:
        value = field.default_factory()  # pyright: ignore[reportCallIssue]
    if isinstance(value, BaseModel) or value in ({}, ()):
        return "none"
    return f"`{value}`" if isinstance(value, timedelta) else f"`{value!r}`"


def _details(title: str, head: list[str], rows: list[str]) -> str:
    table = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *rows]
    return "\n".join([f"<details><summary>{_html(title)}</summary>", "", *table, "", "</details>"])


def _html(title: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", title)


def updated(text: str) -> str:
    """Return the README's text with the tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"


def main() -> None:
    """Write README.md."""
    README.write_text(updated(README.read_text()))


if __name__ == "__main__":
    main()
