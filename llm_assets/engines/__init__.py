"""What answers requests. One protocol; importing this loads neither vllm nor torch."""

from llm_assets.engines.base import Engine
from llm_assets.engines.dummy import DummyEngine
from llm_assets.engines.ray import RayEngine
from llm_assets.engines.ray_settings import DummySettings, RaySettings
from llm_assets.engines.server import ServerEngine
from llm_assets.engines.server_settings import ServerSettings
from llm_assets.engines.settings import VllmSettings
from llm_assets.engines.vllm import VllmEngine

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
