"""An engine without a model: valid answers at once, for tests of pipelines."""

import hashlib
import json
import math
import random
from collections.abc import Iterable, Iterator
from functools import lru_cache

from llm_assets.engines.compile_check import check_cost, check_limits, patterns
from llm_assets.engines.derive import Examples, derive_text
from llm_assets.prompts import ByteTokenizer
from llm_assets.records import (
    BeamSearch,
    Candidate,
    Completion,
    Constraint,
    EngineInfo,
    GenerateText,
    Request,
    ScoreTokens,
    Usage,
)


class DummyEngine:
    """Answers every request validly, at once and always the same; the answers mean nothing.

    Scores are made from a hash of the prompt, JSON is made from its schema, and text under a regular expression or a
    grammar is derived from it (that needs the package xgrammar, which vLLM brings).
    """

    def __init__(self, max_model_len: int = 32768, identity: str = "dummy") -> None:
        self.max_model_len = max_model_len
        self.identity = identity
        self.idle_seconds = 0.0
        self.cache_block = 0
        self.tokenizer = ByteTokenizer()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("dummy", self.identity, "", "none")

    def check(self, constraint: Constraint) -> None:
        check_limits(constraint)
        for compiled in patterns(constraint) if constraint.kind == "json" else [constraint]:
            if compiled.kind != "choice":
                check_cost(compiled)
        self._text(constraint, random.Random(0))

    def load(self) -> None:
        pass

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield self.answer(request)

    def close(self) -> None:
        pass

    def answer(self, request: Request) -> Completion:
        """Return the completion of one request."""
        prompt = ",".join(map(str, request.prompt_token_ids))
        prompt_tokens = len(request.prompt_token_ids)
        match request.ask:
            case ScoreTokens(token_ids=token_ids):
                weights = {i: 1 + _seed(f"{prompt}>{i}") % 1000 for i in token_ids}
                scores = {i: math.log(weight / 1001 / len(weights)) for i, weight in weights.items()}
                return Completion(request.id, scores=scores, usage=Usage(prompt_tokens, output=1))
            case BeamSearch():
                constraint, count, logprobs = None, 1, 0
            case GenerateText(sampling=sampling, constraint=constraint):
                count, logprobs = int(str(sampling.get("n", 1))), sampling.get("logprobs")
        candidates = tuple(
            self._candidate(self._text(constraint, random.Random(_seed(f"{prompt}#{index}"))), index, logprobs)
            for index in range(count)
        )
        output_tokens = sum(len(candidate.token_ids) for candidate in candidates)
        return Completion(request.id, candidates, usage=Usage(prompt_tokens, output=output_tokens))

    def _candidate(self, text: str, index: int, logprobs: object) -> Candidate:
        token_ids = tuple(self.tokenizer.encode_literal([text])[0])
        logprob = math.log(0.9 - 0.1 * index / (index + 1))
        return Candidate(
            text,
            token_ids,
            "stop",
            () if logprobs is None else (logprob,) * len(token_ids),
            tuple({token_id: logprob} for token_id in token_ids) if logprobs else (),
        )

    @staticmethod
    def _text(constraint: Constraint | None, rng: random.Random) -> str:
        if constraint is None:
            return f"Dummy answer {rng.randrange(1000)}."
        if constraint.kind == "choice":
            return rng.choice(constraint.value)
        if constraint.kind == "json":
            return json.dumps(_examples(str(constraint.value)).value(rng), ensure_ascii=False)
        return derive_text(constraint.kind, str(constraint.value), rng)


@lru_cache(maxsize=64)
def _examples(schema: str) -> Examples:
    return Examples(json.loads(schema))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
