"""What is asked about a row, and how an answer becomes columns."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from llm_assets.errors import ConfigError, validation_message
from llm_assets.tasks.base import PROVENANCE_COLUMNS, Example, GenerationTask, Plan, Task, check_tasks
from llm_assets.tasks.classify import Classify
from llm_assets.tasks.extract import Extract
from llm_assets.tasks.generate import Generate
from llm_assets.tasks.summarize import Summarize

AnyTask = Annotated[Classify | Extract | Generate | Summarize, Field(discriminator="type")]
"""Any task, told apart by its `type`, for settings that come from YAML."""

__all__ = [
    "PROVENANCE_COLUMNS",
    "AnyTask",
    "Classify",
    "Example",
    "Extract",
    "Generate",
    "GenerationTask",
    "Plan",
    "Summarize",
    "Task",
    "check_tasks",
    "load_tasks",
]


def load_tasks(file: Path) -> list[AnyTask]:
    """Return the tasks that a YAML file lists.

    Raises:
        ConfigError: the file is no list of valid tasks. The message names the task, the field and the value.
    """
    try:
        return TypeAdapter(list[AnyTask]).validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is no valid YAML: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{file} has tasks that cannot be:\n{validation_message(error)}") from None
