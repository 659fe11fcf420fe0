"""JSON of about 85 tokens for each row: this package against plain vLLM under the same schema."""

from typing import Any

from benchmarks.common import Bench, main
from benchmarks.plain import against_plain
from benchmarks.prompts import LONG_EXTRACT


def run(bench: Bench) -> dict[str, Any]:
    """Measure the four sides."""
    return against_plain(bench, "extract", LONG_EXTRACT, bench.rows(cpu=8, gpu=4096))


if __name__ == "__main__":
    main(run, __doc__)
