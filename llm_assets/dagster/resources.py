"""The database and the engine as Dagster resources. Neither connects nor loads before something needs it."""

from abc import ABC, abstractmethod
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from llm_assets.engines import (
    DummyEngine,
    DummySettings,
    Engine,
    RayEngine,
    RaySettings,
    ServerEngine,
    ServerSettings,
    VllmEngine,
    VllmSettings,
)
from llm_assets.engines.ray.settings import RayOptions
from llm_assets.errors import ConfigError
from llm_assets.secrets import masked_errors
from llm_assets.tables import Database


class DatabaseResource(dg.ConfigurableResource):
    """A database by its SQLAlchemy URL. Give it as `dg.EnvVar("...")`, so that no password stands in the code."""

    url: str = Field(repr=False, description="SQLAlchemy URL, such as postgresql://user:password@host/database.")

    _database: Database | None = PrivateAttr(default=None)

    def get_database(self) -> Database:
        """Return the database; its connections are shared by everything in the process."""
        if self._database is None:
            self._database = Database(self.url)
        return self._database

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


class EngineResource(dg.ConfigurableResource, ABC):
    """An engine that is made at the first use in a run, shared by its steps and freed when the run ends."""

    _engine: Engine | None = PrivateAttr(default=None)

    @abstractmethod
    def make_engine(self) -> Engine:
        """Return a new engine, without loading its model."""

    def get_engine(self) -> Engine:
        """Return the run's engine."""
        if self._engine is None:
            self._engine = self.make_engine()
        return self._engine

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        if self._engine is not None:
            with masked_errors():
                self._engine.close()
            self._engine = None


class VllmResource(EngineResource, VllmSettings):
    """vLLM inside the run, with every argument of its engine by its own name; see `VllmSettings`."""

    def make_engine(self) -> Engine:
        return VllmEngine(self.settings())

    def settings(self) -> VllmSettings:
        """Return the settings of its engine."""
        return VllmSettings.model_validate({name: getattr(self, name) for name in VllmSettings.model_fields})


class ServerResource(EngineResource, ServerSettings):
    """A model behind HTTP: a vLLM server, or any OpenAI-compatible host; see `ServerSettings`."""

    def make_engine(self) -> Engine:
        settings = {name: getattr(self, name) for name in ServerSettings.model_fields}
        return ServerEngine(ServerSettings.model_validate(settings))


class DummyEngineResource(EngineResource):
    """Valid answers without a model, for tests of pipelines."""

    max_model_len: int = Field(default=32768, description="Most tokens of prompt and answer together.")

    def make_engine(self) -> Engine:
        return DummyEngine(self.max_model_len)


class RayEngineResource(EngineResource, RayOptions):
    """Another resource's engine, many times, in Ray actors on a cluster or on this machine; see `RaySettings`."""

    engine: EngineResource = Field(description="The engine of a replica: a VllmResource, or a DummyEngineResource.")
    cluster: dg.ResourceDependency[Any | None] = None  # pyright: ignore[reportAssignmentType]
    """A resource that initialises Ray in the run, such as dagster-ray's: it is set up before the engine is used."""

    def make_engine(self) -> Engine:
        options = {name: getattr(self, name) for name in RayOptions.model_fields}
        return RayEngine(RaySettings.model_validate({**options, "engine": self._replica_settings()}))

    def _replica_settings(self) -> VllmSettings | DummySettings:
        if isinstance(self.engine, VllmResource):
            return self.engine.settings()
        if isinstance(self.engine, DummyEngineResource):
            return DummySettings(max_model_len=self.engine.max_model_len)
        raise ConfigError(
            f"A {type(self.engine).__name__} cannot be a replica in Ray. Give a VllmResource or a DummyEngineResource."
        )
