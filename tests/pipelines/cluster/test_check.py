"""The shipped cluster files are right, and each small mistake in them is told with its line and what to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines import cli
from pipelines.cluster.check import Checked, check
from pipelines.cluster.document import fill, read
from pipelines.cluster.ray_schema import ray_version
from pipelines.errors import PipelineError
from tests.pipelines.cluster.broken import BROKEN_JOBS, BROKEN_LAUNCHERS, IMAGE, Edit

ROOT = Path(__file__).resolve().parents[3]
LAUNCHER, RAYJOB = ROOT / "ray_cluster.yaml", ROOT / "rayjob.yaml"
VALUES = {"IMAGE": IMAGE, "NFS_SERVER": "fs-0123456789abcdef0.efs.us-west-2.amazonaws.com"}
PAPER = ("--config", "paper", "-o", "runtime.curation_resource=curation")
GROWS = ("-o", "runtime.autoscaling=true", "-o", "runtime.curation_workers=64")


def edited(file: Path, folder: Path, *edits: Edit) -> Path:
    """A copy of a shipped file with its values filled in, and each text replaced once."""
    text = fill(file.read_text(), {name: value for name, value in VALUES.items() if f"<{name}>" in file.read_text()})
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / file.name
    path.write_text(text)
    return path


def line_of(path: Path, text: str) -> int:
    [number, *_] = [number for number, line in enumerate(path.read_text().splitlines(), 1) if text in line]
    return number


def cluster(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["cluster", "check", *arguments])


def held(found: Checked) -> list[tuple[int, str]]:
    return [(problem.line, f"{problem.where}: {problem.message}") for problem in found.problems]


@pytest.mark.parametrize("file", [LAUNCHER, RAYJOB])
def test_the_shipped_files_need_their_values_alone(file: Path, tmp_path: Path) -> None:
    left = cluster(str(file))
    assert left.exit_code == 1
    lines = left.output.splitlines()
    assert "nothing else is wrong" in lines[-1]
    assert all("is a placeholder: write it here, or fill it in with --fill" in line for line in lines[:-1])
    given = [
        part
        for name, value in VALUES.items()
        if f"<{name}>" in file.read_text()
        for part in ("--fill", f"{name}={value}")
    ]
    out = tmp_path / "mine.yaml"
    right = cluster(str(file), *given, "--out", str(out), *PAPER, *GROWS)
    assert right.exit_code == 0, right.output
    assert "nothing to mend" in right.output
    assert IMAGE in out.read_text()
    assert cluster(str(out)).exit_code == 0


def test_the_job_says_what_it_is_checked_with() -> None:
    """The entry point's own overrides are the ones that fit its cluster, and none is misspelt."""
    from pipelines.config import load_config

    words = yaml.safe_load(RAYJOB.read_text())["spec"]["entrypoint"].split()
    assert words[:3] == ["lumina", "run", "paper"]
    runtime = load_config("paper", [words[at + 1] for at, word in enumerate(words) if word == "-o"]).runtime
    assert (runtime.ray_address, runtime.autoscaling, runtime.curation_resource) == ("auto", True, "curation")
    assert not check(RAYJOB, {"IMAGE": IMAGE}, runtime).problems


def test_a_config_that_is_in_the_image_alone_is_left_to_the_run(tmp_path: Path) -> None:
    path = edited(RAYJOB, tmp_path, ("lumina run paper", "lumina run /etc/mine.yaml"))
    assert not check(path, {}).problems


@pytest.mark.parametrize(("edit", "where", "words"), [pytest.param(*one[1:], id=one[0]) for one in BROKEN_LAUNCHERS])
def test_a_broken_launcher_file_is_told_line_and_cure(edit: Edit, where: str, words: str, tmp_path: Path) -> None:
    path = edited(LAUNCHER, tmp_path, edit)
    shown = cluster(str(path))
    assert shown.exit_code == 1
    told = next(line for line in shown.output.splitlines() if words in line)
    assert told.startswith(f"{path}:{line_of(path, where)}: ")


@pytest.mark.parametrize(("edit", "where", "words"), [pytest.param(*one[1:], id=one[0]) for one in BROKEN_JOBS])
def test_a_broken_job_is_told_line_and_cure(edit: Edit, where: str, words: str, tmp_path: Path) -> None:
    path = edited(RAYJOB, tmp_path, edit)
    found = check(path, {})
    told = [(line, text) for line, text in held(found) if words in text]
    assert told, held(found)
    assert told[0][0] == line_of(path, where)


@pytest.mark.parametrize("file", [LAUNCHER, RAYJOB])
@pytest.mark.parametrize(
    ("overrides", "where", "words"),
    [
        (
            ("runtime.train_workers=33",),
            ("max_workers: 4", "maxReplicas: 4"),
            "training takes 33 workers with 1 CPU and 1",
        ),
        (
            ("runtime.autoscaling=false",),
            ("    min_workers: 0", "minReplicas: 0"),
            "the cluster starts with too few nodes",
        ),
        (
            ("runtime.use_gpu=false",),
            ("  training:", "groupName: training"),
            "nothing in the config uses the GPUs of training",
        ),
        (
            ("runtime.curation_resource=cpu_pool",),
            ("max_workers: 8", "maxReplicas: 8"),
            "some cpu_pool each (runtime.curation_",
        ),
    ],
)
def test_a_cluster_is_held_against_a_config(
    file: Path, overrides: tuple[str, ...], where: tuple[str, str], words: str, tmp_path: Path
) -> None:
    path = edited(file, tmp_path)
    more = [part for one in overrides for part in ("-o", one)]
    shown = cluster(str(path), *PAPER, *GROWS, *more, "--json")
    assert shown.exit_code == 1
    made = json.loads(shown.output)
    [told] = [problem for problem in made["problems"] if words in problem["message"]]
    lines = [n for n, line in enumerate(path.read_text().splitlines(), 1) if where[file == RAYJOB] in line]
    assert told["line"] in lines
    assert [node["name"] for node in made["nodes"]][1:] == ["curation", "training"]


def test_what_is_no_cluster_file_is_one_clear_error(tmp_path: Path) -> None:
    for text, words in (
        ("name: demo\n", "is neither a file of Ray's cluster launcher"),
        ("", "is empty; expected a cluster file"),
        ("a: [1\nb: 2\n", "broken.yaml:2: not valid YAML"),
        ("- 1\n", "it holds something without a kind"),
        ("kind: RayJob\n---\nkind: RayJob\n", "holds 2 RayJobs: check one at a time"),
    ):
        path = tmp_path / "broken.yaml"
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
    started = "ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml"
    commands = [f"RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=120 {started}"]
    data = {"cluster_name": "mine", "provider": machines, "auth": {"ssh_user": "me"}, "setup_commands": []}
    data |= {"docker": {"image": IMAGE, "container_name": "lumina"}, "head_start_ray_commands": commands}
    data["file_mounts"] = {"/root/.ray/auth_token": "~/.ray/auth_token"}
    path = tmp_path / "local.yaml"
    path.write_text(yaml.safe_dump(data))
    assert not check(path, {}).problems
    assert "does not say what its nodes have" in cluster(str(path), "--config", "demo").output
    data |= {"file_mounts": {}, "head_start_ray_commands": [f"RAY_AUTH_TOKEN_PATH=/shared/token {commands[0]}"]}
    data["worker_start_ray_commands"] = ["RAY_AUTH_MODE=disabled ray start --address=$RAY_HEAD_IP:6379"]
    path.write_text(yaml.safe_dump(data))
    [(_, told)] = held(check(path, {}))
    assert told.startswith("worker_start_ray_commands[0]: whoever reaches this node's ports would run commands there")
    del machines["worker_ips"], data["worker_start_ray_commands"]
    path.write_text(yaml.safe_dump(data))
    assert [text for _, text in held(check(path, {}))] == [
        "provider.worker_ips: worker_ips is missing: add it below provider, such as [10.0.0.2, 10.0.0.3]"
    ]
    data |= {"provider": machines | {"worker_ips": ["10.0.0.2"]}, "available_node_types": {}, "head_node": {"a": 1}}
    path.write_text(yaml.safe_dump(data))
    assert "unknown key" in held(check(path, {}))[0][1]


def test_a_job_may_have_its_token_from_a_secret_of_its_own(tmp_path: Path) -> None:
    referred = "{name: RAY_AUTH_TOKEN, valueFrom: {secretKeyRef: {name: mine, key: auth_token}}}"
    lines = ("{name: RAY_AUTH_MODE, value: token}", referred)
    env = "env: &env\n" + "".join(f"                - {line}\n" for line in lines)
    path = edited(RAYJOB, tmp_path, ("    authOptions: {mode: token}\n", ""), ("env: &env\n", env))
    assert not check(path, {}).problems
    path = edited(RAYJOB, tmp_path, ("env: &env\n", env.replace(referred, "{name: RAY_AUTH_TOKEN_PATH, value: /t}")))
    assert not check(path, {}).problems


def test_what_ray_alone_knows_is_told_in_its_words(tmp_path: Path) -> None:
    path = edited(LAUNCHER, tmp_path, ("  container_name: lumina\n", ""), ("head_node_type: head\n", ""))
    told = [text for _, text in held(check(path, {}))]
    assert "docker: container_name is missing: add one below, such as lumina" in told
    assert ": Ray refuses the file: Must provide a container & image name" in told


def test_rubbish_is_told_and_never_a_traceback(tmp_path: Path) -> None:
    for text in (
        "cluster_name: x\nprovider: 3\n",
        "cluster_name: x\nprovider: {type: aws, region: 7}\navailable_node_types: [1]\nmax_workers: many\n",
        "cluster_name: x\nprovider: {type: nowhere}\n",
        "cluster_name: x\nprovider: {type: local, head_ip: 10.0.0.1}\n",
        "kind: RayJob\nspec: 3\n",
        'kind: RayJob\nspec: {entrypoint: "lumina \'run", rayClusterSpec: {headGroupSpec: 1, workerGroupSpecs: [2]}}\n',
        "kind: RayJob\nspec: {rayClusterSpec: {headGroupSpec: {template: {spec: {containers: [{env: [1]}]}}}}}\n",
    ):
        path = tmp_path / "rubbish.yaml"
        path.write_text(text)
        shown = cluster(str(path), "--config", "paper")
        assert isinstance(shown.exception, SystemExit), text
        assert shown.exit_code == 1
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


def test_a_ray_that_moved_its_validators_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray.autoscaler._private.util as private

    monkeypatch.delattr(private, "validate_config")
    with pytest.raises(PipelineError, match=r"Ray [\d.]+ does not have prepare_config and validate_config"):
        check(edited(LAUNCHER, tmp_path), {})


def test_the_files_name_our_ray() -> None:
    assert yaml.safe_load(RAYJOB.read_text())["spec"]["rayClusterSpec"]["rayVersion"] == ray_version()
    assert f"ray=={ray_version()}" in (ROOT / "constraints.txt").read_text().splitlines()
