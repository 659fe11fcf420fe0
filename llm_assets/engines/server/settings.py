"""The settings of an engine behind HTTP: where it is, what it serves, and how long to wait for it."""

import os
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llm_assets.engines.vllm.settings import VllmSettings
from llm_assets.errors import ConfigError, did_you_mean
from llm_assets.records import Prices
from llm_assets.secrets import remember

KEY_VARIABLES = {"vllm": "VLLM_API_KEY", "chat": "OPENAI_API_KEY"}
CHAT_LENGTH = 100_000
PRICED = ("prompt", "cached", "output")
ROOM_FOR_A_ROW = 8
"""Requests that an address has room for beyond its share: those about a row go where its first one went."""


class ServerSettings(BaseModel):
    """Where a model is served, and how it is asked."""

    # A URL may hold a password.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, protected_namespaces=())

    urls: list[str] = Field(description="The server's address, such as http://gpu1:8000; several share the rows.")
    model: str = Field(description="The model's name on the server.")
    api: Literal["vllm", "chat"] = Field(
        default="vllm", description="vllm: token ids to a vLLM server. chat: messages to any OpenAI-compatible host."
    )
    weights: str | None = Field(
        default=None, description="Directory or hub name of the weights behind a vLLM server; None is `model`."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of hub weights.")
    tokenizer: str | None = Field(default=None, description="Tokenizer to use in place of the weights' own.")
    chat_template: str | None = Field(default=None, description="Chat template (Jinja) in place of the model's own.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Values of the chat template's variables, such as {enable_thinking: false}."
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that comes with the tokenizer.")
    quantization: str | None = Field(default=None, description="Quantization that the server was started with.")
    kv_cache_dtype: str = Field(default="auto", description="Type of the KV cache that the server was started with.")
    structured_outputs_config: dict[str, Any] | None = Field(
        default=None,
        description="How the server enforces constraints, to check them here as well; None is by llguidance.",
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="Most tokens of prompt and answer together; with chat, bytes, 100000 if None."
    )
    max_logprobs: int = Field(
        default=20, ge=2, le=128, description="The server's --max-logprobs: a request scores one label's token fewer."
    )
    cache_block: int = Field(default=16, ge=0, description="Tokens in a block of the prefix cache; 0 without a cache.")
    api_key_env: str | None = Field(
        default=None, description="Environment variable with the key; None is VLLM_API_KEY or OPENAI_API_KEY."
    )
    max_in_flight: int = Field(default=256, ge=1, description="Most requests in flight to one address.")
    timeout_seconds: float = Field(default=600, gt=0, description="Seconds that one request may take.")
    connect_timeout: float = Field(default=10, gt=0, description="Seconds that a connection may take to be made.")
    unavailable_seconds: float = Field(
        default=300, gt=0, description="Seconds that a run waits while no address answers, or all say 502 to 504."
    )
    max_attempts: int = Field(
        default=5, ge=1, description="Tries of a request that a living server answers with an error of its own."
    )
    prices: dict[str, float] | None = Field(
        default=None, description="Money per million tokens: {prompt: ..., cached: ..., output: ...}."
    )
    currency: str = Field(default="USD", description="Currency of the prices.")

    @property
    def most_in_flight(self) -> int:
        """Requests in flight to all addresses together, at most."""
        spare = min(ROOM_FOR_A_ROW, self.max_in_flight // 8) if len(self.urls) > 1 else 0
        return (self.max_in_flight - spare) * len(self.urls)

    @property
    def most_scored(self) -> int:
        """Tokens that one call to a vLLM server scores: the generated one counts as well."""
        return self.max_logprobs - 1

    @field_validator("urls", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _one_url_is_a_list(cls, urls: Any) -> Any:
        return [urls] if isinstance(urls, str) else list(urls) if isinstance(urls, tuple) else urls

    @field_validator("urls")
    @classmethod
    def _urls_are_addresses(cls, urls: list[str]) -> list[str]:
        if not urls:
            raise ConfigError("urls is empty. Give the server's address, such as 'http://gpu1:8000'.")
        clean = [_address(url) for url in urls]
        for url in clean:
            if clean.count(url) > 1:
                raise ConfigError(f"The address {url!r} stands in urls twice. Give each server once.")
        return clean

    @field_validator("api_key_env")
    @classmethod
    def _key_is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not name.isidentifier():
            # Perhaps it is the key, so it is not shown.
            raise ConfigError(
                "api_key_env is no name of an environment variable. Put the key into one, and write its name here, "
                "such as OPENAI_API_KEY."
            )
        return name

    @field_validator("prices")
    @classmethod
    def _prices_are_known(cls, prices: dict[str, float] | None) -> dict[str, float] | None:
        for name, price in (prices or {}).items():
            if name not in PRICED:
                raise ConfigError(f"There is no price of {name!r}. {did_you_mean(name, PRICED)}")
            if price < 0:
                raise ConfigError(f"The price of {name!r} is {price:g}. Give 0 or more, per million tokens.")
        if prices is not None and not {"prompt", "output"} <= prices.keys():
            raise ConfigError(
                "prices needs 'prompt' and 'output', in money per million tokens; 'cached' is the prompt's if missing."
            )
        return prices

    @model_validator(mode="after")
    def _addresses_suit_the_api(self) -> Self:
        for url in self.urls:
            if self.api == "vllm" and url.endswith("/v1"):
                raise ConfigError(
                    f"{url!r} ends in /v1, which is for api='chat'. With api='vllm' give the server alone: "
                    f"{url.removesuffix('/v1')!r}."
                )
        return self

    @property
    def key_variable(self) -> str:
        """The environment variable that has the key, if there is one."""
        return self.api_key_env or KEY_VARIABLES[self.api]

    def key(self) -> str | None:
        """Return the key from the environment, which is a secret from now on; None if there is none."""
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            return None
        remember(key)
        return key

    def price_list(self) -> Prices | None:
        """Return what tokens cost; None if that was not said."""
        if self.prices is None:
            return None
        prompt = self.prices["prompt"]
        return Prices(prompt, self.prices.get("cached", prompt), self.prices["output"], self.currency)

    def weights_settings(self) -> VllmSettings:
        """Return what an engine inside the run would be told to load the same weights."""
        return VllmSettings(
            model=self.weights or self.model,
            revision=self.revision,
            tokenizer=self.tokenizer,
            chat_template=self.chat_template,
            chat_template_kwargs=self.chat_template_kwargs,
            trust_remote_code=self.trust_remote_code,
            quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
            max_model_len=self.max_model_len,
            structured_outputs_config=self.structured_outputs_config,
        )


def _address(url: str) -> str:
    """Return a URL without the slash at its end, or raise a ConfigError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no address of a server. Write it with http:// or https://: 'http://gpu1:8000'.")
    if parts.password or parts.username:
        raise ConfigError(
            f"The address of {parts.hostname!r} has a user or a password in it, which would stand in Dagster's record "
            "of every run. Put the key into an environment variable and its name into api_key_env."
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"The address {url.partition('?')[0]!r} has more behind it, from ? or # on. Leave that out.")
    return url.rstrip("/")
