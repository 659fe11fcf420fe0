"""What inspections share: a pipeline that cannot write, and the rows of every partition taken together."""

from dataclasses import dataclass

from llm_assets.errors import ConfigError
from llm_assets.pipeline import Pipeline
from llm_assets.records import Partition
from llm_assets.tables import ReadOnlyStore


@dataclass(frozen=True, slots=True)
class EveryPartition(Partition):
    """The rows that are in some partition of a table that is cut into partitions, as one slice."""

    dimensions: tuple[str, ...] = ()
    """Which partitions there are, in words; of two dimensions, a text for each."""


def read_only_store(pipeline: Pipeline) -> ReadOnlyStore:
    """Return the tables of a read-only pipeline.

    Raises:
        ConfigError: the pipeline can write.
    """
    if not isinstance(pipeline.store, ReadOnlyStore):
        raise ConfigError("This only looks: make the Pipeline with read_only=True.")
    return pipeline.store
