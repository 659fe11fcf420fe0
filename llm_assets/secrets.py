"""Passwords and tokens, and how they are kept out of whatever this package says.

What counts as a secret:

- The password of every database URL in use, and the parameters of the URL that `Database` hides.
- The value of every environment variable whose name says so: HF_TOKEN, PGPASSWORD, OPENAI_API_KEY. One whose name ends
  in FILE, PATH, DIR or NAME only says where the secret is, and people need to read that. Values of fewer than eight
  characters are left alone: they are settings more often than secrets, and `1` stands in every message.
- The password of a URL in any other environment variable, such as DAGSTER_POSTGRES_URL, and its secret parameters.
- What stands where a URL has its password, whoever wrote it.

Answers, texts and raw output are data and are never changed.
"""

import json
import logging
import os
import re
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from urllib.parse import parse_qsl, quote, quote_plus, unquote

MASK = "***"
SHORTEST = 4
"""A password in a URL that is shorter is masked in URLs only; elsewhere it would take letters out of words."""

SHORTEST_IN_ENVIRONMENT = 8
PLACEHOLDER = "password"
"""Whoever has it for a password has none, and messages that explain a URL write it there."""

SECRET_WORDS = ("pass", "pwd", "secret", "token", "odbc_connect")
"""A parameter of a URL is a secret if its name contains one of these."""

_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|CREDENTIAL)S?(_|$)|PASSWORD|PASSWD|PASSPHRASE|_(PASS|PWD)(_|$)"
    r"|(API|ACCESS|ACCOUNT|PRIVATE|SIGNING|ENCRYPTION)_?KEY",
    re.IGNORECASE,
)
_NAME_OF_A_PLACE = re.compile(r"_(FILE|PATH|DIR|NAME)$", re.IGNORECASE)

# Not the scheme, which would have to be searched for from every letter on, and no end that is far away: an error's
# text can be long. A user may hold an @, and a password an @ or a slash, though none of them should be there.
_PASSWORD_IN_URL = re.compile(rf"(://[^\s:/]{{0,200}}:)(?!{PLACEHOLDER}@)([^\s/?#]{{1,500}}@|[^\s@]{{1,500}}@)")

_remembered: set[str] = set()


def remember(secret: str) -> None:
    """Take something for a secret from now on."""
    _remembered.add(secret)


def is_secret_parameter(name: str) -> bool:
    """Return whether the value of a URL's parameter is a secret, by the parameter's name."""
    return any(word in name.lower() for word in SECRET_WORDS)


def masked(text: str) -> str:
    """Return text with `***` in place of every secret."""
    # The environment is looked at each time: a variable set later counts too.
    found = frozenset({*tuple(_remembered), *_in_environment()})
    pattern = _pattern(found)
    if pattern is not None:
        text = pattern.sub(MASK, text)
    return _PASSWORD_IN_URL.sub(rf"\1{MASK}@", text)


@contextmanager
def masked_errors() -> Iterator[None]:
    """Mask the secrets in an error that leaves the block, and in those that it was raised from.

    Dagster and Python print an error with its causes. Errors of this package are masked when they are made, but what
    caused them was written by a library, as is an error that nobody here expected. One that holds a secret is exchanged
    for another with the same name, text and stack trace.
    """
    try:
        yield
    except Exception as error:
        clean = _without_secrets(error, {})
        if clean is error:
            raise
        # With `from`, what is handled here is not shown as its context.
        raise clean from clean.__cause__ or (None if clean.__suppress_context__ else clean.__context__)


def masked_logger(name: str) -> logging.Logger:
    """Return the logger of a module, which masks the secrets in what it logs and in the errors that it logs."""
    logger = logging.getLogger(name)
    logger.addFilter(_mask_record)
    return logger


def _mask_record(record: logging.LogRecord) -> bool:
    record.msg, record.args = masked(record.getMessage()), None
    if record.exc_info and record.exc_info[1] is not None:
        error = _without_secrets(record.exc_info[1], {})
        record.exc_info = (type(error), error, record.exc_info[2])
    return True


def _in_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        value = value.strip()
        if len(value) < SHORTEST_IN_ENVIRONMENT:
            continue
        if _is_name_of_secret(name):
            yield value
        elif "://" in value:
            for secret in _in_url(value):
                if len(secret) >= SHORTEST_IN_ENVIRONMENT:
                    yield secret
                    yield unquote(secret)


def _in_url(url: str) -> Iterator[str]:
    """The password of a URL, and its secret parameters."""
    if found := _PASSWORD_IN_URL.search(url):
        yield found[2].removesuffix("@")
    for name, value in parse_qsl(url.partition("?")[2]):
        if is_secret_parameter(name):
            yield value


@lru_cache(maxsize=4096)
def _is_name_of_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _NAME_OF_A_PLACE.search(name)


@lru_cache(maxsize=16)
def _pattern(secrets: Collection[str]) -> re.Pattern[str] | None:
    """Return what finds the secrets in a text, in every form that they are written in; None if there are none."""
    forms = {form for secret in secrets for form in _forms(secret)}
    usable = [form for form in forms if len(form) >= SHORTEST and form.strip("*") and form != PLACEHOLDER]
    # Of two that begin alike, the longer one must be found, or its end would stay.
    return re.compile("|".join(map(_expression, sorted(usable, key=len, reverse=True)))) if usable else None


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is, percent-encoded in the ways of URLs, as Python and JSON put it in quotes, and on one line."""
    yield secret
    for encoded in (quote(secret, safe=""), quote_plus(secret), quote(secret, safe=" +"), quote(secret)):
        yield encoded
        yield re.sub(r"%..", lambda code: code[0].lower(), encoded)
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield " ".join(secret.split())


def _expression(form: str) -> str:
    """Return the expression that finds a form; one that could be part of an ordinary word, as a whole word only."""
    expression = re.escape(form)
    if len(form) < SHORTEST_IN_ENVIRONMENT or form.isalpha():
        expression = rf"(?<![^\W_]){expression}(?![^\W_])"
    return expression


def _without_secrets(error: BaseException, done: dict[int, BaseException]) -> BaseException:
    """Return an error whose text, notes and causes show no secret: itself, if it can be.

    `done` has the errors that were looked at, by their ids: a chain can lead back to where it began.
    """
    if id(error) in done:
        return done[id(error)]
    shown = _shown(error)
    clean = done[id(error)] = error if masked(shown) == shown else _stand_in(error)
    cause, context, suppress = error.__cause__, error.__context__, error.__suppress_context__
    if cause is not None:
        clean.__cause__ = _without_secrets(cause, done)
    # A context that `from` hides is shown by nobody.
    if context is not None and not suppress:
        clean.__context__ = _without_secrets(context, done)
    clean.__suppress_context__ = suppress
    return clean


def _shown(error: BaseException) -> str:
    """Everything that a traceback prints of an error, besides its stack and its causes."""
    if isinstance(error, BaseExceptionGroup):
        return "".join(traceback.format_exception(error))
    return "".join(traceback.format_exception_only(error))


def _stand_in(error: BaseException) -> Exception:
    """Return an error that looks like another one, with its secrets masked.

    It is of no class that anything could catch by name: the other one's attributes could hold the secret as well.
    """
    kind = type(error)
    look = type(kind.__name__, (Exception,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
    text = _shown(error) if isinstance(error, BaseExceptionGroup) else str(error)
    clean = look(masked(text)).with_traceback(error.__traceback__)
    for note in getattr(error, "__notes__", ()):
        clean.add_note(masked(note))
    return clean
