"""Free text for each row, 64 tokens on every side: this package against plain vLLM."""

from typing import Any

from benchmarks.common import Bench, main
from benchmarks.plain import against_plain
from benchmarks.prompts import LONG_TEXT


def run(bench: Bench) -> dict[str, Any]:
    """Measure the four sides."""
    return against_plain(bench, "text", LONG_TEXT, bench.rows(cpu=8, gpu=4096))


if __name__ == "__main__":
    main(run, __doc__)
