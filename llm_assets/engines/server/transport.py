"""JSON over HTTP, many calls side by side, tried again where that can help."""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any, NamedTuple

from llm_assets.engines.server.endpoints import Endpoint, Endpoints
from llm_assets.engines.server.settings import ServerSettings
from llm_assets.errors import ConfigError, EngineAwayError, EngineError, ModelError
from llm_assets.secrets import masked, masked_logger

BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 0.25, 30.0
"""The first pause before another try, at most, and the last one; in between it doubles."""

KEEP_ALIVE_SECONDS = 4.0
"""A connection at rest is closed after so long: vLLM's server closes it after five seconds, and a request that is on
its way just then would be lost."""

SHOWN = 1000
"""Characters of a server's message that are shown."""

logger = masked_logger(__name__)


class Answer(NamedTuple):
    """What a server said to a request: the body of its answer, or why this one request has none."""

    body: Any = None
    refused: str = ""
    failed: str = ""


class TookTooLongError(Exception):
    """A server has the request, and has not answered it in time."""


class Transport:
    """Calls to the addresses of a server, over one pool of connections that stay open; for one event loop.

    Raises:
        ModelError: the package aiohttp is not installed.
    """

    def __init__(self, settings: ServerSettings, key: str | None) -> None:
        if find_spec("aiohttp") is None:
            raise ModelError("A server needs the package aiohttp. Install llm_assets with the extra 'server'.")
        import aiohttp

        self._settings = settings
        self._client_error = aiohttp.ClientError
        self._broken = (aiohttp.ClientError, OSError)
        """What is raised when there is no connection, or no more; a TimeoutError is an OSError."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=settings.timeout_seconds, sock_connect=settings.connect_timeout),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._endpoints = Endpoints(
            settings.urls, settings.max_in_flight, settings.unavailable_seconds, lambda endpoint: self._lives(endpoint)
        )
        self._answers = 0
        """Requests that were answered with what they asked for."""
        self._limited_since: float | None = None
        """Since when requests are only told that there are too many of them."""

    @property
    def urls(self) -> list[str]:
        return [endpoint.url for endpoint in self._endpoints.all]

    async def post(self, path: str, body: bytes) -> Answer:
        """Send a request to the address that has the fewest in flight, again where it fails, and return the answer.

        Raises:
            ConfigError: the server wants another key, or does not know the model or the path.
            EngineAwayError: no address has answered for `unavailable_seconds`.
            EngineError: the server has nothing but errors for every request.
        """
        errors, breaks, pauses = 0, 0, 0
        began, answers = time.monotonic(), self._answers
        while True:
            endpoint = await self._endpoints.take()
            pause = None
            try:
                status, headers, text = await self._send(endpoint, path, body)
            except TookTooLongError:
                errors += 1
                trouble = f"no answer within {self._settings.timeout_seconds:g} seconds (timeout_seconds)"
            except self._broken as error:
                trouble = f"{type(error).__name__}: {error}"
                self._endpoints.broke(endpoint, trouble)
                self._endpoints.check_patience()
                breaks += 1
                if breaks >= self._settings.max_attempts and self._is_overdue(began):
                    return Answer(failed=f"The connection to the server broke {breaks} times, the last one: {trouble}")
            else:
                self._endpoints.answered()
                trouble = f"{status} {_message(text)}"
                if status == 200:
                    if (found := _read(text)) is not None:
                        self._answers += 1
                        self._limited_since = None
                        return Answer(found)
                    trouble = f"an answer that is not JSON: {masked(text)[:SHOWN]!r}"
                elif status == 429:
                    pause = _retry_after(headers)
                    self._check_limited(trouble)
                elif status < 500 and status != 408:
                    return self._refusal(endpoint, path, status, text)
                errors += status != 429
            finally:
                self._endpoints.give_back(endpoint)
            if errors >= self._settings.max_attempts:
                if self._answers == answers:
                    raise EngineError(f"The server at {endpoint.url} answers no request: {trouble}")
                return Answer(failed=f"The server failed {errors} times, the last one with: {trouble}")
            pauses += 1
            await asyncio.sleep(_backoff(pauses) if pause is None else pause + _backoff(0))

    async def _get(self, endpoint_url: str, path: str) -> tuple[int, Any]:
        """Return the status of an address for a path, and what it says there. Not tried again."""
        import aiohttp

        seconds = aiohttp.ClientTimeout(total=self._settings.connect_timeout)
        async with self._session.get(f"{endpoint_url}{path}", timeout=seconds, allow_redirects=False) as response:
            text = (await response.read()).decode("utf-8", "replace")
            return response.status, _read(text)

    async def first_answers(self, path: str) -> dict[str, Any]:
        """Wait until an address answers to a path, and return what those that answer say, by their address.

        Raises:
            ConfigError: the server wants another key.
            EngineAwayError: none answered for `unavailable_seconds`.
        """
        began, pauses = time.monotonic(), 0
        while True:
            found, troubles = {}, {}
            for endpoint in self._endpoints.all:
                try:
                    status, body = await self._get(endpoint.url, path)
                except self._broken as error:
                    troubles[endpoint] = f"{type(error).__name__}: {error}"
                    continue
                if status in (401, 403):
                    raise self._wrong_key(endpoint, status)
                if status < 500:
                    found[endpoint.url] = (status, body)
                else:
                    troubles[endpoint] = f"status {status}"
            if found:
                for endpoint, trouble in troubles.items():
                    self._endpoints.broke(endpoint, trouble)
                self._endpoints.answered()
                return found
            if self._is_overdue(began):
                listed = "; ".join(f"{endpoint.url}: {trouble}" for endpoint, trouble in troubles.items())
                raise EngineAwayError(
                    f"No server has answered for {self._settings.unavailable_seconds:g} seconds "
                    f"(unavailable_seconds). {listed}. Start the server, or correct urls."
                )
            pauses += 1
            await asyncio.sleep(min(_backoff(pauses), 2.0))

    async def close(self) -> None:
        """Close all connections."""
        await self._endpoints.close()
        await self._session.close()

    async def _send(self, endpoint: Endpoint, path: str, body: bytes) -> "tuple[int, Mapping[str, str], str]":
        headers = {"Content-Type": "application/json"}
        url = f"{endpoint.url}{path}"
        # A redirect would take the key somewhere else.
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers, (await response.read()).decode("utf-8", "replace")
        except TimeoutError as error:
            if isinstance(error, self._client_error):
                raise  # while the connection was made
            raise TookTooLongError from None

    async def _lives(self, endpoint: Endpoint) -> bool:
        path = "/health" if self._settings.api == "vllm" else "/models"
        try:
            status, _ = await self._get(endpoint.url, path)
        except self._broken:
            return False
        return status < 500

    def _is_overdue(self, began: float) -> bool:
        return time.monotonic() - began > self._settings.unavailable_seconds

    def _check_limited(self, trouble: str) -> None:
        """Raise an EngineAwayError if all requests were too many for too long: more than a pause is wanted then."""
        self._limited_since = self._limited_since or time.monotonic()
        if self._is_overdue(self._limited_since):
            raise EngineAwayError(
                f"For {self._settings.unavailable_seconds:g} seconds (unavailable_seconds) the server has only said: "
                f"{trouble}. Lower max_in_flight, or raise the account's limits."
            )

    def _refusal(self, endpoint: Endpoint, path: str, status: int, text: str) -> Answer:
        """Return the answer to a request that the server does not take; raise an error if it takes none."""
        message = _message(text)
        if status in (401, 403):
            raise self._wrong_key(endpoint, status)
        if status in (404, 405) or 300 <= status < 400:
            route = (
                " Is it vLLM 0.25 or later? Later versions have this route only when they are started with "
                "--enable-scale-out."
                if self._settings.api == "vllm" and not _names_model(message)
                else ""
            )
            raise ConfigError(
                f"{endpoint.url}{path} answers with {status}, to a request for model {self._settings.model!r}: "
                f"{message}.{route}"
            )
        return Answer(refused=message)

    def _wrong_key(self, endpoint: Endpoint, status: int) -> ConfigError:
        name = self._settings.key_variable
        has = "has another one" if self._settings.key() else "is not set"
        return ConfigError(
            f"{endpoint.url} answers with {status}: it wants a key. It is read from the environment variable {name}, "
            f"which {has}. Set it where runs are executed; api_key_env names another variable."
        )


def _backoff(pauses: int) -> float:
    """Return how long to wait before another try: at random, so that requests that failed together come apart."""
    return random.uniform(0, min(BACKOFF_SECONDS * 2**pauses, MOST_BACKOFF_SECONDS))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait, which may stand there as a date; None if it does not say."""
    value = headers.get("Retry-After", "").strip()
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _message(text: str) -> str:
    """Return the message of an error in the form of OpenAI or FastAPI, or the text as it is."""
    found = _read(text)
    if isinstance(found, dict):
        error = found.get("error", found)
        message = error.get("message", found.get("detail")) if isinstance(error, dict) else error
        if message:
            text = message if isinstance(message, str) else json.dumps(message)
    # A server can repeat the key.
    return masked(text)[:SHOWN].rstrip(".")


def _names_model(message: str) -> bool:
    return "model" in message.lower()
