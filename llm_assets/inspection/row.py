"""One row, token by token: the prompt as it is sent, and how the model came to its answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llm_assets.inspection.asking import Asked, plan_for
from llm_assets.inspection.reading import read_only_store
from llm_assets.pipeline import Pipeline
from llm_assets.prompts import Tokenizer
from llm_assets.prompts.text import content_hash
from llm_assets.records import (
    Answer,
    Candidate,
    Completion,
    Failure,
    FailureKind,
    GenerateText,
    Key,
    Request,
    Row,
)
from llm_assets.tasks import Plan, Task
from llm_assets.tasks.base import best_candidate
from llm_assets.tasks.scoring import ScoringPlan

TOP = 5
"""Likeliest tokens that are shown at each step."""

Stored = Literal["none", "current", "other text", "other task"]


@dataclass(frozen=True, slots=True)
class Token:
    """A token as text. A special one, such as the end of a turn, is no part of any text."""

    id: int
    text: str
    is_special: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A generated token with its probability and those of the likeliest tokens: exp(log-probability).

    Where the task has a constraint, vLLM gives the probabilities among the tokens that it allows. They are None where
    the engine does not tell them.
    """

    token: Token
    probability: float | None
    top: tuple[tuple[Token, float], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """One way on where answers part: its tokens (several only where an answer ends), and the answers beyond it.

    `probability` is the model's own, `share` that among the ways of the branch.
    """

    tokens: tuple[Token, ...]
    probability: float
    share: float
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BranchScores:
    """A place where the possible answers part, after some tokens of an answer."""

    path: tuple[Token, ...]
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What there is to see of one row and task."""

    task: Task
    table: str
    model: str
    key: Key
    text: str
    prefix: tuple[Token, ...]
    row: tuple[Token, ...]
    suffix: tuple[Token, ...]
    is_cut: bool
    """Whether the text was cut to fit."""
    outcome: Answer | Failure
    steps: tuple[Step, ...]
    is_constrained: bool
    """Whether the steps' probabilities are those among the tokens that the task's constraint allows."""
    branches: tuple[BranchScores, ...]
    probabilities: Mapping[str, float]
    """Of scored answers, each one's probability, the likeliest first."""
    stored: Mapping[str, Any]
    """The row of the output table; empty if there is none."""
    stored_is: Stored
    stored_failure: str | None


def inspect_row(pipeline: Pipeline, task: Task, row: Row) -> Inspection:
    """Ask about one row and return all that led to the answer. Nothing is written.

    Raises:
        ConfigError: the engine refuses the task's constraint, or there is no room for a text.
        EngineError: the engine died.
    """
    engine = pipeline.engine
    tokenizer = engine.tokenizer
    plan = plan_for(pipeline, task, engine)
    text = task.template.render(row.values)
    token_ids = tokenizer.encode_literal([text])[0]
    asked = _ask(pipeline, plan, text, token_ids)
    prompt = plan.requests(token_ids)[0][0]
    inside = len(prompt) - len(plan.prompt.prefix) - len(plan.prompt.suffix) - len(plan.queries[0].answer_prefix)
    start, end = len(plan.prompt.prefix), len(plan.prompt.prefix) + inside
    steps: tuple[Step, ...] = ()
    branches: tuple[BranchScores, ...] = ()
    probabilities: dict[str, float] = {}
    if asked.completions and not any(completion.error for completion in asked.completions):
        if isinstance(plan, ScoringPlan):
            branches = _branches(plan, tokenizer, asked.completions)
            found = plan.probabilities(asked.completions)
            if not isinstance(found, Failure):
                ranked = sorted(zip(plan.answers, found, strict=True), key=lambda item: -item[1])
                probabilities = dict(ranked)
        else:
            steps = _steps(tokenizer, prompt, best_candidate(asked.completions[0]))
    stored, is_what, failure = _stored(pipeline, task, row.key, text)
    return Inspection(
        task=task,
        table=pipeline.store.table_name(task.name),
        model=pipeline.model,
        key=row.key,
        text=text,
        prefix=tokens_of(tokenizer, prompt[:start]),
        row=tokens_of(tokenizer, prompt[start:end]),
        suffix=tokens_of(tokenizer, prompt[end : end + len(plan.prompt.suffix)]),
        is_cut=len(token_ids) > plan.cut_tokens,
        outcome=asked.outcome,
        steps=steps,
        is_constrained=task.constraint is not None,
        branches=branches,
        probabilities=probabilities,
        stored=stored,
        stored_is=is_what,
        stored_failure=failure,
    )


def tokens_of(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[Token, ...]:
    """Return tokens as text, each with the space that some tokenizers drop from the beginning of a text."""
    found = []
    for place, token_id in enumerate(token_ids):
        alone = tokenizer.decode([token_id])
        before = tokenizer.decode([token_ids[place - 1]]) if place else ""
        behind = tokenizer.decode([token_ids[place - 1], token_id]) if place else alone
        text = behind[len(before) :] if behind.startswith(before) and len(behind) > len(before) else alone
        is_special = not tokenizer.decode([token_id], skip_special_tokens=True)
        found.append(Token(token_id, text or f"<{token_id}>", is_special))
    return tuple(found)


def _ask(pipeline: Pipeline, plan: Plan, text: str, token_ids: list[int]) -> Asked:
    """Ask about the text, with the likeliest tokens at each step, once: an answer that is cut off is shown so."""
    if not text:
        return Asked(Failure(FailureKind.EMPTY_TEXT, "The text is NULL, empty or white space."))
    if plan.is_too_long(token_ids):
        message = f"The text has {len(token_ids)} tokens and the limit is {plan.max_text_tokens}."
        return Asked(Failure(FailureKind.TOO_LONG, message))
    requests = []
    for number, (prompt, what) in enumerate(plan.requests(token_ids)):
        if isinstance(what, GenerateText):
            top = max(TOP, int(str(what.sampling.get("logprobs") or 0)))
            what = replace(what, sampling={**what.sampling, "logprobs": top})
        requests.append(Request(number, prompt, what))
    completions = {completion.id: completion for completion in pipeline.engine.run(requests)}
    own = tuple(completions[number] for number in range(len(requests)))
    return Asked(plan.answer(own), own)


def _steps(tokenizer: Tokenizer, prompt: list[int], candidate: Candidate) -> tuple[Step, ...]:
    """Return the steps of a generated text."""
    tokens = tokens_of(tokenizer, [*prompt[-1:], *candidate.token_ids])[1:]
    found = []
    for place, token in enumerate(tokens):
        # A beam search tells no likeliest tokens, and in some versions not every probability.
        probability = math.exp(candidate.logprobs[place]) if place < len(candidate.logprobs) else None
        top = candidate.top_logprobs[place] if place < len(candidate.top_logprobs) else {}
        ranked = sorted(top.items(), key=lambda item: -item[1])[:TOP]
        before = candidate.token_ids[place - 1] if place else prompt[-1]
        shown = [(tokens_of(tokenizer, [before, token_id])[1], math.exp(logprob)) for token_id, logprob in ranked]
        found.append(Step(token, probability, tuple(shown)))
    return tuple(found)


def _branches(plan: ScoringPlan, tokenizer: Tokenizer, completions: Sequence[Completion]) -> tuple[BranchScores, ...]:
    """Return each place where answers part with the probabilities of the ways on."""
    found = []
    for branch, scores, undecided in zip(
        plan.branches, plan.scores(completions), plan.undecided(completions), strict=True
    ):
        raw = [math.fsum(math.exp(scores.get(token_id, -math.inf)) for token_id in ids) for ids, _ in branch.ways]
        total = math.fsum([*raw, math.exp(undecided)])
        ways = [
            Way(
                tuple(tokens_of(tokenizer, [*branch.path[-1:], token_id])[-1] for token_id in ids),
                probability,
                probability / total if total else 0.0,
                tuple(plan.answers[number] for number in sorted(below)),
            )
            for (ids, below), probability in zip(branch.ways, raw, strict=True)
        ]
        ways.sort(key=lambda way: -way.probability)
        found.append(BranchScores(tokens_of(tokenizer, branch.path), tuple(ways)))
    return tuple(found)


def _stored(pipeline: Pipeline, task: Task, key: Key, text: str) -> tuple[Mapping[str, Any], Stored, str | None]:
    """Return the stored answer, what it is an answer to, and the stored failure."""
    store = read_only_store(pipeline)
    stored = store.answers(task.name, [key]).get(key, {})
    failed = store.failed(task.name, [key]).get(key)
    is_what: Stored = "none"
    if stored:
        is_what = "current"
        if stored["content_hash"] != content_hash(text):
            is_what = "other text"
        elif stored["fingerprint"] != pipeline.fingerprints[task.name]:
            is_what = "other task"
    return stored, is_what, f"{failed.failure.kind}: {failed.failure.message}" if failed else None
