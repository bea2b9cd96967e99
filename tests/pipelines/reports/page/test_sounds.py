"""The page of a video-to-audio run: figures of every condition, and clips that are heard beside their true events."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lumina.shapes.tones import SoundEvent, waveform
from lumina.video_to_audio.spectrograms import height_of, spectrogram_png
from lumina.video_to_audio.waveforms import from_pcm16
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.store import Store
from pipelines.reports.page import sounds
from pipelines.reports.page.make import make_page
from tests.pipelines.reports.page.sounding_run import CLIPS, SAID, pipeline
from tests.pipelines.reports.page.toy_run import go


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunRecord]:
    store, record = go(pipeline(), tmp_path_factory.mktemp("sounding"))
    assert record.ok, record
    return store, record


@pytest.fixture(scope="module")
def page(made: tuple[Store, RunRecord]) -> str:
    return make_page(*made)


def _section(page: str, name: str) -> str:
    return re.sub(r"\s+", " ", page.partition(f'<h2 id="{name}">')[2].partition("<h2 ")[0])


def test_the_headline_holds_it_against_shuffled_sync(page: str) -> None:
    assert "<h1>train@2 has onset F1 0.600 [0.500, 0.700], 3.0 times that of shuffled sync (0.200)</h1>" in page
    for id in re.findall(r'<a href="#(\w+)">', page):
        assert page.count(f'<h2 id="{id}">') == 1
    assert len(page) < 1_000_000
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)


def test_every_condition_has_its_interval_and_what_it_takes_away(page: str) -> None:
    section = _section(page, "conditions")
    heads = re.findall(r"<thead>(.*?)</thead>", section)
    columns = [re.findall(r"<th[^>]*>(.*?)</th>", head) for head in heads]
    names = ["truth", "given", "sync_shuffled", "nothing"]
    assert columns == [["figure", *names], ["given minus", "truth", "sync_shuffled", "nothing"]] * 2
    assert "0.125 <small>[0.025, 0.225]</small>" in section
    assert "onset_<wbr>f1_<wbr>50ms <small>F1 of onsets &amp; events</small>" in section
    # The newest checkpoint is open, those before it are folded.
    assert section.index("Onset F1 of train@2") < section.index("<details><summary>Sounds of train@1")
    second = section[section.index("given minus</th>") :]
    marked = re.findall(r"<td( class=\"differs\")?>", second[: second.index("</tbody>")])
    assert [bool(one) for one in marked] == [False, True, True]


def test_two_checkpoints_are_compared_in_a_sentence_and_a_table(page: str) -> None:
    section = _section(page, "compare")
    assert SAID.replace("&", "&amp;") in section
    assert '<th scope="col">train@1</th><th scope="col">train@2</th><th scope="col">difference</th>' in section
    assert "+0.100 <small>[0, +0.200]</small>" in section


def test_films_are_heard_with_each_sound(page: str) -> None:
    heard, beside = _section(page, "heard"), _section(page, "pairs")
    titles = [re.findall(r"<h4><span>(\w+)</span>", part) for part in (heard, beside)]
    assert titles == [["truth", "given", "nothing"], ["truth", "given"] * (len(CLIPS) - 1)]
    films = re.findall(r'<video src="data:video/mp4;base64,([^"]*)" poster="data:image/png;base64,', heard + beside)
    assert len(films) == 3 + 2 * 3
    with av.open(io.BytesIO(b64decode(films[0]))) as film:
        codecs = [stream.codec_context.name for stream in film.streams]
        assert codecs == ["h264", "aac"]
        assert sum(frame.samples for frame in film.decode(audio=0)) >= 2 * 16_000
    assert "A &lt;red&gt; square hops." in heard
    assert "<red>" not in page


def test_events_that_are_seen_and_off_screen_and_onsets_are_told_apart(page: str) -> None:
    heard = _section(page, "heard").split("<h4>")
    assert [part.count('class="event"') for part in heard[1:]] == [1, 1, 1]
    assert [part.count('class="event off"') for part in heard[1:]] == [1, 1, 1]
    assert [part.count('class="onset"') for part in heard[1:]] == [2, 1, 0]
    assert [part.count('class="onset beside"') for part in heard[1:]] == [0, 1, 0]
    assert '<line class="event" x1="25.00%"' in heard[1]
    assert re.search("1 of 2 events met, 1 in the right pitch; 1 onset beside; \\d+ samples clipped", heard[2])
    assert "clipped" not in heard[1] + heard[3]
    label = (
        "Spectrogram of given, 2 s. True events: 0.50 s (400 Hz), 1.25 s (2600 Hz, off-screen). Onsets: 0.53 s, 1.70 s."
    )
    assert label in heard[2]
    assert "2 events, 1 of them off-screen" in heard[0]
    assert '<p class="good">silent too</p>' in _section(page, "pairs")


def test_the_picture_has_a_tone_where_its_time_and_pitch_are() -> None:
    wave = waveform([SoundEvent(1.0, 2600.0, "circle", None, 0.9)], 2.0)
    picture = Image.open(io.BytesIO(spectrogram_png(from_pcm16((32_000 * wave).astype(np.int16)))))
    assert picture.size == (200, 64)
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    assert grey[:, :90].max() < grey[:, 102:110].max() / 4
    row = int(grey[:, 105].argmax())
    assert abs(row - (1 - height_of(2600.0)) * 64) <= 1


def test_curves_stages_and_a_command_that_gives_a_sound(made: tuple[Store, RunRecord], page: str) -> None:
    store, record = made
    assert re.findall(r"<h3>(.*?)</h3>", _section(page, "curves")) == ["train@1", "train@2"]
    assert _section(page, "stages").count('<g class="done">') == len(record.stages)
    exported = store.root / record.stages["export"].path
    assert f"lumina sound clip.mp4 --checkpoint {exported} --out sounding.mp4" in page
    assert "lumina generate" not in page


def test_the_same_store_gives_the_same_page(made: tuple[Store, RunRecord], page: str) -> None:
    assert make_page(*made) == page


def test_what_is_gone_is_said_and_the_sound_is_heard_without_its_film(tmp_path: Path) -> None:
    store, record = go(pipeline(), tmp_path)
    (store.root / record.stages["render_shapes"].path / f"{CLIPS[0]}.mp4").unlink()
    gone = store.root / record.stages["evaluate@2"].path / f"sounds/given/{CLIPS[0]}.wav"
    gone.unlink()
    heard = _section(make_page(store, record), "heard")
    assert f"{gone} is gone" in heard
    assert heard.count(f"{CLIPS[0]}.mp4 cannot be shown: ") == 2
    assert heard.count('<audio src="data:audio/wav;base64,') == 2


def test_sounds_that_are_too_large_are_left_out_and_it_is_said(
    made: tuple[Store, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sounds, "MEDIA_BYTES", 10)
    page = make_page(*made)
    assert "<video" not in page
    assert "4 clips more would make the page too large" in page


def test_a_run_that_was_cut_or_failed_has_a_page(tmp_path: Path, made: tuple[Store, RunRecord]) -> None:
    store, record = go(pipeline(), tmp_path, until="train@1")
    page = make_page(store, record)
    assert "<h1>No sound has been evaluated yet</h1>" in page
    assert "No sound has been generated yet." in page
    store, record = made
    failed = replace(record.stages["compare"], state="failed", digest=None, path=None, error="<b>no</b>")
    page = make_page(store, replace(record, stages={**record.stages, "compare": failed}))
    assert "<h1>compare failed</h1>" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "no two checkpoints" in page


def test_clips_whose_events_nobody_knows_are_shown_without_a_verdict(made: tuple[Store, RunRecord]) -> None:
    unknown = {"events": None, "event_times_s": None, "event_pitch_hz": None, "event_seen": None}
    row = {"condition": "given", "duration_s": 2.0, "onset_times_s": [0.5, 1.0], **unknown}
    assert sounds._marks(row) == ([], [(0.5, True), (1.0, True)])
    assert sounds._verdict(row, [(0.5, True), (1.0, True)]) == ("2 onsets", True)
    assert json.dumps(sounds._label(row, [], [(0.5, True)])).count("True events: none")
