"""Requests to a host with OpenAI's interface: messages there, text back."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from llm_assets.engines.server.labels import label_scores
from llm_assets.engines.server.reading import UnreadableAnswerError, choices_of, usage_of
from llm_assets.engines.server.settings import ServerSettings
from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.prompts import TextTokenizer
from llm_assets.records import (
    Candidate,
    Completion,
    Constraint,
    FailureKind,
    GenerateText,
    Request,
    ScoreTokens,
    Usage,
)
from llm_assets.sampling import Sampling

PATH = "/chat/completions"
MOST_TOP_LOGPROBS = 20
KNOWN = ("temperature", "top_p", "max_tokens", "stop", "seed", "presence_penalty", "frequency_penalty", "n", "logprobs")
"""Sampling parameters that OpenAI's interface has as well."""

ENDS = {"stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop", "length": "length"}
"""What hosts call an answer that ended by itself, and one that was cut off."""

CHOICE = "answer"
"""The property of a JSON answer that holds the choice."""


def check_chat(constraint: Constraint) -> None:
    """Raise a ConfigError if OpenAI's interface has no such constraint."""
    if constraint.kind in ("regex", "grammar"):
        raise ConfigError(
            f"OpenAI's interface has no {constraint.kind} constraint. Use a choice or a JSON schema, or a vLLM server "
            "(api='vllm')."
        )


class ChatWire:
    """Puts requests into chat completions, and what comes back into completions.

    Labels are scored by what the host answers, and by the tokens that it could have answered with at each place, of
    which hosts name at most twenty. A token that several labels begin with is followed where the host's own answer went
    on with it; elsewhere its probability is undecided among them.
    """

    path = PATH

    def __init__(self, settings: ServerSettings, tokenizer: TextTokenizer) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        host = urlsplit(settings.urls[0]).hostname or ""
        # OpenAI's own models want the new name, and most other hosts know the old one only.
        new = host.endswith(("openai.com", "azure.com"))
        self._max_tokens = "max_completion_tokens" if new else "max_tokens"

    def bodies(self, request: Request) -> list[bytes]:
        """Return the HTTP request of a request."""
        messages, _ = self._tokenizer.messages(request.prompt_token_ids)
        body: dict[str, Any] = {"model": self._settings.model, "messages": messages}
        if self._settings.chat_template_kwargs:
            body["chat_template_kwargs"] = self._settings.chat_template_kwargs
        if isinstance(request.ask, ScoreTokens):
            body |= {"temperature": 0.0, self._max_tokens: request.ask.most_tokens}
            body |= {"logprobs": True, "top_logprobs": MOST_TOP_LOGPROBS}
        else:
            assert isinstance(request.ask, GenerateText)
            body |= self._sampling(request.ask.sampling)
            if request.ask.constraint is not None:
                body["response_format"] = _response_format(request.ask.constraint)
        return [json.dumps(body).encode()]

    def usage(self, answers: Sequence[Any]) -> Usage:
        """Return the tokens that an answer counts, if only to be refused."""
        return usage_of(answers)

    def completion(self, request: Request, answers: Sequence[Any]) -> Completion:
        """Read what the host answered.

        Raises:
            UnreadableAnswerError: it lacks what was asked for.
        """
        (answer,) = answers
        ask, usage = request.ask, usage_of(answers)
        wanted = int(str(ask.sampling.get("n", 1))) if isinstance(ask, GenerateText) else 1
        choices = sorted(choices_of(answer, wanted), key=lambda choice: choice.get("index", 0))
        for choice in choices:
            said, reason = choice["message"].get("refusal"), choice["finish_reason"]
            if said or reason not in ENDS:
                message = f"The host ended the answer with {reason!r}. {said or ''}".strip()
                is_refused = said or reason == "content_filter"
                kind = FailureKind.REFUSED_REQUEST if is_refused else FailureKind.ENGINE_ERROR
                return Completion(request.id, error=message, error_kind=kind, usage=usage)
        if isinstance(ask, ScoreTokens):
            scores, undecided = self._scores(choices[0], request, ask)
            return Completion(request.id, scores=scores, undecided=undecided, usage=usage)
        assert isinstance(ask, GenerateText)
        return Completion(request.id, tuple(self._candidate(choice, ask) for choice in choices), usage=usage)

    def _sampling(self, sampling: Mapping[str, Any]) -> dict[str, Any]:
        body = {}
        for name, value in sampling.items():
            if name == "max_tokens":
                body[self._max_tokens] = value
            elif name == "logprobs":
                body["logprobs"] = True
                if value:
                    body["top_logprobs"] = min(int(value), MOST_TOP_LOGPROBS)
            elif name in KNOWN:
                body[name] = value
            elif value != Sampling.model_fields[name].default:
                raise ConfigError(
                    f"OpenAI's interface has no sampling parameter {name!r}. {did_you_mean(name, KNOWN)} A vLLM server "
                    "(api='vllm') has them all."
                )
        return body

    def _scores(self, choice: Mapping[str, Any], request: Request, ask: ScoreTokens) -> tuple[dict[int, float], float]:
        """Return the log-probability of each label, and that of what several of them begin with."""
        steps = _steps(choice)
        if not steps or not all(step.get("top_logprobs") for step in steps):
            raise UnreadableAnswerError(
                "The host's answer has no top_logprobs, by which labels are scored. Name a model or a host that gives "
                "them, or use a Generate task with `choice` and confidence: false."
            )
        _, before = self._tokenizer.messages(request.prompt_token_ids)
        labels = [before + self._tokenizer.decode([token_id]) for token_id in ask.token_ids]
        scores, undecided = label_scores(steps, ENDS[choice["finish_reason"]] == "stop", labels)
        return dict(zip(ask.token_ids, scores, strict=True)), undecided

    def _candidate(self, choice: Mapping[str, Any], ask: GenerateText) -> Candidate:
        text, steps, wanted = _text(choice), _steps(choice), ask.sampling.get("logprobs")
        # Without them an answer has no confidence, but the one of several that is best is found by them.
        if text and not steps and (wanted or ask.sampling.get("n", 1) != 1):
            raise UnreadableAnswerError(
                "The host's answer has no log-probabilities. Leave `candidates` of the task at 1 and set no "
                "sampling.logprobs, or name a model or a host that gives them."
            )
        if wanted and not all(step.get("top_logprobs") for step in steps):
            raise UnreadableAnswerError(
                "The host's answer has no top_logprobs, for which sampling.logprobs asks. Leave it out, or name a "
                "model or a host that gives them."
            )
        if ask.constraint is not None and ask.constraint.kind == "choice":
            steps = _steps_of_choice(text, steps)
            text = _chosen(text)
        tokens = [self._tokenizer.id_of(step["token"]) for step in steps]
        return Candidate(
            text=text,
            token_ids=tuple(tokens if steps else self._tokenizer.encode_literal([text])[0]),
            finish_reason=ENDS[choice["finish_reason"]],
            logprobs=tuple(min(step["logprob"], 0.0) for step in steps),
            top_logprobs=tuple(
                {self._tokenizer.id_of(item["token"]): item["logprob"] for item in step["top_logprobs"]}
                for step in steps
            )
            if wanted
            else (),
        )


def _steps(choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The tokens of an answer with their log-probabilities, as far as the host gives them."""
    return (choice.get("logprobs") or {}).get("content") or []


def _text(choice: Mapping[str, Any]) -> str:
    text = choice["message"].get("content")
    if text is None and choice["finish_reason"] == "length":
        return ""  # a model that thinks first had not begun to answer
    if not isinstance(text, str):
        raise UnreadableAnswerError(
            f"The host's answer has no text: message.content is {str(text)[:100]!r}. Name a model that answers in text."
        )
    return text


def _response_format(constraint: Constraint) -> dict[str, Any]:
    check_chat(constraint)
    if constraint.kind == "choice":
        schema: Any = {
            "type": "object",
            "properties": {CHOICE: {"type": "string", "enum": list(constraint.value)}},
            "required": [CHOICE],
            "additionalProperties": False,
        }
    else:
        schema = json.loads(str(constraint.value))
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _steps_of_choice(text: str, steps: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the tokens of the choice in a JSON answer, without those of the JSON around it; all of another form."""
    if _chosen(text) == text or "".join(step["token"] for step in steps) != text:
        return steps
    start, end = text.index('"', text.index(":")) + 1, text.rindex('"')
    found, place = [], 0
    for step in steps:
        before, place = place, place + len(step["token"])
        if before < end and place > start:
            found.append(step)
    return found or steps


def _chosen(text: str) -> str:
    """Return the choice in a JSON answer; of one that is cut off or has another form, what there is."""
    try:
        found = json.loads(text)[CHOICE]
    except (ValueError, TypeError, KeyError, RecursionError):
        return text
    return found if isinstance(found, str) else text
