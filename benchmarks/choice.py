"""Labels for rows, with the probability of each: this package against plain vLLM, which decodes them under a choice.

python -m benchmarks.choice [--rows 4096] [--rounds 3] [--model DIRECTORY [--load-format dummy]]
"""

from typing import Any

from benchmarks.common import Bench, main
from benchmarks.plain import against_plain
from benchmarks.prompts import LONG_CHOICE


def run(bench: Bench) -> dict[str, Any]:
    """Measure the four sides."""
    return against_plain(bench, "choice", LONG_CHOICE, bench.rows(cpu=128, gpu=4096))


if __name__ == "__main__":
    main(run, __doc__)
