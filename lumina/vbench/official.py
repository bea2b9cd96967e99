"""Adapter to the official VBench: one child process for each dimension, in an interpreter of its own.

The official package wants other versions of half of our libraries, so it has its own environment; it writes results
only after the last dimension that it was asked for, so it is asked for one. What it is given are links to the clips
and nothing else in their folder: it takes the suffix of all files from the first one that is listed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lumina.files import read_json
from lumina.vbench import official_child
from lumina.vbench.clip_files import index_of, prompt_of
from lumina.vbench.dimensions import OFFICIAL_SAMPLES
from lumina.vbench.official_results import OfficialResults, read_results

LOG_FILE = "official.log"
_RESULTS = "clips_eval_results.json"
_SHOWN = 300


class OfficialError(RuntimeError):
    """The official environment is absent, or its code failed."""


@dataclass(frozen=True)
class Clip:
    """One clip to score."""

    path: Path
    name: str
    """`<prompt>-<index>.mp4`."""
    frames: int


def official_versions(python: Path) -> dict[str, str]:
    """Versions of the interpreter and of the libraries that scores depend on.

    Raises OfficialError if there is no interpreter, or it has no `vbench`.
    """
    if not shutil.which(python):
        raise OfficialError(
            f"{python} is no interpreter: name the python of an environment that has vbench; docs/vbench.md has the "
            "recipe"
        )
    command = [str(python), str(Path(official_child.__file__))]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        found: dict[str, str] = json.loads(done.stdout)
    except ValueError as error:
        raise OfficialError(f"{python} does not run: {done.stderr.strip()[:_SHOWN]}") from error
    return found


def score_officially(
    python: Path, dimension: str, clips: Sequence[Clip], prompts: Path, work: Path, device: str = "cpu"
) -> OfficialResults:
    """Have one dimension scored by the official code.

    Args:
        python: interpreter of an environment that has `vbench`.
        dimension: its name.
        clips: of the dimension's prompts; indices 0..4, others are never looked at there.
        prompts: `VBench_full_info.json`.
        work: a folder for links, log and results; an earlier attempt in it is removed.
        device: as torch names it.

    Raises OfficialError in one line, with the log's name, where the interpreter is absent, ends with an error, is
    killed or writes nothing usable; ValueError for clips that the official code would not look at.
    """
    beyond = [clip.name for clip in clips if not 0 <= (index_of(clip.name) or 0) < OFFICIAL_SAMPLES]
    if beyond:
        raise ValueError(f"{beyond[0]}: the official code looks at clips 0 to {OFFICIAL_SAMPLES - 1} of a prompt")
    # The child has a folder of its own, and a link to an interpreter says which environment it is of.
    python, work = python.absolute() if len(python.parts) > 1 else python, work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    folder, out = work / "clips", work / "out"
    folder.mkdir(parents=True)
    out.mkdir()
    for clip in clips:
        (folder / clip.name).symlink_to(clip.path.resolve())
    made = {prompt_of(clip.name) for clip in clips}
    own = [entry for entry in read_json(prompts) if dimension in entry["dimension"] and entry["prompt_en"] in made]
    (work / "prompts.json").write_text(json.dumps(own), encoding="utf-8")
    request = {
        "prompts": str(work / "prompts.json"),
        "clips": str(folder),
        "dimension": dimension,
        "out": str(out),
        "device": device,
    }
    (work / "request.json").write_text(json.dumps(request), encoding="utf-8")
    _run(python, dimension, work)
    try:
        return read_results(out / _RESULTS, dimension, {clip.name: clip.frames for clip in clips})
    except (OSError, ValueError) as error:
        raise OfficialError(f"the official {dimension} wrote nothing usable: {error}; see {work / LOG_FILE}") from error


def _run(python: Path, dimension: str, work: Path) -> None:
    # What this process imports from would hide the other environment's packages.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    log = work / LOG_FILE
    with log.open("wb") as file:
        done = subprocess.run(  # noqa: S603 - the user names the interpreter
            [str(python), str(Path(official_child.__file__)), str(work / "request.json")],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=work,
            check=False,
        )
    if done.returncode:
        raise OfficialError(f"the official {dimension} {_end(done.returncode, log)}; see {log}")


def _end(code: int, log: Path) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    if "No module named 'vbench'" in last:
        return "cannot run: its interpreter has no vbench; docs/vbench.md has the recipe"
    return f"ended with exit code {code}: {last[:_SHOWN]}"
