"""Requests to a host with OpenAI's interface: messages there, text back."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from llm_assets.engines.server.settings import ServerSettings
from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.prompts import ByteTokenizer
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

CHOICE = "answer"
"""The property of a JSON answer that holds the choice."""


class TextTokenizer(ByteTokenizer):
    """A tokenizer of bytes that also gives an id to each piece of text that a host names as one token of its own."""

    _FIRST = 1000

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    def id_of(self, text: str) -> int:
        """Return the id of a host's token."""
        if text not in self._ids:
            self._ids[text] = self._FIRST + len(self._texts)
            self._texts.append(text)
        return self._ids[text]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        pieces = (
            self._texts[token_id - self._FIRST].encode("utf-8", "replace")
            if token_id >= self._FIRST
            else bytes([token_id] if token_id < 256 else [])
            for token_id in token_ids
        )
        return b"".join(pieces).decode("utf-8", "replace")


def check_chat(constraint: Constraint) -> None:
    """Raise a ConfigError if OpenAI's interface has no such constraint."""
    if constraint.kind in ("regex", "grammar"):
        raise ConfigError(
            f"OpenAI's interface has no {constraint.kind} constraint. Use a choice or a JSON schema, or a vLLM server "
            "(api='vllm')."
        )


class ChatWire:
    """Puts requests into chat completions, and what comes back into completions.

    Labels are scored by the likeliest first tokens of an answer, of which hosts name at most twenty: a label's
    probability is that of the tokens that its text begins with.
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
        if isinstance(request.ask, ScoreTokens):
            body |= {"temperature": 0.0, self._max_tokens: 1, "logprobs": True, "top_logprobs": MOST_TOP_LOGPROBS}
        else:
            assert isinstance(request.ask, GenerateText)
            body |= self._sampling(request.ask.sampling)
            if request.ask.constraint is not None:
                body["response_format"] = _response_format(request.ask.constraint)
        return [json.dumps(body).encode()]

    def completion(self, request: Request, answers: Sequence[Any]) -> Completion:
        """Read what the host answered."""
        (answer,) = answers
        used = answer.get("usage") or {}
        usage = Usage(
            prompt=used.get("prompt_tokens") or 0,
            cached=(used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            output=used.get("completion_tokens") or 0,
        )
        choices = sorted(answer["choices"], key=lambda choice: choice.get("index", 0))
        if isinstance(request.ask, ScoreTokens):
            _, prefix = self._tokenizer.messages(request.prompt_token_ids)
            (step, *_) = choices[0]["logprobs"]["content"]
            return Completion(request.id, scores=self._scores(step, prefix, request.ask.token_ids), usage=usage)
        for choice in choices:
            said = choice["message"].get("refusal")
            if said or choice["finish_reason"] not in ("stop", "length"):
                message = f"The host ended the answer with {choice['finish_reason']!r}. {said or ''}".strip()
                return Completion(request.id, error=message, error_kind=FailureKind.REFUSED_REQUEST, usage=usage)
        assert isinstance(request.ask, GenerateText)
        ask = request.ask
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

    def _scores(self, step: Mapping[str, Any], prefix: str, token_ids: Sequence[int]) -> dict[int, float]:
        """Return for each way on from `prefix` the log-probability of those first tokens that go it."""
        found = [(item["token"].lstrip(), item["logprob"]) for item in step["top_logprobs"]]
        ways = prefix.encode()
        letters = [bytes([token_id]).lower() for token_id in token_ids if token_id < 256]
        if len(set(letters)) == len(letters):
            # "Positive" means the label "positive", unless labels differ in nothing else.
            found, ways, prefix = [(text.lower(), value) for text, value in found], ways.lower(), prefix.lower()
        else:
            letters = [bytes([token_id]) for token_id in token_ids if token_id < 256]
        letter_of = dict(zip((i for i in token_ids if i < 256), letters, strict=True))
        scores = {}
        for token_id in token_ids:
            if token_id in self._tokenizer.end_token_ids:
                values = [value for text, value in found if text == prefix or _is_an_end(text)]
            else:
                way = ways + letter_of[token_id]
                values = [value for text, value in found if text.encode("utf-8", "replace").startswith(way)]
            total = math.fsum(map(math.exp, values))
            scores[token_id] = min(math.log(total), 0.0) if total else -math.inf
        return scores

    def _candidate(self, choice: Mapping[str, Any], ask: GenerateText) -> Candidate:
        text = choice["message"].get("content") or ""
        if ask.constraint is not None and ask.constraint.kind == "choice":
            text = _chosen(text)
        steps = (choice.get("logprobs") or {}).get("content") or []
        wanted = int(ask.sampling.get("logprobs") or 0)  # pyright: ignore[reportArgumentType]
        tokens = [self._tokenizer.id_of(step["token"]) for step in steps]
        return Candidate(
            text=text,
            token_ids=tuple(tokens if steps else self._tokenizer.encode_literal([text])[0]),
            finish_reason=choice["finish_reason"],
            logprobs=tuple(min(step["logprob"], 0.0) for step in steps),
            top_logprobs=tuple(
                {self._tokenizer.id_of(item["token"]): item["logprob"] for item in step["top_logprobs"]}
                for step in steps
            )
            if wanted
            else (),
        )


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


def _chosen(text: str) -> str:
    """Return the choice in a JSON answer; of one that is cut off, what there is."""
    try:
        return json.loads(text)[CHOICE]
    except (ValueError, TypeError, KeyError):
        return text


def _is_an_end(text: str) -> bool:
    """Whether a token is one that ends an answer: hosts write it as nothing, or in angle brackets."""
    return not text or (text.startswith("<") and text.endswith(">"))
