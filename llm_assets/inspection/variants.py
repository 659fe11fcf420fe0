"""Ways to ask one task: its settings varied, or another model. Each way is tried on the same rows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml

from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.sampling import REMOVED, SET_BY_TASK, Sampling
from llm_assets.tasks import Task

MODEL = "model"

NOT_VARIED = {"name", "type", "text", "sampling"}
"""Fields of a task that cannot vary: another name or another text would be another task."""

_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')"""
_VALUE = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*,")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to ask: the task with its settings, and the model, if it is not the engine's own. `label` says which."""

    label: str
    task: Task
    model: str | None = None


def make_variants(task: Task, varied: Sequence[str]) -> list[Variant]:
    """Return the product of what is varied, given as NAME=VALUE,VALUE; the task as it is if nothing is.

    A name is a sampling parameter, another setting of the task, or `model`. Values are written as in YAML; one with a
    comma stands in quotes.

    Raises:
        ConfigError: a name does not exist, or has no values; or a value in quotes does not parse.
        pydantic.ValidationError: the task cannot have a value.
    """
    values: dict[str, list[str]] = {}
    for text in varied:
        name, equal, listed = text.partition("=")
        name = name.strip()
        given = _VALUE.findall(f"{listed},")
        if not equal or not all(given):
            raise ConfigError(f"{text!r} varies nothing. Write NAME=VALUE,VALUE, such as temperature=0,0.7.")
        _check_name(task, name)
        values.setdefault(name, []).extend(given)
    found = []
    for chosen in product(*values.values()):
        changes = dict(zip(values, chosen, strict=True))
        label = ", ".join(f"{name}={value}" for name, value in changes.items())
        model = changes.pop(MODEL, None)
        if model is not None and re.fullmatch(_QUOTED, model):
            model = str(_value(model))
        found.append(Variant(label, _changed(task, changes), model))
    return found


def _check_name(task: Task, name: str) -> None:
    own = {field for field in type(task).model_fields if field not in NOT_VARIED}
    valid = {MODEL, *Sampling.model_fields, *own}
    if name not in valid and name not in REMOVED and name not in SET_BY_TASK:
        raise ConfigError(f"There is no setting {name!r} to vary. {did_you_mean(name, valid)}")


def _changed(task: Task, changes: dict[str, str]) -> Task:
    """Return the task with other settings, validated as a whole."""
    if not changes:
        return task
    values: dict[str, Any] = {name: getattr(task, name) for name in task.model_fields_set}
    sampling = task.sampling.model_dump(exclude_unset=True)
    for name, text in changes.items():
        value = _value(text)
        if name in type(task).model_fields:
            values[name] = value
        else:
            sampling[name] = value
    if sampling:
        values["sampling"] = Sampling.model_validate(sampling)
    return type(task).model_validate(values)


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        if re.fullmatch(_QUOTED, text):
            problem = getattr(error, "problem", error)
            raise ConfigError(
                f"The value {text} does not parse as YAML: {problem}. Write a backslash twice, or take single quotes."
            ) from None
        return text
