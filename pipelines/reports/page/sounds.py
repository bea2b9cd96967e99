"""Sounds of held-out clips on the run page: what is heard beside its spectrogram, with true events and found onsets.

Which clips are shown is decided by their ids alone, so none is picked for how it sounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.formats import counted
from lumina.pages.charts import Axis
from lumina.pages.page import MEDIA_BYTES
from pipelines.compare.rows import open_rows
from pipelines.compare.runs import Side
from pipelines.engine.store.output import Output
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.reports.page.films import Film, Films, films, uri
from pipelines.reports.sounds import ordered

CLIPS = 4
"""Clips that are heard under every condition."""
PAIRS = 10
"""Others, of which what was generated is heard beside the truth."""
_GIVEN, _TRUTH = "given", "truth"
_LOWEST, _HIGHEST = -32768, 32767
"""Samples of a WAV that was too loud for 16 bits: a click is heard there."""
_PROBED = ("clip_id", "uri", "media", "track", "span_start_s", "duration_s", "width", "height", "caption")


@dataclass(frozen=True)
class Mark:
    """A true event, or an onset that was found; places in percent of the picture."""

    x: float
    met: bool
    """Whether the one has an onset within the tolerance, and the other an event."""
    y: float | None = None
    """Where its pitch is, from the top, if it is known."""
    seen: bool = True


@dataclass(frozen=True)
class Heard:
    """One sound of a clip."""

    title: str
    media: str
    """A `data:` URI: the film with this sound, or the sound alone."""
    why_no_film: str
    poster: str
    picture: str
    """Its spectrogram as a `data:` URI, or why there is none."""
    label: str
    """What the picture shows, for who does not see it."""
    axis: Axis
    """Seconds."""
    events: Sequence[Mark]
    onsets: Sequence[Mark]
    verdict: str
    good: bool
    size: int = field(compare=False)
    """Bytes of film and picture."""


@dataclass(frozen=True)
class HeardRow:
    """Sounds of one clip."""

    caption: str
    note: str
    sounds: Sequence[Heard]


@dataclass(frozen=True)
class Listening:
    """What is heard on a page."""

    checkpoint: str
    every: Sequence[HeardRow]
    """Some clips under every condition."""
    pairs: Sequence[HeardRow]
    """Other clips: truth and `given`."""
    clips: int
    """That were evaluated."""
    left_out: int
    """Clips that were meant to be shown and are too large together."""


def listen(store: Store, record: RunRecord, side: Side, stage: str, checkpoint: str) -> Listening | None:
    """Sounds of a finished evaluation; None where it kept none.

    Raises:
        StoreError: its rows, or those of the probed clips, cannot be read.
    """
    output, probe = side.stages[stage].output, record.stages[stage].inputs.get("clips", "")
    probed_by = side.stages[probe].output if probe in side.stages else None
    if output is None or probed_by is None:
        return None
    clips: dict[str, dict[str, dict[str, Any]]] = {}
    for row in open_rows(stage, output).read().to_pylist():
        if row["sound"]:
            clips.setdefault(row["clip_id"], {})[row["condition"]] = row
    known = sorted(clips)
    every = [clip for clip in known if set(clips[clip]) - {_GIVEN, _TRUTH}][:CLIPS]
    others = [clip for clip in known if clip not in every and {_GIVEN, _TRUTH} <= set(clips[clip])]
    pairs = _spread(others, PAIRS)
    probed = _probed(probe, probed_by, {*every, *pairs})
    every, pairs = ([clip for clip in some if clip in probed] for some in (every, pairs))
    with films(store, record, side, sorted(row["uri"] for row in probed.values())) as opened:

        def rows(some: Sequence[str], wanted: Sequence[str] | None = None) -> list[HeardRow]:
            return _fitting(
                _row(opened, output, probed[clip], clips[clip], wanted or ordered(clips[clip])) for clip in some
            )

        shown, beside = rows(every), rows(pairs, (_TRUTH, _GIVEN))
    left_out = len(every) + len(pairs) - len(shown) - len(beside)
    return Listening(checkpoint, shown, beside, len(known), left_out)


def _spread(of: Sequence[str], most: int) -> list[str]:
    """Some of many, evenly."""
    return [of[number * len(of) // most] for number in range(most)] if len(of) > most else list(of)


def _probed(stage: str, output: Output, wanted: set[str]) -> dict[str, dict[str, Any]]:
    import pyarrow.dataset as ds

    open_rows(stage, output)
    table = output.dataset().to_table(columns=[*_PROBED], filter=ds.field("clip_id").isin(sorted(wanted)))
    return {row["clip_id"]: row for row in table.to_pylist()}


def _fitting(rows: Iterable[HeardRow]) -> list[HeardRow]:
    """The first rows that have half of `MEDIA_BYTES` together."""
    shown, spent = [], 0
    for row in rows:
        spent += sum(one.size for one in row.sounds)
        if spent > MEDIA_BYTES // 2:
            break
        shown.append(row)
    return shown


def _row(
    opened: Films,
    output: Output,
    probed: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
    conditions: Sequence[str],
) -> HeardRow:
    first = rows[conditions[0]]
    film = opened.film(probed, first["duration_s"], first["video_fps"])
    seen = first["event_seen"]
    told = (
        "its events are not known"
        if seen is None
        else "it is silent"
        if not seen
        else f"{counted(len(seen), 'event')}"
        + (f", {len(seen) - sum(seen)} of them off-screen" if not all(seen) else ", all seen")
    )
    sounds = [_heard(output, rows[condition], film) for condition in conditions]
    return HeardRow(str(probed["caption"] or probed["uri"]), f"{probed['clip_id'][:8]}: {told}", sounds)


def _heard(output: Output, row: Mapping[str, Any], film: Film | str) -> Heard:
    from lumina.video_to_audio.spectrograms import spectrogram_png
    from lumina.video_to_audio.wav_files import read_wav
    from lumina.video_to_audio.waveforms import from_pcm16

    path, seconds = output.find(row["sound"]), row["duration_s"]
    events, onsets = _marks(row)
    verdict, good = _verdict(row, onsets)
    why, media, picture, size = "", "", f"{output}/{row['sound']} is gone", 0
    if path.is_file():
        samples, rate = read_wav(path)
        png = spectrogram_png(from_pcm16(samples))
        if isinstance(film, Film):
            heard, kind = film.with_sound(from_pcm16(samples).numpy(), rate), "video/mp4"
        else:
            heard, kind, why = path.read_bytes(), "audio/wav", film
        media, picture = uri(heard, kind), uri(png, "image/png")
        if clipped := int(((samples <= _LOWEST) | (samples >= _HIGHEST)).sum()):
            verdict, good = f"{verdict}; {counted(clipped, 'sample')} clipped", False
        size = len(heard) + len(png)
    axis = Axis(0.0, seconds)
    marks = [Mark(axis.at(one), met, y, seen) for one, met, y, seen in events]
    found = [Mark(axis.at(one), met) for one, met in onsets]
    poster = film.poster if isinstance(film, Film) else ""
    label = _label(row, events, onsets)
    return Heard(row["condition"], media, why, poster, picture, label, axis, marks, found, verdict, good, size)


def _marks(row: Mapping[str, Any]) -> tuple[list[tuple[float, bool, float, bool]], list[tuple[float, bool]]]:
    """Events (s, met, place of the pitch, seen) and onsets (s, met)."""
    from lumina.video_to_audio.evaluation.onset_f1 import match
    from lumina.video_to_audio.spectrograms import height_of

    times, onsets = row["event_times_s"] or [], row["onset_times_s"] or []
    pairs = match(times, onsets)
    met, hit = {event for event, _ in pairs}, {onset for _, onset in pairs}
    events = [
        (time, number in met, 100 * (1 - height_of(hertz)), bool(seen))
        for number, (time, hertz, seen) in enumerate(
            zip(times, row["event_pitch_hz"] or [], row["event_seen"] or [], strict=True)
        )
    ]
    # Of a clip of which nothing is known, no onset is wrong.
    return events, [(time, number in hit or row["events"] is None) for number, time in enumerate(onsets)]


def _verdict(row: Mapping[str, Any], onsets: Sequence[tuple[float, bool]]) -> tuple[str, bool]:
    """What the figures say of one sound."""
    beside = sum(not met for _, met in onsets)
    if row["events"] is None:
        return counted(len(onsets), "onset"), True
    if not row["events"]:
        return (counted(beside, "onset") + ", and nothing should be heard", False) if beside else ("silent too", True)
    met = f"{row['hits']} of {counted(row['events'], 'event')} met, {row['class_hits']} in the right pitch"
    return met + (f"; {counted(beside, 'onset')} beside" if beside else ""), row["hits"] == row["events"] and not beside


def _label(row: Mapping[str, Any], events: Sequence[Any], onsets: Sequence[Any]) -> str:
    pitches = row["event_pitch_hz"] or []
    true = [
        f"{time:.2f} s ({hertz:.0f} Hz{'' if seen else ', off-screen'})"
        for (time, _, _, seen), hertz in zip(events, pitches, strict=True)
    ]
    found = ", ".join(f"{time:.2f} s" for time, _ in onsets)
    return (
        f"Spectrogram of {row['condition']}, {row['duration_s']:g} s. True events: {', '.join(true) or 'none'}. "
        f"Onsets: {found or 'none'}."
    )
