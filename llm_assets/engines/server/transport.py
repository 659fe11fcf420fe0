"""JSON over HTTP, many calls side by side, tried again where that can help."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from llm_assets.engines.server.endpoints import Endpoint, Endpoints
from llm_assets.engines.server.replies import Kind, Reply, read_json, read_reply
from llm_assets.engines.server.settings import ServerSettings
from llm_assets.errors import ConfigError, EngineAwayError, EngineFaultError, ModelError

BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 0.25, 30.0
"""The first pause before another try, at most, and the last one; in between it doubles."""

KEEP_ALIVE_SECONDS = 4.0
"""A connection at rest is closed after so long: vLLM's server closes it after five seconds, and a request that is on
its way just then would be lost."""


class Answer(NamedTuple):
    """What a server said to a request: the body of its answer, or why this one request has none."""

    body: Any = None
    refused: str = ""
    failed: str = ""


class Transport:
    """Calls to the addresses of a server, over one pool of connections that stay open; for one event loop.

    Args:
        settings: Where the servers are, and how long to wait for them.
        check_models: Raises a ConfigError unless the models that an address serves, by name, have what is wanted.

    Raises:
        ModelError: the package aiohttp is not installed.
    """

    def __init__(self, settings: ServerSettings, check_models: Callable[[str, Mapping[str, Any]], None]) -> None:
        if find_spec("aiohttp") is None:
            raise ModelError("A server needs the package aiohttp. Install llm_assets with the extra 'server'.")
        import aiohttp

        self._settings = settings
        self._check_models = check_models
        self._client_error = aiohttp.ClientError
        self._broken = (aiohttp.ClientError, OSError)
        """What is raised when there is no connection, or no more; a TimeoutError is an OSError."""
        key = settings.key()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds, sock_connect=settings.connect_timeout),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._look_seconds = aiohttp.ClientTimeout(total=settings.connect_timeout)
        self._endpoints = Endpoints(settings.urls, settings.max_in_flight, settings.unavailable_seconds, self._look)
        self._busy_since: float | None = None
        """Since when requests are only told that there are too many of them."""

    async def begin(self) -> None:
        """Begin a run: what was in another one does not count."""
        self._busy_since = None
        self._endpoints.begin()

    async def wait(self) -> None:
        """Wait until an address is there.

        Raises:
            ConfigError: none of them is the server that is wanted.
            EngineAwayError: none answered for `unavailable_seconds`.
        """
        self._endpoints.give_back(await self._endpoints.take())

    async def post(self, path: str, body: bytes, row: int | None = None) -> Answer:
        """Send a request about a row to an address, again where it fails, and return the answer.

        Raises:
            ConfigError: no address is the server that is wanted: the key, the model or the path is another one.
            EngineAwayError: no address has answered for `unavailable_seconds`.
            EngineFaultError: the server has nothing but errors for every request.
        """
        most = self._settings.max_attempts
        errors, breaks, pauses = 0, 0, 0
        began, answers, seen = time.monotonic(), self._endpoints.answers, None
        failed_at: set[Endpoint] = set()
        while True:
            endpoint = await self._endpoints.take(failed_at, row)
            try:
                reply = await self._send(endpoint, path, body)
            finally:
                self._endpoints.give_back(endpoint)
            failed_at.add(endpoint)
            match reply.kind:
                case Kind.GOOD | Kind.REFUSED:
                    self._endpoints.answered(endpoint)
                    self._busy_since = None
                    return Answer(reply.body, refused=reply.message)
                case Kind.WRONG if reply.status != 403 or not endpoint.has_answered:
                    wrong = self._wrong(endpoint, path, reply)
                    self._endpoints.leave_out(endpoint, str(wrong), wrong)
                case Kind.BUSY:
                    pauses += 1
                    await self._rest(endpoint, reply, pauses)
                case Kind.AWAY:
                    self._endpoints.leave_out(endpoint, reply.trouble, wait=reply.wait)
                    # It may be this request that breaks a server, but not if the server has just not come back.
                    signs = (self._endpoints.answers, self._endpoints.returns)
                    if signs != seen:
                        breaks, seen = breaks + 1, signs
                        if breaks >= most and self._is_overdue(began):
                            return Answer(failed=f"The server broke {breaks} times, the last one with: {reply.trouble}")
                case Kind.FAULTY | Kind.WRONG:  # a host says 403 of a text that it does not want, too
                    if reply.kind is Kind.FAULTY:
                        self._endpoints.failed(endpoint, reply.trouble)
                    errors += 1
                    if errors >= most:
                        if not await self._endpoints.is_well(endpoint):
                            errors = 0  # it was not this request
                        elif self._endpoints.answers == answers and reply.kind is Kind.WRONG:
                            raise self._wrong(endpoint, path, reply)
                        elif self._endpoints.answers == answers:
                            raise EngineFaultError(f"The server at {endpoint.url} answers no request: {reply.trouble}")
                        else:
                            failed = f"The server failed {errors} times, the last one with: {reply.trouble}"
                            return Answer(failed=failed)
                    pauses += 1
                    await asyncio.sleep(_backoff(pauses))

    async def close(self) -> None:
        """Close all connections."""
        await self._endpoints.close()
        await self._session.close()

    async def _send(self, endpoint: Endpoint, path: str, body: bytes) -> Reply:
        headers = {"Content-Type": "application/json"}
        url = f"{endpoint.url}{path}"
        try:
            # A redirect would take the key somewhere else.
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                text = (await response.read()).decode("utf-8", "replace")
                return read_reply(response.status, response.headers, text)
        except self._broken as error:
            if isinstance(error, TimeoutError) and not isinstance(error, self._client_error):
                # The server has the request; otherwise the connection was not made in time.
                seconds = f"{self._settings.timeout_seconds:g} seconds (timeout_seconds)"
                return Reply(Kind.FAULTY, message=f"no answer within {seconds}")
            return Reply(Kind.AWAY, message=f"{type(error).__name__}: {error}")

    async def _rest(self, endpoint: Endpoint, reply: Reply, pauses: int) -> None:
        """Wait as long as a server wants that has too many requests, or not at all if there is another.

        Raises:
            EngineAwayError: that is all that any has said for `unavailable_seconds`.
        """
        patience = self._settings.unavailable_seconds
        self._busy_since = self._busy_since or time.monotonic()
        left = self._busy_since + patience - time.monotonic()
        if left <= 0:
            raise EngineAwayError(
                f"For {patience:g} seconds (unavailable_seconds) the server has only said: {reply.trouble}. "
                "Lower max_in_flight, or raise the account's limits."
            )
        seconds = min(_backoff(pauses) if reply.wait is None else reply.wait + _backoff(0), left)
        if not self._endpoints.busy(endpoint, seconds):
            await asyncio.sleep(seconds)

    async def _get(self, endpoint: Endpoint, path: str) -> tuple[int, Any]:
        """Return the status of an address for a path, and what it says there."""
        url = f"{endpoint.url}{path}"
        async with self._session.get(url, timeout=self._look_seconds, allow_redirects=False) as response:
            return response.status, read_json((await response.read()).decode("utf-8", "replace"))

    async def _look(self, endpoint: Endpoint) -> str:
        """Return why an address cannot take requests now, nothing if it can.

        Raises:
            ConfigError: it is not the server that is wanted.
        """
        is_vllm = self._settings.api == "vllm"
        path = "/v1/models" if is_vllm else "/models"
        try:
            if is_vllm and (status := (await self._get(endpoint, "/health"))[0]) >= 500:
                return f"/health answers with {status}"
            status, body = await self._get(endpoint, path)
        except (*self._broken, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        # A key of a host may have the right to ask a model, and not to list the models.
        if status == 401 or (status == 403 and is_vllm):
            raise self._wrong_key(endpoint, status)
        if status in (408, 429) or status >= 500:
            return f"{path} answers with {status}"
        if is_vllm:
            served = _models(body) if status == 200 else {}
            if not served and endpoint.was_well:
                return f"{path} answers with {status} and no list of models"
            if not served:
                raise ConfigError(
                    f"{endpoint.url}{path} answers with {status} and no list of models. Is it a vLLM server?"
                )
            self._check_models(endpoint.url, served)
        return ""  # some hosts have no list of models

    def _is_overdue(self, began: float) -> bool:
        return time.monotonic() - began > self._settings.unavailable_seconds

    def _wrong(self, endpoint: Endpoint, path: str, reply: Reply) -> ConfigError:
        if reply.status in (401, 403):
            return self._wrong_key(endpoint, reply.status, reply.message)
        if reply.status == 402:
            return ConfigError(f"{endpoint.url} answers with 402: {reply.message}. The account has no credit left.")
        route = (
            " Is it vLLM 0.25 or later? Later versions have this route only when they are started with "
            "--enable-scale-out."
            if self._settings.api == "vllm" and "model" not in reply.message.lower()
            else ""
        )
        return ConfigError(
            f"{endpoint.url}{path} answers with {reply.status}, to a request for model {self._settings.model!r}: "
            f"{reply.message}.{route}"
        )

    def _wrong_key(self, endpoint: Endpoint, status: int, message: str = "") -> ConfigError:
        name = self._settings.key_variable
        has = "has another one" if self._settings.key() else "is not set"
        return ConfigError(
            f"{endpoint.url} answers with {status}: it wants a key. It is read from the environment variable {name}, "
            f"which {has}. Set it where runs are executed; api_key_env names another variable."
            + (f" The server says: {message}" if message else "")
        )


def _backoff(pauses: int) -> float:
    """Return how long to wait before another try: at random, so that requests that failed together come apart."""
    return random.uniform(0, min(BACKOFF_SECONDS * 2**pauses, MOST_BACKOFF_SECONDS))


def _models(body: Any) -> dict[str, Any]:
    """Return the models in a server's list of them, by name."""
    models = body.get("data") if isinstance(body, dict) else None
    items = [item for item in models if isinstance(item, dict)] if isinstance(models, list) else []
    return {item["id"]: item for item in items if isinstance(item.get("id"), str)}
