"""Answers out of a closed list: each gets its probability, and none is generated."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from llm_assets.errors import ConfigError
from llm_assets.prompts import Layout, TextTokenizer, Tokenizer
from llm_assets.records import Completion, Failure, FailureKind, ScoreTokens
from llm_assets.tasks.base import Plan, Query, Task

MAX_SCORED_TOKENS = 128
"""Tokens that one request can score; vLLM's limit."""

ROUNDING = 1e-9
"""Probabilities that sum to 1 may miss it by so much."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A place where answers part: the tokens before it, and for each way on its token ids and the answers beyond it.

    A way on has several token ids only where an answer ends and the model has several tokens to end with.
    """

    path: tuple[int, ...]
    ways: tuple[tuple[tuple[int, ...], frozenset[int]], ...]


def label_branches(labels: Sequence[Sequence[int]], end_token_ids: Sequence[int]) -> list[Branch]:
    """Return the branches of the trie of some token sequences; shared runs of tokens need no question.

    A label that is the beginning of another ends there, with one of `end_token_ids`.
    """
    branches: list[Branch] = []

    def walk(path: tuple[int, ...], members: list[int]) -> None:
        if len(members) < 2:
            return
        depth = len(path)
        ways: dict[tuple[int, ...], list[int]] = {}
        for member in members:
            ends = len(labels[member]) == depth
            ways.setdefault(tuple(end_token_ids) if ends else (labels[member][depth],), []).append(member)
        if len(ways) > 1:
            branches.append(Branch(path, tuple((ids, frozenset(below)) for ids, below in ways.items())))
        for ids, below in ways.items():
            if ids != tuple(end_token_ids):
                walk((*path, *ids), below)

    walk((), list(range(len(labels))))
    return branches


class ScoringPlan(Plan):
    """Scores the possible answers: one request for each place where they part, all of them side by side.

    Raises:
        ConfigError: to the tokenizer, two of the answers are the same.
    """

    def __init__(
        self, task: Task, tokenizer: Tokenizer, max_model_len: int, layout: Layout, answers: Sequence[str], noun: str
    ) -> None:
        most_at_once, most_tokens = MAX_SCORED_TOKENS, 1
        if isinstance(tokenizer, TextTokenizer):
            # Its model's tokens are not known before it has answered, so all answers are compared with what it says.
            encoded = [[tokenizer.id_of(answer)] for answer in answers]
            most_at_once, most_tokens = len(answers), bytes_to_tell_apart(answers)
        else:
            encoded = tokenizer.encode_literal(answers)
        for index, ids in enumerate(encoded):
            if not ids or encoded.index(ids) != index:
                raise ConfigError(
                    f"Task {task.name!r}: to this model's tokenizer the {noun} {answers[index]!r} is the same as "
                    f"{answers[encoded.index(ids)]!r}. Choose {noun}s with different words."
                )
        self._noun = noun
        self.answers = list(answers)
        self.branches = label_branches(encoded, tokenizer.end_token_ids)
        queries = []
        self._branch_of: list[int] = []
        """The branch that each query belongs to: one with very many ways on takes several queries."""
        for number, branch in enumerate(self.branches):
            token_ids = [token_id for ids, _ in branch.ways for token_id in ids]
            for start in range(0, len(token_ids), most_at_once):
                scored = tuple(token_ids[start : start + most_at_once])
                queries.append(Query(ScoreTokens(scored, most_tokens), branch.path))
                self._branch_of.append(number)
        super().__init__(task, tokenizer, max_model_len, queries, layout)

    def scores(self, completions: Sequence[Completion]) -> list[dict[int, float]]:
        """Return for each branch the natural-log probabilities of its ways on, by token id."""
        scores: list[dict[int, float]] = [{} for _ in self.branches]
        for number, completion in zip(self._branch_of, completions, strict=True):
            scores[number].update(completion.scores)
        return scores

    def undecided(self, completions: Sequence[Completion]) -> list[float]:
        """Return for each branch the natural-log probability of what may go any of several ways on."""
        undecided = [-math.inf for _ in self.branches]
        for number, completion in zip(self._branch_of, completions, strict=True):
            undecided[number] = max(undecided[number], completion.undecided)
        return undecided

    def probabilities(self, completions: Sequence[Completion]) -> list[float] | Failure:
        """Return each answer's probability, given that the model gives one of them.

        They sum to 1, less what is undecided. It is a failure if that could make another answer the likeliest.
        """
        logs = [0.0] * len(self.answers)
        for branch, found, undecided in zip(
            self.branches, self.scores(completions), self.undecided(completions), strict=True
        ):
            ways = [log_sum_exp([found.get(i, -math.inf) for i in ids]) for ids, _ in branch.ways]
            total = log_sum_exp([*ways, undecided])
            if not math.isfinite(total):
                return Failure(
                    FailureKind.ENGINE_ERROR,
                    f"No {self._noun}'s next token has a finite log-probability: {found}.",
                )
            for way, (_, below) in zip(ways, branch.ways, strict=True):
                for index in below:
                    logs[index] += way - total
        found = [math.exp(log) for log in logs]
        left = 1.0 - math.fsum(found)
        first, second = sorted(found, reverse=True)[:2]
        if left > ROUNDING and first - second <= left:
            return Failure(
                FailureKind.ENGINE_ERROR,
                f"Of the probability of all {self._noun}s, {left:.0%} is that of tokens with which several of them "
                f"begin, too much to tell which is the likeliest. {_alike(self.answers)}",
            )
        return found


def bytes_to_tell_apart(answers: Sequence[str]) -> int:
    """Return the most bytes of an answer that are needed to know which of some answers it is."""
    texts = sorted(answer.lower().encode("utf-8", "replace") for answer in answers)
    alike = (takewhile(lambda pair: pair[0] == pair[1], zip(*two, strict=False)) for two in pairwise(texts))
    return 1 + max((len(list(pairs)) for pairs in alike), default=0)


def _alike(answers: Sequence[str]) -> str:
    """Which answers begin alike, and what to do about it."""
    firsts = Counter(answer[:1].lower() for answer in answers)
    alike = [repr(answer) for answer in answers if firsts[answer[:1].lower()] > 1]
    if not alike:
        return "The model began with white space: say in the instruction that the answer is nothing else."
    return f"These begin alike: {', '.join(alike[:10])}. Choose others, which begin with different words."


def log_sum_exp(logs: Sequence[float]) -> float:
    """Return log(sum(exp(x))) without overflow; minus infinity for nothing."""
    peak = max(logs, default=-math.inf)
    if not math.isfinite(peak):
        return peak
    return peak + math.log(math.fsum(math.exp(value - peak) for value in logs))
