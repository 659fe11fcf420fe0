"""The same engine with another model, to compare the two."""

from pathlib import Path

from llm_assets.engines.base import Engine
from llm_assets.engines.dummy import DummyEngine
from llm_assets.engines.ray.engine import RayEngine
from llm_assets.engines.vllm.engine import VllmEngine
from llm_assets.engines.vllm.settings import ANSWERING_ARGS, VllmSettings
from llm_assets.errors import ConfigError

OF_THE_MODEL = ("revision", "tokenizer", "chat_template", "chat_template_kwargs", "quantization", "speculative_config")
"""Settings that belong to a model, and not to the one that takes its place."""


def with_model(engine: Engine, model: str) -> Engine:
    """Return an engine with the settings of another one and its own model, not loaded; the same one for its own model.

    Args:
        engine: The engine whose settings are taken, without those that describe its model.
        model: Directory of a model, or its name on the Hugging Face hub.

    Raises:
        ConfigError: the engine has no models to choose from, or there is no such directory.
    """
    if isinstance(engine, DummyEngine):
        return engine if model == engine.identity else type(engine)(engine.max_model_len, model)
    if isinstance(engine, RayEngine):
        inner = with_model(engine.inner, model)
        return engine if inner is engine.inner else engine.with_inner(inner)
    if not isinstance(engine, VllmEngine):
        raise ConfigError(f"The model of a {type(engine).__name__} cannot be varied.")
    own = engine.settings.model
    if model in (own, Path(own).name):
        return engine
    given = engine.settings.model_dump(exclude_unset=True)
    given |= given.pop("engine_args", {})
    # Whoever gives logits processors has them for the answers, whatever the model.
    dropped = {"model", *OF_THE_MODEL, *ANSWERING_ARGS} - {"logits_processors"}
    kept = {name: value for name, value in given.items() if name not in dropped}
    return VllmEngine(VllmSettings.model_validate({**kept, "model": model}))
