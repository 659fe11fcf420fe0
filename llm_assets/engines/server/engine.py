"""A model behind HTTP: a vLLM server, or any host with OpenAI's interface."""

import asyncio
import json
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Protocol
from urllib.parse import urlsplit

from llm_assets.engines.background import Background
from llm_assets.engines.compile_check import check_limits
from llm_assets.engines.idle import IdleClock
from llm_assets.engines.server.chat import ChatWire, check_chat
from llm_assets.engines.server.reading import UnreadableAnswerError
from llm_assets.engines.server.settings import CHAT_LENGTH, ServerSettings
from llm_assets.engines.server.transport import Answer, Transport
from llm_assets.engines.server.vllm_wire import VllmWire
from llm_assets.engines.vllm.engine import VllmEngine
from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.prompts import TextTokenizer, Tokenizer
from llm_assets.records import (
    BeamSearch,
    Completion,
    Constraint,
    EngineInfo,
    FailureKind,
    GenerateText,
    Request,
    Usage,
)
from llm_assets.secrets import masked


class Wire(Protocol):
    """How requests are written for a kind of server, and its answers read."""

    path: str

    def bodies(self, request: Request) -> list[bytes]:
        """Return the HTTP requests that a request needs, or raise a ConfigError."""
        ...

    def completion(self, request: Request, answers: Sequence[Any]) -> Completion:
        """Read the answers to them."""
        ...

    def usage(self, answers: Sequence[Any]) -> Usage:
        """Return the tokens that the answers count, also of those that cannot be read."""
        ...


class ServerEngine:
    """Asks servers that run elsewhere, many requests side by side; each goes where the fewest are in flight.

    With a vLLM server prompts are token ids, and the answers are those of an engine inside the run: the two share
    their identity, and so their answers. Any other host gets messages.

    Raises:
        ConfigError: the settings name weights that do not exist, or no server has the model, or takes the key.
        EngineAwayError: no server has answered for `unavailable_seconds`.
        EngineFaultError: the server has nothing but errors for every request.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._twin = VllmEngine(settings.weights_settings()) if settings.api == "vllm" else None
        """An engine inside the run with the same weights, which is never loaded."""
        self._idle = IdleClock()
        self._active = 0
        self._background: Background[Completion] | None = None
        self._transport: Transport | None = None

    @property
    def identity(self) -> str:
        if self._twin is not None:
            return self._twin.identity
        variables = self.settings.chat_template_kwargs
        said = f"|{json.dumps(variables, sort_keys=True, default=str)}" if variables else ""
        return f"chat|{self._host}|{self.settings.model}{said}"

    @property
    def tokenizer(self) -> Tokenizer:
        return self._twin.tokenizer if self._twin is not None else self._bytes

    @cached_property
    def _bytes(self) -> TextTokenizer:
        return TextTokenizer()

    @property
    def max_model_len(self) -> int:
        """The most tokens of prompt and answer together. Of another host's tokens, none is less than a byte."""
        return self._twin.max_model_len if self._twin is not None else self.settings.max_model_len or CHAT_LENGTH

    @property
    def cache_block(self) -> int:
        return self.settings.cache_block if self._twin is not None else 0

    @property
    def info(self) -> EngineInfo:
        prices = self.settings.price_list()
        if self._twin is None:
            return EngineInfo("chat", self.settings.model, "", self._host, prices=prices)
        most = self.settings.most_scored
        return replace(self._twin.info, engine="server", device=self._host, prices=prices, most_scored=most)

    @property
    def _host(self) -> str:
        return ", ".join(urlsplit(url).netloc for url in self.settings.urls)

    @property
    def idle_seconds(self) -> float:
        return self._idle.seconds

    def check(self, constraint: Constraint) -> None:
        check_limits(constraint)
        if self._twin is None:
            check_chat(constraint)
        elif find_spec("vllm") is not None:  # without it the server says what it refuses
            self._twin.check(constraint)

    def load(self) -> None:
        self._connect()

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        background, transport = self._connect()
        background.run(transport.begin())
        limit = self.settings.most_in_flight
        pending = iter(requests)
        aside: list[Request] = []
        in_flight, exhausted = 0, False
        self._idle.begin()
        try:
            while True:
                while not exhausted and in_flight + len(aside) < limit and len(aside) < max(1, limit // 8):
                    request = next(pending, None)
                    if request is None:
                        exhausted = True
                    elif isinstance(request.ask, BeamSearch):
                        yield _no_beams(request)
                    elif self._runs_apart(request):
                        aside.append(request)
                    else:
                        background.submit(self._ask(request))
                        in_flight += 1
                if not in_flight and aside:
                    for request in aside:
                        background.submit(self._ask(request))
                    for _ in aside:
                        yield background.get()
                    aside = []
                elif in_flight:
                    in_flight -= 1
                    yield background.get()
                elif exhausted:
                    return
        finally:
            background.cancel_all()
            self._idle.end()

    def close(self) -> None:
        background, transport = self._background, self._transport
        self._background = self._transport = None
        if background is not None:
            background.cancel_all()
            if transport is not None:
                background.run(transport.close())
            background.close()

    @cached_property
    def _wire(self) -> Wire:
        if self.settings.api == "vllm":
            return VllmWire(self.settings, self.tokenizer)
        return ChatWire(self.settings, self._bytes)

    def _runs_apart(self, request: Request) -> bool:
        """Whether a request for the likeliest tokens of each step is one for vLLM.

        When another request of the same step names tokens to score, vLLM's sampler gives those in their place.
        """
        ask = request.ask
        return self._twin is not None and isinstance(ask, GenerateText) and bool(ask.sampling.get("logprobs"))

    def _connect(self) -> tuple[Background[Completion], Transport]:
        """Return the loop in which requests are made, and what makes them; the first time, wait for a server."""
        if self._background is None or self._transport is None:
            length = self.max_model_len if self.settings.api == "vllm" else 0
            background = self._background = Background("llm_assets server")
            try:
                self._transport = background.run(_transport(self.settings, length))
                background.run(self._transport.begin())
                background.run(self._transport.wait())
            except BaseException:
                self.close()
                raise
        return self._background, self._transport

    async def _ask(self, request: Request) -> Completion:
        self._active += 1
        self._idle.works()
        try:
            return await self._answer(request)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.rests()

    async def _answer(self, request: Request) -> Completion:
        assert self._transport is not None
        bodies = self._wire.bodies(request)
        if len(bodies) == 1:
            answers = [await self._transport.post(self._wire.path, bodies[0], request.row)]
        else:
            answers = await _all_of([self._transport.post(self._wire.path, body, request.row) for body in bodies])
        return self._read(request, answers)

    def _read(self, request: Request, answers: Sequence[Answer]) -> Completion:
        bodies = [answer.body for answer in answers]
        usage = self._wire.usage(bodies)  # it is billed, whatever becomes of it
        for answer in answers:
            if answer.refused:
                message = f"The server refused the request: {answer.refused}"
                return Completion(request.id, error=message, error_kind=FailureKind.REFUSED_REQUEST, usage=usage)
            if answer.failed:
                return Completion(request.id, error=answer.failed, usage=usage)
        try:
            return self._wire.completion(request, bodies)
        except UnreadableAnswerError as error:
            reason = str(error)
        except Exception as error:  # it can have any form
            reason = f"The server's answer has another form ({type(error).__name__}: {error})."
        shown = masked(str(bodies[0]))[:500]
        return Completion(request.id, error=f"{reason} The answer: {shown}", usage=usage)


async def _transport(settings: ServerSettings, length: int) -> Transport:
    """Return the connections; they are made in the loop that uses them."""
    return Transport(settings, lambda url, served: _check_models(settings.model, length, url, served))


def _check_models(model: str, length: int, url: str, served: Mapping[str, Any]) -> None:
    """Raise a ConfigError unless a server serves the model, with the length that prompts are made for."""
    if model not in served:
        raise ConfigError(f"{url} does not serve a model {model!r}. {did_you_mean(model, served)}")
    has = served[model].get("max_model_len")
    if isinstance(has, int) and has < length:
        raise ConfigError(
            f"{url} was started with max_model_len {has}, and here it is {length}. Set max_model_len={has} here, or "
            f"start the server with --max-model-len {length}."
        )


async def _all_of(calls: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """Return the answers to several calls; when one raises an error, break off the others and raise it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _no_beams(request: Request) -> Completion:
    message = (
        "A server has no beam search that takes token ids. Use an engine inside the run (VllmResource, or type: vllm) "
        "for a task with beam_width."
    )
    return Completion(request.id, error=message, error_kind=FailureKind.REFUSED_REQUEST)
