"""The files of deploy/, by the linters of their kinds, and against what the rest of the repository says."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from sqlalchemy.engine import make_url
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.deploy.chart import DEPLOY, ROOT, code_location_pod, instance_config, values

MANIFESTS = [DEPLOY / "cache.yaml", DEPLOY / "vllm-server.yaml"]
DOCKERFILE = DEPLOY / "Dockerfile"
KUBERNETES = ["1.30", "1.33", "1.36"]
STYLE = """
extends: default
rules:
  line-length: {max: 120}
  document-start: disable
"""
LOCK = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line)


def instructions(name: str) -> list[str]:
    """Return what follows an instruction in the Dockerfile, with continued lines joined."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return [" ".join(line.split()[1:]) for line in text.splitlines() if line.startswith(f"{name} ")]


def manifests(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def test_the_dockerfile_passes_hadolint() -> None:
    beside_python = str(Path(sys.executable).parent)
    hadolint = shutil.which("hadolint", path=os.pathsep.join([beside_python, os.environ["PATH"]]))
    assert hadolint is not None, "hadolint is not installed; install the extra dev"
    command = [hadolint, "--no-color", "--failure-threshold", "style", str(DOCKERFILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.yaml")), ids=lambda path: path.name)
def test_yaml_passes_yamllint(path: Path) -> None:
    assert list(linter.run(path.read_text(), YamlLintConfig(STYLE), str(path))) == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_manifests_are_valid_for_kubernetes(version: str) -> None:
    for path in MANIFESTS:
        for manifest in manifests(path):
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_pod_of_the_code_location_is_valid_for_kubernetes(version: str) -> None:
    [deployment] = values()["dagster-user-deployments"]["deployments"]
    kubernetes_validate.validate(code_location_pod(deployment), version, strict=True)


def test_the_values_are_an_instance_that_says_what_dagster_yaml_says(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(postgres_url)
    given = values()
    given["postgresql"] |= {
        "postgresqlHost": url.host,
        "postgresqlUsername": url.username,
        "postgresqlDatabase": url.database,
        "service": {"port": url.port},
    }
    config = instance_config(given)
    # A launcher looks for its cluster as soon as it is made: test_cluster has one.
    del config["run_launcher"]
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", str(url.password))
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres_url)
    settings = {}
    for name, text in (("chart", yaml.safe_dump(config)), ("repository", (ROOT / "dagster.yaml").read_text())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dagster.yaml").write_text(text)
        with dg.DagsterInstance.from_config(str(tmp_path / name)) as instance:
            pools = instance.get_concurrency_config()
            settings[name] = {
                "coordinator": type(instance.run_coordinator).__name__,
                "storage": type(instance.run_storage).__name__,
                "granularity": pools.pool_config.pool_granularity,
                "limit": pools.pool_config.default_pool_limit,
                "runs": pools.run_queue_config.max_concurrent_runs if pools.run_queue_config else None,
                "retries": instance.get_settings("run_retries"),
                "logs": instance.get_settings("python_logs"),
                "telemetry": instance.get_settings("telemetry"),
                "nux": instance.get_settings("nux"),
                "cancelled after": instance.run_monitoring_cancel_timeout_seconds,
                "looked after every": instance.run_monitoring_poll_interval_seconds,
                "resumed": instance.run_monitoring_max_resume_run_attempts,
            }
    assert settings["chart"] == settings["repository"]
    assert settings["chart"]["coordinator"] == "QueuedRunCoordinator"
    assert settings["chart"]["granularity"] is not None
    assert config["run_monitoring"]["start_timeout_seconds"] > 300


def test_chart_image_and_base_are_of_the_versions_that_are_pinned_elsewhere() -> None:
    given = values()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [deployment] = given["dagster-user-deployments"]["deployments"]
    assert str(deployment["image"]["tag"]) == version
    text = (DEPLOY / "values.yaml").read_text() + (ROOT / "docs" / "many-machines.md").read_text()
    charts = re.findall(r"dagster/dagster --version (\S+)", text)
    assert len(charts) >= 2
    assert set(charts) == {LOCK["dagster"]}, "after `make lock`, name the chart of Dagster's new version"
    [base] = re.findall(r"ARG BASE=(\S+)", DOCKERFILE.read_text())
    [server] = [item for item in manifests(DEPLOY / "vllm-server.yaml") if item["kind"] == "Deployment"]
    assert server["spec"]["template"]["spec"]["containers"][0]["image"] == base


def test_vllm_knows_the_arguments_of_its_server() -> None:
    [server] = [item for item in manifests(DEPLOY / "vllm-server.yaml") if item["kind"] == "Deployment"]
    [container] = server["spec"]["template"]["spec"]["containers"]
    program, *command = container["command"]
    assert program == "vllm"
    # In a process of its own: vLLM is not imported into the tests' by reading a file.
    parse = """
import sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
ServeSubcommand().subparser_init(parser.add_subparsers(dest="subcommand"))
given = parser.parse_args(sys.argv[1:])
print(given.model_tag, given.max_model_len, given.port)
"""
    done = subprocess.run(
        [sys.executable, "-c", parse, *command, *container["args"]],
        env={**os.environ, "VLLM_TARGET_DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    [port] = [port["containerPort"] for port in container["ports"]]
    assert done.stdout.splitlines()[-1] == f"Qwen/Qwen2.5-7B-Instruct 8192 {port}"


def test_the_server_starts_without_the_secrets_that_one_may_leave_out() -> None:
    [server] = [item for item in manifests(DEPLOY / "vllm-server.yaml") if item["kind"] == "Deployment"]
    environment = server["spec"]["template"]["spec"]["containers"][0]["env"]
    secrets = {item["name"]: item["valueFrom"]["secretKeyRef"] for item in environment if "valueFrom" in item}
    assert secrets.keys() == {"VLLM_API_KEY", "HF_TOKEN"}
    assert all(each["optional"] for each in secrets.values())


def test_everything_runs_as_the_user_of_the_image() -> None:
    [uid] = [int(value) for value in re.findall(r"ARG UID=(\d+)", DOCKERFILE.read_text())]
    assert instructions("USER") == ["${UID}:${UID}"]
    given = values()
    [deployment] = given["dagster-user-deployments"]["deployments"]
    launcher = given["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    [server] = [item for item in manifests(DEPLOY / "vllm-server.yaml") if item["kind"] == "Deployment"]
    for context in (
        deployment["podSecurityContext"],
        launcher["podSpecConfig"]["securityContext"],
        server["spec"]["template"]["spec"]["securityContext"],
    ):
        assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, uid, uid)


def test_the_dockerfile_copies_what_is_there_and_its_ignore_file_lets_through_nothing_else() -> None:
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == set(copied)


def test_the_wheel_can_be_built_of_what_the_dockerfile_copies(tmp_path: Path) -> None:
    before = DOCKERFILE.read_text().partition("RUN grep")[0].replace("\\\n", " ")
    for line in (line for line in before.splitlines() if line.startswith("COPY ")):
        *sources, target = line.split()[1:]
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tmp_path, check=True)
    assert list((tmp_path / "dist").glob("llm_assets-*.whl"))


def test_no_secret_stands_in_a_file_of_the_image_or_the_cluster() -> None:
    secret = re.compile(r"(?i)token|password|api_key|url")
    set_in_image = " ".join(instructions("ENV") + instructions("ARG"))
    assert not secret.search(set_in_image)
    [deployment] = values()["dagster-user-deployments"]["deployments"]
    launcher = values()["runLauncher"]["config"]["k8sRunLauncher"]
    [server] = [item for item in manifests(DEPLOY / "vllm-server.yaml") if item["kind"] == "Deployment"]
    environment = server["spec"]["template"]["spec"]["containers"][0]["env"]
    assert not secret.search(" ".join([*deployment["env"], *launcher["envVars"]]))
    assert not [item for item in environment if secret.search(item["name"]) and "value" in item]
    assert "postgresqlPassword" not in values()["postgresql"]
