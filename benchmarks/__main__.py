"""Run every benchmark: python -m benchmarks."""

import subprocess
import sys

if __name__ == "__main__":
    for name in ("choice", "incremental"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
