"""What is asked about a row, and how an answer becomes columns."""

from typing import Annotated

from pydantic import Field

from llm_assets.tasks.base import PROVENANCE_COLUMNS, Example, Plan, Task
from llm_assets.tasks.classify import Classify
from llm_assets.tasks.extract import Extract
from llm_assets.tasks.generate import Generate
from llm_assets.tasks.summarize import Summarize

AnyTask = Annotated[Classify | Extract | Generate | Summarize, Field(discriminator="type")]
"""Any task, told apart by its `type`, for settings that come from YAML."""

__all__ = ["PROVENANCE_COLUMNS", "AnyTask", "Classify", "Example", "Extract", "Generate", "Plan", "Summarize", "Task"]
