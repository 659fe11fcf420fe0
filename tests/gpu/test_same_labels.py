import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs a GPU")


def test_the_labels_on_a_gpu_are_those_on_a_cpu() -> None:
    subprocess.run([sys.executable, "-m", "tests.gpu.same_labels", "compare"], cwd=ROOT, check=True)
