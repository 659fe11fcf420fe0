"""Run every benchmark: python -m benchmarks."""

from benchmarks import choice

if __name__ == "__main__":
    choice.main()
