"""Small real HTTP servers that speak as vLLM does, and misbehave as they are told."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from llm_assets.engines import ServerEngine, ServerSettings
from llm_assets.records import Completion, GenerateText, Request

ASK = GenerateText({"temperature": 0.0, "max_tokens": 1, "logprobs": 0})

Behaviour = Callable[["OddServer", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


async def behave(server: "OddServer", request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Answer as a vLLM server does: with the length of the prompt as the only token."""
    return answer(body)


def answer(body: dict[str, Any]) -> web.Response:
    prompt = body["token_ids"]
    token = {"token": f"token_id:{len(prompt)}", "logprob": -0.5}
    choice = {
        "index": 0,
        "token_ids": [len(prompt)],
        "finish_reason": "length",
        "logprobs": {"content": [{**token, "top_logprobs": [token]}]},
    }
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}})


def error(status: int, message: str, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": {"message": message}}, status=status, headers=named)


class OddServer:
    """A server in a thread of its own, on a free port that it keeps when it is stopped and started again."""

    def __init__(self, behaviour: Behaviour = behave, port: int = 0) -> None:
        self.behaviour = behaviour
        self.port = port
        self.asked: list[int] = []
        """The first token of each prompt that was asked about, in order."""
        self.keys: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self.served: Any = [{"id": "model", "max_model_len": 2048}]
        self.models_status = self.health_status = 200
        self.started = False
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        self.started = True

    def stop(self) -> None:
        """Break all connections."""
        if self.started:
            self.started = False
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._runner.cleanup()

    async def _start(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.post("/inference/v1/generate", self._generate),
                web.post("/v1/chat/completions", self._generate),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.health_status)

    async def _models(self, request: web.Request) -> web.Response:
        if self.models_status != 200:
            return error(self.models_status, "no")
        return web.json_response({"data": self.served})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body.get("token_ids", [0])[0])
        self.keys.append(request.headers.get("Authorization"))
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.behaviour(self, request, body)
        finally:
            self.in_flight -= 1
            self._tasks.discard(task)


@contextmanager
def server_engines(weights: Path) -> Iterator[Callable[..., ServerEngine]]:
    """Gives what makes engines for servers; they are closed at the end."""
    made: list[ServerEngine] = []

    def make(*servers: OddServer, **settings: Any) -> ServerEngine:
        settings = {"unavailable_seconds": 20, "max_model_len": 2048, "weights": str(weights), **settings}
        made.append(ServerEngine(ServerSettings(urls=[server.url for server in servers], model="model", **settings)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def requests(number: int) -> list[Request]:
    """Requests whose first token is their id, and whose length it is too."""
    return [Request(n, [n] * (1 + n % 50), ASK) for n in range(number)]


def check_answers(found: Sequence[Completion], number: int) -> None:
    """Every request has its own answer, once."""
    assert sorted(completion.id for completion in found) == list(range(number))
    for completion in found:
        assert completion.error is None
        assert completion.candidates[0].token_ids == (1 + completion.id % 50,)
