"""Requests to vLLM's own server: token ids there, token ids back."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_assets.engines.server.reading import UnreadableAnswerError, choices_of, usage_of
from llm_assets.engines.server.settings import ServerSettings
from llm_assets.engines.vllm.messages import FINISHED, SamplingCache, answer_text, constraint_arguments
from llm_assets.prompts import Tokenizer
from llm_assets.records import (
    Ask,
    Candidate,
    Completion,
    GenerateText,
    Request,
    ScoreTokens,
    Usage,
)

PATH = "/inference/v1/generate"
FINAL_ONLY = 2
"""vLLM's RequestOutputKind: the answer once it is finished."""

NEVER = -9999.0
"""What vLLM's server writes for minus infinity, which JSON does not have."""


class VllmWire:
    """Puts requests into the words of vLLM's route for token ids, and its answers into completions.

    Args:
        settings: The model's name on the server, and how many log-probabilities it gives.
        tokenizer: The tokenizer of the model.
    """

    path = PATH

    def __init__(self, settings: ServerSettings, tokenizer: Tokenizer) -> None:
        self._model = json.dumps(settings.model)
        self._scored = settings.most_scored
        self._most_logprobs = settings.max_logprobs
        self._tokenizer = tokenizer
        self._parameters = SamplingCache(self._written)

    def bodies(self, request: Request) -> list[bytes]:
        """Return the HTTP requests of a request: several only if it scores more tokens than one of them can."""
        token_ids = json.dumps(request.prompt_token_ids)
        return [
            f'{{"model":{self._model},"sampling_params":{parameters},"token_ids":{token_ids}}}'.encode()
            for parameters in self._parameters.params(request.ask)
        ]

    def usage(self, answers: Sequence[Any]) -> Usage:
        """Return the tokens that the answers count, if only to be refused."""
        return usage_of(answers)

    def completion(self, request: Request, answers: Sequence[Any]) -> Completion:
        """Read what the server answered to each of the bodies.

        Raises:
            UnreadableAnswerError: it lacks what was asked for.
        """
        ask, usage = request.ask, usage_of(answers)
        wanted = int(str(ask.sampling.get("n", 1))) if isinstance(ask, GenerateText) else 1
        choices = [choice for answer in answers for choice in choices_of(answer, wanted)]
        if stopped := [reason for choice in choices if (reason := choice["finish_reason"]) not in FINISHED]:
            return Completion(request.id, error=f"vLLM ended the request with {stopped[0]!r}.", usage=usage)
        if isinstance(ask, ScoreTokens):
            scores = {token: value for choice in choices for step in _steps(choice)[:1] for token, value in _top(step)}
            missing = [token for token in ask.token_ids if token not in scores]
            if missing:
                raise UnreadableAnswerError(
                    f"The server's answer has no log-probability of token {missing[0]}, by which a label is scored. Is "
                    "it vLLM 0.25 or later? max_logprobs here must be no more than its --max-logprobs."
                )
            return Completion(request.id, scores={token: scores[token] for token in ask.token_ids}, usage=usage)
        assert isinstance(ask, GenerateText)
        candidates = tuple(
            self._candidate(choice, request, ask.sampling)
            for choice in sorted(choices, key=lambda choice: choice["index"])
        )
        return Completion(request.id, candidates, usage=usage)

    def _written(self, ask: Ask) -> list[str]:
        if isinstance(ask, ScoreTokens):
            parts = (
                ask.token_ids[start : start + self._scored] for start in range(0, len(ask.token_ids), self._scored)
            )
            return [json.dumps(_score_parameters(part)) for part in parts]
        assert isinstance(ask, GenerateText)
        parameters = {**ask.sampling, "output_kind": FINAL_ONLY, "detokenize": bool(ask.sampling.get("stop"))}
        if (wanted := parameters.get("logprobs")) and int(str(wanted)) < self._most_logprobs:
            # The server counts the generated token, likely or not, as one of them.
            parameters["logprobs"] = int(str(wanted)) + 1
        if ask.constraint is not None:
            parameters["structured_outputs"] = constraint_arguments(ask.constraint)
        return [json.dumps(parameters)]

    def _candidate(self, choice: Mapping[str, Any], request: Request, sampling: Mapping[str, Any]) -> Candidate:
        if not isinstance(choice.get("token_ids"), list):
            raise UnreadableAnswerError(
                "The server's answer has no token_ids. Is it vLLM 0.25 or later? For another host, set api: chat."
            )
        token_ids, reason = tuple(choice["token_ids"]), choice["finish_reason"]
        steps, wanted = _steps(choice), sampling.get("logprobs")
        if wanted is not None and len(steps) != len(token_ids):
            raise UnreadableAnswerError(
                f"The server's answer has {len(steps)} log-probabilities for {len(token_ids)} tokens. Is it vLLM 0.25 "
                "or later? Without confidence: true and sampling.logprobs on the task, none are asked for."
            )
        if sampling.get("stop"):
            text = self._stopped_text(token_ids, request, sampling)
        else:
            text = answer_text(token_ids, reason, request, sampling, self._tokenizer)
        return Candidate(
            text=text,
            token_ids=token_ids,
            finish_reason=reason,
            logprobs=tuple(step["logprob"] for step in steps),
            top_logprobs=tuple(_likeliest(step, int(str(wanted))) for step in steps) if wanted else (),
        )

    def _stopped_text(self, token_ids: Sequence[int], request: Request, sampling: Mapping[str, Any]) -> str:
        """Return the text up to the first stop text, which the server has found but does not cut off."""
        stops = sampling["stop"]
        text = answer_text(token_ids, "length", request, sampling, self._tokenizer)
        for stop in [stops] if isinstance(stops, str) else list(stops):
            before, found, _ = text.partition(stop)
            if found:
                return before + found if sampling.get("include_stop_str_in_output") else before
        if token_ids and token_ids[-1] in self._tokenizer.end_token_ids:
            return answer_text(token_ids, "stop", request, sampling, self._tokenizer)
        return text


def _score_parameters(token_ids: Sequence[int]) -> dict[str, Any]:
    # The server lists so many log-probabilities as were asked for, the generated token's first. So that none is cut
    # off, one more is asked for than there are tokens: the last one a second time.
    asked = [*token_ids, token_ids[-1]]
    return {
        "temperature": 0.0,
        "max_tokens": 1,
        "logprob_token_ids": asked,
        "logprobs": len(asked),
        "detokenize": False,
        "output_kind": FINAL_ONLY,
    }


def _steps(choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The tokens of an answer with their log-probabilities, as far as the server gives them."""
    return (choice.get("logprobs") or {}).get("content") or []


def _top(step: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return the tokens of a step with their log-probabilities, the generated one first."""
    return [
        (int(item["token"].removeprefix("token_id:")), item["logprob"] if item["logprob"] > NEVER else -math.inf)
        for item in step["top_logprobs"]
    ]


def _likeliest(step: Mapping[str, Any], wanted: int) -> dict[int, float]:
    """Return the generated token and the likeliest ones; it may be one of them."""
    found = [(token, value) for token, value in _top(step) if math.isfinite(value)]
    if len(found) > wanted and found[0][1] >= found[wanted][1]:
        found = found[:wanted]
    return dict(found)
