"""Run benchmarks by name, or all: python -m benchmarks [NAME ...]. Those that share a model load it once."""

import importlib
import json
import os
import subprocess
import sys
import time
import traceback

from benchmarks.common import Bench, Options, options_of, parser, write_line

NAMES = (
    "choice",
    "extract",
    "text",
    "tasks",
    "prefix",
    "duplicates",
    "matrix",
    "speculation",
    "host",
    "defaults",
    "incremental",
)
INCREMENTAL_ROWS = 20_000


def incremental(options: Options) -> dict:
    """Run `incremental`, whose runs are processes of their own."""
    command = [sys.executable, "-m", "benchmarks.incremental", "--rows", str(options.rows or INCREMENTAL_ROWS)]
    command += ["--postgres"] if options.database == "postgres" else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    command = parser(__doc__)
    command.add_argument("names", nargs="*", metavar="NAME", help=f"which; all if not given: {', '.join(NAMES)}")
    arguments = command.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        command.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    options, failed = options_of(arguments), []
    with Bench(options) as bench:
        for name in arguments.names or NAMES:
            started = time.perf_counter()
            print(f"{name}", flush=True)
            try:
                if name == "incremental":
                    found = incremental(options)
                else:
                    found = importlib.import_module(f"benchmarks.{name}").run(bench)
                write_line(found, arguments.json)
            except SystemExit as reason:  # a benchmark that cannot run here says why
                print(f"  left out: {reason}", flush=True)
            except Exception:
                # The others are still worth having.
                traceback.print_exc()
                failed.append(name)
                bench.unload()
            print(f"  {name} took {time.perf_counter() - started:.0f} s\n", flush=True)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
