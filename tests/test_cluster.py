"""The files of cluster/ against the schemas, the jobs' own parsers, the pinned versions and each other."""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement
from packaging.version import Version

from lstm_embed.cli import config_of
from lstm_embed.stages.capacity import unplaced

from conftest import ROOT

CLUSTER = ROOT / "cluster"
MANIFESTS = sorted(path.name for path in CLUSTER.glob("ray*.yaml") if path.name != "runtime_env.yaml")


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTER / name).read_text()))


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    return dict(manifest["spec"]["rayClusterSpec"] if manifest["kind"] == "RayJob" else manifest["spec"])


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = cluster_spec(manifest)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


def errors_of(manifest: dict[str, Any]) -> list[str]:
    text = gzip.decompress((ROOT / "tests" / "schemas" / f"{manifest['kind'].lower()}_v1.json.gz").read_bytes())
    return [error.message for error in Draft202012Validator(json.loads(text)).iter_errors(manifest)]


def test_there_is_a_manifest_for_each_use() -> None:
    assert MANIFESTS == ["raycluster.yaml", "rayjob-embed.yaml", "rayjob-prepare.yaml", "rayjob-train.yaml"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_follow_the_schemas_of_kuberay(name: str) -> None:
    manifest = load(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert errors_of(manifest) == []


def test_the_schemas_refuse_a_misspelt_field() -> None:
    manifest = load("rayjob-train.yaml")
    manifest["spec"]["shutdownAfterJobFinish"] = True
    group = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    group["maxReplica"] = group.pop("maxReplicas")
    assert any("shutdownAfterJobFinish" in error for error in errors_of(manifest))
    assert any("maxReplica" in error for error in errors_of(manifest))


def test_a_strict_schema_is_made_of_a_definition() -> None:
    made = __import__("runpy").run_path(str(ROOT / "tests" / "schemas" / "build.py"))
    spec = {
        "type": "object",
        "properties": {"port": {"x-kubernetes-int-or-string": True}, "name": {"type": "string", "description": "-"}},
    }
    schema = {"type": "object", "properties": {"metadata": {"type": "object"}, "spec": spec}}
    definition = {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}}
    validator = Draft202012Validator(made["schema_of"](definition))
    assert validator.is_valid({"metadata": {"name": "a"}, "spec": {"port": "http", "name": "b"}})
    assert validator.is_valid({"spec": {"port": 80}})
    assert not validator.is_valid({"spec": {"ports": 80}})


def test_the_aws_file_follows_the_schema_of_ray_up() -> None:
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("aws.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    assert [error.message for error in Draft202012Validator(schema).iter_errors(config)] == []
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert types["gpu-spot"]["resources"]["GPU"] == 1
    assert types["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def config_of_job(name: str) -> Any:
    """Return the settings that the job of a manifest is started with."""
    _, script, *flags = shlex.split(load(name)["spec"]["entrypoint"])
    return config_of(Path(script).stem, flags)


def test_a_job_that_only_prepares_is_understood() -> None:
    assert config_of_job("rayjob-prepare.yaml").output.startswith("s3://")


def test_one_version_of_ray_is_pinned_everywhere() -> None:
    constraints = (CLUSTER / "constraints.txt").read_text()
    found = re.search(r"^ray==(\S+)$", constraints, re.MULTILINE)
    assert found
    version = found[1]
    images = re.findall(
        r"lstm-embed:(\S+?)[\s`]", "".join(path.read_text() for path in CLUSTER.iterdir() if path.is_file())
    )
    assert len(images) >= 10
    assert {re.sub(r"-(cpu|cuda)$", "", tag).split("-ray")[1] for tag in images} == {version}
    assert f"ARG RAY_VERSION={version}\n" in (CLUSTER / "Dockerfile").read_text()
    assert {cluster_spec(load(name))["rayVersion"] for name in MANIFESTS} == {version}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {tag.split("-ray")[0] for tag in images} == {project["version"]}
    ray = next(Requirement(text) for text in project["dependencies"] if text.startswith("ray["))
    assert Version(version) in ray.specifier


def test_the_text_claims_the_ray_that_is_installed_for_the_tests() -> None:
    installed = Version(importlib.metadata.version("ray"))
    claimed = re.search(r"must run Ray (\d+\.\d+)\.", (ROOT / "README.md").read_text())
    assert claimed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray = next(Requirement(text) for text in project["dependencies"] if text.startswith("ray["))
    assert str(ray.specifier) == f"<{installed.major}.{installed.minor + 1},>={claimed[1]}"
    assert Version(claimed[1]).release == installed.release[:2]


def test_the_image_pins_versions_that_the_package_allows() -> None:
    lines = [line for line in (CLUSTER / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        requirement = Requirement(text)
        name = requirement.name.lower().replace("_", "-")
        assert Version(pinned[name]) in requirement.specifier, text


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_spot_tolerant_gentle_and_without_secrets(name: str) -> None:
    manifest = load(name)
    spec = cluster_spec(manifest)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert {"kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"} <= manifest["metadata"]["labels"].keys()
    for number, pod in enumerate(pods(manifest)):
        assert pod["serviceAccountName"] == "lstm-embed"
        hook = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert (ROOT / hook[1].removeprefix("/opt/lstm_embed/")).is_file()
        assert pod["terminationGracePeriodSeconds"] > int(hook[2])
        for container in pod["containers"]:
            assert container["resources"]["limits"] == container["resources"]["requests"]
            for variable in container["env"]:
                if re.search("KEY|TOKEN|SECRET|PASSWORD", variable["name"]):
                    assert list(variable["valueFrom"]) == ["secretKeyRef"]
        if number:
            assert any("spot" in toleration["key"] for toleration in pod["tolerations"])
            gpu = "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
            assert gpu == ("nodeSelector" in pod)
            assert gpu == pod["containers"][0]["image"].endswith("-cuda")
            assert gpu == any(toleration["key"] == "nvidia.com/gpu" for toleration in pod["tolerations"])
    if manifest["kind"] == "RayJob":
        assert manifest["spec"]["backoffLimit"] > 0
        assert manifest["spec"]["shutdownAfterJobFinishes"] is True


def nodes_of(name: str, *, count: str) -> list[dict[str, float]]:
    """Return the resources of the worker nodes of a manifest, as many of each group as its field `count` says."""
    nodes = []
    for group in cluster_spec(load(name))["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        nodes += [{"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}] * group[count]
    return nodes


def test_training_fits_its_worker_group() -> None:
    config = config_of_job("rayjob-train.yaml")
    worker = {"CPU": config.cpus_per_worker, "GPU": float(config.gpu)}
    nodes = nodes_of("rayjob-train.yaml", count="maxReplicas")
    assert unplaced([worker] * config.workers[1], nodes) == []
    assert len(unplaced([worker] * (config.workers[1] + 1), nodes)) == 1  # and no node stays unused


def test_embedding_fits_its_worker_group_and_leaves_cpus_for_reading() -> None:
    from lstm_embed.stages.config import workers_range

    config = config_of_job("rayjob-embed.yaml")
    most = workers_range(config.num_workers)[1]
    readers = most // 10
    nodes = nodes_of("rayjob-embed.yaml", count="maxReplicas")
    assert unplaced([{"CPU": 1.0, "GPU": float(config.gpu)}] * most + [{"CPU": 0.5}] * readers, nodes) == []


def test_runtime_environments_are_valid_and_name_secrets_only() -> None:
    from ray.runtime_env import RuntimeEnv

    jobs = [load(name)["spec"] for name in MANIFESTS if name.startswith("rayjob")]
    for text in ((CLUSTER / "runtime_env.yaml").read_text(), *(spec["runtimeEnvYAML"] for spec in jobs)):
        environment = yaml.safe_load(text)
        RuntimeEnv(**environment)
        variables = environment["env_vars"]
        assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60
        assert variables["OMP_NUM_THREADS"] == "1"
        for name, value in variables.items():
            if name.startswith("WANDB"):
                assert value == f"${{{name}}}"


def test_only_code_is_uploaded(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    wanted = {"lstm_embed/__init__.py", "lstm_embed/training/loop.py", "jobs/train.py", "cluster/runtime_env.yaml"}
    unwanted = {
        *(".git/objects/ab/cd", ".venv/bin/python", ".mypy_cache/a.json", "tests/test_a.py", "wandb/run-1/a.wandb"),
        *("data/tokens/parts/a.parquet", "runs/first/model/model.safetensors", "demo-output/a.json"),
        *(
            "dump.xml.bz2",
            "articles.jsonl",
            "lstm_embed/__pycache__/a.pyc",
            "vectors.npy",
            "lstm_embed.egg-info/PKG-INFO",
        ),
    }
    for name in wanted | unwanted:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for name in (".gitignore", ".rayignore"):
        (tmp_path / "work" / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "package.zip"
    create_package(str(tmp_path / "work"), package, include_gitignore=True, include_parent_dir=False, excludes=[])
    import zipfile

    names = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    assert names - {".gitignore", ".rayignore"} == wanted


def test_the_text_names_files_that_are_there() -> None:
    text = (CLUSTER / "README.md").read_text()
    named = set(re.findall(r"`((?:cluster/)?[a-z_-]+\.(?:yaml|py|sh|txt))`", text)) - {"runtime_env.yaml"}
    assert {path.name for path in CLUSTER.iterdir() if path.suffix in (".yaml", ".py", ".sh", ".txt")} <= {
        name.removeprefix("cluster/") for name in named | {"runtime_env.yaml"}
    }
    for name in named:
        assert (CLUSTER / name.removeprefix("cluster/")).exists() or (ROOT / name).exists(), name


def messages_of(files: Iterable[Path]) -> str:
    """Return all strings of Python files, with … for what they fill in."""
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_in_the_table_of_failures_are_those_that_are_shown() -> None:
    import ray

    text = (CLUSTER / "README.md").read_text().partition("## When something goes wrong")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    quoted = [message for cell in first_cells for message in re.findall(r"`([^`]+)`", cell)]
    inside = Path(ray.__file__).parent
    of_ray = ["dashboard/modules/job/job_manager.py", "train/v2/_internal/exceptions.py"]
    of_ray += ["_private/runtime_env/packaging.py"]
    own = [path for folder in ("lstm_embed", "jobs") for path in (ROOT / folder).rglob("*.py")]
    shown = messages_of([*own, *(inside / name for name in of_ray)]) + "No module named 'lstm_embed'"
    messages = [message for message in quoted if " " in message and not message.startswith("ray job")]
    assert len(messages) >= 15
    for message in messages:
        for piece in re.split(r"\s*…\s*|[;:] ", message):
            assert piece in shown, f"{piece!r} of {message!r}"


def run_drain(tmp_path: Path, *processes: str, seconds: int = 1) -> list[str]:
    """Run drain.sh among made-up processes with a made-up `ray`; return the words `ray` was called with."""
    tools, proc = tmp_path / "tools", tmp_path / "proc"
    tools.mkdir()
    (tools / "ray").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/called\n')
    (tools / "ray").chmod(0o755)
    for number, name in enumerate(processes):
        (proc / str(number)).mkdir(parents=True)
        (proc / str(number) / "cmdline").write_bytes(name.encode() + b"\0")
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PROC": str(proc)}
    subprocess.run(["bash", str(CLUSTER / "drain.sh"), str(seconds)], env=environment, check=True, timeout=20)
    called = tmp_path / "called"
    return called.read_text().split() if called.exists() else []


def test_a_node_with_work_is_drained(tmp_path: Path) -> None:
    words = run_drain(tmp_path, "/sbin/init", "ray::IDLE", "ray::RayTrainWorker.execute")
    assert words[:3] == ["drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    assert words[-2:] == ["--deadline-remaining-seconds", "1"]


def test_a_node_without_work_leaves_at_once(tmp_path: Path) -> None:
    assert run_drain(tmp_path, "/sbin/init", "ray::IDLE", "ray::DashboardAgent", "ray::_StatsActor", seconds=60) == []


def test_draining_is_understood_by_ray() -> None:
    from ray.scripts.scripts import drain_node

    options = {option for parameter in drain_node.params for option in parameter.opts}
    text = (CLUSTER / "drain.sh").read_text()
    assert set(re.findall(r" (--[a-z-]+)", text)) <= options
    reasons = next(parameter.type for parameter in drain_node.params if parameter.name == "reason")
    assert re.search(r"--reason (\w+)", text)[1] in reasons.choices  # type: ignore[index, attr-defined]


class _Metadata(BaseHTTPRequestHandler):
    leaving = False

    def do_PUT(self) -> None:
        self._answer("token")

    def do_GET(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token"] == "token"
        self._answer('{"action": "terminate"}' if self.leaving else "")

    def _answer(self, text: str) -> None:
        self.send_response(200 if text else 404)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_a_spot_machine_hears_that_it_is_taken_away() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    look = "import spot_watch; print(spot_watch.is_leaving())"
    environment = {**os.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    try:
        for leaving in (False, True):
            _Metadata.leaving = leaving
            found = subprocess.run(
                [sys.executable, "-c", look], cwd=CLUSTER, env=environment, capture_output=True, text=True, check=True
            )
            assert found.stdout.strip() == str(leaving)
    finally:
        server.shutdown()
