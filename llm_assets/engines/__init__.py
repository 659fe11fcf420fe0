"""What answers requests. One protocol; importing this loads neither vllm nor torch."""

from llm_assets.engines.base import Engine
from llm_assets.engines.dummy import DummyEngine
from llm_assets.engines.ray.engine import RayEngine
from llm_assets.engines.ray.settings import DummySettings, RaySettings
from llm_assets.engines.server.engine import ServerEngine
from llm_assets.engines.server.settings import ServerSettings
from llm_assets.engines.vllm.engine import VllmEngine
from llm_assets.engines.vllm.settings import VllmSettings

__all__ = [
    "DummyEngine",
    "DummySettings",
    "Engine",
    "RayEngine",
    "RaySettings",
    "ServerEngine",
    "ServerSettings",
    "VllmEngine",
    "VllmSettings",
]
