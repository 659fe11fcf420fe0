"""Some rows asked on trial: as a run asks them, but nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from llm_assets.engines import Engine
from llm_assets.errors import SourceError
from llm_assets.inspection.reading import EveryPartition
from llm_assets.pipeline import Pipeline
from llm_assets.pipeline.layout import groups, plan_group
from llm_assets.pipeline.run import SECOND_TRY_ROOM
from llm_assets.records import Answer, Completion, Failure, FailureKind, Key, Partition, Request, Row
from llm_assets.tasks import Plan, Task


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a text: the answer or the reason there is none, and the completions that it was read from."""

    outcome: Answer | Failure
    completions: tuple[Completion, ...] = ()


def plan_for(pipeline: Pipeline, task: Task, engine: Engine) -> Plan:
    """Return a task ready to be asked, in the layout that a run would give the task of the same name.

    Raises:
        ConfigError: the engine refuses the task's constraint, or there is no room for a text.
    """
    if task.constraint is not None:
        engine.check(task.constraint)
    [group] = [group for group in groups(pipeline.tasks) if task.name in {other.name for other in group}]
    asked = [task if other.name == task.name else other for other in group]
    plans = plan_group(asked, engine.tokenizer, engine.max_model_len, pipeline.layouts[task.name])
    return next(plan for plan in plans if plan.task.name == task.name)


def ask(plan: Plan, engine: Engine, texts: Sequence[str]) -> list[Asked]:
    """Ask about some texts and return what came of each, in their order. Answers that are cut off are asked again.

    Raises:
        EngineError: the engine died.
    """
    found: dict[int, Asked] = {}
    token_ids = engine.tokenizer.encode_literal(list(texts))
    for number, (text, ids) in enumerate(zip(texts, token_ids, strict=True)):
        if not text:
            found[number] = Asked(Failure(FailureKind.EMPTY_TEXT, "The text is NULL, empty or white space."))
        elif plan.is_too_long(ids):
            message = f"The text has {len(ids)} tokens and the limit is {plan.max_text_tokens}."
            found[number] = Asked(Failure(FailureKind.TOO_LONG, message))
    left = [number for number in range(len(texts)) if number not in found]
    for room in (1, SECOND_TRY_ROOM):
        again: list[int] = []
        for number, asked in _ask(plan, engine, {number: token_ids[number] for number in left}, room).items():
            found[number] = asked
            if isinstance(asked.outcome, Failure) and asked.outcome.kind is FailureKind.TRUNCATED:
                again.append(number)
        left = again
    return [found[number] for number in range(len(texts))]


def _ask(plan: Plan, engine: Engine, texts: dict[int, list[int]], room: int) -> dict[int, Asked]:
    width = len(plan.queries)
    places = list(texts)
    requests = [
        Request(place * width + index, prompt, what)
        for place, number in enumerate(places)
        for index, (prompt, what) in enumerate(plan.requests(texts[number], room))
    ]
    if not requests:
        return {}
    completions = {completion.id: completion for completion in engine.run(requests)}
    found: dict[int, Asked] = {}
    for place, number in enumerate(places):
        own = tuple(completions[place * width + index] for index in range(width))
        found[number] = Asked(plan.answer(own), own)
    return found


def random_rows(pipeline: Pipeline, partitions: Sequence[Partition], count: int, seed: int) -> list[Row]:
    """Return so many rows of some partitions, chosen at random, in key order; the same ones for the same seed.

    Raises:
        SourceError: the partitions have no rows.
    """
    totals = [pipeline.source.count(partition) for partition in partitions]
    if not sum(totals):
        where = f" in partition {', '.join(part.key for part in partitions)}" if partitions[0].conditions else ""
        if isinstance(partitions[0], EveryPartition):
            where = f" in any partition: {'; '.join(partitions[0].dimensions)}"
        raise SourceError(f"Table {pipeline.source.source.name!r} has no rows{where}.")
    chosen = sorted(Random(seed).sample(range(sum(totals)), min(count, sum(totals))))
    keys: list[Key] = []
    before = 0
    for partition, total in zip(partitions, totals, strict=True):
        positions = [position - before for position in chosen if before <= position < before + total]
        if positions:
            keys += pipeline.source.keys_at(partition, positions)
        before += total
    return list(pipeline.source.rows(keys).values())
