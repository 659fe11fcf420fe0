"""What inspections share: a pipeline that cannot write."""

from llm_assets.errors import ConfigError
from llm_assets.pipeline import Pipeline
from llm_assets.tables import ReadOnlyStore


def read_only_store(pipeline: Pipeline) -> ReadOnlyStore:
    """Return the tables of a read-only pipeline.

    Raises:
        ConfigError: the pipeline can write.
    """
    if not isinstance(pipeline.store, ReadOnlyStore):
        raise ConfigError("This only looks: make the Pipeline with read_only=True.")
    return pipeline.store
