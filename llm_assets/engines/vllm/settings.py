"""The engine's settings: every argument of vLLM's engine by its own name, checked without importing vLLM."""

import ast
import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llm_assets.errors import ConfigError, ModelError, did_you_mean

REFUSED = {
    "hf_token": "A token in the configuration would reach logs and the UI. Set HF_TOKEN in the environment.",
    "logprobs_mode": "Labels are scored with raw log-probabilities.",
    "runner": "Only generation is supported.",
    "task": "Only generation is supported.",
}

ANSWERING_ARGS = (
    "code_revision",
    "config_format",
    "generation_config",
    "hf_config_path",
    "hf_overrides",
    "kv_cache_dtype_skip_layers",
    "logits_processors",
    "model_class_overrides",
    "model_weights",
    "quantization_config",
    "tokenizer_mode",
    "tokenizer_revision",
    "watermark_config",
)
"""Arguments of vLLM that have no field here, and on which answers depend."""

OURS = {
    "engine_args",
    "chat_template",
    "chat_template_kwargs",
    "copies_per_gpu",
    "cpu_kv_cache_gib",
    "max_in_flight",
    "max_in_flight_tokens",
}
"""Settings that are no arguments of vLLM's engine."""


class VllmSettings(BaseModel):
    """Arguments of vLLM's engine. Those without a field here are given by the same names, or in `engine_args`."""

    # A refused setting may hold a token.
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), hide_input_in_errors=True)

    model: str = Field(description="Directory of a model, or its name on the Hugging Face hub.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub model; pin it to a commit.")
    tokenizer: str | None = Field(default=None, description="Tokenizer to use in place of the model's own.")
    chat_template: str | None = Field(default=None, description="Chat template (Jinja) in place of the model's own.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        default=None, description="Values of the chat template's variables, such as {enable_thinking: false}."
    )
    dtype: str = Field(default="auto", description="Type of weights and activations: auto, bfloat16, float16, float32.")
    quantization: str | None = Field(default=None, description="Quantization method, when the model does not name it.")
    load_format: str = Field(default="auto", description="Format of the weights; dummy makes random ones.")
    download_dir: str | None = Field(default=None, description="Directory for downloaded weights.")
    trust_remote_code: bool = Field(default=False, description="Run Python code that comes with the model.")
    max_model_len: int | None = Field(default=None, description="Most tokens of prompt and answer together.")
    tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(default=1, ge=1, description="GPUs that share the layers one after another.")
    data_parallel_size: int = Field(
        default=1, ge=1, description="Copies of the model that share the rows, each on GPUs of its own."
    )
    copies_per_gpu: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Copies of the model that share the rows and one GPU: it computes for one while the host works "
        "for another.",
    )
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1, description="Share of GPU memory to use.")
    kv_cache_memory_bytes: int | None = Field(default=None, description="Size of the KV cache, in bytes.")
    kv_cache_dtype: str = Field(default="auto", description="Type of the KV cache, for example fp8.")
    max_num_seqs: int | None = Field(default=None, ge=1, description="Most rows computed together.")
    max_num_batched_tokens: int | None = Field(default=None, ge=1, description="Most tokens in one step.")
    enable_prefix_caching: bool = Field(default=True, description="Compute the shared part of prompts once.")
    enable_chunked_prefill: bool | None = Field(default=None, description="Split long prompts over several steps.")
    enforce_eager: bool | None = Field(default=None, description="Run without CUDA graphs and compilation.")
    seed: int = Field(default=0, description="Seed of all sampling.")
    cpu_offload_gb: float = Field(default=0, ge=0, description="GiB of weights to keep in the host's memory.")
    speculative_config: dict[str, Any] | None = Field(default=None, description="Speculative decoding.")
    structured_outputs_config: dict[str, Any] | None = Field(
        default=None, description="How constraints are enforced; None is by llguidance, without free white space."
    )
    engine_args: dict[str, Any] = Field(default_factory=dict, description="Any other argument of vLLM's engine.")
    cpu_kv_cache_gib: int = Field(default=2, ge=1, description="Without a GPU: GiB of memory for the KV cache.")
    max_in_flight: int | None = Field(
        default=None, ge=1, description="Most requests handed to vLLM at a time; None is twice max_num_seqs."
    )
    max_in_flight_tokens: int = Field(
        default=2_000_000,
        ge=1,
        description="No more requests are handed to vLLM while it holds so many prompt tokens for each copy.",
    )

    @model_validator(mode="before")
    @classmethod
    def _collect_engine_args(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = {name: value for name, value in data.items() if name in cls.model_fields}
        extra = {**(data.get("engine_args") or {}), **{name: value for name, value in data.items() if name not in own}}
        valid = engine_argument_names()
        for name in extra:
            if name in REFUSED:
                raise ConfigError(f"Engine argument {name!r} cannot be set. {REFUSED[name]}")
            if name in cls.model_fields:
                raise ConfigError(f"Engine argument {name!r} has a setting of its own: write it outside engine_args.")
            if valid and name not in valid:
                raise ConfigError(
                    f"vLLM has no engine argument {name!r}. {did_you_mean(name, valid | cls.model_fields.keys())}"
                )
        return {**own, "engine_args": extra}

    @model_validator(mode="after")
    def _copies_have_one_gpu(self) -> Self:
        gpus = self.data_parallel_size * self.tensor_parallel_size * self.pipeline_parallel_size
        if self.copies_per_gpu > 1 and gpus > 1:
            raise ConfigError(
                f"copies_per_gpu is {self.copies_per_gpu}, and the other settings spread the model over {gpus} GPUs. "
                "Copies share one GPU: leave data_parallel_size, tensor_parallel_size and pipeline_parallel_size at 1, "
                "or copies_per_gpu. Two copies on each of several GPUs are replicas of a RayEngine with num_gpus: 0.5 "
                "and gpu_memory_utilization: 0.45."
            )
        return self

    @property
    def copies(self) -> int:
        """How many copies of the model share the rows."""
        return self.data_parallel_size * self.copies_per_gpu

    def check_model(self) -> None:
        """Raise a ConfigError if `model` is a path where there is no model.

        Not part of validation: the process that loads the definitions may lack the disk that runs have.
        """
        path = Path(self.model).expanduser()
        if self.model.startswith(("/", ".", "~")) and not (path / "config.json").is_file():
            what = "has no config.json" if path.is_dir() else "does not exist"
            raise ConfigError(
                f"Model directory {self.model!r} {what}. Give the directory of a model in Hugging Face format, or a "
                "hub name such as 'Qwen/Qwen2.5-7B-Instruct'."
            )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of vLLM's engine: what differs from vLLM's defaults or is needed here."""
        own = self.model_dump(exclude=OURS)
        return {**{name: value for name, value in own.items() if value is not None}, **self.engine_args}

    @property
    def constraints_config(self) -> dict[str, Any]:
        """How vLLM enforces constraints."""
        # Free white space between JSON tokens costs tokens, and a small model can loop in it. xgrammar, vLLM's own
        # choice, needs milliseconds for each token of a string that may have less than 16 more characters, and seconds
        # to compile longer bounds; llguidance needs a tenth longer for a pattern's tokens.
        return self.structured_outputs_config or {"backend": "guidance", "disable_any_whitespace": True}

    @property
    def identity(self) -> str:
        """What answers depend on: the weights and how they are read. The same for every engine that runs them."""
        parts = [self.model if not Path(self.model).expanduser().is_dir() else "", self.weights_revision]
        for name in ("quantization", "kv_cache_dtype", "tokenizer", "chat_template", "load_format"):
            if getattr(self, name) != VllmSettings.model_fields[name].default:
                parts.append(f"{name}={getattr(self, name)}")
        if self.chat_template_kwargs:
            parts.append(f"chat_template_kwargs={json.dumps(self.chat_template_kwargs, sort_keys=True, default=str)}")
        for name in ANSWERING_ARGS:
            if self.engine_args.get(name) is not None:
                parts.append(f"{name}={json.dumps(self.engine_args[name], sort_keys=True, default=str)}")
        return "|".join(parts)

    @property
    def weights_revision(self) -> str:
        """The revision of a hub model, or a hash of a local directory's files."""
        path = Path(self.model).expanduser()
        return directory_hash(path) if path.is_dir() else self.revision or "main"

    def model_length(self) -> int:
        """Return the most tokens the model was made for, from its configuration.

        Raises:
            ModelError: the configuration cannot be read, or does not say.
        """
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(
                str(Path(self.model).expanduser()),
                revision=self.revision or "main",
                trust_remote_code=self.trust_remote_code,
            )
            return int(config.get_text_config().max_position_embeddings)
        except Exception as error:  # transformers raises OSError, ValueError and AttributeError
            raise ModelError(
                f"The length of model {self.model!r} cannot be read from its configuration: {error}. Set max_model_len."
            ) from error


@cache
def engine_argument_names() -> frozenset[str]:
    """Return the names of the installed vLLM's engine arguments, read from its source; empty without vLLM.

    Importing vLLM to ask takes ten seconds, which nobody wants to wait for when a code location loads.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(spec.submodule_search_locations[0], "engine", "arg_utils.py")
    if not source.is_file():
        return frozenset()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
            return frozenset(f.id for f in fields if isinstance(f, ast.Name) and not f.id.startswith("_"))
    return frozenset()


_SAMPLES, _SAMPLE_BYTES = 64, 65536


@cache
def directory_hash(path: Path) -> str:
    """Return a hash of a model directory: small files whole, and 64 blocks spread over each large one.

    Two sets of weights with the same shapes differ nearly everywhere, so the blocks tell them apart without reading
    tens of gigabytes.
    """
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file() and ".cache" not in item.parts):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(stream.read())
                continue
            for index in range(_SAMPLES):
                stream.seek((size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
