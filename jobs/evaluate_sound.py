"""Stages `evaluate@<n>` and `compare` of video-to-audio: sounds of held-out clips, measured, with ablations.

Every condition is measured on the same clips from the same noise, so that conditions and checkpoints can be paired.
Sounds are measured as the 16-bit WAV files hold them. Rows: one per clip and condition, with `wave_sha256`, the
identity of its samples.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator

from jobs.context import Evaluation, InputRef, Job, JobContext, JobResult
from jobs.evaluation_parts import evaluation_metrics, write_clip_rows, write_json
from lumina.config import Config
from lumina.evaluation.selection import METRICS_FILE
from lumina.files import read_json
from lumina.precision import Precision, precision_on
from lumina.video_to_audio.config import SoundSamplerConfig
from lumina.video_to_audio.evaluation.conditions import CONDITIONS, SHUFFLED, Condition

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.sounds import SoundBatch, SoundRequest
    from lumina.evaluation.metrics import Estimate
    from lumina.video_to_audio.evaluation.frechet import Moments

SCHEMA = "lumina-sound-metrics/1"
COMPARISON_FILE = "comparison.json"
_PROBED = ("clip_id", "uri", "media", "track", "span_start_s", "duration_s", "fps", "extra")


class SoundStatisticsConfig(Config):
    """How sure figures are."""

    seed: int = 0
    """Seed of clips, noises, shuffles and bootstrap."""
    resamples: int = Field(default=10_000, ge=100)
    """Bootstrap resamples of the clips."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of each interval."""


class SoundEvaluateConfig(SoundStatisticsConfig):
    """What is generated and measured; the same for every checkpoint."""

    sampler: SoundSamplerConfig = Field(default=SoundSamplerConfig())
    """How sounds are sampled."""
    clips: int = Field(default=64, ge=2)
    """Held-out clips at most, drawn by the seed."""
    batch_size: int = Field(default=8, ge=1)
    """Sounds generated together. It changes bits, so it is part of the stage's identity."""
    conditions: tuple[Condition, ...] = Field(default=CONDITIONS, min_length=1)
    """`given` and its ablations: `sync_shuffled`, `visual_shuffled`, `text_dropped`, `nothing`."""
    dtype: Precision = "auto"
    """Type in which all networks compute; `auto` is bfloat16 on GPUs and float32 on CPUs."""
    audible_dbfs: float = Field(default=-50.0, ge=-120, le=0)
    """Level in dB of full scale of the 50 ms after an onset below which nobody hears it: it is none."""
    most_fps: float = Field(default=30.0, gt=0)
    """Frames per second at most in which AV-Align looks for motion."""
    short_side: int = Field(default=256, ge=32)
    """Pixels of the shorter side in which it does."""
    shown: int = Field(default=6, ge=0)
    """Clips whose sounds are kept of all conditions; `given` and the truth are kept of all clips."""

    @field_validator("conditions")
    @classmethod
    def _known(cls, value: tuple[Condition, ...]) -> tuple[Condition, ...]:
        if "given" not in value or len(set(value)) < len(value):
            raise ValueError(f"conditions hold `given` and each of its ablations once, got {', '.join(value)}")
        return value

    def on(self, device: str) -> Self:
        """The same for a device ("cpu", "cuda"), with nothing left to it."""
        return self.model_copy(update={"dtype": precision_on(device, self.dtype)})


class SoundCompareConfig(SoundStatisticsConfig):
    """Config of `compare`."""


@partial(
    Job,
    weights=("audio_codec",),
    depends=("torch", "diffusers", "transformers", "scipy"),
    tier="metric",
    reads_media=True,
)
def run(ctx: JobContext) -> JobResult:
    """Evaluate input `checkpoint` on held-out clips (config: SoundEvaluateConfig).

    Inputs: checkpoint, sounds, visual, sync, captions, and clips (probed clips, whose `extra` may tell the true
    events). Writes data/, sounds/<condition>/<clip>.wav, metrics.json and spectrograms.png.

    Raises:
        ValueError: fewer than two held-out clips, a held-out clip that `clips` does not know, or a scene that does not
            say what its events are.
        curation.schema.RowError: a clip that decoded before does so no more.
    """
    from jobs.sounds import make_batches, measure_sounds
    from lumina.video_to_audio.sound_sheet import draw_sheet

    config: SoundEvaluateConfig = ctx.config
    job, clips, buckets = _work(ctx)
    work = make_batches(job, clips, config.batch_size, ctx.work / "sounds", ctx.fingerprint)
    measured = measure_sounds(work, ctx.runtime, lambda done, total: ctx.progress(done, total, "clips"))
    label = ctx.inputs["checkpoint"].stage
    table = _table(ctx, measured, buckets)
    by_condition = _by_condition(table.to_pylist())
    ids = sorted(buckets)
    summary = _summary(config, by_condition, _distances(measured), ids) | {"checkpoint": label, "clips": len(ids)}
    write_json(ctx.out / METRICS_FILE, summary)
    figures = {
        f"{condition}/{name}": ends["value"]
        for condition, found in summary["conditions"].items()
        for name, ends in found.items()
        if ends["value"] is not None
    }
    heard = [row["sound"] for row in table.to_pylist() if row["sound"] and row["condition"] == "given"]
    sheet = draw_sheet(ctx.out, table.to_pylist(), config.shown)
    evaluations = tuple(
        Evaluation(
            f"{label} | {condition}",
            _params(config, label, condition, len(ids)),
            evaluation_metrics(found),
            (*((*heard[: config.shown], *sheet) if condition == "given" else ()), METRICS_FILE),
        )
        for condition, found in summary["conditions"].items()
    )
    return JobResult(
        kind="rows",
        digest=write_clip_rows(ctx.out, table, "sound_id"),
        counts={"in": len(table), "ok": len(table)},
        metrics={f"eval/{name}": value for name, value in figures.items()},
        evaluations=evaluations,
        artifacts=(METRICS_FILE, *sheet),
    )


@partial(Job, uses_cluster=False)
def compare(ctx: JobContext) -> JobResult:
    """Compare the sounds of inputs `before` and `after`, two evaluations (config: SoundCompareConfig).

    Writes comparison.json: both sides' figures of the condition `given` over the same clips, their differences, and in
    a sentence what is found.

    Raises:
        ValueError: the two were made from other noises, with another sampler, or of no clip in common.
    """
    from lumina.evaluation.subsets import resample
    from lumina.evaluation.summary import interval_json
    from lumina.video_to_audio.evaluation.figures import FIGURES, differences
    from lumina.video_to_audio.evaluation.found import what_is_found

    config: SoundCompareConfig = ctx.config
    sides = {name: ctx.inputs[name] for name in ("before", "after")}
    stated = {name: read_json(ref.path / METRICS_FILE) for name, ref in sides.items()}
    for setting in ("seed", "sampler", "audible_dbfs"):
        if stated["before"][setting] != stated["after"][setting]:
            raise ValueError(
                f"{ctx.stage}: {sides['before'].stage} and {sides['after'].stage} were evaluated with another "
                f"{setting}, so their sounds cannot be paired"
            )
    rows = {name: _given(ref) for name, ref in sides.items()}
    ids = sorted(set(rows["before"]) & set(rows["after"]))
    if not ids:
        raise ValueError(f"{ctx.stage}: {sides['before'].stage} and {sides['after'].stage} have no clip in common")
    found = differences(rows["before"], rows["after"], ids, resample(ids, config.seed, config.resamples))
    names = {name: stated[name]["checkpoint"] for name in sides}
    told = what_is_found(found, names["before"], names["after"], len(ids), config.confidence)
    figures = {
        name: {
            side: interval_json(one.interval(config.confidence))
            for side, one in zip(("before", "after", "difference"), three, strict=True)
        }
        for name, three in found.items()
    }
    comparison = {
        "schema": "lumina-sound-comparison/1",
        **{side: {"stage": sides[side].stage, "checkpoint": names[side]} for side in sides},
        "clips": len(ids),
        "confidence": config.confidence,
        "resamples": config.resamples,
        "figures": figures,
        "meaning": {name: FIGURES[name].meaning for name in figures},
        "found": told,
    }
    write_json(ctx.out / COMPARISON_FILE, comparison)
    digest = hashlib.sha256((ctx.out / COMPARISON_FILE).read_bytes()).hexdigest()
    metrics = {f"difference/{name}": three[2].value for name, three in found.items()}
    return JobResult(kind="files", digest=f"sha256:{digest}", metrics=metrics, artifacts=(COMPARISON_FILE,))


def _work(ctx: JobContext) -> tuple[Any, dict[int, list[SoundRequest]], dict[str, str]]:
    """How sounds are made, the clips by their length, and the bucket of each."""
    from curation.operator import Env
    from jobs.curate import decode_limits
    from jobs.sounds import FEATURES, SoundJob, SoundRequest, open_dataset
    from lumina.randomness import generator
    from lumina.shapes.tones import OFF_SCREEN_HZ, PITCHES_HZ
    from lumina.video_to_audio.evaluation.conditions import donors

    config: SoundEvaluateConfig = ctx.config
    features = {name: str(ctx.inputs[name].path) for name in FEATURES}
    heldout = open_dataset(features).heldout
    # By a number of its own, so that a clip more or less changes no other's place.
    drawn = sorted(heldout, key=lambda clip: generator(config.seed, "evaluated clips", clip.clip_id).random())
    chosen = {clip.clip_id: clip for clip in drawn[: config.clips]}
    if len(chosen) < 2:
        raise ValueError(
            f"{ctx.stage}: {len(chosen)} held-out clips have a sound and all features, 2 are needed; raise the share "
            "of held-out clips (select.heldout_fraction), or give more clips"
        )
    probed = _probed(ctx.inputs["clips"], chosen)
    buckets = {name: str(clip.bucket) for name, clip in chosen.items()}
    given: dict[str, dict[str, str]] = {one: donors(buckets, config.seed, one) for one in SHUFFLED}
    shown = set(sorted(chosen)[: config.shown])
    requests = defaultdict(list)
    for name in sorted(chosen):
        others = {one: donor[name] for one, donor in given.items() if name in donor}
        requests[chosen[name].steps].append(SoundRequest(name, probed[name], others, name in shown))
    job = SoundJob(
        checkpoint=str(ctx.inputs["checkpoint"].path / "transformer_ema"),
        codec=ctx.weights["audio_codec"],
        features=features,
        sampler=config.sampler,
        conditions=config.conditions,
        seed=config.seed,
        known_hz=(*PITCHES_HZ.values(), OFF_SCREEN_HZ),
        audible_dbfs=config.audible_dbfs,
        most_fps=config.most_fps,
        short_side=config.short_side,
        dtype=precision_on(ctx.runtime.device, config.dtype),
        use_gpu=ctx.runtime.use_gpu,
        attention=ctx.runtime.attention,
        env=Env(ctx.media_root, limits=decode_limits(ctx.runtime), stores=ctx.runtime.object_stores),
    )
    return job, dict(requests), buckets


def _probed(clips: InputRef, wanted: Iterable[str]) -> dict[str, dict[str, Any]]:
    import pyarrow.dataset as dataset

    names = sorted(wanted)
    table = dataset.dataset(clips.path / "data").to_table(
        columns=[*_PROBED], filter=dataset.field("clip_id").isin(names) & (dataset.field("status") == "ok")
    )
    found = {row["clip_id"]: row for row in table.to_pylist()}
    lacking = [name for name in names if name not in found]
    if lacking:
        raise ValueError(f"{clips.stage} does not know clip {lacking[0]}, whose sound is held out: probe it again")
    return found


def _table(
    ctx: JobContext, measured: Sequence[tuple[SoundBatch, Sequence[Mapping[str, Any]]]], buckets: Mapping[str, str]
) -> pa.Table:
    """Rows of all sounds, by condition and clip; the sounds that are kept go to the output."""
    import pyarrow as pa

    config: SoundEvaluateConfig = ctx.config
    rows = []
    for batch, found in measured:
        for row in found:
            sound = None
            if row["file"]:
                sound = f"sounds/{row['condition']}/{row['clip_id']}.wav"
                (ctx.out / sound).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(batch.folder) / row["file"], ctx.out / sound)
            own = {"sound_id": f"{row['condition']}/{row['clip_id']}", "sound": sound, "seed": config.seed}
            rows.append({**row, **own, "bucket": buckets[row["clip_id"]]})
    rows.sort(key=lambda row: row["sound_id"])
    text, whole, times = pa.string(), pa.int32(), pa.list_(pa.float64())
    names = ("sound_id", "clip_id", "condition", "bucket", "sound", "wave_sha256", "donor")
    columns = dict.fromkeys(names, text)
    columns |= {"seed": pa.int64(), "duration_s": pa.float64(), "video_fps": pa.float64(), "rms_dbfs": pa.float64()}
    counts = ("events", "onsets", "hits", "seen_events", "seen_onsets", "seen_hits", "class_hits", "av_align_onsets")
    columns |= dict.fromkeys(counts, whole)
    numbers = ("av_align", "av_align_chance", "av_align_excess", "mel_l1", "mel_recon_snr")
    columns |= dict.fromkeys(numbers, pa.float64())
    columns |= dict.fromkeys(("onset_times_s", "peak_times_s", "event_times_s"), times)
    columns |= {"event_pitch_hz": times, "event_seen": pa.list_(pa.bool_()), "found_pitch_hz": times}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items())))


def _by_condition(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        found[row["condition"]][row["clip_id"]] = row
    return dict(found)


def _given(evaluation: InputRef) -> dict[str, Mapping[str, Any]]:
    """Rows of the condition `given` by clip."""
    import pyarrow.dataset as dataset

    table = dataset.dataset(evaluation.path / "data").to_table(filter=dataset.field("condition") == "given")
    return {row["clip_id"]: row for row in table.to_pylist()}


def _distances(measured: Iterable[tuple[SoundBatch, Sequence[Mapping[str, Any]]]]) -> dict[str, float]:
    """`rfd_mel64` of each condition to the true sounds of the same clips."""
    from lumina.video_to_audio.evaluation.frechet import rfd_mel64

    moments: dict[str, dict[str, Moments]] = defaultdict(dict)
    for batch, _ in measured:
        for (condition, clip), one in zip(batch.labels, batch.moments(), strict=True):
            moments[condition][clip] = one
    truth = moments["truth"]
    return {
        condition: rfd_mel64([truth[clip] for clip in sorted(found)], [found[clip] for clip in sorted(found)])
        for condition, found in moments.items()
    }


def _summary(
    config: SoundEvaluateConfig,
    by_condition: Mapping[str, Mapping[str, Mapping[str, Any]]],
    distances: Mapping[str, float],
    ids: Sequence[str],
) -> dict[str, Any]:
    from lumina.evaluation.subsets import resample
    from lumina.evaluation.summary import interval_json
    from lumina.video_to_audio.evaluation.figures import FIGURES, differences, estimates

    drawn = resample(ids, config.seed, config.resamples)

    def told(one: Estimate) -> dict[str, float | None]:
        return interval_json(one.interval(config.confidence))

    conditions: dict[str, dict[str, dict[str, float | None]]] = {}
    for condition, rows in sorted(by_condition.items()):
        conditions[condition] = {name: told(one) for name, one in estimates(rows, ids, drawn).items()}
        # A distance of corpora has no mean over clips, and its bootstrap is biased: there is no interval.
        conditions[condition]["rfd_mel64"] = {"value": round(distances[condition], 9), "low": None, "high": None}
    paired = {
        condition: {
            name: told(three[2]) for name, three in differences(rows, by_condition["given"], ids, drawn).items()
        }
        for condition, rows in sorted(by_condition.items())
        if condition != "given"
    }
    given = by_condition["given"]
    return {
        "schema": SCHEMA,
        "seed": config.seed,
        "sampler": config.sampler.model_dump(mode="json"),
        "audible_dbfs": config.audible_dbfs,
        "confidence": config.confidence,
        "resamples": config.resamples,
        "clips_known": sum(row["events"] is not None for row in given.values()),
        "clips_by_condition": {condition: len(rows) for condition, rows in sorted(by_condition.items())},
        "conditions": conditions,
        "given_minus": paired,
        "meaning": {name: figure.meaning for name, figure in FIGURES.items()}
        | {"rfd_mel64": "Frechet distance of log-mel frames to those of the true sounds; no network"},
    }


def _params(config: SoundEvaluateConfig, stage: str, condition: str, clips: int) -> dict[str, str | int | float]:
    """What an evaluation is of, for MLflow."""
    return {
        "train_stage": stage,
        "condition": condition,
        "seed": config.seed,
        "clips": clips,
        "steps": config.sampler.steps,
    }
