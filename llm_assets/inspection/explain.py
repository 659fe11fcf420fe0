"""What a run would do: rows by outcome, tokens and time, from the tokenizer and the tables. Nothing is written."""

from collections.abc import Sequence

from llm_assets.inspection.explanation import Explanation, TaskForecast
from llm_assets.inspection.forecast import TimeForecast, forecast_time
from llm_assets.inspection.group import GroupReader
from llm_assets.inspection.layouts import explain_layout
from llm_assets.inspection.reading import EveryPartition, read_only_store
from llm_assets.inspection.tally import make_tally
from llm_assets.pipeline import Pipeline
from llm_assets.pipeline.layout import Expected, groups
from llm_assets.records import Partition
from llm_assets.secrets import masked
from llm_assets.tables import ReadOnlyStore


def explain(pipeline: Pipeline, partitions: Sequence[Partition]) -> Explanation:
    """Return what a run would do, without loading a model and without writing.

    The rows are read once. Stored answers are compared by hash, and tokens counted for a sample of the texts, so that a
    million rows take less than a minute and some hundred megabytes.

    Args:
        pipeline: A read-only pipeline.
        partitions: What to read; one `Partition()` reads all rows, an `EveryPartition` those that runs ask about.

    Raises:
        SourceError: a key is NULL or stands twice, or the source cannot be read.
        ConfigError: the pipeline can write, or the instruction leaves no room for a text.
    """
    store = read_only_store(pipeline)
    plans = pipeline.unchecked_plans()
    tallies = {task.name: make_tally(pipeline, store, task) for task in pipeline.tasks}
    readers = [GroupReader(group, plans, tallies, pipeline.engine.tokenizer) for group in groups(pipeline.tasks)]
    rows = 0
    for partition in partitions:
        pipeline.source.check_key(partition)
        for chunk in pipeline.source.read(partition):
            rows += len(chunk)
            for reader in readers:
                reader.read(chunk)
    expected = Expected(
        [[plans[task.name] for task in group] for group in groups(pipeline.tasks)], pipeline.engine.cache_block
    )
    forecasts: dict[str, TaskForecast] = {}
    for reader in readers:
        forecasts |= reader.forecasts(store, pipeline, expected)
    tasks = tuple(forecasts[task.name] for task in pipeline.tasks)
    every = next((each for each in partitions if isinstance(each, EveryPartition)), None)
    is_whole = every is not None or (len(partitions) == 1 and not partitions[0].conditions)
    return Explanation(
        pipeline.source.source.name,
        None if is_whole else tuple(partition.key for partition in partitions),
        every.dimensions if every else None,
        rows,
        max(pipeline.source.count(Partition()) - rows, 0) if every else 0,
        pipeline.model,
        masked(pipeline.engine.info.revision),
        tuple(reader.row_texts() for reader in readers),
        tuple(explain_layout(pipeline, group) for group in groups(pipeline.tasks)),
        tasks,
        tuple(_times(pipeline, store, tasks)),
        _limits(pipeline),
        store.refusal(),
    )


def _limits(pipeline: Pipeline) -> tuple[str, ...]:
    values = pipeline.settings.model_dump(
        include={"max_rows", "max_seconds", "max_tokens", "max_cost"}, exclude_none=True
    )
    return tuple(f"{name}={value:.15g}" for name, value in values.items())


def _times(pipeline: Pipeline, store: ReadOnlyStore, tasks: Sequence[TaskForecast]) -> list[TimeForecast]:
    asked = [task for task in tasks if task.to_ask]
    outputs = [task.output_tokens for task in asked]
    tokens = sum(task.computed_tokens for task in asked) + sum(output or 0 for output in outputs)
    past = store.past_partitions(pipeline.model, masked(pipeline.engine.info.revision))
    return forecast_time(
        past,
        pipeline.source.source.name,
        [task.task for task in asked],
        sum(task.to_ask for task in asked),
        None if None in outputs else tokens,
    )
