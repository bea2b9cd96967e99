"""Clip folder: the clips of a list of prompts, one checkpoint's, with a manifest beside them; resumable.

`<file>.mp4` is whole or not there. `.clips/<file>.mp4.json` says, put after it, what it was made of: a clip is made
again if and only if that is no longer what its row asks for. `manifest.jsonl` has the clips that the last command found
or made, in the order of their rows. `.clips/folder.json` says what all of them share, and which names are ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.clip_sound import ClipSound
from jobs.clips import Batch, ClipJob, ClipRequest, make_clips
from lumina.adapter_files import CONFIG_FILE
from lumina.evaluation.noise import sampled_noise
from lumina.faults import brief, machine_errors
from lumina.files import read_json, replace_file, sha256_file
from lumina.flow_matching.schedules import SamplerConfig
from lumina.formats import short_digest
from lumina.generation_config import GenerationConfig, read_settings
from lumina.models.config import AttentionKernel
from lumina.offload import OffloadSetting
from lumina.parts import GENERATION_FILE, SYSTEM_PROMPTS_FILE, TEXT_ENCODER, TRANSFORMER, VAE, find_parts, find_source
from lumina.precision import DType
from lumina.pretrained import locate
from lumina.prompt_files import PromptRow
from lumina.prompt_length import cut_message
from lumina.system_prompts import SystemPrompt, compose, read_system_prompts

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig

MANIFEST_FILE = "manifest.jsonl"
RECORDS = ".clips"
_HEADER_FILE = "folder.json"
_LOCK_FILE = "lock"
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja")
"""Files of a network or tokenizer that are read."""


class ClipFolderError(ValueError):
    """A folder cannot take the clips; the message says why, and what to do."""


@dataclass(frozen=True)
class ClipModel:
    """A text-to-video directory, as far as it is known without loading it."""

    transformer: Path
    vae: Path
    text_encoder: Path
    system_prompts: Mapping[str, SystemPrompt]
    defaults: GenerationConfig
    adapter: Path | None
    adapter_scale: float

    @classmethod
    def find(cls, checkpoint: str, adapter: str | None = None, adapter_scale: float = 1.0) -> ClipModel:
        """Find the parts of a directory or hub model, those that it names by reference too.

        Raises FileNotFoundError naming the part that is missing.
        """
        parts = find_parts(checkpoint)
        return cls(
            parts[TRANSFORMER].absolute(),
            parts[VAE].absolute(),
            parts[TEXT_ENCODER].absolute(),
            read_system_prompts(parts[SYSTEM_PROMPTS_FILE]),
            read_settings(parts[GENERATION_FILE]),
            None if adapter is None else locate(adapter, "an adapter", (CONFIG_FILE,)).folder.absolute(),
            adapter_scale,
        )

    def digest(self) -> str:
        """Of the content of its networks and tokenizer, and of the adapter: "sha256:<hex>"."""
        parts = {TRANSFORMER: self.transformer, VAE: self.vae, TEXT_ENCODER: self.text_encoder}
        if self.adapter is not None:
            parts["adapter"] = self.adapter
        content = {
            name: {
                path.relative_to(folder).as_posix(): sha256_file(path)
                for path in sorted(folder.rglob("*"))
                if path.suffix in _READ and path.is_file()
            }
            for name, folder in parts.items()
        }
        return _digest({"parts": content, "adapter_scale": self.adapter_scale if self.adapter else None})

    def sizes(self) -> dict[str, int]:
        """Bytes of the files with the weights of each network."""
        folders = {TRANSFORMER: self.transformer, VAE: self.vae, TEXT_ENCODER: self.text_encoder}
        return {
            name: sum(path.stat().st_size for path in folder.glob("*.safetensors")) for name, folder in folders.items()
        }


@dataclass(frozen=True)
class ClipSettings:
    """What the rows of a prompt file leave to the command, and what all of its clips share."""

    sampler: SamplerConfig
    dtype: DType
    device: str
    """`cpu` or `cuda`."""
    attention: AttentionKernel
    tiling: bool | None
    """Whether frames are decoded in tiles; None is where they do not fit a GPU whole."""
    offload: OffloadSetting = "auto"
    """What waits on the CPU: no clip is another one for it."""
    seed: int = 0
    size: tuple[int, int] | None = None
    frames: int | None = None
    fps: float | None = None
    source: str = ""
    motion: float | None = None
    negative_prompt: str = ""
    sound: ClipSound | None = None
    """Gives each clip a sound."""


@dataclass
class Made:
    """What came of it."""

    clips: int
    """That were asked for."""
    made: int = 0
    """By this command."""
    failed: list[tuple[PromptRow, str]] = field(default_factory=list)
    """Rows whose clip cannot be made, and why."""
    left: list[str] = field(default_factory=list)
    """Clips in the folder that no row asks for any more."""
    cut: str | None = None
    """See `lumina.prompt_length.cut_message`."""


@dataclass(frozen=True)
class ClipFolder:
    """The folder, locked: see `open_folder`."""

    path: Path
    model: ClipModel
    settings: ClipSettings
    rows: Sequence[PromptRow]
    batches: Mapping[int, Batch]
    """By the row's line: one clip each, so that it depends on no other row, and is that of `TextToVideo` alone."""
    columns: Mapping[int, Mapping[str, Any]]
    """What the manifest says of a row, by its line."""
    made: Made

    @property
    def header(self) -> Path:
        """File with what all of its clips share."""
        return self.path / RECORDS / _HEADER_FILE

    def todo(self) -> int:
        """Clips that are to be made."""
        return sum(batch.rows() is None for batch in self.batches.values())

    def make(self, runtime: RuntimeConfig, workers: int | None, progress: Callable[[int, int], None]) -> None:
        """Make what is missing on the cluster that this process is connected to; see `jobs.clips.make_clips`."""
        lines = {batch.record: line for line, batch in self.batches.items()}
        by_line = {row.line: row for row in self.rows}

        def failed(batch: Batch, error: BaseException) -> None:
            said = str(error) if type(error) is ValueError else brief(Exception(f"{type(error).__name__}: {error}"))
            said = said.removeprefix("Exception: ").partition("\n")[0]
            self.made.failed.append((by_line[lines[batch.record]], said))

        before = self.todo()
        try:
            make_clips(list(self.batches.values()), runtime, progress, failed, workers)
        finally:
            self.made.made = before - self.todo()
            self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest of the clips that are finished, and count the prompts that were cut."""
        entries = []
        for row in self.rows:
            batch = self.batches.get(row.line)
            found = batch.rows() if batch else None
            if found:
                known = {key: value for key, value in found[0].items() if key != "file"}
                entries.append({"file": row.file, **self.columns[row.line], **known})
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        target = self.path / MANIFEST_FILE
        if not target.is_file() or target.read_bytes() != text.encode():
            replace_file(target, text.encode(), sync=True)
        self.made.cut = cut_message([entry["tokens_cut"] for entry in entries], "shorten them")


@contextlib.contextmanager
def open_folder(
    path: Path, rows: Sequence[PromptRow], model: ClipModel, settings: ClipSettings
) -> Iterator[ClipFolder]:
    """Take a folder for the clips of some rows: compare it with what was made there, and lock it meanwhile.

    A row whose size does not fit the model is in `made.failed` at once.

    Raises:
        ClipFolderError: another command is at it, it has clips of another checkpoint, sampler or type, or a file of a
            row's name that is not ours.
        ValueError: a row, or the command, names a source that is not there.
    """
    shared = {
        "checkpoint": model.digest(),
        "sampler": settings.sampler.model_dump(mode="json"),
        "dtype": settings.dtype,
        "device": settings.device,
        "attention": settings.attention,
        "tiling": settings.tiling,
    }
    if settings.sound is not None:
        shared["sound"] = settings.sound.digest()
    records = path / RECORDS
    with machine_errors(f"--out {path}"):
        records.mkdir(parents=True, exist_ok=True)
    with locked(path, records / _LOCK_FILE):
        known = _known(path, shared)
        ours = set(known)
        for row in rows:
            for name in () if row.file in ours else _files(row, settings):
                if (path / name).exists():
                    raise ClipFolderError(
                        f"{path / name} is there and was not made by this command: name another output or --out"
                    )
        made = Made(len(rows))
        batches, columns = _plan(path, rows, model, settings, shared, made)
        wanted = {row.file for row in rows}
        made.left = sorted(name for name in ours - wanted if (path / name).exists())
        with machine_errors(f"--out {path}"):
            header = {**shared, "files": sorted({*wanted, *made.left})}
            replace_file(records / _HEADER_FILE, json.dumps(header, ensure_ascii=False).encode(), sync=True)
            # What a killed worker left.
            for name in (name for row in rows for name in _files(row, settings)):
                for partial in path.glob(f".{_escaped(name)}.*.tmp"):
                    partial.unlink()
            for partial in records.glob(".*.tmp"):
                partial.unlink()
            folder = ClipFolder(path, model, settings, rows, batches, columns, made)
            folder.write_manifest()
        yield folder


def _known(path: Path, shared: Mapping[str, Any]) -> list[str]:
    """Names of clips that commands before made, or began to make."""
    header = path / RECORDS / _HEADER_FILE
    if not header.is_file():
        if (path / MANIFEST_FILE).exists():
            raise ClipFolderError(
                f"{path / MANIFEST_FILE} is there and was not made by this command: name another --out"
            )
        return []
    found = read_json(header)
    for name, value in {"sound": None, **shared}.items():
        if found.get(name) != value:
            raise ClipFolderError(
                f"{path} holds clips of another {name} ({_shown(found.get(name))}, and this is {_shown(value)}): name "
                "another --out, or delete that folder"
            )
    files: list[str] = found["files"]
    return files


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        value = _digest(value)
    return short_digest(value) if isinstance(value, str) and value.startswith("sha256:") else str(value)


def _plan(
    path: Path,
    rows: Sequence[PromptRow],
    model: ClipModel,
    settings: ClipSettings,
    shared: Mapping[str, Any],
    made: Made,
) -> tuple[dict[int, Batch], dict[int, dict[str, Any]]]:
    # Imported late: they bring torch.
    from lumina.checkpoints import load_config
    from lumina.evaluation_cost import Generation, memory_need
    from lumina.latents import latent_shape

    network = load_config(model.transformer)
    sizes, number = model.sizes(), 2 if settings.dtype == "bfloat16" else 4
    defaults = model.defaults
    batches: dict[int, Batch] = {}
    columns: dict[int, dict[str, Any]] = {}
    for row in rows:
        width, height = row.size or settings.size or (defaults.width, defaults.height)
        frames = row.frames or settings.frames or defaults.num_frames
        try:
            source = find_source(model.system_prompts, row.source or settings.source or defaults.source)
        except ValueError as error:
            raise ValueError(f"line {row.line}: {error}" if row.source else str(error)) from error
        try:
            latent_shape(network, frames, width, height, settings.sampler)
        except ValueError as error:
            made.failed.append((row, str(error)))
            continue
        fps = settings.fps or defaults.fps
        try:
            if settings.sound is not None:
                settings.sound.check(frames, fps)
        except ValueError as error:
            made.failed.append((row, str(error)))
            continue
        system = model.system_prompts[source].text
        negative = row.negative_prompt or settings.negative_prompt
        seed = row.seed_of(settings.seed)
        motion = settings.motion if row.motion is None else row.motion
        asked = {
            "prompt": row.prompt,
            "text": compose(system, row.prompt),
            "negative_text": compose(system, negative),
            "seed": seed,
            "source": source,
            "motion": motion,
            "width": width,
            "height": height,
            "frames": frames,
            "fps": fps,
        }
        job = ClipJob(
            checkpoint=str(model.transformer),
            vae=str(model.vae),
            text_encoder=str(model.text_encoder),
            system_prompt=system,
            sampler=settings.sampler,
            num_frames=frames,
            height=height,
            width=width,
            fps=fps,
            dtype=settings.dtype,
            tiling=settings.tiling,
            use_gpu=settings.device == "cuda",
            attention=settings.attention,
            negative_prompt=negative,
            adapter=None if model.adapter is None else str(model.adapter),
            adapter_scale=model.adapter_scale,
            need=memory_need(network, settings.sampler, Generation(width, height, frames, 1, number), **sizes),
            offload=settings.offload,
            sound=settings.sound,
        )
        request = ClipRequest(row.prompt, sampled_noise(seed), row.file, motion)
        record = path / RECORDS / f"{row.file}.json"
        batches[row.line] = Batch(job, (request,), str(path), str(record), _digest({**shared, **asked}))
        columns[row.line] = {"line": row.line, **dict(row.notes), **asked, **shared}
    return batches, columns


def _files(row: PromptRow, settings: ClipSettings) -> tuple[str, ...]:
    """Names of what is written of a row."""
    return (row.file,) if settings.sound is None else (row.file, Path(row.file).with_suffix(".wav").name)


def _digest(content: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "[*?" else character for character in name)


@contextlib.contextmanager
def locked(path: Path, lock: Path) -> Iterator[None]:
    """Hold the lock of a folder for clips. ClipFolderError if another command does."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClipFolderError(
                f"another command is making clips in {path}: wait for it, or name another --out"
            ) from error
        yield
