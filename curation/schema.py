"""Tables of curation: their columns, and the status every row carries.

Plain Arrow types only. Every stage writes every input row; a row that is not `ok` says why (`reason`), which stage said
so (`reason_stage`) and what happened (`detail`). Columns of results a row does not have are null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import islice
from typing import Any

import pyarrow as pa

DETAIL_BYTES = 2048
_BATCH_ROWS = 4096


class Status(StrEnum):
    """What became of a row."""

    OK = "ok"
    FILTERED = "filtered"
    """Sound, but a stated rule sets it aside."""
    QUARANTINED = "quarantined"
    """Something is wrong with it."""


class Reason(StrEnum):
    """Why a row is not ok."""

    MISSING_FILE = "missing_file"
    UNREADABLE_FILE = "unreadable_file"
    UNSUPPORTED_URI = "unsupported_uri"
    LEADS_OUTSIDE = "leads_outside"
    """A link that leads out of the folder that was named."""
    UNREADABLE_CAPTION = "unreadable_caption"
    DUPLICATE_CONTENT = "duplicate_content"
    DECODE_ERROR = "decode_error"
    DECODE_TIMEOUT = "decode_timeout"
    DECODE_CRASHED = "decode_crashed"
    DECODE_MEMORY = "decode_memory"
    NO_VIDEO_STREAM = "no_video_stream"
    NO_AUDIO_STREAM = "no_audio_stream"
    SILENT = "silent"
    """An audio track in which nothing is heard."""
    SHORT_AUDIO = "short_audio"
    """An audio track that fills too little of the clip."""
    SIZE_CHANGES = "size_changes"
    NOT_FINITE = "not_finite"
    TOO_FEW_FRAMES = "too_few_frames"
    MIN_DURATION = "min_duration"
    MAX_DURATION = "max_duration"
    MIN_FPS = "min_fps"
    MAX_FPS = "max_fps"
    MIN_AREA = "min_area"
    MIN_MOTION = "min_motion"
    MAX_MOTION = "max_motion"
    MIN_CAPTION = "min_caption"
    MAX_CAPTION = "max_caption"
    NEAR_DUPLICATE = "near_duplicate"
    """A better clip shows the same; `detail` says which."""
    SEMANTIC_DUPLICATE = "semantic_duplicate"
    """A better clip means the same, by its embedding; `detail` says which."""
    CAPTION_REFUSED = "caption_refused"
    """The captioning model, or its server, refuses to describe the clip."""
    CAPTION_NONSENSE = "caption_nonsense"
    """What it answers is no caption: empty, markup, cut, too long, in another language."""
    SCORE = "score"
    """A number that the policy names; `detail` says which."""
    SOURCE_QUOTA = "source_quota"
    OTHER_MEDIA = "other_media"
    INTERNAL_ERROR = "internal_error"
    """An error nobody foresaw; `detail` holds its class and message."""


class RowError(Exception):
    """Raised by a row's computation: this row leaves the stage with a reason; its neighbours go on."""

    def __init__(self, reason: Reason, detail: str, status: Status = Status.QUARANTINED) -> None:
        super().__init__(reason, detail, status)
        self.reason, self.detail, self.status = reason, detail, status

    def __str__(self) -> str:
        return self.detail


_STATUS = {"status": pa.string(), "reason": pa.string(), "reason_stage": pa.string(), "detail": pa.string()}
STATUS_COLUMNS = tuple(_STATUS)

_CLIP = {
    "clip_id": pa.string(),
    "parent_id": pa.string(),
    "uri": pa.string(),
    "media": pa.string(),
    "source": pa.string(),
    "caption": pa.string(),
    "sha256": pa.string(),
    "num_bytes": pa.int64(),
    "span_start_s": pa.float64(),
    "span_end_s": pa.float64(),
    "extra": pa.string(),
}

INGEST = pa.schema(_CLIP | _STATUS)
"""One row per clip. `extra` is a JSON object of the columns nobody asked for; null span: the whole file. `parent_id` is
the clip_id of the clip that shots were cut from, null for a clip that was not cut."""

PROBE = pa.schema(
    _CLIP
    | {
        "width": pa.int32(),
        "height": pa.int32(),
        "rotation": pa.int32(),
        "mirrored": pa.bool_(),
        "pixel_aspect": pa.float64(),
        "fps": pa.float64(),
        "frames_container": pa.int64(),
        "frames_decodable": pa.int64(),
        "frames_shown": pa.int64(),
        "max_gap_s": pa.float64(),
        "duration_s": pa.float64(),
        "file_duration_s": pa.float64(),
        "interlaced": pa.float64(),
        "hdr": pa.int32(),
        "color_transfer": pa.string(),
        "container": pa.string(),
        "codec": pa.string(),
        "pix_fmt": pa.string(),
        "decoder": pa.string(),
        "track": pa.string(),
    }
    | _STATUS
)
"""See `curation.video_files.Probe`. Width and height as shown. `duration_s`, `fps`, `frames_shown` and `max_gap_s` are
of the row's span, by the film's time stamps; `track` tells how its frames are read."""

MOTION = pa.schema(
    {
        "clip_id": pa.string(),
        "flow_abs_mean": pa.float32(),
        "flow_mag_mean": pa.float32(),
        "flow_mag_p90": pa.float32(),
        "pair_scores": pa.list_(pa.float32()),
        "sample_times_s": pa.list_(pa.float32()),
        "samples_shown": pa.int32(),
        "input_hw": pa.list_(pa.int32()),
        "transposed": pa.bool_(),
        "estimator": pa.string(),
    }
    | _STATUS
)
"""Scores in pixels of the `input_hw` frame per sampling interval; `pair_scores` is the series of `flow_abs_mean`.
`samples_shown` counts the frames among the samples: fewer than these where one frame stands longer than an interval."""

SOUND = pa.schema(
    {
        "clip_id": pa.string(),
        "has_audio": pa.bool_(),
        "audio_codec": pa.string(),
        "audio_rate": pa.int32(),
        "audio_channels": pa.int32(),
        "audio_layout": pa.string(),
        "audio_tracks": pa.int32(),
        "audio_start_s": pa.float64(),
        "audio_duration_s": pa.float64(),
        "audio_window_s": pa.float64(),
        "audio_cover": pa.float64(),
        "audio_rms_dbfs": pa.float32(),
        "audio_peak_dbfs": pa.float32(),
        "audio_silence": pa.float32(),
    }
    | _STATUS
)
"""Of the audio track that is played by default. `audio_start_s` is when it begins, in seconds from the film's first
frame, and `audio_duration_s` how long all of it is. The others are of the first `audio_window_s` seconds of the clip:
the share that the track fills, the level of the mono mix at 16 kHz in dB of full scale (a sine that fills it has an RMS
of -3), and the share of the time that is silent."""

AV_ALIGN = pa.schema(
    {
        "clip_id": pa.string(),
        "av_align": pa.float64(),
        "av_align_chance": pa.float64(),
        "av_align_excess": pa.float64(),
        "av_align_v2023": pa.float64(),
        "av_align_v2023_chance": pa.float64(),
        "av_align_v2023_excess": pa.float64(),
        "av_align_fps": pa.float64(),
        "audio_onsets": pa.int32(),
        "motion_peaks": pa.int32(),
        "motion_peaks_v2023": pa.int32(),
        "onset_times_s": pa.list_(pa.float64()),
        "peak_times_s": pa.list_(pa.float64()),
    }
    | _STATUS
)
"""AV-Align as released in February 2025, and in October 2023 (`v2023`); null where nothing sounds and nothing moves.
`chance` is the mean score of the onsets shifted in a circle, `excess` the score above it. Times are seconds from the
clip's first frame."""

CAPTION = pa.schema(
    {
        "clip_id": pa.string(),
        "caption": pa.string(),
        "caption_new": pa.string(),
        "caption_answer": pa.string(),
        "caption_prompt": pa.string(),
        "caption_times_s": pa.list_(pa.float64()),
        "caption_model": pa.string(),
        "caption_version": pa.string(),
        "caption_tokens": pa.int64(),
    }
    | _STATUS
)
"""`caption` is the clip's own, `caption_new` the model's. `caption_answer` is all of the answer, to `caption_prompt`
and frames at `caption_times_s` seconds from the clip's start. `caption_model` and `caption_version` are as the server
tells them, of a local network its class and digest; `caption_tokens` counts prompt and answer, null where the server
does not tell."""

TAG = pa.schema({"clip_id": pa.string(), "source": pa.string(), "system_prompt_id": pa.string()} | _STATUS)

SELECT = pa.schema(
    {
        "clip_id": pa.string(),
        "keep": pa.bool_(),
        "failed_rules": pa.list_(pa.string()),
        "stages": pa.list_(pa.string()),
        "stage_failed": pa.string(),
        "policy_id": pa.string(),
        "split": pa.string(),
        "uri": pa.string(),
        "media": pa.string(),
        "source": pa.string(),
        "caption": pa.string(),
        "system_prompt_id": pa.string(),
        "motion_score": pa.float32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "fps": pa.float64(),
        "duration_s": pa.float64(),
        "track": pa.string(),
        "span_start_s": pa.float64(),
        "span_end_s": pa.float64(),
    }
    | _STATUS
)
"""`failed_rules` names the rules that set the row aside, the first of them the reason: `min_fps`,
`score:flow_mag_mean`; where no latents set takes the row, with the set: `min_area@videos`.

`stages` lists the latents sets that a kept row may go to; null where no set has rules of its own, so that all may take
it. `stage_failed` is a JSON object of the sets whose rules it fails: {"videos": {"reason", "rules", "detail"}}."""

TEXT = pa.schema(
    {
        "text_id": pa.string(),
        "system_prompt_id": pa.string(),
        "prompt": pa.string(),
        "text_feature_bytes": pa.large_binary(),
        "text_feature_shape": pa.list_(pa.int32()),
        "text_feature_dtype": pa.string(),
        "tokens": pa.int32(),
        "tokens_cut": pa.int32(),
    }
    | _STATUS
)
"""Features [L, D], C order, little-endian; `tokens` is L, `tokens_cut` what a longer prompt has beyond it."""

LATENTS = pa.schema(
    {
        "clip_id": pa.string(),
        "vae_latent_bytes": pa.large_binary(),
        "vae_latent_shape": pa.list_(pa.int32()),
        "vae_latent_dtype": pa.string(),
        "bucket": pa.string(),
        "frame_times_s": pa.list_(pa.float64()),
        "frames_shown": pa.int32(),
        "crop": pa.list_(pa.int32()),
        "target_fps": pa.float32(),
        "media": pa.string(),
        "source": pa.string(),
        "caption": pa.string(),
        "system_prompt_id": pa.string(),
        "text_id": pa.string(),
        "text_id_dropped": pa.string(),
        "motion_score": pa.float32(),
        "split": pa.string(),
        "latent_sha256": pa.string(),
        "recipe_id": pa.string(),
    }
    | _STATUS
)
"""Latents [C, T, H, W], C order, little-endian; `crop` is [resized width, resized height, left, top] in pixels.
`frame_times_s` are the stamps of the encoded frames, in seconds from the film's first; `frames_shown` counts those that
differ."""


AUDIO_LATENTS = pa.schema(
    {
        "clip_id": pa.string(),
        "audio_latent_bytes": pa.large_binary(),
        "audio_latent_shape": pa.list_(pa.int32()),
        "audio_latent_dtype": pa.string(),
        "bucket": pa.string(),
        "source": pa.string(),
        "caption": pa.string(),
        "text_id": pa.string(),
        "split": pa.string(),
        "sets": pa.string(),
        "latent_sha256": pa.string(),
        "recipe_id": pa.string(),
    }
    | _STATUS
)
"""Mean and deviation of the audio VAE's posterior, [2, C, T, R], C order, little-endian, scaled as the codec scales;
`bucket` is T, the latent steps of 40 ms. `sets` names the sets of `select.sets` that the clip passes, sorted, with a
space between; nothing where it passes none."""

MEDIA_FEATURES = pa.schema(
    {
        "clip_id": pa.string(),
        "feature_bytes": pa.large_binary(),
        "feature_shape": pa.list_(pa.int32()),
        "feature_dtype": pa.string(),
        "recipe_id": pa.string(),
    }
    | _STATUS
)
"""Features [n, D] of a clip's frames, C order, little-endian: CLIP's, one a frame at 8 fps, or Synchformer's, eight a
segment of 16 frames at 25 fps."""

CAPTION_FEATURES = pa.schema(
    {
        "text_id": pa.string(),
        "text": pa.string(),
        "feature_bytes": pa.large_binary(),
        "feature_shape": pa.list_(pa.int32()),
        "feature_dtype": pa.string(),
        "tokens": pa.int32(),
        "tokens_cut": pa.int32(),
    }
    | _STATUS
)
"""CLIP's features [L, D] of a caption's tokens, C order, little-endian, both ends included and without padding; but of
the empty text with the padding, as many as the network takes: they stand for no text."""


def short_detail(text: str) -> str:
    """Cut `text` to at most 2 KB of UTF-8."""
    return text.encode(errors="backslashreplace")[:DETAIL_BYTES].decode(errors="ignore")


def status_ok() -> dict[str, str | None]:
    """The status columns of a row that is well."""
    return {"status": Status.OK, "reason": None, "reason_stage": None, "detail": None}


def status_not_ok(stage: str, status: Status, reason: Reason, detail: str) -> dict[str, str | None]:
    """The status columns of a row that `stage` sets aside."""
    return {"status": status, "reason": reason, "reason_stage": stage, "detail": short_detail(detail)}


def to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Build a table of `schema`; absent columns are null, surplus ones are left out. Rows are taken as they come."""
    batches = []
    for chunk in _chunks(rows):
        wanted = [{name: row.get(name) for name in schema.names} for row in chunk]
        batches.append(pa.RecordBatch.from_pylist(wanted, schema=schema))
    return pa.Table.from_batches(batches, schema=schema)


def iterate(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table as dicts, a few thousand in memory at a time: they take ten times what the table does."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        yield from batch.to_pylist()


def _chunks(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _BATCH_ROWS)):
        yield chunk


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give `table` the columns of `schema`: those it lacks become null, the others are cast, surplus ones go."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def set_aside(rows: Iterable[Mapping[str, Any]]) -> str:
    """A sentence on why rows were set aside: `Of 11 clips, 4 were set aside by min_fps (select), 1 by ...`."""
    rules, total = Counter[str](), 0
    for total, row in enumerate(rows, start=1):  # noqa: B007
        if row["status"] != Status.OK:
            rules[f"{row['reason']} ({row['reason_stage']})"] += 1
    listed = ", ".join(f"{count} {rule}" for rule, count in sorted(rules.items(), key=lambda item: (-item[1], item[0])))
    return f"Of {total} clips these were set aside: {listed or 'none'}"


def counts(table: pa.Table) -> dict[str, int]:
    """Counts of a table with status columns: `in`, `ok`, and `<status>/<reason>` each; the parts add up to `in`."""
    statuses, reasons = table["status"].to_pylist(), table["reason"].to_pylist()
    parts = Counter(
        str(status) if status == Status.OK else f"{status}/{reason}"
        for status, reason in zip(statuses, reasons, strict=True)
    )
    return {"in": table.num_rows, "ok": parts.pop("ok", 0), **dict(sorted(parts.items()))}
