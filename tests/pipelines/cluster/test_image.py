"""The Dockerfile, read as Docker would: it cannot be built here."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from pipelines.git import PACKAGES, SHIPPED

ROOT = Path(__file__).resolve().parents[3]
UID = "1000"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines if line)]


def test_the_image_holds_the_code_and_the_pinned_packages(instructions: list[tuple[str, str]]) -> None:
    copied = [name for word, rest in instructions if word == "COPY" for name in rest.split()[:-1]]
    assert set(PACKAGES) | {"constraints.txt", "pyproject.toml"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    installs = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert all("--constraint constraints.txt" in rest or "--no-deps" in rest for rest in installs)
    assert len(installs) == 2


def test_what_is_copied_is_sent_and_nothing_else(instructions: list[tuple[str, str]]) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = {name for word, rest in instructions if word == "COPY" for name in rest.split()[:-1]}
    assert sent == copied
    assert not any(fnmatch(name, pattern) for name in copied for pattern in ignored[1:] if not pattern.startswith("!"))


def test_nobody_is_root_and_nothing_is_secret(instructions: list[tuple[str, str]]) -> None:
    words = [word for word, _ in instructions]
    assert words[:2] == ["ARG", "FROM"]
    assert dict(instructions)["FROM"] == "${PYTHON}"
    assert [rest for word, rest in instructions if word == "USER"] == ["lumina"]
    assert "RUN" not in words[words.index("USER") :]
    assert not {"CMD", "ENTRYPOINT"} & set(words)  # `ray up` and KubeRay bring their own
    assert not re.search(r"(?i)password|token|secret", " ".join(rest for _, rest in instructions))
    [user] = [rest for word, rest in instructions if word == "RUN" and "useradd" in rest]
    assert f"--uid {UID}" in user
    assert f"install -d -o {UID} -g {UID}" in (ROOT / "ray_cluster.yaml").read_text()
    job = yaml.safe_load((ROOT / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    for group in (job["headGroupSpec"], *job["workerGroupSpecs"]):
        assert group["template"]["spec"]["securityContext"]["fsGroup"] == int(UID)


def sh(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As Docker runs it."""
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )


def test_its_commands_do_what_they_say(instructions: list[tuple[str, str]]) -> None:
    runs = [rest for word, rest in instructions if word == "RUN"]
    [script] = [run.partition("> requirements.txt")[0] for run in runs if "tomllib" in run]
    shown = sh(script, PATH=str(Path(sys.executable).parent))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert shown.stdout.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    [note] = [run for run in runs if SHIPPED in run]
    commit = "0123456789" * 4
    written = sh(note.replace(f"> {SHIPPED}", ""), COMMIT=commit)
    found = json.loads(written.stdout)
    assert (found["commit"], base64.b64decode(found["patch"])) == (commit, b"")
