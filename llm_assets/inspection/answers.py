"""What an answer says, apart from how sure the model was: to compare answers and to show them."""

from collections.abc import Mapping, Sequence

from llm_assets.errors import printable
from llm_assets.inspection.show import shorten
from llm_assets.records import Answer, Failure
from llm_assets.tables import clean
from llm_assets.tasks import Classify, Task


def answer_columns(task: Task) -> list[str]:
    """Return the columns that say what the answer is, without those that say how sure the model was."""
    if isinstance(task, Classify):
        return ["label"]
    return [column.name for column in task.columns if column.name not in ("confidence", "logprobs")]


def category_column(task: Task) -> str | None:
    """Return the column of an answer that is one of a few values; None if the task has no such one."""
    columns = answer_columns(task)
    if isinstance(task, Classify):
        return "label"
    return columns[0] if len(columns) == 1 and (getattr(task, "choice", None)) else None


def content(task: Task, columns: Mapping[str, object], names: Sequence[str] | None = None) -> dict[str, object]:
    """Return what an answer says, in a form in which stored and new answers are equal if they say the same."""
    return {name: clean(columns.get(name)) for name in (names or answer_columns(task))}


def answer_text(task: Task, columns: Mapping[str, object], limit: int = 120) -> str:
    """Return what an answer says, to be shown: the value of a single column, or a line for each field that has one."""
    names = answer_columns(task)
    if len(names) == 1:
        return shorten(_text(columns.get(names[0])), limit)
    fields = {name: columns.get(name) for name in names if columns.get(name) is not None}
    return (
        "\n".join(f"{shorten(name)}: {shorten(_text(value), limit)}" for name, value in fields.items()) or "(nothing)"
    )


def outcome_text(task: Task, outcome: Answer | Failure, limit: int = 120) -> str:
    """Return an answer with its confidence, or why there is none, to be shown."""
    if isinstance(outcome, Failure):
        return f"failed, {outcome.kind}: {shorten(outcome.message, limit)}"
    sure = outcome.columns.get("confidence")
    shown = answer_text(task, outcome.columns, limit)
    if isinstance(sure, float):
        shown += f"\n({sure:.2f})" if "\n" in shown or len(shown) > 30 else f" {sure:.2f}"
    return printable(shown)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
