"""Engine checkpoints: what a stage continues from, each whole or refused by name.

`step-00000400/` holds, per worker that wrote it, `worker-00001-of-00002.safetensors` (its share of the state) and
beside it a record with the same name in JSON (step, bytes, sha256), put last. A checkpoint is complete when all
workers' records are there: nobody has to wait for anybody to write one. Shares are pieces of one line of numbers
(`engine.Layout`), so that another number of workers reads just the pieces of its own.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumina.files import replace_file, replacing, sha256_file
from lumina.training.engine import Layout

logger = logging.getLogger(__name__)

_RECORD = re.compile(r"worker-(\d{5})-of-(\d{5})\.json")
_STEP = re.compile(r"step-(\d{8})")


class DamagedCheckpointError(ValueError):
    """A checkpoint that is marked complete is not what was written."""


@dataclass(frozen=True)
class EngineCheckpoint:
    """An engine checkpoint whose records are all there. It is private to its stage: weights are published apart."""

    path: Path
    step: int
    """Optimizer steps done."""
    world: int
    """Workers that wrote it."""

    def share(self, rank: int) -> Path:
        """File of what worker `rank` wrote."""
        return self.path / f"{_name(rank, self.world)}.safetensors"

    def record(self, rank: int) -> dict[str, Any]:
        """What worker `rank` said of its file. Raises DamagedCheckpointError if that cannot be read."""
        path = self.path / f"{_name(rank, self.world)}.json"
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not {"bytes", "sha256", *(["layout"] if rank == 0 else [])} <= set(record):
                raise ValueError("it lacks a part")
        except (OSError, ValueError, TypeError) as error:
            raise DamagedCheckpointError(f"{path} is no record of a checkpoint ({error})") from error
        return record

    def layout(self) -> Layout:
        """Where every tensor lies in the line of all numbers."""
        tensors = self.record(0)["layout"]
        return Layout(tuple(name for name, _ in tensors), tuple(tuple(shape) for _, shape in tensors))


class HostCopy:
    """One copy of a worker's state in host memory, in one place that is used again and again.

    From a GPU the place is page-locked, and copying waits for nothing: it is in line with what the GPU computes, before
    anything that changes the state.
    """

    def __init__(self) -> None:
        self._place: dict[str, Tensor] = {}

    def take(self, live: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Callable[[], None]]:
        """Copy tensors over the copies taken before; return the copies, and what waits until they are there."""
        for name, value in live.items():
            if name not in self._place:
                self._place[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._place[name].copy_(value.detach(), non_blocking=True)
        if not any(value.is_cuda for value in live.values()):
            return self._place, lambda: None
        copied = torch.cuda.Event()
        copied.record()
        return self._place, copied.synchronize


class Writer:
    """Runs one job at a time beside the loop. What goes wrong in it is raised by the next call."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[float] | None = None

    def submit(self, job: Callable[[], None]) -> Future[float]:
        """Start a job, once the one before has ended; return the seconds that it will have taken."""
        self.finish()

        def timed() -> float:
            begun = time.monotonic()
            job()
            return time.monotonic() - begun

        self._job = self._executor.submit(timed)
        return self._job

    @property
    def busy(self) -> bool:
        """Whether a job is being done."""
        return self._job is not None and not self._job.done()

    def finish(self) -> None:
        """Wait for the job."""
        job, self._job = self._job, None
        if job is not None:
            job.result()


def step_directory(root: Path, step: int) -> Path:
    """Directory of the checkpoint after `step` optimizer steps."""
    return root / f"step-{step:08d}"


def write_share(root: Path, step: int, rank: int, world: int, tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Write worker `rank`'s share, CPU tensors, and then its record. Only then does the share count."""
    path = step_directory(root, step)
    path.mkdir(parents=True, exist_ok=True)
    name = _name(rank, world)
    with replacing(path / f"{name}.safetensors", sync=True) as partial:
        save_file(dict(tensors), partial)
        record = {
            "step": step,
            "bytes": partial.stat().st_size,
            "sha256": sha256_file(partial),
            **({"layout": list(zip(layout.names, layout.shapes, strict=True))} if rank == 0 else {}),
        }
    replace_file(path / f"{name}.json", json.dumps(record).encode(), sync=True)


def complete(root: Path) -> list[EngineCheckpoint]:
    """All complete checkpoints, newest first. What a group of workers left unfinished is none."""
    found = []
    for path in sorted(root.glob("step-*"), reverse=True):
        step = _STEP.fullmatch(path.name)
        if not step:
            continue
        names = [match for entry in path.iterdir() if (match := _RECORD.fullmatch(entry.name))]
        worlds = [int(match[2]) for match in names]
        found += [EngineCheckpoint(path, int(step[1]), world) for world in set(worlds) if worlds.count(world) == world]
    return found


def verify_share(checkpoint: EngineCheckpoint, rank: int) -> None:
    """Compare worker `rank`'s file with its record. Raises DamagedCheckpointError, naming the file and the fault."""
    path, record = checkpoint.share(rank), checkpoint.record(rank)
    if not path.is_file():
        raise DamagedCheckpointError(f"{path} is missing")
    size = path.stat().st_size
    if size != record["bytes"]:
        raise DamagedCheckpointError(f"{path} has {size} bytes, but {record['bytes']} were written{_kind(path)}")
    if sha256_file(path) != record["sha256"]:
        raise DamagedCheckpointError(f"{path} has another digest than was written{_kind(path)}")


def read_piece(checkpoint: EngineCheckpoint, name: str, start: int, length: int) -> Tensor:
    """Numbers start..start + length of the line `name` ("weights", ...), with zeros behind its end."""
    with _line(checkpoint, name) as line:
        return _cut(line, start, length)


def read_small(checkpoint: EngineCheckpoint, rank: int, names: Sequence[str]) -> dict[str, Tensor]:
    """Whole tensors of worker `rank`'s share."""
    with _open(checkpoint.share(rank)) as file:
        return {name: file.get_tensor(name) for name in names}


def read_tensors(checkpoint: EngineCheckpoint, name: str) -> dict[str, Tensor]:
    """The line `name` ("weights" or "ema"), cut into the tensors that were trained, float32."""
    with _line(checkpoint, name) as line:
        return {
            tensor: _cut(line, offset, math.prod(shape)).view(shape)
            for tensor, shape, offset in checkpoint.layout().places()
        }


@contextmanager
def _line(checkpoint: EngineCheckpoint, name: str) -> Iterator[list[tuple[int, Any]]]:
    """Where each worker's share of a line starts in it, and the share, of which a part can be read."""
    with ExitStack() as files:
        line, offset = [], 0
        for rank in range(checkpoint.world):
            share = files.enter_context(_open(checkpoint.share(rank))).get_slice(name)
            line.append((offset, share))
            offset += share.get_shape()[0]
        yield line


def _cut(line: Sequence[tuple[int, Any]], start: int, length: int) -> Tensor:
    piece = torch.zeros(length)
    for offset, share in line:
        low, high = max(start, offset), min(start + length, offset + share.get_shape()[0])
        if low < high:
            piece[low - start : high - start] = share[low - offset : high - offset]
    return piece


def prune(root: Path, keep: int, milestone_every: int | None) -> None:
    """Remove all but the newest `keep` complete checkpoints and the milestones; what is newer may be in the making."""
    found = complete(root)
    if not found:
        return
    stay = {checkpoint.path for checkpoint in found[:keep]}
    stay |= {one.path for one in found if milestone_every and one.step % milestone_every == 0}
    for path in root.glob("step-*"):
        if path not in stay and path.name < found[0].path.name:
            _remove(path)


def remove_after(root: Path, step: int) -> None:
    """Remove everything behind `step`: damaged, incomplete, or of a run that is being taken back."""
    for path in root.glob("step-*"):
        if path.name > step_directory(root, step).name:
            _remove(path)


def _remove(path: Path) -> None:
    # The records go first, so that a half-removed checkpoint never looks complete.
    for record in path.glob("*.json"):
        record.unlink()
    shutil.rmtree(path)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({error}){_kind(path)}") from error


def _kind(path: Path) -> str:
    """Say so where the file is a pickle, which is never opened."""
    with path.open("rb") as file:
        head = file.read(2)
    return ": it is a pickle or a zip file, not safetensors" if head in (b"PK", b"\x80\x02", b"\x80\x04") else ""


def _name(rank: int, world: int) -> str:
    return f"worker-{rank:05d}-of-{world:05d}"
