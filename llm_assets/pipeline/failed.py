"""Partitions that fail while the others of their run go on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llm_assets.errors import DatabaseAwayError, DatabaseError, FailureThresholdError, LLMAssetsError, SourceError
from llm_assets.pipeline.questions import Slice
from llm_assets.secrets import masked_logger

logger = masked_logger(__name__)


@contextmanager
def failing_alone(part: Slice) -> Iterator[None]:
    """Take an error that has to do with a partition alone as the end of that partition, not of the run.

    A database that is away has to do with all of them.
    """
    try:
        yield
    except DatabaseAwayError:
        raise
    except (SourceError, DatabaseError, FailureThresholdError) as error:
        part.error = error
        logger.error("Partition %r failed: %s", part.partition.key, error)


def raise_failed(slices: Sequence[Slice]) -> None:
    """Raise an error that names each partition that failed and says why; none if none did.

    It is of the type that all their errors have, if they have one in common.
    """
    failed = [(part.partition.key, part.error) for part in slices if part.error is not None]
    if not failed:
        return
    first = failed[0][1]
    if len(slices) == 1:
        raise first
    types = {type(error) for _, error in failed}
    kind = types.pop() if len(types) == 1 else LLMAssetsError
    reasons = "\n".join(f"{key}: {error}" for key, error in failed)
    raise kind(
        f"{len(failed)} of {len(slices)} partitions failed. What the others have is complete.\n{reasons}"
    ) from first
