"""The engine and the databases of a component: settings of its own, or the key of a resource that the project has."""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, InstanceOf, Tag, WithJsonSchema

from llm_assets.dagster.resources import (
    DatabaseResource,
    DummyEngineResource,
    EngineResource,
    RayEngineResource,
    ServerResource,
    VllmResource,
)
from llm_assets.engines import ServerSettings, VllmSettings
from llm_assets.engines.ray.settings import RayOptions
from llm_assets.errors import ConfigError
from llm_assets.tables import Database


def _is_a_resource_key(key: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*", key):
        what = "a URL stands under `url`" if "://" in key else "a key has letters, digits and _"
        raise ConfigError(
            f"{key!r} is no resource key: {what}. Write the key of one of the project's resources, or settings."
        )
    return key


ResourceKey = Annotated[str, AfterValidator(_is_a_resource_key)]


class VllmChoice(VllmSettings):
    """vLLM inside the run, with every argument of its engine by its own name."""

    type: Literal["vllm"] = "vllm"

    def resource(self) -> EngineResource:
        """Return the resource with these settings."""
        return VllmResource(**self.model_dump(exclude={"type"}, exclude_unset=True))

    @property
    def name(self) -> str:
        """What the resource's key says of it."""
        return self.model.rstrip("/").rpartition("/")[2]


class ServerChoice(ServerSettings):
    """A model behind HTTP: a vLLM server, or any OpenAI-compatible host."""

    type: Literal["server"]

    def resource(self) -> EngineResource:
        """Return the resource with these settings."""
        return ServerResource(**self.model_dump(exclude={"type"}, exclude_unset=True))

    @property
    def name(self) -> str:
        """What the resource's key says of it."""
        return self.model.rstrip("/").rpartition("/")[2]


class DummyChoice(BaseModel):
    """Valid answers without a model, to try a pipeline out; they mean nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["dummy"]
    max_model_len: int = Field(default=32768, ge=1, description="Most tokens of prompt and answer together.")

    def resource(self) -> EngineResource:
        """Return the resource with these settings."""
        return DummyEngineResource(max_model_len=self.max_model_len)

    @property
    def name(self) -> str:
        """What the resource's key says of it."""
        return "dummy"


def _kind_of_settings(value: Any) -> str:
    return value.get("type", "vllm") if isinstance(value, dict) else getattr(value, "type", "vllm")


class RayChoice(RayOptions):
    """Replicas of an engine in Ray actors, on a cluster or on the run's machine."""

    type: Literal["ray"]
    engine: Annotated[
        Annotated[VllmChoice, Tag("vllm")] | Annotated[DummyChoice, Tag("dummy")], Discriminator(_kind_of_settings)
    ] = Field(description="The engine of a replica: vLLM's settings, or type: dummy.")

    def resource(self) -> EngineResource:
        """Return the resource with these settings."""
        options = self.model_dump(exclude={"type", "engine"}, exclude_unset=True)
        return RayEngineResource(engine=self.engine.resource(), **options)

    @property
    def name(self) -> str:
        """What the resource's key says of it."""
        return f"ray {self.engine.name}"


def _kind_of_engine(value: Any) -> str:
    if isinstance(value, str):
        return "key"
    return _kind_of_settings(value)


EngineChoice = Annotated[
    Annotated[VllmChoice, Tag("vllm")]
    | Annotated[ServerChoice, Tag("server")]
    | Annotated[RayChoice, Tag("ray")]
    | Annotated[DummyChoice, Tag("dummy")]
    | Annotated[ResourceKey, Tag("key")],
    Discriminator(_kind_of_engine),
]
"""An engine's settings, which are vLLM's unless `type` says otherwise, or a resource's key."""


def _has_no_password(url: dg.EnvVar | str) -> dg.EnvVar | str:
    if not isinstance(url, dg.EnvVar) and Database(url).has_secret:
        raise ConfigError(
            "The URL has a password, which would stand in Dagster's record of every run. Put the whole URL into an "
            "environment variable, and write its name: '{{ env.SHOP_DATABASE_URL }}'."
        )
    return url


class DatabaseChoice(BaseModel):
    """A database by its URL."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[
        InstanceOf[dg.EnvVar] | str, AfterValidator(_has_no_password), WithJsonSchema({"type": "string"})
    ] = Field(repr=False, description="SQLAlchemy URL; '{{ env.SHOP_DATABASE_URL }}' reads it in the run.")

    def resource(self) -> DatabaseResource:
        """Return the resource with this URL."""
        return DatabaseResource(url=self.url)

    @property
    def name(self) -> str:
        """What the resource's key says of it."""
        if isinstance(self.url, dg.EnvVar):
            return self.url.env_var_name.lower()
        return self.url.partition(":")[0]


DatabaseOrKey = Annotated[
    Annotated[DatabaseChoice, Tag("settings")] | Annotated[ResourceKey, Tag("key")],
    Discriminator(lambda value: "key" if isinstance(value, str) else "settings"),
]
"""A database's settings, or a resource's key."""


def resource_of(
    choice: str | VllmChoice | ServerChoice | RayChoice | DummyChoice | DatabaseChoice, kind: str
) -> tuple[str, dict[str, Any]]:
    """Return a resource's key, and the resource under it if it is not the project's.

    The key says what the settings are: equal settings share one resource, and others do not collide.

    Args:
        choice: A key, or settings.
        kind: What the key begins with.
    """
    if isinstance(choice, str):
        return choice, {}
    settings = json.dumps(choice.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    digest = hashlib.sha256(f"{type(choice).__name__} {settings}".encode()).hexdigest()[:10]
    key = f"{kind}_{re.sub(r'[^a-z0-9]+', '_', choice.name.lower()).strip('_')}_{digest}"
    return key, {key: _RESOURCES.setdefault(key, choice.resource())}


_RESOURCES: dict[str, dg.ConfigurableResource] = {}
"""Dagster merges the definitions of two components only if a resource of theirs is one and the same object."""
