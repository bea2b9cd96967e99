"""Adapter to av-benchmark (hkchengrex/av-benchmark), the code behind published FD, KL, IS and DeSync of sounds.

It wants other versions of half of our libraries, and a GPU, so it has its own environment and is run there as its
README says: on two folders of WAV files of the same names, the true ones and the generated ones, and for what looks at
films on a third of MP4 files of these names. What it writes is `output_metrics.json`, name to number.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumina.files import read_json

RESULTS_FILE, LOG_FILE = "output_metrics.json", "av_benchmark.log"
LEAST_DESYNC_S = 4.8
"""Seconds of the shortest clip of which DeSync can be told: 14 segments."""
_TRUTH = "truth"
_SHOWN = 300
_RECIPE = "clone hkchengrex/av-benchmark and install it as its README says"


class AVBenchmarkError(RuntimeError):
    """The other environment is absent, or its code failed."""


@dataclass(frozen=True)
class SoundFolders:
    """True and generated sounds of the same clips."""

    true: Path
    made: Path
    clips: tuple[str, ...]
    """Names of the files, without their suffix, sorted."""
    durations_s: tuple[float, ...]
    """Of each."""


def sound_folders(evaluation: Path, out: Path, condition: str = "given") -> SoundFolders:
    """Link the sounds of an evaluate stage's output into two folders of `out`; what an earlier call left is removed.

    Raises ValueError for a condition without sounds, or with sounds of only some clips: `shown` are kept of ablations;
    FileNotFoundError for a sound that is gone.
    """
    import pyarrow.dataset as dataset

    columns = ["clip_id", "condition", "sound", "duration_s"]
    rows = dataset.dataset(evaluation / "data").to_table(columns=columns).to_pylist()
    sides = {one: {row["clip_id"]: row for row in rows if row["condition"] == one} for one in (_TRUTH, condition)}
    known = ", ".join(sorted({row["condition"] for row in rows}))
    if not sides[condition]:
        raise ValueError(f"{evaluation} has no sounds of the condition {condition!r}; it has {known}")
    clips = sorted(sides[condition])
    lacking = [clip for clip in clips for side in sides.values() if clip not in side or not side[clip]["sound"]]
    if lacking:
        raise ValueError(
            f"{evaluation} kept no sound of clip {lacking[0]} under {condition}: evaluate with `shown` of "
            f"{len(clips)} or more, which keeps the sounds of all conditions"
        )
    folders = {}
    for name, side in (("true", sides[_TRUTH]), ("made", sides[condition])):
        files = {f"{clip}.wav": evaluation / side[clip]["sound"] for clip in clips}
        folders[name] = _linked(out / name, files)
    durations = tuple(float(sides[condition][clip]["duration_s"]) for clip in clips)
    return SoundFolders(folders["true"], folders["made"], tuple(clips), durations)


def run_av_benchmark(
    python: Path, repository: Path, folders: SoundFolders, work: Path, films: Mapping[str, Path] | None = None
) -> dict[str, float]:
    """Have the folders judged.

    Args:
        python: interpreter of the environment in which av-benchmark is installed.
        repository: its clone, with `evaluate.py`.
        folders: what is judged.
        work: a folder for caches, log and results; an earlier attempt in it is removed.
        films: MP4 file of each clip, for ImageBind's score and DeSync; None leaves these out.

    Returns:
        Figures by av-benchmark's own names, such as `FD-PANN`, `KL-PANNS-softmax`, `ISC-PANNS-mean`, `DeSync`.

    Raises AVBenchmarkError in one line, with the log's name, where the interpreter or the repository is absent, the
    code ends with an error, is killed, or writes nothing usable; ValueError for films that are missing or too short.
    """
    python = python.absolute() if len(python.parts) > 1 else python
    if not shutil.which(python):
        raise AVBenchmarkError(f"{python} is no interpreter: name the python of an environment; {_RECIPE}")
    repository = repository.resolve()
    for script in ("evaluate.py", *(("extract_video.py",) if films is not None else ())):
        if not (repository / script).is_file():
            raise AVBenchmarkError(f"{repository} holds no {script}: it is no clone of av-benchmark; {_RECIPE}")
    work = work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    caches = {name: work / f"{name}_cache" for name in ("true", "made")}
    for cache in caches.values():
        cache.mkdir(parents=True)
    # Sounds of unlike lengths go through it one by one.
    alike = len(set(folders.durations_s)) == 1
    length = f"--audio_length={max(folders.durations_s):g}"
    batches = ["--gt_batch_size=1", *([] if alike else ["--pred_batch_size=1"])]
    if films is not None:
        shown = _films(films, folders)
        videos = _linked(work / "videos", {f"{clip}.mp4": path for clip, path in shown.items()})
        given = [f"--gt_cache={caches['true']}", f"--video_path={videos}", "--gt_batch_size=1", length]
        _run(python, repository, "extract_video.py", given, work)
    given = [f"--gt_audio={folders.true.resolve()}", f"--gt_cache={caches['true']}"]
    given += [f"--pred_audio={folders.made.resolve()}", f"--pred_cache={caches['made']}", length, *batches]
    # The captions of clips are no texts of CLAP's benchmark.
    given += ["--skip_clap", *(["--skip_video_related"] if films is None else [])]
    _run(python, repository, "evaluate.py", given, work)
    return read_results(caches["made"] / RESULTS_FILE)


def read_results(path: Path) -> dict[str, float]:
    """Figures of a results file. AVBenchmarkError for what is none, or a figure that is no finite number."""
    try:
        found: Any = read_json(path)
    except (OSError, ValueError) as error:
        raise AVBenchmarkError(f"av-benchmark wrote nothing usable: {error}; see {LOG_FILE} of its work") from error
    if not isinstance(found, dict) or not found:
        raise AVBenchmarkError(f"{path} holds no figures by their names")
    for name, value in found.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise AVBenchmarkError(f"{path}: {name} is {json.dumps(value)}, which is no finite number")
    return {name: float(value) for name, value in sorted(found.items())}


def _films(films: Mapping[str, Path], folders: SoundFolders) -> dict[str, Path]:
    lacking = [clip for clip in folders.clips if clip not in films]
    if lacking:
        raise ValueError(f"there is no film of clip {lacking[0]}: films are needed of all clips, or of none")
    if min(folders.durations_s) < LEAST_DESYNC_S:
        raise ValueError(
            f"DeSync needs sounds of {LEAST_DESYNC_S} s or longer, and the shortest has "
            f"{min(folders.durations_s):g} s: leave the films out"
        )
    return {clip: films[clip] for clip in folders.clips}


def _linked(folder: Path, files: Mapping[str, Path]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, path in files.items():
        if not path.is_file():
            raise FileNotFoundError(f"{path} is gone: evaluate again")
        (folder / name).symlink_to(path.resolve())
    return folder


def _run(python: Path, repository: Path, script: str, arguments: Sequence[str], work: Path) -> None:
    # What this process imports from would hide the other environment's packages.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    log = work / LOG_FILE
    with log.open("ab") as file:
        done = subprocess.run(  # noqa: S603 - the user names the interpreter
            [str(python), script, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=repository,
            check=False,
        )
    if done.returncode:
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise AVBenchmarkError(f"av-benchmark's {script} {_end(done.returncode, text)}; see {log}")


def _end(code: int, lines: Iterable[str]) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    last = next((line.strip() for line in reversed([*lines]) if line.strip()), "it printed nothing")
    if "No module named 'av_bench'" in last:
        return f"cannot run: its interpreter has no av_bench; {_RECIPE}"
    return f"ended with exit code {code}: {last[:_SHOWN]}"
