"""What a run may use: seconds, rows, tokens and money."""

import time
from dataclasses import dataclass

from llm_assets.records import BeamSearch, Completion, GenerateText, Prices, Request, ScoreTokens

LATENCY_WEIGHT = 0.05
"""Weight of the latest completion in the mean time that a request takes."""


@dataclass(frozen=True, slots=True)
class _Asked:
    at: float
    most_tokens: int
    most_cost: float


class Limits:
    """Counts what a run uses, and says when no more may be asked.

    A request is admitted only if the most that it can use still fits, so neither rows nor tokens nor money go
    over their limit.
    Near the end of the time none is admitted that would probably not come back before it.
    """

    def __init__(
        self,
        max_seconds: float | None,
        max_rows: int | None,
        max_tokens: int | None,
        max_cost: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        self._max_rows, self._max_tokens, self._max_seconds = max_rows, max_tokens, max_seconds
        self._max_cost, self._prices = max_cost, prices or Prices(0, 0, 0)
        self._started = time.monotonic()
        self._rows = self._tokens = 0
        self._cost = 0.0
        self._latency = 0.0
        self._asked: dict[int, _Asked] = {}
        self.reached: str | None = None
        """The limit that was reached, as it was set; None as long as there is none."""

    def admit(self, requests: list[Request]) -> bool:
        """Count the requests of one question and return True, or return False if a limit stands against it."""
        if self.time_is_short():
            return False
        most = [self._most(request) for request in requests]
        tokens, cost = sum(asked.most_tokens for asked in most), sum(asked.most_cost for asked in most)
        if self._max_rows is not None and self._rows >= self._max_rows:
            self.reached = f"max_rows={self._max_rows}"
        elif self._max_tokens is not None and self._tokens + tokens > self._max_tokens:
            self.reached = f"max_tokens={self._max_tokens}"
        elif self._max_cost is not None and self._cost + cost > self._max_cost:
            self.reached = f"max_cost={self._max_cost:.15g}"
        else:
            self._rows += 1
            self._tokens += tokens
            self._cost += cost
            self._asked |= {request.id: asked for request, asked in zip(requests, most, strict=True)}
            return True
        return False

    def settle(self, completion: Completion) -> None:
        """Count what a request has really used."""
        asked = self._asked.pop(completion.id)
        usage = completion.usage
        self._tokens += usage.prompt + usage.output - asked.most_tokens
        self._cost += self._prices.cost(usage.prompt, usage.cached, usage.output) - asked.most_cost
        took = time.monotonic() - asked.at
        self._latency += (took - self._latency) * (LATENCY_WEIGHT if self._latency else 1.0)

    def _most(self, request: Request) -> _Asked:
        prompt, tokens = len(request.prompt_token_ids), most_tokens(request)
        return _Asked(time.monotonic(), tokens, self._prices.cost(prompt, 0, tokens - prompt))

    def time_is_short(self) -> bool:
        """Whether a request made now would probably not come back in time."""
        return self._is_after(self._latency)

    def time_is_up(self) -> bool:
        """Whether the run must end now."""
        return self._is_after(0.0)

    def _is_after(self, margin: float) -> bool:
        if self._max_seconds is None or time.monotonic() + margin < self._started + self._max_seconds:
            return False
        self.reached = f"max_seconds={self._max_seconds:.15g}"
        return True


def most_tokens(request: Request) -> int:
    """Return the most tokens that a request can use, its prompt and all that it generates."""
    match request.ask:
        case ScoreTokens(most_tokens=output):
            pass
        case BeamSearch(beam_width=width, max_tokens=most):
            output = width * most
        case GenerateText(sampling=sampling):
            output = int(str(sampling.get("n", 1))) * int(str(sampling["max_tokens"]))
    return len(request.prompt_token_ids) + output
