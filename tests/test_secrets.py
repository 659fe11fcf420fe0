"""Passwords and tokens are masked, and ordinary text is not."""

import json
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from llm_assets.engines.ray.replicas import SAID, brief
from llm_assets.errors import ConfigError, DatabaseError, EngineError, LLMAssetsError, printable, validation_message
from llm_assets.secrets import _remembered, masked, masked_errors, masked_logger, remember
from llm_assets.tables import Database

TOKEN = "hf_ZxQ81vLw0aPdKeRt"


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Let other tests have the words back that are secrets here."""
    before = set(_remembered)
    yield
    _remembered.clear()
    _remembered.update(before)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


def shown(error: BaseException) -> str:
    """Return all that Python prints of an error and its causes."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "PGPASSWORD",
        "DB_PASSWD",
        "MYSQL_PWD",
        "SMTP_PASS",
        "OPENAI_API_KEY",
        "APIKEY",
        "AWS_SECRET_ACCESS_KEY",
        "CLIENT_SECRET",
        "REGISTRY_CREDENTIALS",
        "SSH_PASSPHRASE",
        "my_api_token",
    ],
)
def test_a_variable_whose_name_says_so_is_a_secret_from_the_moment_it_is_set(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"401 for Bearer {TOKEN}, sent twice: {TOKEN}"
    assert masked(text) == text
    monkeypatch.setenv(name, TOKEN)
    assert masked(text) == "401 for Bearer ***, sent twice: ***"
    monkeypatch.delenv(name)
    assert masked(text) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKENIZERS_PARALLELISM", "disabled-here"),
        ("VLLM_TOKENIZER_MODE", "mistral-auto"),
        ("PWD", "/work/of/someone"),
        ("OLDPWD", "/work/of/someone"),
        ("POSTGRES_PASSWORD_FILE", "/run/secrets/postgres"),
        ("HF_TOKEN_PATH", "/root/.cache/token"),
        ("COMPASS_HOME", "/opt/compass"),
        ("PRIMARY_KEY", "customer_number"),
        ("MAX_TOKENS", "4096"),
        ("USE_TOKEN", "true"),
        ("HF_TOKEN", ""),
        ("POSTGRES_PASSWORD", "password"),
    ],
)
def test_other_variables_and_short_values_are_not(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    text = f"The setting {value} is true for 4096 rows of the tokenizer."
    assert masked(text) == text


def test_a_line_end_after_a_value_does_not_protect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\n")
    assert masked(f"token {TOKEN}, refused") == "token ***, refused"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://dagster:s%2Fcret-9-word@db/dagster",
        "postgresql://dagster@server:s%2Fcret-9-word@db/dagster",
        "postgresql://db/dagster?user=dagster&password=s%2Fcret-9-word",
        "postgresql:///dagster?sslpassword=s/cret-9-word&sslmode=require",
    ],
)
def test_the_password_of_a_url_in_the_environment_is_a_secret(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
    text = "no user s/cret-9-word (s%2Fcret-9-word) in dagster, sslmode=require"
    assert masked(text) == "no user *** (***) in dagster, sslmode=require"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at postgresql://me:pw@db:5432/shop.", "at postgresql://me:***@db:5432/shop."),
        ("postgresql+psycopg2://me:p@ss@db/shop", "postgresql+psycopg2://me:***@db/shop"),
        ("postgresql://me:p/w@db/shop", "postgresql://me:***@db/shop"),
        ("postgresql://me@server:pw@db/shop", "postgresql://me@server:***@db/shop"),
        ("redis://:pw@cache and amqp://a:b@queue", "redis://:***@cache and amqp://a:***@queue"),
        ("https://me@example.org/a", "https://me@example.org/a"),
        ("http://localhost:3000/runs, write to a@b.org", "http://localhost:3000/runs, write to a@b.org"),
        ("https://me@example.org:8080/a", "https://me@example.org:8080/a"),
        ("sqlite:////data/shop.db", "sqlite:////data/shop.db"),
        ("a: b@c", "a: b@c"),
        ("Write dialect://user:password@host/database.", "Write dialect://user:password@host/database."),
    ],
)
def test_a_password_in_any_url_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


@pytest.mark.parametrize("password", ["p@s:s/w%rd ü+&", "quo\"te\\and'more", "two\nlines of a key"])
def test_a_password_of_a_database_is_masked_in_every_form(password: str) -> None:
    Database(f"postgresql://me:{quote(password, safe='')}@h/shop")
    encoded = quote(password, safe="")
    lower = "".join(f"%{part[:2].lower()}{part[2:]}" if n else part for n, part in enumerate(encoded.split("%")))
    for form in (
        password,
        encoded,
        lower,
        repr(password)[1:-1],
        json.dumps(password)[1:-1],
        " ".join(password.split()),
    ):
        assert masked(f"before {form} after") == "before *** after"


def test_secret_parameters_of_a_url_are_remembered_and_others_are_not() -> None:
    Database(f"postgresql://me@h/shop?sslpassword={TOKEN}&application_name=analytics-of-may")
    assert masked(f"{TOKEN} analytics-of-may") == "*** analytics-of-may"


def test_a_password_that_is_only_a_word_takes_no_letters_out_of_others() -> None:
    Database("postgresql://me:rows@h/shop")
    assert masked("12 rows in rowset, arrows: rows. key_rows") == "12 *** in rowset, arrows: ***. key_***"


@pytest.mark.parametrize(
    "url", ["postgresql://shop:shop@db/shop", "postgresql://me:db@db/shop", "postgresql://me:x@h/s"]
)
def test_a_password_that_hides_nothing_does_not_spoil_every_message(url: str) -> None:
    database = Database(url)
    text = "The table shop.x of shop at db does not exist."
    assert masked(text) == text
    assert ":***@" in database.name


def test_of_two_secrets_the_longer_is_masked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    remember("alpha-beta-1")
    monkeypatch.setenv("HF_TOKEN", "alpha-beta-1-gamma")
    assert masked("alpha-beta-1-gamma alpha-beta-1") == "*** ***"


@pytest.mark.parametrize("text", ["a" * 1_000_000, "://" * 200_000, "://a:" * 100_000, "x" * 500_000 + "://a:b@c"])
def test_long_texts_are_masked_in_time_that_grows_with_their_length(text: str) -> None:
    remember(TOKEN)
    begin = time.perf_counter()
    masked(text)
    assert time.perf_counter() - begin < 10


def test_a_secret_on_which_a_message_of_ray_is_cut_is_masked(token: str) -> None:
    said = brief(RuntimeError(f"{'x' * (SAID - 10)}{token}"))
    assert token[:4] not in said
    assert said.startswith("xxx")


@pytest.mark.parametrize("kind", [LLMAssetsError, ConfigError, DatabaseError, EngineError])
def test_no_error_of_this_package_carries_a_secret(kind: type[LLMAssetsError], token: str) -> None:
    error = kind(f"refused with {token} at https://me:{token}@hub")
    assert str(error) == "refused with *** at https://me:***@hub"
    assert token not in repr(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args) == (kind, error.args)
    assert str(kind()) == ""


def test_a_config_error_is_still_a_value_error_that_pydantic_wraps(token: str) -> None:
    class Setting(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _refuse(cls, name: str) -> str:
            raise ConfigError(f"{name!r} is refused: {token}")

    with pytest.raises(ValidationError) as caught:
        Setting(name="x")
    assert validation_message(caught.value) == "name: 'x' is refused: ***"
    assert token not in str(caught.value)
    with pytest.raises(ValueError, match="plain"):
        raise ConfigError("plain")


def test_an_error_message_cannot_act_on_a_terminal() -> None:
    error = ConfigError("row 'a\x1b[31m\x07\u202eb\x9b2J\u2066' is\tbad\r\nin line 2\N{NO-BREAK SPACE}é表")
    assert str(error) == "row 'a\ufffd[31m\ufffd\ufffdb\ufffd2J\ufffd' is\tbad\nin line 2\N{NO-BREAK SPACE}é表"
    assert printable(str(error)) == str(error)


class LibraryError(Exception):
    """Keeps its text where `args` does not show it, as many libraries' errors do."""

    def __init__(self, response: str) -> None:
        super().__init__()
        self.response = response

    def __str__(self) -> str:
        return f"the hub said {self.response}"


def error_from(function: Callable[[], object]) -> BaseException:
    """Return the error that leaves a function and then `masked_errors`."""
    try:
        with masked_errors():
            function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_causes_are_masked_with_their_names_and_stacks_kept(token: str) -> None:
    def ask_the_hub() -> None:
        raise LibraryError(f"401 {token}")

    def stop() -> None:
        try:
            ask_the_hub()
        except LibraryError as error:
            error.add_note(f"header: Bearer {token}")
            raise EngineError(f"vLLM stopped: {error}") from error

    error = error_from(stop)
    text = shown(error)
    assert token not in text
    assert "LibraryError: the hub said 401 ***\nheader: Bearer ***\n" in text
    assert "in ask_the_hub" in text
    assert isinstance(error, EngineError)
    assert str(error) == "vLLM stopped: the hub said 401 ***"


def test_an_error_that_nobody_expected_is_masked_and_keeps_its_cause(token: str) -> None:
    def fail() -> None:
        raise LibraryError(token) from RuntimeError("the cause")

    error = error_from(fail)
    text = shown(error)
    assert token not in text
    assert "RuntimeError: the cause" in text
    assert "in fail" in text
    assert (type(error).__name__, str(error)) == ("LibraryError", "the hub said ***")


def test_what_was_handled_when_an_error_was_raised_is_masked(token: str) -> None:
    def fail() -> None:
        try:
            int(token)
        except ValueError:
            dict[str, str]()["missing"]

    error = error_from(fail)
    text = shown(error)
    assert isinstance(error, KeyError)
    assert token not in text
    assert "ValueError: invalid literal for int() with base 10: '***'" in text
    assert "During handling of the above exception" in text


def test_both_an_error_and_what_was_handled_are_masked(token: str) -> None:
    def fail() -> None:
        try:
            int(token)
        except ValueError:
            dict[str, str]()[f"missing {token}"]

    text = shown(error_from(fail))
    assert token not in text
    assert "invalid literal for int() with base 10: '***'" in text
    assert "KeyError: 'missing ***'" in text


def test_errors_in_a_group_and_in_a_circle_are_masked(token: str) -> None:
    def fail_together() -> None:
        raise ExceptionGroup("two failed", [ValueError(token), LibraryError(token)])

    def fail_in_a_circle() -> None:
        first, second = LibraryError(token), LibraryError("harmless")
        first.__context__, second.__context__ = second, first
        raise second

    text = shown(error_from(fail_together))
    assert token not in text
    assert "the hub said ***" in text
    text = shown(error_from(fail_in_a_circle))
    assert token not in text
    assert "the hub said ***" in text


def test_an_error_without_secrets_passes_as_it_is(token: str) -> None:
    for harmless in (LibraryError("503"), KeyboardInterrupt(), SystemExit(3)):

        def fail(error: BaseException = harmless) -> None:
            raise error

        assert error_from(fail) is harmless


def test_a_logger_of_this_package_masks_lines_and_errors(token: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = masked_logger("llm_assets.test")
    assert masked_logger("llm_assets.test") is logger
    assert len(logger.filters) == 1
    logger.warning("%s: %d%% of %s", "hub", 5, token)
    logger.warning("100% of it")
    try:
        raise LibraryError(token)
    except LibraryError:
        logger.exception("failed with %(what)s", {"what": token})
    assert [record.getMessage() for record in caplog.records] == ["hub: 5% of ***", "100% of it", "failed with ***"]
    assert "the hub said ***" in caplog.text
    assert "raise LibraryError(token)" in caplog.text
    assert token not in caplog.text
