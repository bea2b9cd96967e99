"""VBench scoring on Ray: clips by the native judges on every GPU or CPU, dimensions by the official code one by one.

Each score is logged as it comes, so a run that was killed goes on, and nothing is scored twice. A clip's score depends
on the clip and the judge alone; figures are reduced afterwards in the order of the clips' names, so the number of
workers changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.actor_pool import hand_out
from lumina.files import sha256_file
from lumina.vbench.clip_files import arranged
from lumina.vbench.dimensions import DIMENSIONS
from lumina.vbench.judges import Judges, content_digest, key
from lumina.vbench.prompts import VBenchPrompt
from lumina.vbench.reading import ClipShape, UnreadableClipError, clip_shape, read_clip
from lumina.vbench.score_store import SCORES_FILE, Scored, ScoreStore
from lumina.vbench.suite import judged_by as judged_of
from lumina.vbench.suite_config import (
    NATIVE,
    JudgeConfig,
    VBenchWeights,
    judged_by,
    missing_weights,
    unavailable,
    used_weights,
)
from lumina.vbench.summary import DimensionScores

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig

WORK = ".vbench"
"""Folder of what official processes leave."""


@dataclass(frozen=True)
class ClipFile:
    """One clip to judge."""

    path: Path
    name: str
    """`<prompt>-<index>.mp4`."""
    sha256: str
    prompt: VBenchPrompt | None
    """None where no prompt file tells what it shows."""
    dimensions: tuple[str, ...]
    """That look at it."""
    shape: ClipShape | None = None
    """None where it cannot be read."""


@dataclass(frozen=True)
class _Task:
    """One clip and the judges that have not seen it."""

    path: str
    name: str
    sha256: str
    prompt: VBenchPrompt | None
    keys: Mapping[str, str]
    """Dimension to the judge's key."""


class JudgeWorker:
    """Ray actor: judges one clip after another, and keeps the networks."""

    def __init__(self, weights: VBenchWeights, device: str, dtype: str) -> None:
        import torch

        # One thread: sums in a fixed order, whatever the machine's cores.
        torch.set_num_threads(1)
        self._judges = Judges(weights, device, dtype)

    def ready(self) -> None:
        """Return once the actor has a place on the cluster."""

    def make(self, task: _Task) -> list[Scored]:
        """Judge a clip by all its dimensions; it is read once."""
        from lumina.vbench.judges import Verdict

        try:
            clip = read_clip(Path(task.path))
        except UnreadableClipError as error:
            verdicts = dict.fromkeys(task.keys, Verdict(None, str(error)))
        else:
            verdicts = {name: self._judges.judge(name, clip, task.prompt, task.name) for name in task.keys}
        return [Scored(task.name, task.sha256, name, task.keys[name], verdict) for name, verdict in verdicts.items()]


def find_clips(
    folder: Path,
    names: Iterable[str],
    prompts: Sequence[VBenchPrompt],
    dimensions: Sequence[str],
    samples: int,
    filters: bool = True,
) -> list[ClipFile]:
    """Clips with their contents' digests and shapes, and who looks at them.

    Args:
        folder: with the clips.
        names: of their files; with prompts, files that are named after none of them are left aside.
        prompts: what clips were made of; empty where that is not known: then every dimension looks at all of them.
        dimensions: that are asked for.
        samples: clips of a prompt that count.
        filters: whether the static filter chooses among more of temporal flickering; see `filters_clips`.

    Raises ValueError naming two files of one clip, or a folder without a clip of any prompt.
    """
    known = {prompt.text: prompt for prompt in prompts}
    found = []
    for text, files in arranged(names).items():
        prompt = known.get(text)
        if known and prompt is None:
            continue
        for index, name in files.items():
            wanted = judged_of(prompt, index, samples, filters) if prompt else tuple(dimensions)
            if wanted:
                path = folder / name
                found.append(ClipFile(path, name, sha256_file(path), prompt, wanted, clip_shape(path)))
    if not found:
        raise ValueError(f"{folder} holds no clip of any prompt of the file: expected PROMPT-INDEX.mp4")
    return found


def score_clips(
    clips: Sequence[ClipFile],
    dimensions: Sequence[str],
    config: JudgeConfig,
    prompts_file: Path | None,
    out: Path,
    runtime: RuntimeConfig,
    progress: Callable[[int, int, str], None],
    expected: Mapping[str, int] | None = None,
    workers: int | None = None,
) -> dict[str, DimensionScores]:
    """Score clips by dimensions; what the log in `out` knows already is taken from there.

    Args:
        clips: what is judged.
        dimensions: which.
        config: by whom.
        prompts_file: what the official code reads of the prompts.
        out: folder for the log and the official processes' files.
        runtime: every GPU of the cluster gets a worker, or every CPU that is free for one.
        progress: told of (clips done, clips in all, what).
        expected: clips that each dimension asks for; None is those that are there.
        workers: at most; None is as many as there is room for.

    Where the official code fails, its dimension is named as broken, the others go on, and a rerun tries it again.

    Raises ValueError or FileNotFoundError for weights that are not the network's, MachineError for what the machine
    refuses; what was scored before is kept.
    """
    store = ScoreStore(out / SCORES_FILE)
    asked = {name: [clip for clip in clips if name in clip.dimensions] for name in dimensions}
    ready = [name for name in dimensions if unavailable(name, config) is None]
    native = [name for name in ready if judged_by(name, config) == "native"]
    keys = {name: key(name, config.weights, config.dtype) for name in native}
    _score_natively(clips, keys, config, store, runtime, progress, workers)
    versions: dict[str, str] = {}
    broken: dict[str, str] = {}
    official = [name for name in ready if name not in native and asked[name]]
    if official and config.python is not None:
        import torch

        from lumina.vbench.official import OfficialError, official_versions

        # Its processes are this one's children, wherever the cluster has its GPUs.
        device = "cuda" if runtime.use_gpu and torch.cuda.is_available() else "cpu"
        versions = {**official_versions(config.python), "device": device}
        keys |= {name: _official_key(name, versions) for name in official}
        for name in official:
            try:
                _score_officially(name, asked[name], keys[name], config, prompts_file, store, out, device, progress)
            except OfficialError as error:
                broken[name] = str(error)
    known = store.read()
    found: dict[str, DimensionScores] = {}
    for name in (one for one in DIMENSIONS if one in dimensions):
        places = [(name, keys.get(name, ""), clip.name, clip.sha256) for clip in asked[name]]
        scored = [known[place] for place in places if place in known]
        weights = versions if name in official else _digests(name, config)
        found[name] = DimensionScores(
            judged_by(name, config),
            scored,
            expected.get(name, 0) if expected else len(asked[name]),
            weights,
            unavailable(name, config),
            broken.get(name),
        )
    return found


def _digests(dimension: str, config: JudgeConfig) -> dict[str, str]:
    if dimension not in NATIVE or missing_weights(dimension, config.weights):
        return {}
    return {name: content_digest(place) for name, place in used_weights(dimension, config.weights).items()}


def _score_natively(
    clips: Sequence[ClipFile],
    keys: Mapping[str, str],
    config: JudgeConfig,
    store: ScoreStore,
    runtime: RuntimeConfig,
    progress: Callable[[int, int, str], None],
    workers: int | None,
) -> None:
    known = store.read()
    todo: deque[_Task] = deque()
    wanted = 0
    for clip in clips:
        names = [name for name in keys if name in clip.dimensions]
        missing = {name: keys[name] for name in names if (name, keys[name], clip.name, clip.sha256) not in known}
        wanted += bool(names)
        if missing:
            todo.append(_Task(str(clip.path), clip.name, clip.sha256, clip.prompt, missing))
    done = wanted - len(todo)
    if wanted:
        progress(done, wanted, "clips judged")
    if not todo:
        return
    device = "cuda" if runtime.use_gpu else "cpu"
    for result in hand_out(JudgeWorker, (config.weights, device, config.dtype), todo, runtime, workers):
        if result.error is not None:
            raise getattr(result.error, "cause", None) or result.error
        store.add(result.value)
        done += 1
        progress(done, wanted, "clips judged")


def _official_key(dimension: str, versions: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(["official/1", dimension, dict(versions)], sort_keys=True).encode()).hexdigest()


def _lengths(clips: Sequence[ClipFile]) -> Iterator[tuple[ClipFile, int]]:
    """Clips and their numbers of frames; OfficialError for one that the official code would leave out or fall over."""
    from lumina.vbench.official import OfficialError

    for clip in clips:
        try:
            yield clip, len(read_clip(clip.path).pixels)
        except UnreadableClipError as error:
            raise OfficialError(f"the official code is not asked, for {error}") from error


def _score_officially(
    dimension: str,
    clips: Sequence[ClipFile],
    judge: str,
    config: JudgeConfig,
    prompts_file: Path | None,
    store: ScoreStore,
    out: Path,
    device: str,
    progress: Callable[[int, int, str], None],
) -> None:
    """Have a dimension scored unless all of its clips are known: the official code takes them in one go."""
    from lumina.vbench.judges import Verdict
    from lumina.vbench.official import Clip, score_officially

    known = store.read()
    whole = [clip for clip in clips if (dimension, judge, clip.name, clip.sha256) not in known]
    if not whole or config.python is None:
        return
    if prompts_file is None:
        raise ValueError(f"the official {dimension} needs the prompt file that its clips were made of")
    progress(0, len(clips), f"official {dimension}")
    given = [Clip(clip.path, clip.name, frames) for clip, frames in _lengths(clips)]
    found = score_officially(config.python, dimension, given, prompts_file, out / WORK / dimension, device)
    contents = {clip.name: clip.sha256 for clip in clips}
    store.add(
        Scored(name, contents[name], dimension, judge, Verdict(score)) for name, score in sorted(found.clips.items())
    )
    progress(len(clips), len(clips), f"official {dimension}")
