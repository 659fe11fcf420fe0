"""What a run may use: seconds, rows, tokens and money."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_assets.records import BeamSearch, Completion, EngineInfo, GenerateText, Prices, Request, ScoreTokens

if TYPE_CHECKING:
    from llm_assets.pipeline.pipeline import PipelineSettings

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

    Args:
        settings: The limits.
        info: The engine's prices, and how many calls a request takes.
    """

    def __init__(self, settings: "PipelineSettings", info: EngineInfo) -> None:
        self._max_rows, self._max_tokens = settings.max_rows, settings.max_tokens
        self._max_seconds, self._max_cost = settings.max_seconds, settings.max_cost
        self._prices, self._most_scored = info.prices or Prices(0, 0, 0), info.most_scored
        self._started = time.monotonic()
        self._rows = self._tokens = 0
        self._cost = 0.0
        self._latency = 0.0
        self._asked: dict[int, _Asked] = {}
        self.reached: str | None = None
        """The limit that was reached, as it was set; None as long as there is none."""

    def admit(self, requests: list[Request], is_second_try: bool = False) -> bool:
        """Count the requests of one question and return True, or return False if a limit stands against it.

        A second try asks about a row that is counted already.
        """
        if self.time_is_short():
            return False
        most = [self._most(request) for request in requests]
        tokens, cost = sum(asked.most_tokens for asked in most), sum(asked.most_cost for asked in most)
        if self._max_rows is not None and self._rows >= self._max_rows and not is_second_try:
            self.reached = f"max_rows={self._max_rows}"
        elif self._max_tokens is not None and self._tokens + tokens > self._max_tokens:
            self.reached = f"max_tokens={self._max_tokens}"
        elif self._max_cost is not None and self._cost + cost > self._max_cost:
            self.reached = f"max_cost={self._max_cost:.15g}"
        else:
            self._rows += not is_second_try
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
        prompt, output, calls = len(request.prompt_token_ids), most_output(request), 1
        if self._most_scored and isinstance(request.ask, ScoreTokens):
            calls = math.ceil(len(request.ask.token_ids) / self._most_scored)
        prompt, output = calls * prompt, calls * output
        return _Asked(time.monotonic(), prompt + output, self._prices.cost(prompt, 0, output))

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


def most_output(request: Request) -> int:
    """Return the most tokens that one call of a request can generate."""
    match request.ask:
        case ScoreTokens(most_tokens=output):
            return output
        case BeamSearch(beam_width=width, max_tokens=most):
            return width * most
        case GenerateText(sampling=sampling):
            return int(str(sampling.get("n", 1))) * int(str(sampling["max_tokens"]))
