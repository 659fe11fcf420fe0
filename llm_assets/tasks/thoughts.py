"""A reasoning model's thoughts, which come before its answer and are no part of it."""

from collections.abc import Sequence
from dataclasses import replace

from llm_assets.records import Candidate, Failure, FailureKind

THOUGHTS_BEGIN, THOUGHTS_END = "<think>", "</think>"


def without_thoughts(candidate: Candidate, are_begun: bool, end_token_ids: Sequence[int]) -> Candidate | None:
    """Return a candidate without the thoughts before it; None if it thought to the end.

    Args:
        candidate: What the model generated.
        are_begun: Whether the prompt ends with the beginning of thoughts.
        end_token_ids: The tokens of what ends them. Where they are several, the confidence is that of thoughts and
            answer together.
    """
    if not (are_begun or candidate.text.lstrip().startswith(THOUGHTS_BEGIN)):
        return candidate
    _, end, text = candidate.text.partition(THOUGHTS_END)
    if not end:
        return None
    start = 0
    if len(end_token_ids) == 1 and end_token_ids[0] in candidate.token_ids:
        start = candidate.token_ids.index(end_token_ids[0]) + 1
    return replace(
        candidate,
        text=text,
        token_ids=candidate.token_ids[start:],
        logprobs=candidate.logprobs[start:],
        top_logprobs=candidate.top_logprobs[start:],
    )


def still_thinking(task: str, candidate: Candidate) -> Failure:
    """The failure of a reasoning model that came to no answer."""
    return Failure(
        FailureKind.TRUNCATED,
        f"The model was still thinking after {len(candidate.token_ids)} tokens. Raise sampling.max_tokens of task "
        f"{task!r}, or have it not think, as with the engine's chat_template_kwargs={{'enable_thinking': False}}.",
        candidate.text,
    )
