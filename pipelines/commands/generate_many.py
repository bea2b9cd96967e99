"""`lumina generate --prompts`: a clip for each row of a prompt file, on every GPU of this machine or of a cluster."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from lumina.models.config import AttentionKernel
from lumina.offload import OffloadSetting
from lumina.precision import Precision, precision_on
from pipelines.commands.options import check_seen_by_all
from pipelines.errors import PipelineError
from pipelines.terminal import Text, command_line, in_line, make_console

if TYPE_CHECKING:
    from jobs.clip_folder import ClipFolder, ClipModel, ClipSettings, Made
    from jobs.runtime import RuntimeConfig
    from lumina.prompt_files import PromptRow

_SHOWN = 20
"""Of the clips that failed."""
_SAID_S = 60.0
"""Between two lines on how far it is, where there is no bar."""
_WORKER_BYTES = 1 << 30
"""That a worker takes beside its weights, at least."""


@dataclass(frozen=True)
class Options:
    """What was typed, beside the checkpoint and the files."""

    adapter: str | None
    adapter_scale: float
    source: str | None
    negative_prompt: str
    seed: int
    motion: float | None
    preset: str | None
    steps: int | None
    size: tuple[int, int] | None
    frames: int | None
    fps: float | None
    dtype: Precision
    attention: AttentionKernel
    tiling: bool | None
    offload: OffloadSetting
    workers: int | None
    ray_address: str | None = None
    """Of the cluster that this process is part of, as Ray takes it; None starts one on this machine."""
    typed: str = ""
    """The command that goes on, where it is another one than this."""
    sound: str | None = None
    """Video-to-audio checkpoint that gives each clip a sound."""

    def making(self) -> list[str]:
        """Words of what clips are made with, as they are typed."""
        return replace(self, workers=None).words()

    def words(self) -> list[str]:
        """As they are typed; what was left out stays so."""
        typed = {
            "--adapter": self.adapter,
            "--adapter-scale": f"{self.adapter_scale:g}" if self.adapter and self.adapter_scale != 1 else None,
            "--source": self.source,
            "--negative-prompt": self.negative_prompt or None,
            "--seed": self.seed or None,
            "--motion": self.motion,
            "--preset": self.preset,
            "--steps": self.steps,
            "--size": None if self.size is None else f"{self.size[0]}x{self.size[1]}",
            "--frames": self.frames,
            "--fps": self.fps,
            "--dtype": None if self.dtype == "auto" else self.dtype,
            "--attention": None if self.attention == "auto" else self.attention,
            "--offload": None if self.offload == "auto" else self.offload,
            "--sound": self.sound,
            "--workers": self.workers,
        }
        pairs = (word for name, value in typed.items() if value is not None for word in (name, str(value)))
        tiling = {None: [], True: ["--tiling"], False: ["--no-tiling"]}[self.tiling]
        return [*pairs, *tiling]


def check_folder(out: Path) -> None:
    """Check that `--out` is a folder, or can be made one; PipelineError if not."""
    if out.suffix.lower() == ".mp4":
        raise PipelineError(f"--out {out}: with --prompts it is the folder for all clips; give one without .mp4")
    if out.exists() and not out.is_dir():
        raise PipelineError(f"--out {out} is a file: with --prompts it is the folder for all clips")
    at = out
    while not at.exists() and at != at.parent:
        at = at.parent
    if not at.is_dir():
        raise PipelineError(f"--out {out} cannot be made: {at} is no folder")
    if not os.access(at, os.W_OK | os.X_OK):
        raise PipelineError(f"--out {out} cannot be written: {at}: Permission denied")


def generate_many(checkpoint: str, prompts: Path, out: Path, options: Options) -> int:
    """Make the clips of a prompt file; returns the exit code: 0, 1 if a clip failed, 130 or 143 if it was stopped.

    Raises:
        PromptFileError: the file cannot be used; nothing was done.
        ClipFolderError: the folder cannot take these clips.
    """
    from lumina.prompt_files import read_prompts

    rows = read_prompts(prompts)
    words = ["--checkpoint", checkpoint, "--prompts", str(prompts), "--out", str(out), *options.words()]
    typed = options.typed or command_line(["lumina", "generate", *words])
    return generate_rows(checkpoint, rows, str(prompts), out, options, typed, make_console())


def generate_rows(
    checkpoint: str,
    rows: Sequence[PromptRow],
    prompts: str,
    out: Path,
    options: Options,
    typed: str,
    console: Console,
) -> int:
    """Make the clips of rows that come from `prompts`; `typed` is the command that goes on. As `generate_many`."""
    code = 0
    with stoppable(typed, console) as stopped:
        code = _generate(checkpoint, prompts, rows, out, options, console)
    return stopped.code or code


@dataclass
class Stopped:
    """Whether a command was stopped."""

    code: int = 0
    """Exit code: 130 after Ctrl-C, 143 after SIGTERM."""


@contextlib.contextmanager
def stoppable(typed: str, console: Console) -> Iterator[Stopped]:
    """Let Ctrl-C and SIGTERM end what stands inside in good order, and say the command that goes on."""
    stopped = Stopped()
    try:
        with terminable():
            yield stopped
    except KeyboardInterrupt as signalled:
        console.print(Text("Stopped. Nothing is lost: the same command continues where it was:", "bold yellow"))
        console.print(f"  {typed}", soft_wrap=True)
        stopped.code = 143 if isinstance(signalled, _TerminatedError) else 130


def _generate(
    checkpoint: str, prompts: str, rows: Sequence[PromptRow], out: Path, options: Options, console: Console
) -> int:
    from jobs.clip_folder import ClipModel, open_folder

    model = ClipModel.find(checkpoint, options.adapter, options.adapter_scale)
    runtime, settings = _execution(model, options)
    with open_folder(out, rows, model, settings) as folder:
        todo = folder.todo()
        if done := len(folder.batches) - todo:
            console.print(f"{done:,} of {len(rows):,} clips are in {out} already", soft_wrap=True)
        if todo:
            try:
                _make(folder, runtime, options.workers, console)
            except KeyboardInterrupt:
                made = len(folder.batches) - folder.todo()
                console.print(f"{made:,} of {len(rows):,} clips are in {out}", soft_wrap=True)
                raise
        return _tell(folder, prompts, console)


def _execution(model: ClipModel, options: Options) -> tuple[RuntimeConfig, ClipSettings]:
    """Where the clips are made, and how."""
    import torch

    from jobs import capacity, cluster
    from jobs.clip_folder import ClipSettings
    from jobs.clip_sound import ClipSound
    from jobs.runtime import RuntimeConfig
    from lumina.flow_matching.schedules import sampler_config

    if options.ray_address is None:
        gpu = torch.cuda.is_available()
    else:
        cluster.ensure(RuntimeConfig(ray_address=options.ray_address))
        gpu = capacity.has_gpus()
    device = "cuda" if gpu else "cpu"
    sampler = sampler_config(options.preset or model.defaults.sampler)
    settings = ClipSettings(
        sampler=sampler if options.steps is None else sampler.model_copy(update={"steps": options.steps}),
        dtype=precision_on(device, options.dtype),
        device=device,
        attention=options.attention,
        # Without a GPU frames are whole unless it is asked for otherwise: then the two are the same clips.
        tiling=options.tiling if gpu else bool(options.tiling),
        offload=options.offload,
        seed=options.seed,
        size=options.size,
        frames=options.frames,
        fps=options.fps,
        source=options.source or "",
        motion=options.motion,
        negative_prompt=options.negative_prompt,
        sound=None if options.sound is None else ClipSound.find(options.sound, gpu),
    )
    if options.attention != "auto" and not gpu:
        raise PipelineError(f"--attention {options.attention} is a kernel of GPUs, and there is none: take auto")
    return RuntimeConfig(ray_address=options.ray_address, use_gpu=gpu, attention=options.attention), settings


def _make(folder: ClipFolder, runtime: RuntimeConfig, workers: int | None, console: Console) -> None:
    from jobs import cluster
    from jobs.ray_faults import explained

    sound = folder.settings.sound
    most = workers or fitting(folder.model, runtime, 0 if sound is None else sound.bytes())
    with shown_progress(console, "starting Ray") as shown:
        try:
            cluster.ensure(runtime)
            if runtime.ray_address is not None:
                check_seen({"--out": folder.header, "--checkpoint": folder.model.transformer})
                check_seen({} if sound is None else {"--sound": Path(sound.directory)})
            # Ray has put its own handler there.
            with terminable(), explained("jobs.clips:make", runtime):
                folder.make(runtime, most, lambda done, total: shown(done, total, "generating"))
        finally:
            cluster.shutdown()


@contextlib.contextmanager
def shown_progress(console: Console, first: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """A bar that is told of (done, in all, what); a line a minute where there is no terminal."""
    said_s = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(first, total=None)

        def shown(done: int, total: int | None, what: str) -> None:
            nonlocal said_s
            bar.update(task, description=what, completed=done, total=total)
            if total and not console.is_terminal and time.monotonic() - said_s >= _SAID_S:
                said_s = time.monotonic()
                console.print(f"{what}: {done:,} of {total:,} clips")

        yield shown


def check_seen(paths: Mapping[str, Path]) -> None:
    """PipelineError if a node of the cluster does not see what an option names: its clips would be lost."""
    from jobs import cluster

    for option, path in paths.items():
        if blind := cluster.blind_nodes(path):
            raise PipelineError(
                f"{', '.join(blind)} {'does' if len(blind) == 1 else 'do'} not see {option} ({path}): name one on a "
                "file system that all nodes mount at the same path"
            )


def fitting(model: ClipModel, runtime: RuntimeConfig, more: int) -> int | None:
    """Workers for which this machine has memory, where they have no GPU; None where Ray decides."""
    from jobs.memory import available_bytes

    if runtime.use_gpu or runtime.ray_address is not None:
        return None
    # On a CPU they compute in float32 unless told otherwise, and files may hold half of that.
    return max(1, int(available_bytes() * 0.8) // (2 * (sum(model.sizes().values()) + more) + _WORKER_BYTES))


def _tell(folder: ClipFolder, prompts: str, console: Console) -> int:
    """Say what came of it; returns the exit code."""
    from jobs.clip_folder import MANIFEST_FILE

    made: Made = folder.made
    for row, why in made.failed[:_SHOWN]:
        console.print(in_line(f"{prompts}, line {row.line}: {row.file} failed: {why}", "bold red"), soft_wrap=True)
    if len(made.failed) > _SHOWN:
        console.print(Text(f"... and {len(made.failed) - _SHOWN:,} more", "bold red"))
    if made.cut:
        console.print(Text(f"{made.cut}; `words_cut` in {MANIFEST_FILE} has them", "yellow"), soft_wrap=True)
    if made.left:
        names = ", ".join(made.left[:3]) + (", ..." if len(made.left) > 3 else "")
        console.print(in_line(f"no row asks any more for {len(made.left):,} of the clips there: {names}", "yellow"))
    whole = made.clips - len(made.failed)
    console.print(
        f"{whole:,} of {made.clips:,} clips are in {folder.path}, {made.made:,} of them made now; "
        f"{folder.path / MANIFEST_FILE} describes them",
        soft_wrap=True,
    )
    if made.failed:
        console.print(Text(f"{len(made.failed):,} failed; the same command tries them again", "bold red"))
    return 1 if made.failed else 0


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, which ends the command as Ctrl-C does."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def submit_many(checkpoint: str, prompts: Path, out: Path, options: Options, address: str) -> int:
    """Have a Ray cluster make the clips of a prompt file, as a job; follows its log, and returns its exit code.

    Submitted again, it attaches to the job that runs, or starts one that goes on.

    Raises:
        PromptFileError: the file cannot be used; nothing was done.
        PipelineError: a path is relative, so that it would be another one there.
    """
    from lumina.prompt_files import read_prompts

    address = address.rstrip("/")
    rows = read_prompts(prompts)
    named = {"--checkpoint": checkpoint, "--out": str(out), "--adapter": options.adapter or ""}
    named |= {"--sound": options.sound} if options.sound else {}
    typed = ["lumina", "generate", "--checkpoint", checkpoint, "--prompts", str(prompts), "--out", str(out)]
    file = f"prompts{prompts.suffix.lower()}"
    words = ["generate", "--checkpoint", checkpoint, "--prompts", file, "--out", str(out), *options.words()]
    told = command_line([*typed, *options.words(), "--address", address])
    return submit_command(words, {file: prompts}, named, out, address, told, f"{len(rows):,} clips for {out}")


def submit_command(
    words: Sequence[str],
    files: Mapping[str, Path],
    named: Mapping[str, str],
    out: Path,
    address: str,
    told: str,
    what: str,
) -> int:
    """Have a Ray cluster run a command that makes clips, as a job; follows its log, and returns its exit code.

    Args:
        words: of the command, without `lumina`.
        files: that are sent along, by the names that `words` has for them.
        named: options with paths that all nodes must see.
        out: where its outputs go.
        address: of the cluster's dashboard.
        told: what the user types to go on.
        what: the job's subject, for a message.

    Raises PipelineError for a relative path.
    """
    from jobs.submit import Work, connect, submit
    from pipelines.commands.jobs import follow_job
    from pipelines.commands.package import code_identity, ship_code
    from pipelines.git import CLI

    check_seen_by_all(named)
    command = words[0]
    with tempfile.TemporaryDirectory(prefix=f"lumina-{command}-") as name:
        folder = Path(name)
        origin = ship_code(folder)
        code = code_identity(folder, origin)
        for file, path in files.items():
            shutil.copyfile(path, folder / file)
        content = [hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files]
        fingerprint = hashlib.sha256("\0".join([code, *content, *words]).encode()).hexdigest()
        client = connect(address)
        work = Work(
            f"lumina-{command}-{fingerprint[:8]}",
            folder,
            shlex.join(["python", "-c", CLI, *words, "--ray-address", "auto", "--typed", told]),
            {},
            {
                "run": command,
                "fingerprint": fingerprint,
                "store": str(out),
                "commit": origin.commit if origin else "",
                "changes": str(bool(origin and origin.patch)).lower(),
            },
        )
        found = submit(client, work, again=True)
    console = make_console()
    console.print(Text(f"{found.job.id}: {what}", "bold"), soft_wrap=True)
    return follow_job(client, found.job, address)
