"""Check that the installed torch runs without a GPU's libraries."""

import subprocess
import sys


def main() -> None:
    """Import torch; if that fails, install the libraries that its ordinary build needs."""
    probe = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, text=True)
    if probe.returncode == 0:
        return
    print(
        "This torch is built for CUDA and its libraries are missing, so pip installs them now (several GB). To avoid "
        "that, point pip at PyTorch's wheels for CPUs (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS) and run: make clean setup"
    )
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "torch==2.13.0"], check=True)
    subprocess.run([sys.executable, "-c", "import torch"], check=True)


if __name__ == "__main__":
    main()
