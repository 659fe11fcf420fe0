"""What Dagster's chart makes of the keys that deploy/values.yaml uses. A key that is not known here is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

LAUNCHER = {
    "imagePullPolicy": "image_pull_policy",
    "envSecrets": "env_secrets",
    "envVars": "env_vars",
    "failPodOnRunFailure": "fail_pod_on_run_failure",
    "runK8sConfig": "run_k8s_config",
}
RUN_K8S_CONFIG = {
    "containerConfig": "container_config",
    "podSpecConfig": "pod_spec_config",
    "jobSpecConfig": "job_spec_config",
}
MONITORING = {
    "enabled": "enabled",
    "startTimeoutSeconds": "start_timeout_seconds",
    "cancelTimeoutSeconds": "cancel_timeout_seconds",
    "pollIntervalSeconds": "poll_interval_seconds",
    "maxResumeRunAttempts": "max_resume_run_attempts",
}
PYTHON_LOGS = {"pythonLogLevel": "python_log_level", "managedPythonLoggers": "managed_python_loggers"}
NAMESPACE = "default"


def values() -> dict[str, Any]:
    """Return deploy/values.yaml."""
    return yaml.safe_load((DEPLOY / "values.yaml").read_text())


def instance_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dagster.yaml that the chart writes for a release named dagster."""
    assert given["runLauncher"]["type"] == "K8sRunLauncher"
    # With one of these on, the chart would write an entry of the same name as additionalInstanceConfig.
    assert not given["dagsterDaemon"]["runCoordinator"]["enabled"]
    assert not given["dagsterDaemon"]["runRetries"]["enabled"]
    launcher = _renamed(given["runLauncher"]["config"]["k8sRunLauncher"], LAUNCHER)
    launcher["env_secrets"] = [secret["name"] for secret in launcher["env_secrets"]]
    launcher["run_k8s_config"] = _renamed(launcher["run_k8s_config"], RUN_K8S_CONFIG)
    launcher |= {
        "load_incluster_config": True,
        "job_namespace": NAMESPACE,
        "service_account_name": "dagster",
        "dagster_home": "/opt/dagster/dagster_home",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": given["global"]["postgresqlSecretName"],
    }
    database = given["postgresql"]
    storage = {
        "postgres_db": {
            "username": database["postgresqlUsername"],
            "password": {"env": "DAGSTER_PG_PASSWORD"},
            "hostname": database["postgresqlHost"],
            "db_name": database["postgresqlDatabase"],
            "port": database["service"]["port"],
            "params": {},
        }
    }
    written = {
        "scheduler": {"module": "dagster.core.scheduler", "class": "DagsterDaemonScheduler"},
        "run_storage": _class("dagster_postgres.run_storage", "PostgresRunStorage", storage),
        "event_log_storage": _class("dagster_postgres.event_log", "PostgresEventLogStorage", storage),
        "schedule_storage": _class("dagster_postgres.schedule_storage", "PostgresScheduleStorage", storage),
        "run_launcher": _class("dagster_k8s", "K8sRunLauncher", launcher),
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "run_monitoring": _renamed(given["dagsterDaemon"]["runMonitoring"], MONITORING),
        "python_logs": _renamed(given["pythonLogs"], PYTHON_LOGS),
        "telemetry": given["telemetry"],
    }
    additional = given["additionalInstanceConfig"]
    assert not set(written) & set(additional), "the chart writes these itself, and YAML has no key twice"
    return {**written, **additional}


def code_location_pod(deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod in which the chart runs a code location, as far as the values say."""
    image = deployment["image"]
    arguments = ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", str(deployment["port"])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": deployment["name"]},
        "spec": {
            "securityContext": deployment["podSecurityContext"],
            "volumes": deployment["volumes"],
            "containers": [
                {
                    "name": deployment["name"],
                    "image": f"{image['repository']}:{image['tag']}",
                    "imagePullPolicy": image["pullPolicy"],
                    "args": arguments + deployment["dagsterApiGrpcArgs"],
                    "env": [{"name": name, "value": value} for name, value in deployment["env"].items()],
                    "envFrom": [{"secretRef": secret} for secret in deployment["envSecrets"]],
                    "resources": deployment["resources"],
                    "securityContext": deployment["securityContext"],
                    "volumeMounts": deployment["volumeMounts"],
                }
            ],
        },
    }


def _class(module: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"module": module, "class": name, "config": dict(config)}


def _renamed(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    assert set(given) <= set(names), f"what does the chart make of {set(given) - set(names)}?"
    return {names[name]: value for name, value in given.items()}
