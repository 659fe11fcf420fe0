"""An engine that dies is started again, and a row that kills it is found."""

from collections.abc import Generator, Iterable, Iterator

from llm_assets.engines import Engine
from llm_assets.errors import EngineAwayError, EngineError, EngineFaultError
from llm_assets.records import Completion, FailureKind, Request
from llm_assets.secrets import masked_logger

logger = masked_logger(__name__)

SUSPECTS_TOGETHER = 8
"""Requests that were in flight when the engine died are asked again so many at a time."""


def completions(engine: Engine, requests: Iterable[Request], max_deaths: int) -> Generator[Completion]:
    """Yield the engine's completions; when it dies, start it again and go on.

    What was in flight at a death is asked again before anything else: in small groups, because most deaths have nothing
    to do with a row, and one by one after a group has died. A request that is alone when the engine dies on it once
    more is completed with an error of the kind `poison`; of a server that only fails, `engine_error`.

    Raises:
        EngineError: the engine died more than `max_deaths` times, or is elsewhere and was away for long.
        ModelError: the engine cannot be started again.
    """
    rest = iter(requests)
    again: list[list[Request]] = []
    deaths = 0
    while True:
        group = again.pop(0) if again else None
        in_flight: dict[int, Request] = {}
        source = rest if group is None else iter(group)
        try:
            for completion in engine.run(_noted(source, in_flight)):
                in_flight.pop(completion.id, None)
                yield completion
        except EngineAwayError:
            raise  # it has waited long enough, and there is nothing to start
        except EngineError as error:
            deaths += 1
            if deaths > max_deaths:
                raise EngineError(f"The engine died {deaths} times in this run. The last time: {error}") from error
            logger.warning("The engine died with %d requests in flight; it is started again. %s", len(in_flight), error)
            if group is None:
                again = _groups(list(in_flight.values()), SUSPECTS_TOGETHER)
            elif len(group) == 1 and in_flight:
                yield _given_up(group[0], error)
            else:
                again = [*_groups([*in_flight.values(), *source], 1), *again]
        else:
            if group is None:
                return


def _noted(requests: Iterator[Request], in_flight: dict[int, Request]) -> Iterator[Request]:
    """The same requests, each noted when the engine takes it."""
    for request in requests:
        in_flight[request.id] = request
        yield request


def _groups(requests: list[Request], size: int) -> list[list[Request]]:
    return [requests[start : start + size] for start in range(0, len(requests), size)]


def _given_up(request: Request, error: EngineError) -> Completion:
    if isinstance(error, EngineFaultError):  # it may fail at all rows
        return Completion(request.id, error=str(error))
    message = f"The engine died on this row again, when it had no other: {error}"
    return Completion(request.id, error=message, error_kind=FailureKind.POISON)
