"""What a server's reply to a request means: an answer, a refusal, or a reason to ask again, here or elsewhere."""

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, NamedTuple

from llm_assets.secrets import masked

WRONG_STATUSES = (401, 402, 403, 404, 405, 407)
"""Of the client's faults those that have nothing to do with a row; 402 is an account without credit."""

SHOWN = 1000
"""Characters of a server's message that are shown."""


class Kind(Enum):
    """What to do about a reply."""

    GOOD = auto()
    """It is the answer."""
    REFUSED = auto()
    """The server does not take this one request."""
    WRONG = auto()
    """The server takes no request of ours: another key, another model, another path."""
    BUSY = auto()
    """There are too many requests."""
    FAULTY = auto()
    """The server failed, because of this request or of itself."""
    AWAY = auto()
    """There is no server now: the connection broke, or what stands before the server says so."""


class Reply(NamedTuple):
    """What came back from an address.

    `wait` is how many seconds the server asks to wait, None if it does not say.
    """

    kind: Kind
    status: int = 0
    body: Any = None
    message: str = ""
    wait: float | None = None

    @property
    def trouble(self) -> str:
        """What is wrong, with the status if there is one."""
        return f"{self.status} {self.message}" if self.status else self.message


def read_reply(status: int, headers: Mapping[str, str], text: str) -> Reply:
    """Return what a reply means."""
    if status == 200:
        found = read_json(text)
        if isinstance(found, dict) and isinstance(found.get("choices"), list) and not found.get("error"):
            return Reply(Kind.GOOD, status, found)
        return Reply(Kind.FAULTY, status, message=f"and no answer in it: {masked(text)[:SHOWN]!r}")
    message = _message(text)
    if status == 429 or status > 501:
        if asked := headers.get("Retry-After", "").strip():
            message = f"{message} (Retry-After: {asked[:SHOWN]})"
        kind = Kind.BUSY if status == 429 else Kind.AWAY
        return Reply(kind, status, message=message, wait=_seconds(asked))
    if status >= 500 or status == 408:
        return Reply(Kind.FAULTY, status, message=message)
    kind = Kind.WRONG if status < 400 or status in WRONG_STATUSES else Kind.REFUSED
    return Reply(kind, status, message=message)


def read_json(text: str) -> Any:
    """Return what a text says in JSON; None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _seconds(asked: str) -> float | None:
    """Return how long a server asks to wait, which may stand there as a date; None if it does not say."""
    try:
        seconds = float(asked)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(asked).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else max(seconds, 0.0)


def _message(text: str) -> str:
    """Return the message of an error in the form of OpenAI or FastAPI, or the text as it is."""
    found = read_json(text)
    if isinstance(found, dict):
        error = found.get("error", found)
        message = error.get("message", found.get("detail")) if isinstance(error, dict) else error
        if message:
            text = message if isinstance(message, str) else json.dumps(message)
    # A server can repeat the key.
    return masked(text)[:SHOWN].strip().rstrip(".") or "without a message"
