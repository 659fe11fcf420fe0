"""Requests in vLLM's words, and vLLM's outputs as completions."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any

from llm_assets.engines.compile_check import check_cost, compiled_schema, one_of, other_compiler
from llm_assets.errors import ConfigError
from llm_assets.prompts import Tokenizer
from llm_assets.records import (
    Ask,
    BeamSearch,
    Candidate,
    Completion,
    Constraint,
    FailureKind,
    GenerateText,
    Request,
    ScoreTokens,
    Usage,
)
from llm_assets.secrets import masked

KNOWN_ASKS = 256
FINISHED = ("stop", "length", "repetition")
"""How an answer ends that was not broken off."""


def constraint_arguments(constraint: Constraint) -> dict[str, Any]:
    """Return the arguments of vLLM's StructuredOutputsParams for a constraint."""
    match constraint.kind:
        case "json":
            return {"json": compiled_schema(str(constraint.value)), "disable_any_whitespace": True}
        case "choice":
            return {"regex": one_of(constraint.value)}
    return {constraint.kind: str(constraint.value)}


def structured_outputs(constraint: Constraint) -> Any:
    """Return vLLM's StructuredOutputsParams for a constraint."""
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**constraint_arguments(constraint))


def check_constraint(constraint: Constraint, backend: str) -> None:
    """Raise a ConfigError if a compiler of vLLM's refuses a constraint."""
    complaint = check_cost(constraint, backend)  # first, because nothing limits vLLM's own validators
    from vllm import SamplingParams
    from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    params = SamplingParams(structured_outputs=structured_outputs(constraint))
    try:
        if backend == "xgrammar":
            validate_xgrammar_grammar(params)
        elif backend == "guidance":
            validate_guidance_grammar(params, tokenizer=None)
        if complaint and backend != "auto":  # which has other compilers to turn to
            raise ValueError(complaint)
    except refusals() as error:
        value = masked(str(constraint.value))  # before it is cut: half a secret would not be found
        value = value if len(value) < 300 else f"{value[:300]}..."
        # What it says may have the constraint in it, several times over.
        lines = masked(str(error)).splitlines()[:12]
        said = "\n".join(line if len(line) <= 200 else f"{line[:197]}..." for line in lines)
        raise ConfigError(
            f"The constraint compiler {backend} refuses this {constraint.kind}: {value}\nIt says: {said}\n"
            "Use plain types, enums, and bounds on strings and lists; or another compiler, with the argument "
            f"{other_compiler(backend)}."
        ) from None


def sampling_params(ask: Ask) -> Any:
    """Return vLLM's SamplingParams for what a request asks; a beam search has none.

    They may serve for many requests: vLLM makes a shallow copy for each, where it would otherwise copy all that they
    hold, which costs more than the rest of a request's way into the engine.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

    if isinstance(ask, ScoreTokens):
        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=list(ask.token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            flat_logprobs=True,
            skip_clone=True,
        )
    assert isinstance(ask, GenerateText)
    arguments = dict(ask.sampling)
    repetition: Any = arguments.get("repetition_detection")
    if repetition is not None:
        arguments["repetition_detection"] = RepetitionDetectionParams(**repetition)
    if ask.constraint is not None:
        arguments["structured_outputs"] = structured_outputs(ask.constraint)
    # Only to find a stop text does vLLM need to decode as it goes.
    arguments |= {"detokenize": bool(arguments.get("stop")), "flat_logprobs": True}
    arguments |= {"output_kind": RequestOutputKind.FINAL_ONLY, "skip_clone": True}
    return SamplingParams(**arguments)  # pyright: ignore[reportArgumentType]


class SamplingCache:
    """The parameters for what tasks ask, made once: a task asks the same about all of its rows."""

    def __init__(self, make: Callable[[Any], Any] = sampling_params) -> None:
        self._make = make
        self._known: dict[int, tuple[Ask, Any]] = {}

    def params(self, ask: Ask) -> Any:
        """Return the parameters for what a request asks."""
        known = self._known.get(id(ask))
        if known is None:
            if len(self._known) >= KNOWN_ASKS:
                self._known.clear()
            # What was asked is kept with its parameters, so that no other object can get its id.
            known = self._known[id(ask)] = (ask, self._make(ask))
        return known[1]


def runs_apart(request: Request, in_flight: Mapping[str, Request], speculates: bool) -> bool:
    """Whether a request cannot share the engine's steps with those in flight.

    vLLM's beam search takes the whole engine. And when one request of a step names tokens to score, vLLM's sampler
    returns those in place of the likeliest tokens that another request of the same step asked for. In a step with
    drafts of speculative decoding it takes them for all tokens, and fails, or returns no scores.
    """
    ask = request.ask
    if isinstance(ask, BeamSearch):
        return True
    if speculates:
        other = next(iter(in_flight.values()), request).ask
        return isinstance(ask, ScoreTokens) != isinstance(other, ScoreTokens)
    return isinstance(ask, GenerateText) and bool(ask.sampling.get("logprobs"))


def computing_more_than_one_token(params: Any, prompt_tokens: int, cache_block: int) -> Any:
    """Return SamplingParams with which vLLM computes more than the last token of a prompt.

    With speculative decoding, vLLM takes a prompt that is cached but for one token for an answer that goes on, and puts
    drafts behind it: their step would have no scores.
    """
    if cache_block and (prompt_tokens - 1) % cache_block == 0:
        params = copy(params)
        params.skip_reading_prefix_cache = True
    return params


def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it cannot take. Its own error is a ValueError in some versions only."""
    from vllm.exceptions import VLLMValidationError

    return (ValueError, TypeError, VLLMValidationError)


def refused(request: Request, error: Exception | str) -> Completion:
    """Return the completion of a request that vLLM does not take."""
    return Completion(request.id, error=f"vLLM refused the request: {error}", error_kind=FailureKind.REFUSED_REQUEST)


def completion(request: Request, output: Any, tokenizer: Tokenizer) -> Completion:
    """Read a finished vLLM RequestOutput."""
    usage = Usage(
        prompt=len(request.prompt_token_ids),
        cached=output.num_cached_tokens or 0,
        output=sum(len(item.token_ids) for item in output.outputs),
    )
    stopped = [item.finish_reason for item in output.outputs if item.finish_reason not in FINISHED]
    if stopped:
        return Completion(request.id, error=f"vLLM ended the request with {stopped[0]!r}.", usage=usage)
    if isinstance(request.ask, ScoreTokens):
        first = output.outputs[0].logprobs
        return Completion(request.id, scores=dict(zip(first.token_ids, first.logprobs, strict=True)), usage=usage)
    assert isinstance(request.ask, GenerateText)
    candidates = tuple(_candidate(item, request, request.ask.sampling, tokenizer) for item in output.outputs)
    return Completion(request.id, candidates, usage=usage)


def beam_completion(request: Request, beams: Sequence[Any], tokenizer: Tokenizer) -> Completion:
    """Read the best sequence of a vLLM beam search.

    vLLM ends a beam only at the tokenizer's own end token. A model's other ones, such as the end of its turn, are
    searched past, so each beam is cut at the first and they are ranked anew.
    """
    assert isinstance(request.ask, BeamSearch)
    penalty = request.ask.length_penalty
    prompt = len(request.prompt_token_ids)
    candidates = [_beam_candidate(request, beam, tokenizer) for beam in beams]

    def score(candidate: Candidate) -> float:
        # As vLLM's get_beam_search_score: the prompt's tokens count, and the one that ends the answer does not.
        length = prompt + len(candidate.token_ids) - (candidate.finish_reason == "stop")
        return sum(candidate.logprobs) / length**penalty

    best = max(candidates, key=score)
    return Completion(request.id, (best,), usage=Usage(prompt, output=len(best.token_ids)))


def _beam_candidate(request: Request, beam: Any, tokenizer: Tokenizer) -> Candidate:
    token_ids = tuple(beam.tokens[len(request.prompt_token_ids) :])
    end = next((index for index, token_id in enumerate(token_ids) if token_id in tokenizer.end_token_ids), None)
    if end is not None:
        token_ids = token_ids[: end + 1]
    logprobs = tuple(
        step[token_id].logprob for token_id, step in zip(token_ids, beam.logprobs, strict=False) if token_id in step
    )
    finish_reason = "length" if end is None else "stop"
    return Candidate(answer_text(token_ids, finish_reason, request, {}, tokenizer), token_ids, finish_reason, logprobs)


def _candidate(item: Any, request: Request, sampling: Mapping[str, Any], tokenizer: Tokenizer) -> Candidate:
    token_ids, steps = tuple(item.token_ids), item.logprobs
    if sampling.get("stop"):
        text = item.text
    else:
        text = answer_text(token_ids, item.finish_reason, request, sampling, tokenizer)
    return Candidate(
        text=text,
        token_ids=token_ids,
        finish_reason=item.finish_reason,
        # At each step, the chosen token stands before the likeliest ones.
        logprobs=tuple(steps.logprobs[start] for start in steps.start_indices) if steps else (),
        top_logprobs=tuple(_top(steps)) if steps and sampling.get("logprobs") else (),
    )


def answer_text(
    token_ids: Sequence[int], finish_reason: str, request: Request, sampling: Mapping[str, Any], tokenizer: Tokenizer
) -> str:
    """Return the text of an answer, without the token that ended it.

    It has the space that some tokenizers drop from the beginning of a text.
    """
    if finish_reason == "stop" and not sampling.get("include_stop_str_in_output"):
        token_ids = token_ids[:-1]
    skip = bool(sampling.get("skip_special_tokens", True))
    before = request.prompt_token_ids[-1:]
    text = tokenizer.decode([*before, *token_ids], skip)[len(tokenizer.decode(before, skip)) :]
    return text.rstrip("\ufffd")  # the bytes of a character that was cut off


def _top(steps: Any) -> Iterator[dict[int, float]]:
    for start, end in zip(steps.start_indices, steps.end_indices, strict=True):
        found = zip(steps.token_ids[start:end], steps.logprobs[start:end], strict=True)
        yield {token_id: logprob for token_id, logprob in found if math.isfinite(logprob)}
