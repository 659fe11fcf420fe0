"""The settings of replicas in Ray, checked without importing Ray."""

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from llm_assets.engines.base import Engine
from llm_assets.engines.dummy import DummyEngine
from llm_assets.engines.vllm.engine import VllmEngine
from llm_assets.engines.vllm.hardware import is_cpu_build
from llm_assets.engines.vllm.settings import VllmSettings
from llm_assets.errors import ConfigError
from llm_assets.secrets import masked


class DummySettings(BaseModel):
    """Valid answers without a model, to try a cluster out; they mean nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["dummy"] = "dummy"
    max_model_len: int = Field(default=32768, ge=1, description="Most tokens of prompt and answer together.")
    identity: str = Field(default="dummy", description="The name that stands for the model.")


def _kind_of_settings(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "dummy" if kind == "dummy" else "vllm"


ReplicaSettings = Annotated[
    Annotated[VllmSettings, Tag("vllm")] | Annotated[DummySettings, Tag("dummy")], Discriminator(_kind_of_settings)
]
"""The settings of the engine in each replica: vLLM's, unless `type` is `dummy`."""


class RayOptions(BaseModel):
    """Replicas in Ray actors: how many, where, and what each one asks for."""

    # A refused setting may hold a token.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    replicas: int = Field(default=1, ge=1, description="How many actors hold the model.")
    address: str | None = Field(
        default=None,
        description="The cluster: auto, or ray://host:port. None is RAY_ADDRESS, or a cluster on this machine, for "
        "this engine alone. A Ray that the process has initialised comes before all of them.",
    )
    num_gpus: float | None = Field(
        default=None, ge=0, description="GPUs of a replica; None is what its vLLM shares the model over."
    )
    num_cpus: float | None = Field(
        default=None,
        ge=0,
        description="CPUs of a replica; None is 1, and without GPUs this machine's share for each replica.",
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="Other resources of a replica, by the cluster's names for them."
    )
    max_in_flight: int | None = Field(
        default=None,
        ge=1,
        description="Most rows handed to a replica at a time; None is 1.5 times what its engine takes.",
    )
    runtime_env: dict[str, Any] | None = Field(
        default=None, repr=False, description="Ray's runtime environment of the replicas. Not for secrets."
    )
    environment: list[str] = Field(
        default_factory=list,
        description="Names of environment variables that replicas get from this process: HF_TOKEN.",
    )
    max_restarts: int = Field(
        default=10, ge=0, description="Most replicas that are started again in a run after they were lost."
    )
    start_seconds: float = Field(
        default=120, gt=0, description="Longest wait for the cluster to place the replicas; loading is not counted."
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None and (not address.strip() or address.startswith(("http://", "https://"))):
            raise ConfigError(
                f"{masked(address)!r} is no address of a Ray cluster. Write 'auto' for the cluster that this machine "
                "belongs to, 'host:6379' for its head node, or 'ray://host:10001' from outside."
            )
        return address


class RaySettings(RayOptions):
    """An engine's replicas in Ray actors, and the settings of the engine that each one holds."""

    engine: ReplicaSettings = Field(description="The engine in each replica: vLLM's settings, or {'type': 'dummy'}.")

    @property
    def gpus(self) -> float:
        """GPUs that a replica asks for."""
        if self.num_gpus is not None:
            return self.num_gpus
        if isinstance(self.engine, DummySettings) or is_cpu_build():
            return 0
        engine = self.engine
        return engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size

    @property
    def cpus(self) -> float:
        """CPUs that a replica asks for. Ray lets OpenMP have as many threads, which are what vLLM computes with."""
        if self.num_cpus is not None:
            return self.num_cpus
        if isinstance(self.engine, DummySettings) or self.gpus:
            return 1
        return max(1, (os.cpu_count() or 1) // self.replicas)

    @property
    def demand(self) -> dict[str, float]:
        """All that a replica asks for, by Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus, **self.resources}


def make_engine(settings: VllmSettings | DummySettings) -> Engine:
    """Return the engine of a replica, not loaded."""
    if isinstance(settings, DummySettings):
        return DummyEngine(settings.max_model_len, settings.identity)
    return VllmEngine(settings)
