"""One edit at a time, and the stages that `lumina plan` names for it: each expected set is written out by hand.

The command itself runs, from a copy of the packages that the test edits, on a store with a finished output for every
stage.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation.digest import row_digest
from curation.manifests import INGEST_OPERATOR, IngestConfig
from curation.operator import Env, Input
from lumina.video import write_h264
from tests.curation.in_memory import computed

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("lumina", "curation", "jobs", "pipelines")

TRAINED = ["train@1", "train@2", "train@3", "finetune"]
EVALUATED = ["evaluate@handheld", "evaluate@synthetic", "evaluate@web"]
LATENTS = ["encode_latents@images", "encode_latents@videos"]
AFTER_CHOICE = ["choose", "evaluate_final", "export"]
DECODING = ["probe", "motion", "curation_page", *LATENTS]


@dataclass(frozen=True)
class Home:
    """A copy of the packages, and a store."""

    root: Path
    config: str
    overrides: tuple[str, ...] = ()

    @property
    def store(self) -> Path:
        return self.root / "store"

    def call(self, *arguments: str, path: Path | None = None) -> str:
        """Run the copy's Python; standard output."""
        search = os.pathsep.join(str(one) for one in (path, self.root) if one)
        env = {**os.environ, "PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 2), done.stdout + done.stderr
        return done.stdout

    def options(self, *overrides: str) -> list[str]:
        return [word for value in (*self.overrides, *overrides) for word in ("-o", value)]

    def plan(self, *overrides: str, path: Path | None = None) -> dict[str, tuple[str, str]]:
        """Stage -> state and reason, of those that are not cached."""
        main = "import sys; from pipelines.cli import main; main()"
        words = ["plan", self.config, "--json", "--store", str(self.store), *self.options(*overrides)]
        stages: list[dict[str, Any]] = json.loads(self.call("-c", main, *words, path=path))["stages"]
        return {one["name"]: (one["state"], one["reason"]) for one in stages if one["state"] != "cached"}

    def forge(self, *given: str) -> None:
        script = str(REPOSITORY / "tests" / "pipelines" / "forge.py")
        self.call(script, self.config, str(self.store), *self.options(), *given)


def make(root: Path, config: str, *overrides: str) -> Home:
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    # Checked by content: an edit within one tick of the clock would pass for none.
    quick = ["-q", "-j", "1", "--invalidation-mode", "checked-hash"]
    subprocess.run([sys.executable, "-m", "compileall", *quick, *PACKAGES], cwd=root, check=True)
    home = Home(root, config, overrides)
    home.forge()
    assert home.plan() == {}
    return home


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make(tmp_path_factory.mktemp("demo"), "demo")


def check(found: Mapping[str, tuple[str, str]], expected: Mapping[str, tuple[list[str], str]]) -> None:
    """Exactly the expected stages are in the expected states, with reasons that match."""
    states = {name: state for name, (state, _) in found.items()}
    assert states == {name: state for state, (names, _) in expected.items() for name in names}
    for state, (names, reason) in expected.items():
        for name in names:
            assert re.search(reason, found[name][1]), f"{name}: {state}: {found[name][1]}"


UNKNOWN = r"^input \S+ is not computed yet$"
NOTHING: dict[str, tuple[list[str], str]] = {}


def code(module: str) -> str:
    return rf"code {re.escape(module)} [0-9a-f]{{8}} -> [0-9a-f]{{8}}"


def after_training(reason: str) -> dict[str, tuple[list[str], str]]:
    return {"drift": (TRAINED, reason), "unknown": ([*EVALUATED, *AFTER_CHOICE], UNKNOWN)}


EDITS = {
    "comment": ("lumina/training/ema.py", None, "# Nothing.\n", NOTHING),
    "docstring": ("lumina/training/ema.py", r'\A"""', '"""Another word. ', NOTHING),
    "layout": ("lumina/training/ema.py", r"\n\n\n", "\n\n\n\n\n", NOTHING),
    "helper module": (
        "lumina/training/ema.py",
        None,
        "SPARE = 1\n",
        after_training(code("lumina.training.ema")),
    ),
    "helper of several": (
        "lumina/system_prompts.py",
        None,
        "SPARE = 1\n",
        {
            "drift": (
                ["tag", "curation_page", "encode_text", *LATENTS, *EVALUATED, "evaluate_final", "export"],
                code("lumina.system_prompts"),
            ),
            "unknown": (["select", *TRAINED, "choose"], UNKNOWN),
        },
    ),
    "stage module": ("jobs/export.py", None, "SPARE = 1\n", {"drift": (["export"], code("jobs.export"))}),
    "stage module of several": ("jobs/train.py", None, "SPARE = 1\n", after_training(code("jobs.train"))),
    # The class lies beside the code that it configures, so code moves along; the key says more.
    "config default": (
        "jobs/choose.py",
        r"resamples: int = Field\(default=10_000",
        "resamples: int = Field(default=20_000",
        {
            "run": (["choose"], r"^config\.resamples 10000 -> 20000; 1 other difference$"),
            "unknown": (["finetune", "evaluate_final", "export"], UNKNOWN),
        },
    ),
    "network": (
        "lumina/models/rope.py",
        None,
        "SPARE = 1\n",
        {
            "drift": ([*TRAINED, *EVALUATED, "evaluate_final", "export"], code("lumina.models.rope")),
            "unknown": (["choose"], UNKNOWN),
        },
    ),
    "decoding process": (
        "curation/decoding_child.py",
        None,
        "SPARE = 1\n",
        {
            "drift": (DECODING, code("curation.decoding_child")),
            "unknown": (["tag", "select", "encode_text", *TRAINED, *EVALUATED, *AFTER_CHOICE], UNKNOWN),
        },
    ),
    "template": (
        "curation/page.html.j2",
        None,
        "<!-- -->\n",
        {"drift": (["curation_page"], code("curation/page.html.j2"))},
    ),
    "colour of a plot": ("jobs/train_plots.py", "% COLORS", "% (COLORS - 1)", NOTHING),
    "how stages are run": ("pipelines/engine/runner.py", None, "SPARE = 1\n", NOTHING),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_code(demo: Home, name: str) -> None:
    file, pattern, text, expected = EDITS[name]
    path = demo.root / file
    before = path.read_text()
    after = before + text if pattern is None else re.sub(pattern, text.replace("\\", r"\\"), before, count=1)
    assert after != before
    path.write_text(after)
    try:
        check(demo.plan(), expected)
    finally:
        path.write_text(before)


OVERRIDES = {
    "prompt text": (
        ["tag.system_prompts.web=You generate web videos."],
        {
            "run": (["tag"], r"^config\.system_prompts\.web .*-> .*web videos"),
            "unknown": (
                ["select", "curation_page", "encode_text", *LATENTS, *TRAINED, *EVALUATED, *AFTER_CHOICE],
                UNKNOWN,
            ),
        },
    ),
    "runtime option": (["runtime.checkpoint_every=7", "runtime.decode_timeout_s=9"], NOTHING),
    "worker count": (["runtime.train_workers=4", "runtime.num_cpus=9"], NOTHING),
    "code drift": (["code_drift=refuse", "expensive_s=1"], NOTHING),
    "one stage of training": (
        ["train.2.steps=999"],
        {
            "run": (["train@2"], r"^config\.steps 3200 -> 999$"),
            "unknown": (["train@3", "finetune", *EVALUATED, *AFTER_CHOICE], UNKNOWN),
        },
    ),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_change_of_a_setting(demo: Home, name: str) -> None:
    overrides, expected = OVERRIDES[name]
    check(demo.plan(*overrides), expected)


WITH_TORCH = ["motion", "encode_text", *LATENTS, *TRAINED, *EVALUATED, "evaluate_final", "export"]


@pytest.mark.parametrize("minor", [True, False])
def test_another_version_of_a_library(demo: Home, tmp_path: Path, minor: bool) -> None:
    from importlib.metadata import version

    now = version("torch").split("+")[0].split(".")
    other = f"{now[0]}.{int(now[1]) + 1}.0" if minor else f"{now[0]}.{now[1]}.99"
    (tmp_path / f"torch-{other}.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {other}\n"
    (tmp_path / f"torch-{other}.dist-info" / "METADATA").write_text(metadata)
    reason = rf"^depends\.torch {now[0]}\.{now[1]} -> {now[0]}\.{int(now[1]) + 1}$"
    expected = {"run": (WITH_TORCH, reason), "unknown": (["select", "curation_page", "choose"], UNKNOWN)}
    check(demo.plan(path=tmp_path), expected if minor else NOTHING)


@pytest.fixture
def folder(tmp_path: Path) -> Home:
    """Three small clips of one source with a manifest; `ingest` has the digest of its real rows."""
    clips = tmp_path / "clips"
    clips.mkdir()
    rows = [{"video": f"{name}.mp4", "caption": f'clip "{name}", moving', "source": "web"} for name in "abc"]
    for shift, row in enumerate(rows):
        write_clip(clips / row["video"], shift)
    write_table(clips / "clips.csv", rows)
    return make(tmp_path / "home", "folder", f"data.manifest={clips / 'clips.csv'}")


def write_clip(path: Path, shift: int) -> None:
    texture = np.random.Generator(np.random.Philox(shift)).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    write_h264(path, np.stack([np.roll(texture, shift * t, axis=1) for t in range(8)]), fps=8)


def write_table(path: Path, rows: list[dict[str, str]], **style: Any) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **style)
        writer.writeheader()
        writer.writerows(rows)


def ingested(path: Path) -> str:
    """Digest of the rows that the real stage finds."""
    config, env = IngestConfig(), Env(str(path.parent))
    return str(row_digest(computed(INGEST_OPERATOR, {"manifest": Input(path)}, config, env)))


def test_input_files(folder: Home) -> None:
    path = Path(folder.overrides[0].partition("=")[2])
    rows = list(csv.DictReader(path.open(newline="")))
    rest = [name for name in stages_of(folder) if name != "ingest"]
    again = {"run": (["ingest"], r"^facts\.media sha256:\w{12} -> sha256:\w{12}$"), "unknown": (rest, UNKNOWN)}

    # The same rows in other bytes.
    write_table(path, [dict(reversed(row.items())) for row in rows], quoting=csv.QUOTE_ALL, delimiter=",")
    check(folder.plan(), NOTHING)

    write_table(path, [{**rows[0], "caption": "another"}, *rows[1:]])
    check(folder.plan(), again)
    write_table(path, rows)
    check(folder.plan(), NOTHING)

    # A touched file has to be looked at, and what `ingest` finds then is what it found before.
    shutil.rmtree(folder.store)
    folder.forge(f"ingest={ingested(path)}")
    folder.forge()
    check(folder.plan(), NOTHING)
    clip = path.parent / "a.mp4"
    content = clip.read_bytes()
    os.utime(clip, ns=(1, clip.stat().st_mtime_ns + 10**9))
    check(folder.plan(), again)
    folder.forge(f"ingest={ingested(path)}")
    check(folder.plan(), NOTHING)

    # Other frames are other rows.
    write_clip(clip, 7)
    assert clip.read_bytes() != content
    check(folder.plan(), again)
    folder.forge(f"ingest={ingested(path)}")
    found = folder.plan()
    state, reason = found.pop("probe")
    assert state == "run"
    assert re.fullmatch(r"input clips [0-9a-f]{12} -> [0-9a-f]{12}", reason)
    assert {state for state, _ in found.values()} == {"unknown"}


def stages_of(home: Home) -> list[str]:
    return sorted(path.name for path in (home.store / "stages").iterdir())
