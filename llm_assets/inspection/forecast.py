"""How long a run will take, from what earlier runs with the same model took."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llm_assets.tables import PastPartition


@dataclass(frozen=True, slots=True)
class TimeForecast:
    """Seconds on so many of a device, at the speed of earlier runs there."""

    device: str
    gpus: int | None
    """None without a GPU, and where nobody knows."""
    seconds: float
    seconds_load: float
    """Of loading the model, beside those seconds."""
    basis: Literal["answers", "tokens"]
    """Answers where earlier runs asked the same tasks about the same table, else tokens."""
    per_second: float
    """Answers or tokens."""
    partitions: int
    """Of earlier runs, from which that is known."""


def forecast_time(
    past: Sequence[PastPartition], source: str, tasks: Sequence[str], answers: int, tokens: float | None
) -> list[TimeForecast]:
    """Return a forecast for each device and number of GPUs that earlier runs had, the latest first.

    Args:
        past: What earlier runs with the same model did, the latest first.
        source: The table to be asked about.
        tasks: The names of the tasks that will be asked.
        answers: Rows that will be asked, once for each task.
        tokens: Tokens that will be computed, prompts and output; None if the output cannot be told.
    """
    if not answers:
        return []
    found = []
    for device, gpus in dict.fromkeys((item.device, item.gpus) for item in past):
        here = [item for item in past if (item.device, item.gpus) == (device, gpus)]
        same = [item for item in here if item.source == source and item.tasks == tuple(sorted(tasks))]
        if same:
            basis, some, amount = "answers", same, float(answers)
            done = sum(item.answers for item in same)
        elif tokens is not None:
            basis, some, amount = "tokens", here, tokens
            done = sum(item.tokens for item in here)
        else:
            continue
        if not done:
            continue
        speed = done / sum(item.seconds for item in some)
        loads = [item.seconds_load for item in here if item.seconds_load]
        load = sum(loads) / len(loads) if loads else 0.0
        found.append(TimeForecast(device, gpus, amount / speed, load, basis, speed, len(some)))
    return found
