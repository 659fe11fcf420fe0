"""What stands first in the prompts, the instruction or the row: whichever leaves fewer tokens to compute.

Instruction first, a task's instruction is computed once for all rows, and every task of a row computes its text. Row
first, the text is computed once for all tasks of the row, and every row computes the instructions. All of this is
counting: vLLM computes what its prefix cache lacks, and that holds whole blocks of a prompt from its beginning on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_assets.errors import ConfigError
from llm_assets.prompts import Layout, Tokenizer
from llm_assets.records import BeamSearch, GenerateText
from llm_assets.tasks import Plan, Task

SAMPLE_ROWS = 256
"""Rows of the source whose texts are counted."""

LEAST_SAVING = 0.1
"""Share of the tokens that row first must save. Below, the usual prompt is worth more than the tokens."""

LAYOUTS: tuple[Layout, ...] = ("instruction_first", "row_first")


def new_tokens(prompt: int, shared: int, block: int) -> int:
    """Return how many tokens of a prompt are computed when its first `shared` ones were computed before.

    The last token always is: without it, vLLM would have no next one to predict. With a `block` of 0 there is no cache.
    """
    return prompt - min(shared, prompt - 1) // block * block if block else prompt


@dataclass(frozen=True, slots=True)
class Shape:
    """Token counts of a task's prompts in one layout.

    `before` and `behind` the text are the same for every row; `common` tokens behind it are the same for all tasks that
    share a row. `answers` has, for each query, the tokens of the answer that it gives along, and how many of those an
    earlier query gave along too. A text longer than `cut` is cut to it; one longer than `fails` is not asked about.
    """

    before: int
    behind: int
    common: int = 0
    answers: tuple[tuple[int, int], ...] = ((0, 0),)
    cut: int | None = None
    fails: int | None = None
    is_cached: bool = True
    """False for beam search, and where the sampling parameters keep the task off the cache."""

    def text(self, tokens: int) -> int:
        """Return how many tokens of a text the prompt has."""
        return tokens if self.cut is None else min(tokens, self.cut)

    def asked(self, text: int, shared: int, block: int) -> int:
        """Return the tokens to compute for a question about a text whose prompt's first `shared` tokens are cached."""
        prompt = self.before + self.text(text) + self.behind
        total = 0
        for number, (answer, known) in enumerate(self.answers):
            shared = max(shared, prompt + known) if number else shared
            total += new_tokens(prompt + answer, shared, block if self.is_cached else 0)
        return total


def row_tokens(shapes: Sequence[Shape], text: int, layout: Layout, block: int) -> int:
    """Return the tokens to compute for all tasks of a row, once the first row of the run is done."""
    total = 0
    seen: set[int] = set()
    for shape in shapes:
        if shape.fails is not None and text > shape.fails:
            continue
        length, shared = shape.text(text), shape.before
        if layout == "row_first" and length in seen:
            shared += length + shape.common
        total += shape.asked(text, shared, block)
        if shape.is_cached:
            seen.add(length)
    return total


def costs(shapes: Mapping[Layout, Sequence[Shape]], texts: Sequence[int], block: int) -> dict[Layout, int]:
    """Return the tokens to compute in each layout for some texts, given by their tokens."""
    return {layout: sum(row_tokens(shapes[layout], text, layout, block) for text in texts) for layout in LAYOUTS}


def cheapest(shapes: Mapping[Layout, Sequence[Shape]], texts: Sequence[int], block: int) -> Layout:
    """Return the layout in which some texts, given by their tokens, leave the least to compute."""
    cost = costs(shapes, texts, block)
    saves = cost["instruction_first"] - cost["row_first"]
    return "row_first" if saves > 0 and saves >= LEAST_SAVING * cost["instruction_first"] else "instruction_first"


def shapes_of(plans: Sequence[Plan]) -> list[Shape]:
    """Return the token counts of plans that share rows."""
    first = plans[0].prompt.suffix
    common = min(common_beginning(first, plan.prompt.suffix) for plan in plans)
    return [_shape(plan, common) for plan in plans]


def _shape(plan: Plan, common: int) -> Shape:
    prefixes = [query.answer_prefix for query in plan.queries]
    known = [max((common_beginning(ids, other) for other in prefixes[:i]), default=0) for i, ids in enumerate(prefixes)]
    return Shape(
        len(plan.prompt.prefix),
        len(plan.prompt.suffix),
        common,
        tuple(zip(map(len, prefixes), known, strict=True)),
        plan.cut_tokens,
        plan.max_text_tokens if plan.task.too_long == "fail" else None,
        all(map(_reads_cache, (query.ask for query in plan.queries))),
    )


def _reads_cache(ask: object) -> bool:
    if isinstance(ask, GenerateText):
        return not ask.sampling.get("skip_reading_prefix_cache")
    return not isinstance(ask, BeamSearch)  # of which vLLM does not say what it took from the cache


def common_beginning(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how many tokens, or characters, two sequences have in common from their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def groups(tasks: Sequence[Task]) -> list[list[Task]]:
    """Return the tasks by what they ask about.

    Only tasks with the same text, cut to the same length, can share a row.
    """
    found: dict[tuple[str, int | None], list[Task]] = {}
    for task in tasks:
        found.setdefault((task.template.template, task.max_text_tokens), []).append(task)
    return list(found.values())


def plan_group(tasks: Sequence[Task], tokenizer: Tokenizer, max_model_len: int, layout: Layout) -> list[Plan]:
    """Return the plans of tasks that share rows. Those that cut a text all cut it alike, or they would not share it."""
    plans = [task.plan(tokenizer, max_model_len, layout) for task in tasks]
    if layout == "row_first":
        cutting = [plan for plan in plans if plan.task.too_long == "cut"]
        for plan in cutting:
            plan.cut_tokens = min(other.max_text_tokens for other in cutting)
    return plans


def shapes_by_layout(tasks: Sequence[Task], tokenizer: Tokenizer, max_model_len: int) -> dict[Layout, Sequence[Shape]]:
    """Return the token counts of tasks that share rows, in each layout.

    Raises:
        ConfigError: in one of them there is no room for a text.
    """
    return {layout: shapes_of(plan_group(tasks, tokenizer, max_model_len, layout)) for layout in LAYOUTS}


def choose(tasks: Sequence[Task], tokenizer: Tokenizer, max_model_len: int, block: int, texts: Sequence[str]) -> Layout:
    """Return the layout of tasks that share rows, by counting the tokens of some rows' texts."""
    try:
        shapes = shapes_by_layout(tasks, tokenizer, max_model_len)
    except ConfigError:  # if there is no room in the usual layout, the run says so
        return "instruction_first"
    return cheapest(shapes, [len(ids) for ids in tokenizer.encode_literal(texts)], block)


class Expected:
    """The tokens that a run's questions leave to compute, counted as they are asked."""

    def __init__(self, groups: Sequence[Sequence[Plan]], block: int) -> None:
        self._block = block
        self._shapes = {
            plan.task.name: shape for group in groups for plan, shape in zip(group, shapes_of(group), strict=True)
        }
        self._group = {plan.task.name: number for number, group in enumerate(groups) for plan in group}
        self._layouts = {plan.task.name: plan.layout for group in groups for plan in group}
        self._begun: set[object] = set()
        """Beginnings of prompts that were computed: a task's own, or that of a group that has the row first."""
        self._last: dict[int, tuple[str, set[int]]] = {}
        """The last text that each group was asked about, and the lengths to which it was cut."""

    def ask(self, task: str, text_hash: str, text_tokens: int) -> int:
        """Return the tokens to compute for a question asked now."""
        shape, group, row_first = self._shapes[task], self._group[task], self._layouts[task] == "row_first"
        beginning = group if row_first else task
        shared = shape.before if beginning in self._begun else 0
        length = shape.text(text_tokens)
        last, lengths = self._last.get(group, ("", set()))
        if last != text_hash:
            lengths = set()
        if row_first and length in lengths:
            shared += length + shape.common
        if shape.is_cached:
            self._begun.add(beginning)
            lengths.add(length)
        self._last[group] = (text_hash, lengths)
        return shape.asked(text_tokens, shared, self._block)
