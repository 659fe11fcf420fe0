"""Run benchmarks by name, or all: python -m benchmarks [NAME ...]. Those that have the same model load it once."""

import importlib
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

from benchmarks.common import Bench, Options, options_of, parser, write_line

TOGETHER = ("choice", "extract", "text", "tasks", "prefix", "duplicates", "matrix")
APART = ("compilers", "speculation", "copies", "host", "defaults", "server", "incremental")
"""In processes of their own: they load other models, and vLLM's CPU build loads none after n-gram speculation."""

NAMES = (*TOGETHER, *APART)
INCREMENTAL_ROWS = 20_000


def command_of(name: str, options: Options) -> list[str]:
    """Return the command of a benchmark that runs apart."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    if name != "incremental":
        return command + options.arguments()
    command += ["--rows", str(options.rows or INCREMENTAL_ROWS)]
    return command + (["--postgres"] if options.database == "postgres" else [])


def run_apart(name: str, options: Options, file: Path | None, environment: dict[str, str]) -> None:
    """Run a benchmark in a process of its own, showing what it prints; its last line is JSON unless it was left out."""
    last = ""
    with subprocess.Popen(command_of(name, options), stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line
    if process.returncode:
        raise RuntimeError(f"{name} ended with {process.returncode}")
    if file is not None and last.startswith("{"):
        with file.open("a", encoding="utf-8") as stream:
            stream.write(last)


def main() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    command = parser(__doc__)
    command.add_argument("names", nargs="*", metavar="NAME", help=f"which; all if not given: {', '.join(NAMES)}")
    arguments = command.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        command.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    options, failed = options_of(arguments), []
    environment = dict(os.environ)  # without what a load here sets, such as that vLLM computes in this process
    with Bench(options) as bench:
        for name in arguments.names or NAMES:
            started = time.perf_counter()
            print(name, flush=True)
            try:
                if name in APART:
                    bench.unload()
                    run_apart(name, options, arguments.json, environment)
                else:
                    write_line(importlib.import_module(f"benchmarks.{name}").run(bench), arguments.json)
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
