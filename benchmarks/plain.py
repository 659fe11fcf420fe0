"""The sides of plain vLLM: `LLM.generate`, as a lesson on batch inference shows it, without a database."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.common import Bench, Side, Turn, compare, demo_texts, median_of, ratios, rounded, speeds
from benchmarks.prompts import check_shared
from llm_assets.engines import VllmEngine
from llm_assets.engines.vllm.hardware import is_cpu_build
from llm_assets.prompts import ChatPrompt, Tokenizer
from llm_assets.prompts.template import ROW_TEXT
from llm_assets.records import GenerateText, ScoreTokens
from llm_assets.tasks import Classify, GenerationTask, Task

BATCH = 64
XGRAMMAR = {"backend": "xgrammar", "disable_any_whitespace": True}
"""What vLLM takes for a choice by itself. The package's own compiler of constraints makes decoded labels slower, and
has no part in scored ones."""

UNCACHED = 8
"""Batches without the prefix cache are slow and vary little: one turn, over one row of so many, is enough."""


def against_plain(bench: Bench, name: str, task: Task, rows: int) -> dict[str, Any]:
    """Measure one task: this package, from table to committed table, against plain vLLM."""
    generates = isinstance(task, GenerationTask)
    engine = bench.engine() if generates else bench.engine(structured_outputs_config=XGRAMMAR)
    texts = demo_texts(rows)
    variant, setting, value = ("unsure", "confidence", False) if generates else ("aligned", "align_prompt", True)
    sides = {
        "pipeline": bench.pipeline(engine, [task]),
        variant: bench.pipeline(engine, [task.model_copy(update={setting: value})]),
        "one_submit": plain(engine, [task]),
        "batches": plain(engine, [task], BATCH),
    }
    loaded = [engine]
    with ExitStack() as stack:
        if is_cpu_build() and not generates:
            loaded.append(stack.enter_context(vllm_as_it_comes(engine)))
            sides["batches, vLLM's settings"] = plain(loaded[-1], [task], BATCH)
        turns = compare(sides, texts, bench.options.rounds, lambda: [each.reset_prefix_cache() for each in loaded])
    found_ratios, found_speeds = ratios(turns, "pipeline"), speeds(turns, rows)
    some = texts[: max(rows // UNCACHED, 1)]
    speed = len(some) / plain(engine, [task], BATCH, cached=False)(some).seconds
    found_speeds["batches_uncached"] = rounded(speed)
    found_ratios["pipeline / batches_uncached"] = rounded(found_speeds["pipeline"] / speed)
    return bench.report(
        name,
        found_ratios,
        found_speeds,
        turns,
        rows=rows,
        batch=BATCH,
        shared_tokens=check_shared(task, engine.tokenizer),
        prompt_tokens=median_of(turns, lambda turn: turn.prompt_tokens / rows),
        output_tokens=median_of(turns, lambda turn: turn.output_tokens / rows),
        cached_share=median_of(turns, lambda turn: turn.cached_share),
        idle_share=median_of({"pipeline": turns["pipeline"]}, lambda turn: turn.stages["idle"] / turn.seconds),
        database=bench.dialect,
    )


class _OwnSettings(VllmEngine):
    """The same model by vLLM's own settings, in a process of its own."""

    def __init__(self, engine: VllmEngine) -> None:
        super().__init__(engine.settings)
        import vllm

        dtype: Any = str(engine.llm.model_config.dtype).removeprefix("torch.")
        names = ("model", "load_format", "max_model_len")
        self._llm = vllm.LLM(**{name: getattr(engine.settings, name) for name in names}, dtype=dtype)


@contextmanager
def vllm_as_it_comes(engine: VllmEngine) -> Iterator[VllmEngine]:
    """Load an engine's model once more, with nothing set but its type and length.

    On a CPU, vLLM's own settings are not the package's: its blocks of the prefix cache are four times as long, and it
    compiles the model. On a GPU they are the same.
    """
    import vllm.envs

    before = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    vllm.envs.disable_envs_cache()  # each load fills it
    try:
        own = _OwnSettings(engine)
    finally:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = before
        vllm.envs.disable_envs_cache()
    try:
        yield own
    finally:
        own.llm.llm_engine.engine_core.shutdown()


def plain(engine: VllmEngine, tasks: Sequence[Task], batch: int | None = None, cached: bool = True) -> Side:
    """Return the side of plain vLLM, without a database: prompts as text, through `LLM.generate`.

    Each task is one pass over all rows with the instruction first: in one call, or in calls of `batch` rows.
    """

    def answer(texts: list[str]) -> Turn:
        outputs = []
        started, cpu = time.perf_counter(), time.process_time()
        for task in tasks:
            params = plain_params(task, engine.tokenizer, cached)
            messages = [{"role": message["role"], "content": message["content"]} for message in task.messages()]
            # Rendered once: the template engine is not what is compared.
            before, after = engine.tokenizer.render(messages).split(ROW_TEXT)
            for start in range(0, len(texts), batch or len(texts)):
                prompts = [f"{before}{text}{after}" for text in texts[start : start + (batch or len(texts))]]
                outputs += engine.llm.generate(prompts, params, use_tqdm=False)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        assert len(outputs) == len(texts) * len(tasks)
        return turn_of(outputs, seconds, cpu)

    return answer


def turn_of(outputs: Sequence[Any], seconds: float, cpu: float) -> Turn:
    """Return the turn of some of vLLM's outputs."""
    return Turn(
        seconds,
        cpu,
        asked=len(outputs),
        prompt_tokens=sum(len(output.prompt_token_ids) for output in outputs),
        cached_tokens=sum(output.num_cached_tokens or 0 for output in outputs),
        output_tokens=sum(len(output.outputs[0].token_ids) for output in outputs),
    )


def plain_params(task: Task, tokenizer: Tokenizer, cached: bool = True) -> Any:
    """Return the parameters that a task has in plain vLLM: labels decoded as a choice, and no log-probabilities."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from llm_assets.engines.vllm.messages import sampling_params

    if isinstance(task, Classify):
        choice = StructuredOutputsParams(choice=list(task.label_names))
        params = SamplingParams(temperature=0.0, max_tokens=16, structured_outputs=choice)
    else:
        [query] = task.plan(tokenizer, 2048).queries
        assert isinstance(query.ask, GenerateText)
        sampling = {name: value for name, value in query.ask.sampling.items() if name != "logprobs"}
        params = sampling_params(GenerateText(sampling, query.ask.constraint))
    if not cached:
        params.skip_reading_prefix_cache = True
    return params


def score_prompts(task: Classify, engine: VllmEngine, texts: Sequence[str]) -> tuple[list[Any], Any]:
    """Return prompts as token ids, and the parameters that score a task's labels after them."""
    from llm_assets.engines.vllm.messages import sampling_params

    [query] = task.plan(engine.tokenizer, engine.max_model_len).queries
    assert isinstance(query.ask, ScoreTokens)
    prompt = ChatPrompt(engine.tokenizer, task.messages())
    prompts = [{"prompt_token_ids": prompt.build(ids)} for ids in engine.tokenizer.encode_literal(texts)]
    return prompts, sampling_params(query.ask)
