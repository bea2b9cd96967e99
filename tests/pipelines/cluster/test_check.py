"""The shipped cluster files are right, and each small mistake in them is told with its line and what to write."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines import cli
from pipelines.cluster.check import check
from pipelines.cluster.document import fill, read
from pipelines.config import load_config

ROOT = Path(__file__).resolve().parents[3]
LAUNCHER, RAYJOB = ROOT / "ray_cluster.yaml", ROOT / "rayjob.yaml"
DIGEST = f"@sha256:{'0123456789abcdef' * 4}"
IMAGE = f"ghcr.io/somebody/lumina-video{DIGEST}"
VALUES = {"IMAGE": IMAGE, "NFS_SERVER": "fs-0123456789abcdef0.efs.us-west-2.amazonaws.com"}
PAPER = ("--config", "paper", "-o", "runtime.curation_resource=curation")
GROWS = ("-o", "runtime.autoscaling=true", "-o", "runtime.curation_workers=64")
ENV, AUTH = "env: &env\n", "    authOptions: {mode: token}\n"
START = "RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=120 ray start --head"
GROUP = "minReplicas: 0\n        maxReplicas: 8"

# What is written instead of what; the first line with this text; what is told there.
BROKEN_LAUNCHERS = """
idle_timeout_minutes: | idle_timeout_minute: | idle_timeout_minute: | did you mean 'idle_timeout_minutes'?
cache_stopped_nodes: | cache_stoped_nodes: | cache_stoped_nodes | did you mean 'cache_stopped_nodes'?
type: aws | type: awz | type: awz | did you mean 'aws'?
region: us-west-2 | use_internal_ips: true | provider: | region is missing
cluster_name: lumina-video | cluster_name: <your cluster> | cluster_name | is a placeholder: write what belongs here
IMAGE | ghcr.io/somebody/lumina-video:latest |   image: | write NAME@sha256:...
IMAGE | rayproject/ray:2.9.3-py311DIGEST |   image: | Ray 2.9.3 here, and this is for Ray VERSION
setup_commands: [] | setup_commands: ['pip install "ray[default]==2.9.3"'] | setup_commands: | Ray 2.9.3 here
\\nsetup_commands: [] | \\nmetadata: {} | cluster_name: lumina | add setup_commands: []
\\n  container_name: lumina | \\n | docker: | container_name is missing
GPU: 8} | GPU: "8"} | CPU: 192 | write a number without quotes
min_workers: 0 | min_workers: 9 | min_workers: 9 | at least 9 nodes of curation, but at most 8
resources: {CPU: 2} | resources: {CPU: 2, GPU: 1} | CPU: 2, GPU: 1 | the head has 1 GPU
RAY_JOB_STOP_WAIT_TIME_S=120 ray start --head | ray start --head |   - >- | RAY_JOB_STOP_WAIT_TIME_S=120
--ulimit nofile=65536:65536 | -e MLFLOW_TRACKING_PASSWORD=hunter2 | hunter2 | stands here for everybody to read
RAY_AUTH_MODE=token RAY_JOB | RAY_AUTH_MODE=disabled RAY_JOB |   - >- | write RAY_AUTH_MODE=token before ray start
RAY_AUTH_MODE=token | RAY_AUTH_MODE=token RAY_AUTH_TOKEN=0123abc |   - >- | RAY_AUTH_TOKEN stands here
/home/lumina/.ray/auth_token: | /home/lumina/notes: | cluster_name: | the nodes get no token
upscaling_speed: 1.0 | max_workers: 4 | max_workers: 4 | this key stands twice
"""
BROKEN_JOBS = """
K8sJobMode | K8JobMode | submissionMode | did you mean 'K8sJobMode'?
rayVersion: "VERSION" | rayVersion: "2.46.0" | rayVersion | expected VERSION, got '2.46.0'
IMAGE | rayproject/ray:nightly | rayproject/ray:nightly | write NAME@sha256:...
minReplicas: 0 | minReplicas: 9 | minReplicas: 9 | at least 9 nodes of curation, but at most 8
maxReplicas: 8 | labels: {} | - groupName: curation | maxReplicas is missing
cpu: "4", memory: 16Gi} | cpu: "4", nvidia.com/gpu: 1} | headGroupSpec | the head has 1 GPU
nvidia.com/gpu: 8} | nvidia.com/gpu: 4} | nvidia.com/gpu: 4 | write nvidia.com/gpu: 8
entrypointNumCpus: 1 | entrypointNumGpus: 1 | entrypointNumGpus | would keep a GPU from training
entrypointNumCpus: 1 | suspend: false | spec: | entrypointNumCpus is missing
RAY_JOB_STOP_WAIT_TIME_S, value | HF_TOKEN, value | HF_TOKEN, value | stands here for everybody to read
value: "120" | value: "3" | env: &env | add RAY_JOB_STOP_WAIT_TIME_S, with the value 120
{mode: token} | {mode: disabled} | rayClusterSpec: | add authOptions: {mode: token}
--store /shared/runs | --store /data/runs | volumeMounts: &mounts | the head does not mount the store /data/runs
--store /shared/runs |  | entrypoint: | no --store is given
runtime.curation_workers | runtime.curation_worker | entrypoint: | runtime.curation_worker: unknown key; did you mean
-o runtime.ray_address=auto |  | entrypoint: | inside the head: add -o runtime.ray_address=auto
autoscaling=true | autoscaling=true -o runtime.train_workers=40 | maxReplicas: 4 | training takes 40 workers with 1 CPU
"""


def edited(file: Path, folder: Path, *edits: tuple[str, str]) -> Path:
    """A copy of a shipped file with its values filled in, and each text replaced once."""
    text = file.read_text()
    text = fill(text, {name: value for name, value in VALUES.items() if f"<{name}>" in text})
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / file.name
    path.write_text(text)
    return path


def cluster(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["cluster", "check", *arguments])


@pytest.mark.parametrize("file", [LAUNCHER, RAYJOB])
def test_the_shipped_files_need_their_values_alone(file: Path, tmp_path: Path) -> None:
    left = cluster(str(file))
    assert left.exit_code == 1
    lines = left.output.splitlines()
    assert "nothing else is wrong" in lines[-1]
    assert all("is a placeholder: write it here, or fill it in with --fill" in line for line in lines[:-1])
    names = [name for name in VALUES if f"<{name}>" in file.read_text()]
    given = [part for name in names for part in ("--fill", f"{name}={VALUES[name]}")]
    out = tmp_path / "mine.yaml"
    right = cluster(str(file), *given, "--out", str(out), *PAPER, *GROWS)
    assert right.exit_code == 0, right.output
    assert "nothing to mend" in right.output
    assert IMAGE in out.read_text()


def test_the_job_says_what_it_is_checked_with_and_names_our_ray(tmp_path: Path) -> None:
    """The entry point's own overrides are the ones that fit its cluster, and none is misspelt."""
    words = yaml.safe_load(RAYJOB.read_text())["spec"]["entrypoint"].split()
    assert words[:3] == ["lumina", "run", "paper"]
    runtime = load_config("paper", [words[at + 1] for at, word in enumerate(words) if word == "-o"]).runtime
    assert (runtime.ray_address, runtime.autoscaling, runtime.curation_resource) == ("auto", True, "curation")
    assert f"ray=={importlib.metadata.version('ray')}" in (ROOT / "constraints.txt").read_text().splitlines()
    elsewhere = edited(RAYJOB, tmp_path, ("lumina run paper", "lumina run /etc/in_the_image.yaml"))
    assert not check(elsewhere, {}).problems


@pytest.mark.parametrize(("file", "mistakes"), [(LAUNCHER, BROKEN_LAUNCHERS), (RAYJOB, BROKEN_JOBS)])
def test_a_mistake_is_told_with_its_line_and_cure(file: Path, mistakes: str, tmp_path: Path) -> None:
    for name, value in {"IMAGE": IMAGE, "DIGEST": DIGEST, "VERSION": importlib.metadata.version("ray")}.items():
        mistakes = mistakes.replace(name, value)
    for mistake in mistakes.strip().splitlines():
        old, new, where, words = mistake.replace("\\n", "\n").split(" | ")
        path = edited(file, tmp_path, (old, new))
        line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if where in text)
        told = [(problem.line, problem.message) for problem in check(path, {}).problems]
        assert any(at == line and words in message for at, message in told), (mistake, line, told)
        assert all(at > 0 for at, _ in told)


@pytest.mark.parametrize("file", [LAUNCHER, RAYJOB])
def test_a_cluster_is_held_against_a_config(file: Path, tmp_path: Path) -> None:
    path = edited(file, tmp_path)
    for override, where, words in (
        (
            "runtime.train_workers=33",
            ("max_workers: 4", "maxReplicas: 4"),
            "training takes 33 workers with 1 CPU and 1",
        ),
        ("runtime.autoscaling=false", ("  min_workers: 0", "minReplicas: 0"), "the cluster starts with too few nodes"),
        ("runtime.curation_resource=pool", ("max_workers: 8", "maxReplicas: 8"), "some pool each (runtime.curation_"),
    ):
        shown = cluster(str(path), *PAPER, *GROWS, "-o", override, "--json")
        assert shown.exit_code == 1
        made = json.loads(shown.output)
        told = [problem["line"] for problem in made["problems"] if words in problem["message"]]
        lines = [n for n, line in enumerate(path.read_text().splitlines(), 1) if where[file == RAYJOB] in line]
        assert told
        assert set(told) <= set(lines)
        assert [node["name"] for node in made["nodes"]][1:] == ["curation", "training"]


def test_what_is_no_cluster_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    for text, words in (
        ("name: demo\n", "expected a file of `ray up` (cluster_name, provider) or a RayJob (kind: RayJob)"),
        ("", "is empty; expected a cluster file"),
        ("a: [1\nb: 2\n", "broken.yaml:2: not valid YAML"),
        ("kind: RayJob\n---\nkind: RayJob\n", "holds 2 RayJobs: check one at a time"),
    ):
        path.write_text(text)
        shown = cluster(str(path))
        assert shown.exit_code == 1
        assert shown.output.startswith("error: ")
        assert words in shown.output
    assert "cannot be read" in cluster(str(tmp_path / "none.yaml")).output
    assert "the file has no <IMAG>; it has <IMAGE>, <NFS_SERVER>" in cluster(str(LAUNCHER), "--fill", "IMAG=x").output
    assert "expected letters, digits and" in cluster(str(LAUNCHER), "--fill", "IMAGE=x: y").output
    assert "none is named: give one with --config" in cluster(str(LAUNCHER), "-o", "runtime.use_gpu=true").output


def test_a_cluster_of_given_machines(tmp_path: Path) -> None:
    machines = {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2"]}
    command = f"RAY_AUTH_TOKEN_PATH=/shared/token {START} --autoscaling-config=~/ray_bootstrap_config.yaml"
    data = {"cluster_name": "mine", "provider": machines, "setup_commands": [], "head_start_ray_commands": [command]}
    data |= {"docker": {"image": IMAGE, "container_name": "lumina"}}
    path = tmp_path / "local.yaml"
    path.write_text(yaml.safe_dump(data))
    assert not check(path, {}).problems
    assert "so no config can be held against it" in cluster(str(path), "--config", "demo").output


def test_a_job_may_have_its_token_from_a_secret_of_its_own(tmp_path: Path) -> None:
    referred = "{name: RAY_AUTH_TOKEN, valueFrom: {secretKeyRef: {name: mine, key: auth_token}}}"
    lines = ("{name: RAY_AUTH_MODE, value: token}", referred, "{name: RAY_AUTH_TOKEN_PATH, value: /t}")
    env = ENV + "".join(f"                - {line}\n" for line in lines)
    assert not check(edited(RAYJOB, tmp_path, (AUTH, ""), (ENV, env)), {}).problems


def test_rubbish_is_told_and_never_a_traceback(tmp_path: Path) -> None:
    for text in (
        "cluster_name: x\nprovider: 3\n",
        "cluster_name: x\nprovider: {type: aws, region: 7}\navailable_node_types: [1]\nmax_workers: many\n",
        "cluster_name: x\nprovider: {type: nowhere}\navailable_node_types: {1: 2}\n",
        "kind: RayJob\nspec: 3\n",
        'kind: RayJob\nspec: {entrypoint: "lumina \'run", rayClusterSpec: {headGroupSpec: 1, workerGroupSpecs: [2]}}\n',
        "kind: RayJob\nspec: {rayClusterSpec: {headGroupSpec: {template: {spec: {containers: [{env: [1]}]}}}}}\n",
    ):
        path = tmp_path / "rubbish.yaml"
        path.write_text(text)
        shown = cluster(str(path), "--config", "paper")
        assert isinstance(shown.exception, SystemExit), text
        assert "to mend" in shown.output, shown.output


KEYS = st.text("xyz", min_size=1, max_size=3)
VALUE = st.recursive(
    st.integers() | st.text("ab c", max_size=3) | st.none(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUE, min_size=1, max_size=4))
def test_every_value_knows_its_line(data: dict[str, Any]) -> None:
    text = yaml.safe_dump(data)
    [document] = read(text, "x.yaml")
    assert document.data == data
    lines = text.splitlines()
    for location, line in document.lines.items():
        if location and isinstance(location[-1], str):
            assert f"{location[-1]}:" in lines[line - 1]
