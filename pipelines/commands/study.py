"""`lumina study`: sampler settings of a checkpoint side by side, and what each costs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from lumina.precision import Precision, precision_on
from pipelines.commands.generate_many import check_folder, fitting, shown_progress, stoppable, terminable
from pipelines.commands.options import (
    FramesOption,
    PresetOption,
    PromptSourceOption,
    StepsOption,
    StoreOption,
    check_checkpoint,
    width_and_height,
)
from pipelines.errors import PipelineError
from pipelines.terminal import command_line, make_console

if TYPE_CHECKING:
    from jobs.clip_folder import ClipModel
    from jobs.study import StudyStageConfig, StudyWork
    from lumina.evaluation.study_arms import StudyConfig
    from lumina.flow_matching.schedules import SamplerConfig
    from lumina.models.config import NextDiTConfig

PAGE_FILE = "study.html"
ROWS_FILE = "clips.jsonl"
_OWN = "arms"
"""Name of the study whose arms a file has."""


def study(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Exported directory, or hf:owner/name.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for clips, figures and study.html.")] = Path("study"),
    schedules: Annotated[
        bool, typer.Option("--schedules", help="Each scale alone, and combined (the paper's Table 2).")
    ] = False,
    motion: Annotated[
        bool, typer.Option("--motion", help="Pairs of motion scores, constant and scheduled (Table 3).")
    ] = False,
    guidance: Annotated[bool, typer.Option("--guidance", help="Weights of guidance.")] = False,
    arms: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Arms of your own, as a study in a config: arms, reference, score."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Look for a schedule by the losses of a training, and check it.")
    ] = False,
    losses: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="With --search: run whose training had several scales, or the output of such a stage.",
            show_default="the run that exported the checkpoint",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="With --search: cost at most, as a share of the finest scale alone.",
            show_default="that of the checkpoint's own schedule",
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --search: a copy of the checkpoint that samples so.")
    ] = None,
    shapes: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Judge on N prompts of single shapes, whose truth is known.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or on these: a .txt with a prompt on each line.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Clips of each prompt, from different noises.")] = 1,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B", help="What is measured.", show_default="all that the prompts allow")
    ] = None,
    source: PromptSourceOption = None,
    seed: Annotated[int, typer.Option(help="Of prompts, noises and the bootstrap.")] = 0,
    preset: PresetOption = None,
    steps: StepsOption = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels, e.g. 672x384.")] = None,
    frames: FramesOption = None,
    fps: Annotated[float | None, typer.Option(min=1, help="Frame rate of the clips.")] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Type in which the checkpoint computes; auto is bfloat16 on a GPU.")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Clips that are sampled together; it changes last bits.")] = 8,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers at most.", show_default="every GPU, or the CPUs that fit")
    ] = None,
    store: StoreOption = None,
) -> int:
    """Compare sampler settings of a checkpoint on the same prompts and noises, with intervals, beside their cost.

    Killed at any time, the same command goes on; arms that are there are not made again. Exit code: 0, 130 after
    Ctrl-C.
    """
    from lumina.evaluation.study_arms import KINDS, StudyConfig
    from pipelines.commands.study_losses import find_losses
    from pipelines.commands.study_search import SEARCH, check_target, propose, told, write_checkpoint

    check_folder(out)
    check_checkpoint("CHECKPOINT", checkpoint)
    if (shapes is None) == (prompts is None):
        raise PipelineError("say what it is judged on: either --shapes N, or --prompts FILE")
    flags = {"schedules": schedules, "motion": motion, "guidance": guidance}
    wanted: dict[str, StudyConfig] = {name: StudyConfig() for name in KINDS if flags[name]}
    if arms is not None:
        wanted[_OWN] = _read_arms(arms)
    if not wanted and not search:
        raise PipelineError("say what is compared: --schedules, --motion, --guidance, --arms FILE.yaml or --search")
    _check_search(search, {"--losses": losses, "--budget": budget, "--write": write, "--store": store})
    if write is not None:
        check_target(checkpoint, write)
    settings: dict[str, Any] = {
        "suite": _suite(shapes, prompts),
        "samples": samples,
        "seed": seed,
        "batch_size": batch_size,
        "dtype": dtype,
        "metrics": tuple(name.strip() for name in metrics.split(",")) if metrics else None,
    }
    given = {"num_frames": frames, "fps": fps, "width": None, "height": None}
    if size:
        given["width"], given["height"] = width_and_height(size)
    studied = load_checkpoint(checkpoint, preset, steps, {**settings, **{k: v for k, v in given.items() if v}}, source)
    limit = 1.0
    if search:
        found_losses = find_losses(losses, checkpoint, store)
        wanted[SEARCH], limit = propose(
            studied.network, studied.latent, studied.settings["sampler"], found_losses, budget
        )
    configs = {name: studied.config(name, one) for name, one in wanted.items()}
    console = make_console()
    with stoppable(command_line(["lumina", *sys.argv[1:]]), console) as stopped:
        found = run_studies(studied, configs, out, workers, console)
        show(found, out, checkpoint, console)
        arm = told(found[SEARCH], limit, console) if search else None
        if arm is not None and write is not None:
            write_checkpoint(Path(checkpoint), write, found[SEARCH], arm)
            console.print(f"{write} samples so", soft_wrap=True)
    return stopped.code


@dataclass(frozen=True)
class Checkpoint:
    """What is studied, and what its studies share."""

    model: ClipModel
    network: NextDiTConfig
    settings: Mapping[str, Any]
    """Of `StudyStageConfig`, but for the study's own."""
    source: str
    use_gpu: bool

    @property
    def latent(self) -> tuple[int, int, int]:
        """Frames, rows and columns."""
        from lumina.sizes import SPATIAL_COMPRESSION, generated_latents

        frames, height, width = (self.settings[name] for name in ("num_frames", "height", "width"))
        return generated_latents(frames), height // SPATIAL_COMPRESSION, width // SPATIAL_COMPRESSION

    def config(self, name: str, study: StudyConfig) -> StudyStageConfig:
        """The whole config of a study. PipelineError for arms, metrics or sizes that the checkpoint does not have."""
        from jobs.study import StudyStageConfig
        from lumina.evaluation.study_arms import KINDS, check_patches, samplers, standard_arms

        base, known = self.settings["sampler"], self.network.patch_sizes
        try:
            kind = next((one for one in KINDS if one == name), KINDS[0])
            whole = samplers(study.arms or standard_arms(kind, base, known), base)
            check_patches(whole, known, "the checkpoint")
            changed = {key: value for key in ("suite", "samples", "metrics") if (value := getattr(study, key))}
            made = {"study": name, "arms": whole, "reference": study.reference or next(iter(whole))}
            config = StudyStageConfig.model_validate({**self.settings, **changed, **made})
            score = _score(config) if study.score is None else study.score
            return StudyStageConfig.model_validate({**self.settings, **changed, **made, "score": score})
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
            raise PipelineError(f"study {name}: {where}{first['msg'].removeprefix('Value error, ')}") from error
        except ValueError as error:
            raise PipelineError(f"study {name}: {error}") from error


def load_checkpoint(
    checkpoint: str, preset: str | None, steps: int | None, settings: Mapping[str, Any], source: str | None
) -> Checkpoint:
    """Find the parts of a checkpoint, without loading its weights."""
    import torch

    from jobs.clip_folder import ClipModel
    from lumina.checkpoints import load_config
    from lumina.flow_matching.schedules import sampler_config
    from lumina.parts import find_source

    model = ClipModel.find(checkpoint)
    defaults, gpu = model.defaults, torch.cuda.is_available()
    sampler = sampler_config(preset or defaults.sampler)
    own = {"num_frames": defaults.num_frames, "width": defaults.width, "height": defaults.height, "fps": defaults.fps}
    whole = {
        **own,
        **settings,
        "sampler": sampler if steps is None else sampler.model_copy(update={"steps": steps}),
        "dtype": precision_on("cuda" if gpu else "cpu", settings["dtype"]),
    }
    named = find_source(model.system_prompts, source or defaults.source)
    return Checkpoint(model, load_config(model.transformer), whole, named, gpu)


def run_studies(
    studied: Checkpoint, configs: Mapping[str, StudyStageConfig], out: Path, workers: int | None, console: Console
) -> dict[str, dict[str, Any]]:
    """Make what is missing of some studies, and write each into its folder of `out`; returns them with their times."""
    from jobs import cluster
    from jobs.ray_faults import explained
    from jobs.runtime import RuntimeConfig
    from jobs.study import make_study, study_batches, study_content, write_study
    from jobs.study_folder import open_study
    from lumina.evaluation.study import read_study

    runtime = RuntimeConfig(use_gpu=studied.use_gpu)
    most = workers or fitting(studied.model, runtime, 0)
    found: dict[str, dict[str, Any]] = {}
    with open_study(out, _shared(studied)) as folder, shown_progress(console, "looking for clips") as shown:
        works = {
            name: (_work(studied, config), partial(folder.place, own=_own_settings(config)))
            for name, config in configs.items()
        }
        lacking = any(batch.rows() is None for work in works.values() for batch in study_batches(*work))
        try:
            if lacking:
                shown(0, None, "starting Ray")
                cluster.ensure(runtime)
            # Ray has put its own handler there.
            with terminable(), explained("jobs.clips:make", runtime):
                for name, (work, place) in works.items():
                    made = make_study(work, place, runtime, _told(shown, name), most)
                    target = out / name
                    target.mkdir(exist_ok=True)
                    write_study(target, study_content(work, made.rows, studied.network), made.seconds, runtime.device)
                    for row in made.rows:
                        row["file"] = str(Path(row["file"]).relative_to(out))
                    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in made.rows)
                    (target / ROWS_FILE).write_text("".join(lines), encoding="utf-8")
                    found[name] = read_study(target)
        finally:
            if lacking:
                cluster.shutdown()
    return found


def _told(shown: Callable[[int, int | None, str], None], name: str) -> Callable[[int, int], None]:
    return lambda done, total: shown(done, total, f"study of {name}")


def show(found: Mapping[str, dict[str, Any]], out: Path, checkpoint: str, console: Console) -> None:
    """Print the tables, and write the page of all studies that the folder has."""
    from lumina.evaluation.study import STUDY_FILE, read_study
    from pipelines.reports.page.studies import study_page
    from pipelines.reports.studies import studies_view

    console.print(studies_view(found))
    every = {path.parent.name: read_study(path.parent) for path in sorted(out.glob(f"*/{STUDY_FILE}"))}
    (out / PAGE_FILE).write_text(study_page(every, Path(checkpoint).name), encoding="utf-8")
    console.print(f"{out / PAGE_FILE} shows it; clips are in {out / 'clips'}, named in each study's {ROWS_FILE}")


def _check_search(search: bool, given: Mapping[str, Any]) -> None:
    """PipelineError for options that lack --search."""
    for option, value in given.items():
        if value is not None and not search:
            raise PipelineError(f"{option} {value}: it is for --search")


def _read_arms(path: Path) -> StudyConfig:
    from lumina.evaluation.study_arms import StudyConfig
    from pipelines.load import load

    if path.suffix not in (".yaml", ".yml"):
        raise PipelineError(f"--arms {path}: expected a file that ends in .yaml")
    found = load({"study": StudyConfig}, str(path))
    if not found.arms:
        raise PipelineError(f"--arms {path}: it has no arms: name some under `arms`")
    return found


def _suite(shapes: int | None, prompts: Path | None) -> dict[str, Any]:
    if prompts is None:
        return {"kind": "shapes", "count": shapes}
    from lumina.prompt_files import read_prompts

    rows = read_prompts(prompts)
    for row in rows:
        if (row.seed, row.size, row.frames, row.source, row.motion, row.negative_prompt) != (
            None,
            None,
            None,
            "",
            None,
            "",
        ):
            raise PipelineError(f"{prompts}, line {row.line}: a study's prompts have no settings of their own")
    texts = tuple(row.prompt for row in rows)
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise PipelineError(f"{prompts}: a prompt is there twice, {twice[:60]!r}: --samples makes more clips of each")
    return {"kind": "list", "choose": texts, "report": texts}


def _score(config: StudyStageConfig) -> dict[str, float]:
    """What clips of shapes are chosen by in a run; other prompts have no single figure."""
    from jobs.choose import ChooseConfig

    score = ChooseConfig().score
    return score if set(score) <= set(config.measured()) else {}


def _work(studied: Checkpoint, config: StudyStageConfig) -> StudyWork:
    from jobs.clips import ClipJob
    from jobs.study import StudyWork
    from lumina.evaluation.prompts import build
    from lumina.evaluation_cost import Generation, memory_need
    from lumina.vbench.suite_config import VBenchSuite

    model, suite = studied.model, config.suite
    if isinstance(suite, VBenchSuite):
        raise AssertionError("StudyStageConfig refuses it")
    dtype = precision_on("cuda" if studied.use_gpu else "cpu", config.dtype)
    clips = Generation(
        config.width, config.height, config.num_frames, config.batch_size, 2 if dtype == "bfloat16" else 4
    )
    system = model.system_prompts[studied.source]
    job = ClipJob(
        checkpoint=str(model.transformer),
        vae=str(model.vae),
        text_encoder=str(model.text_encoder),
        system_prompt=system.text,
        sampler=config.sampler,
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        fps=config.fps,
        dtype=dtype,
        tiling=None if studied.use_gpu else False,
        use_gpu=studied.use_gpu,
        attention="auto",
        metrics=config.measured(),
        need=memory_need(studied.network, _largest(config), clips, **model.sizes()),
        offload="auto",
    )
    prompts = build(suite, "report", config.seed, []).prompts
    return StudyWork(config, prompts, job, studied.source, system.system_prompt_id)


def _largest(config: StudyStageConfig) -> SamplerConfig:
    """What takes the memory of any arm: a guided step at the finest scale of all."""
    patches = [patch for sampler in config.arms.values() for _, patch in sampler.patches]
    finest = min(patches, key=math.prod)
    return config.sampler.model_copy(update={"patches": ((0.0, finest),), "guidance": ((0.0, 1.0),)})


def _own_settings(config: StudyStageConfig) -> dict[str, Any]:
    """What a file of arms may have changed: its clips are others."""
    return config.model_dump(mode="json", include={"suite", "samples", "metrics"})


def _shared(studied: Checkpoint) -> dict[str, Any]:
    """What all studies in one folder have in common."""
    shared = {key: value for key, value in studied.settings.items() if key != "sampler"}
    shared["metrics"] = None if shared["metrics"] is None else list(shared["metrics"])
    shared["suite"] = json.loads(json.dumps(shared["suite"]))
    device = "cuda" if studied.use_gpu else "cpu"
    return {"checkpoint": studied.model.digest(), "source": studied.source, "device": device, **shared}
