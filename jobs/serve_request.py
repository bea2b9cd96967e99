"""Requests for generated clips: their fields, the limits of a server, what they come to and what they cost.

Nothing in a request is a path, and nothing of it becomes one.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from lumina.config import Config
from lumina.cost import sampling_cost
from lumina.flow_matching.schedules import PRESETS, SamplerConfig, sampler_config
from lumina.generation_config import GenerationConfig, read_settings
from lumina.models.config import AttentionKernel, NextDiTConfig, PatchSize
from lumina.offload import OffloadSetting
from lumina.parts import GENERATION_FILE, SYSTEM_PROMPTS_FILE, TRANSFORMER, find_parts, find_source
from lumina.precision import Precision
from lumina.prompt_length import MAX_TOKENS
from lumina.system_prompts import read_system_prompts

BODY_BYTES = 1 << 16
"""Largest body of a request."""
PROMPT_CHARACTERS = 4000
"""Longest prompt; the text encoder takes 256 tokens of it."""
_SEEDS = 2**53
"""JSON numbers are exact below."""


class Limits(Config):
    """What one server takes and keeps."""

    max_queue: int = Field(default=16, ge=0)
    """Clips that wait, beside those that are made; more are refused."""
    max_pixels: int = Field(default=921_600, ge=256)
    """Width times height."""
    max_frames: int = Field(default=128, ge=1)
    """Frames of a clip."""
    max_steps: int = Field(default=100, ge=1)
    """Sampling steps."""
    keep_clips: int = Field(default=64, ge=1)
    """Finished clips that can be fetched; the oldest goes first."""
    keep_bytes: int = Field(default=512 << 20, ge=1)
    """Bytes of their files, in memory."""


class RequestError(Exception):
    """A request that is not served; the message is one line."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.param, self.status, self.retry_after_s = param, status, retry_after_s


class ClipRequest(Config):
    """Body of `POST /v1/videos`: the fields of OpenAI's, and ours. What is left out is the checkpoint's default."""

    prompt: str = Field(min_length=1, max_length=PROMPT_CHARACTERS)
    """What the clip shows."""
    model: str | None = Field(default=None, max_length=300)
    """The one that is served."""
    seconds: float | None = Field(default=None, gt=0)
    """Length; seconds times fps must be a count of frames that fits."""
    size: str | None = Field(default=None, pattern=r"^[0-9]{1,5}x[0-9]{1,5}$")
    """WIDTHxHEIGHT in pixels."""
    seed: int = Field(default=0, ge=0, lt=_SEEDS)
    """The same seed gives the same frames."""
    negative_prompt: str = Field(default="", max_length=PROMPT_CHARACTERS)
    """What to stay away from."""
    source: str | None = Field(default=None, max_length=300)
    """Whose system prompt."""
    motion: float | None = Field(default=None, ge=0, le=1000)
    """Motion score to ask for."""
    frames: int | None = Field(default=None, ge=1)
    """Length in frames: 1, or a multiple of 4 from 8 on."""
    fps: float | None = Field(default=None, ge=1, le=240)
    """Frame rate of the file."""
    preset: str | None = Field(default=None, max_length=100)
    """Released sampling settings."""
    sampler: SamplerConfig | None = None
    """Sampling settings of one's own, instead of a preset."""
    steps: int | None = Field(default=None, ge=1)
    """Sampling steps."""


class ClipSettings(Config):
    """All that a clip depends on, beside the checkpoint."""

    prompt: str
    negative_prompt: str
    source: str
    seed: int
    motion: float | None
    frames: int
    width: int
    height: int
    fps: float
    preset: str | None
    """Where the sampler is one of the released ones."""
    sampler: SamplerConfig


@dataclass(frozen=True)
class Served:
    """What is known of a checkpoint before its weights are loaded."""

    name: str
    """Of the model, in the API."""
    checkpoint: str
    """As it was typed."""
    model: NextDiTConfig
    defaults: GenerationConfig
    sources: tuple[str, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0
    dtype: Precision = "auto"
    attention: AttentionKernel = "auto"
    tiling: bool | None = None
    """Whether frames are decoded in tiles; None is where they do not fit a GPU whole."""
    offload: OffloadSetting = "auto"


def read_served(checkpoint: str, **options: Any) -> Served:
    """Look at a checkpoint: a directory, or a model of the hub. `options` are fields of `Served`.

    Raises FileNotFoundError naming the part that is missing, ValueError for one that cannot be read.
    """
    import torch

    from lumina.adapters import read_adapter
    from lumina.checkpoints import load_config
    from lumina.models.next_dit import MultiScaleNextDiT

    parts = find_parts(checkpoint)
    sources = tuple(read_system_prompts(parts[SYSTEM_PROMPTS_FILE]))
    defaults, model = read_settings(parts[GENERATION_FILE]), load_config(parts[TRANSFORMER])
    name = checkpoint if not Path(checkpoint).is_dir() else Path(checkpoint).resolve().name
    served = Served(name, checkpoint, model, defaults, sources, **options)
    if served.adapter is not None:
        with torch.device("meta"):
            read_adapter(served.adapter, MultiScaleNextDiT(model).state_dict())
    return served


def parse_request(fields: Mapping[str, Any]) -> ClipRequest:
    """Check the fields of a request. Raises RequestError that names the first that is wrong."""
    try:
        return ClipRequest.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            known = ", ".join(ClipRequest.model_fields)
            raise RequestError(f"there is no field {param[:60]!r}; there are {known}", param[:60]) from error
        if first["type"] == "missing" and param == "prompt":
            raise RequestError("prompt is missing: say what the clip shows", param) from error
        raise RequestError(f"{param[:60]}: {first['msg']}", param[:60]) from error


def resolve(request: ClipRequest, served: Served, limits: Limits) -> ClipSettings:
    """What a request comes to on a checkpoint. Raises RequestError naming the field, and what fits."""
    from lumina.latents import latent_shape

    if request.model not in (None, served.name):
        raise RequestError(f"there is no model {request.model!r}; this server has {served.name}", "model", 404)
    try:
        source = find_source(served.sources, request.source or served.defaults.source)
    except ValueError as error:
        raise RequestError(str(error), "source") from error
    sampler, preset = _sampler(request, served, limits)
    fps = request.fps or served.defaults.fps
    frames, length = _frames(request, served, fps)
    if frames > limits.max_frames:
        raise RequestError(f"{length}: at most {limits.max_frames} frames are made, got {frames}", length)
    width, height = map(int, (request.size or f"{served.defaults.width}x{served.defaults.height}").split("x"))
    if width * height > limits.max_pixels:
        raise RequestError(
            f"size: at most {limits.max_pixels:,} pixels are made, got {width}x{height} = {width * height:,}", "size"
        )
    try:
        latent_shape(served.model, frames, width, height, sampler)
    except ValueError as error:
        text = str(error)
        at = "preset" if "patch size" in text else "size" if text.startswith("width") else length
        raise RequestError(text, at) from error
    return ClipSettings(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        source=source,
        seed=request.seed,
        motion=request.motion,
        frames=frames,
        width=width,
        height=height,
        fps=fps,
        preset=preset,
        sampler=sampler,
    )


def _sampler(request: ClipRequest, served: Served, limits: Limits) -> tuple[SamplerConfig, str | None]:
    if request.preset is not None and request.sampler is not None:
        raise RequestError("sampler: preset names one already; give the one or the other", "sampler")
    try:
        sampler = sampler_config(request.preset or request.sampler or served.defaults.sampler)
    except ValueError as error:
        raise RequestError(str(error), "preset") from error
    if request.steps is not None:
        sampler = sampler.model_copy(update={"steps": request.steps})
    if sampler.steps > limits.max_steps:
        raise RequestError(f"steps: at most {limits.max_steps} are made, got {sampler.steps}", "steps")
    return sampler, request.preset


def _frames(request: ClipRequest, served: Served, fps: float) -> tuple[int, str]:
    """How many, and the field that says so."""
    if request.seconds is None:
        return request.frames or served.defaults.num_frames, "frames"
    if request.frames is not None:
        raise RequestError("seconds: frames says the length already; give the one or the other", "seconds")
    if not math.isclose(request.seconds * fps, round(request.seconds * fps), abs_tol=1e-6):
        raise RequestError(f"seconds: {request.seconds:g} at {fps:g} fps is no whole number of frames", "seconds")
    return round(request.seconds * fps), "seconds"


def as_request(settings: ClipSettings, served: Served) -> dict[str, Any]:
    """The body of a request that gives the same clip again, whatever the defaults."""
    again: dict[str, Any] = {
        "model": served.name,
        "prompt": settings.prompt,
        "negative_prompt": settings.negative_prompt,
        "source": settings.source,
        "seed": settings.seed,
        "motion": settings.motion,
        "size": f"{settings.width}x{settings.height}",
        "frames": settings.frames,
        "fps": settings.fps,
    }
    if settings.preset is not None:
        again |= {"preset": settings.preset, "steps": settings.sampler.steps}
    else:
        again["sampler"] = settings.sampler.model_dump(mode="json")
    return {name: value for name, value in again.items() if value not in (None, "")}


def as_command(settings: ClipSettings, served: Served) -> str | None:
    """The `lumina generate` that makes the same clip; None where it has no option for the sampler."""
    base = served.defaults.sampler if settings.preset is None else PRESETS[settings.preset]
    if settings.sampler != base.model_copy(update={"steps": settings.sampler.steps}):
        return None
    words = ["lumina", "generate", "--checkpoint", served.checkpoint]
    if served.adapter is not None:
        words += ["--adapter", served.adapter, "--adapter-scale", f"{served.adapter_scale:g}"]
    words += ["--prompt", settings.prompt, "--source", settings.source, "--seed", str(settings.seed)]
    words += ["--negative-prompt", settings.negative_prompt] if settings.negative_prompt else []
    words += ["--motion", f"{settings.motion:g}"] if settings.motion is not None else []
    words += ["--preset", settings.preset] if settings.preset else []
    words += ["--steps", str(settings.sampler.steps), "--size", f"{settings.width}x{settings.height}"]
    words += ["--frames", str(settings.frames), "--fps", f"{settings.fps:g}"]
    words += ["--dtype", served.dtype] if served.dtype != "auto" else []
    words += ["--attention", served.attention] if served.attention != "auto" else []
    words += {None: [], True: ["--tiling"], False: ["--no-tiling"]}[served.tiling]
    words += ["--offload", served.offload] if served.offload != "auto" else []
    return shlex.join(words)


@dataclass(frozen=True)
class Cost:
    """One clip, by arithmetic alone: see `lumina.cost`."""

    evaluations: Mapping[PatchSize, int]
    """At each scale; a guided step takes two."""
    tokens: Mapping[PatchSize, int]
    """Of one evaluation."""
    flops: int
    relative: float
    """To the same steps at the finest scale alone."""


def cost_of(settings: ClipSettings, served: Served) -> Cost:
    """What a clip costs, with texts as long as the encoder takes."""
    from lumina.latents import latent_shape

    shape = latent_shape(served.model, settings.frames, settings.width, settings.height, settings.sampler)
    size = (shape[1], shape[2], shape[3])
    own = settings.sampler.model_copy(update={"patches": settings.sampler.patches_of(size[0])})
    cost = sampling_cost(served.model, size, own, MAX_TOKENS, MAX_TOKENS)
    full = sampling_cost(served.model, size, _at_finest(own, served), MAX_TOKENS, MAX_TOKENS)
    tokens = {p: max(size[0] // p[0], 1) * (size[1] // p[1]) * (size[2] // p[2]) for p in cost.evaluations}
    return Cost(cost.evaluations, tokens, cost.flops, cost.flops / full.flops)


def _at_finest(sampler: SamplerConfig, served: Served) -> SamplerConfig:
    finest = min(served.model.patch_sizes, key=math.prod)
    return sampler.model_copy(update={"patches": ((0.0, finest),)})


@dataclass(frozen=True)
class Schedule:
    """A choice of scales and sampling settings, for people."""

    label: str
    fields: Mapping[str, Any]
    """Of a request."""


def schedules(served: Served) -> list[Schedule]:
    """The checkpoint's own, the same at the finest scale alone, and the released presets whose scales it has."""
    own = served.defaults.sampler
    finest = _at_finest(own, served)
    found = [Schedule("As exported", {})]
    if finest != own:
        found.append(Schedule("As exported, finest scale only", {"sampler": finest.model_dump(mode="json")}))
    for name, preset in PRESETS.items():
        if {patch for _, patch in preset.patches} <= set(served.model.patch_sizes):
            found.append(Schedule(name, {"preset": name}))
    return found
