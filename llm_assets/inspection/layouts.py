"""Which layout a run's prompts will have, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llm_assets.errors import ConfigError
from llm_assets.pipeline import Pipeline
from llm_assets.pipeline.layout import SAMPLE_ROWS, costs, shapes_by_layout
from llm_assets.prompts import Layout
from llm_assets.tasks import Task

Reason = Literal["set", "kept", "one task", "no cache", "no rows", "no room", "counted"]


@dataclass(frozen=True, slots=True)
class LayoutChoice:
    """The layout of tasks that share rows. `tokens` are those to compute for the `rows` counted, by layout."""

    tasks: tuple[str, ...]
    layout: Layout
    reason: Reason
    tokens: Mapping[Layout, int]
    rows: int

    @property
    def explanation(self) -> str:
        """The reason in words."""
        match self.reason:
            case "set":
                why = f"set in the settings: layout={self.layout!r}"
            case "kept":
                why = "kept: the answers have it"
            case "one task":
                why = "no other task shares the rows"
            case "no cache":
                why = "the engine has no prefix cache"
            case "no rows":
                why = "no rows to count"
            case "no room":
                why = "the other layout leaves no room for a text"
            case "counted":
                why = "fewer tokens" if self.layout == "row_first" else "row first would not save a tenth"
        if not self.tokens:
            return why
        counted = ", ".join(f"{tokens / self.rows:,.0f} {layout}" for layout, tokens in self.tokens.items())
        return f"{why} (computed for each row, all tasks: {counted})"


def explain_layout(pipeline: Pipeline, group: Sequence[Task]) -> LayoutChoice:
    """Return the layout of tasks that share rows, with the tokens of the first rows in each layout."""
    engine, names = pipeline.engine, tuple(task.name for task in group)
    layout = pipeline.layouts[names[0]]

    def choice(reason: Reason, tokens: Mapping[Layout, int] | None = None, rows: int = 0) -> LayoutChoice:
        return LayoutChoice(names, layout, reason, tokens or {}, rows)

    is_set = pipeline.settings.layout != "auto"
    if not is_set and len(group) < 2:
        return choice("one task")
    if not engine.cache_block:
        return choice("set" if is_set else "no cache")
    sample = pipeline.source.sample(SAMPLE_ROWS)
    texts = [text for values in sample if (text := group[0].template.render(values))]
    reason: Reason = "set" if is_set else "kept" if pipeline.stored_layout(group) else "counted"
    if not texts:
        return choice("no rows" if reason == "counted" else reason)
    try:
        shapes = shapes_by_layout(group, engine.tokenizer, engine.max_model_len)
    except ConfigError:
        return choice("no room" if reason == "counted" else reason)
    lengths = [len(ids) for ids in engine.tokenizer.encode_literal(texts)]
    return choice(reason, costs(shapes, lengths, engine.cache_block), len(texts))
