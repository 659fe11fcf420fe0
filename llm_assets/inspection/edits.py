"""What an edit of a prompt or of the model makes stale: stored answers by what they were answers to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llm_assets.pipeline import Pipeline
from llm_assets.pipeline.layout import LAYOUTS
from llm_assets.tables import ReadOnlyStore

State = Literal["current", "other layout", "other model", "edited"]


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """Stored answers of one task with one fingerprint from one model.

    `state` is current: as the task would be asked now. other layout: the same task in the layout that is not used now.
    other model: by a model with another name. edited: the task, its prompt, or the model's revision was another one.
    """

    fingerprint: str
    model: str
    rows: int
    first: datetime
    last: datetime
    state: State

    @property
    def is_stale(self) -> bool:
        """Whether a run would ask about the rows again."""
        return self.state != "current"


@dataclass(frozen=True, slots=True)
class TaskEdits:
    """A task's stored answers, the latest first, beside its fingerprint now."""

    task: str
    table: str
    fingerprint: str
    groups: tuple[AnswerGroup, ...]

    @property
    def stale(self) -> int:
        """Answers that a run would ask for again."""
        return sum(group.rows for group in self.groups if group.is_stale)

    @property
    def current(self) -> int:
        """Answers that stay."""
        return sum(group.rows for group in self.groups if not group.is_stale)


def since_edit(pipeline: Pipeline, store: ReadOnlyStore, partition_keys: Sequence[str] | None) -> list[TaskEdits]:
    """Return each task's stored answers by fingerprint and model; of some partitions, or all."""
    found = []
    for task in pipeline.tasks:
        now = pipeline.fingerprints[task.name]
        same_task = {task.fingerprint(pipeline.engine.identity, layout) for layout in LAYOUTS}

        def state(fingerprint: str, model: str, now: str = now, same_task: set[str] = same_task) -> State:
            if fingerprint == now:
                return "current"
            if fingerprint in same_task:
                return "other layout"
            return "edited" if model == pipeline.model else "other model"

        groups = tuple(
            AnswerGroup(
                item.fingerprint, item.model, item.rows, item.first, item.last, state(item.fingerprint, item.model)
            )
            for item in store.stored_answers(task.name, partition_keys)
        )
        found.append(TaskEdits(task.name, store.table_name(task.name), now, groups))
    return found
