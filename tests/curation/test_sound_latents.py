"""Encode sound: every kind of track has its outcome, and latents are those of the plainest loop."""

from __future__ import annotations

import json
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from PIL import Image

from curation.operator import Env, Input
from curation.schema import AUDIO_LATENTS, to_table
from curation.sound import SOUND_OPERATOR, SoundConfig
from curation.sound_latents import ENCODE_SOUND_OPERATOR, STATS_FILE, EncodeSoundConfig, latent_stats
from curation.tensors import pack, unpack
from lumina.system_prompts import text_id
from lumina.training.data.index import SOUNDS, Index
from lumina.video_to_audio.log_mel import filter_bank
from lumina.video_to_audio.networks.codec import load_codec
from tests.curation.audible import Heard, noise, tear, write
from tests.curation.in_memory import computed
from tests.curation.selected import Row, encoded, outcome, report, select_all
from tests.lumina.video_to_audio import reference_numbers

CONFIG = EncodeSoundConfig()
VARIABLE = tuple(Fraction(at, 25) for at in (0, 1, 2, 5, 6, 14, 15, 16, 20, 21, 30, 31, 32, 40, 48, 49))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small codec by its published names."""
    return {"audio_codec": str(reference_numbers.save_weights(tmp_path_factory.mktemp("published"))["codec"])}


@pytest.fixture(scope="module")
def select(tmp_path_factory: pytest.TempPathFactory) -> Input:
    """Files with every kind of track."""
    root = tmp_path_factory.mktemp("sounds")
    clips = root / "clips"
    clips.mkdir()
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(96000) / 48000)
    write(clips / "tone.mkv", Heard(noise(1, 32000), codec="flac", rate=16000))
    write(clips / "span.mkv", Heard(noise(2, 32000), codec="flac", rate=16000))
    write(clips / "surround.mkv", Heard(np.stack([tone, 0 * tone, tone, tone, tone, tone]), codec="flac", layout="5.1"))
    write(clips / "telephone.mkv", Heard(tone[::6], codec="flac", rate=8000))
    write(clips / "studio.mkv", Heard(np.repeat(tone, 2), codec="flac", rate=96000, sample_format="s32"))
    write(clips / "late.mkv", Heard(tone, codec="flac", audio_start_s=Fraction(1, 10)))
    write(clips / "much_later.mkv", Heard(tone, codec="flac", audio_start_s=Fraction(1)))
    write(clips / "early.mkv", Heard(np.tile(tone, 2), codec="flac", video_start_s=Fraction(1)))
    write(clips / "longer.mkv", Heard(np.tile(tone, 3), codec="flac"))
    write(clips / "shorter.mkv", Heard(tone[:24000], codec="flac"))
    write(clips / "variable.mkv", Heard(tone, codec="flac", stamps=VARIABLE))
    write(clips / "brief.mkv", Heard(tone, codec="flac", stamps=[Fraction(at, 25) for at in range(15)]))
    write(clips / "none.mp4", Heard())
    write(clips / "silent.mp4", Heard(0 * tone, codec="aac"))
    tear(write(clips / "broken.mkv", Heard(noise(4, 96000), codec="flac")))
    Image.new("RGB", (64, 64)).save(clips / "still.png")
    with wave.open(str(clips / "wave.avi"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(32000))
    return select_all(root, {"span.mkv": (0.48, 1.9)})


@pytest.fixture(scope="module")
def rows(select: Input, weights: dict[str, str]) -> dict[str, Row]:
    return encoded(ENCODE_SOUND_OPERATOR, select, CONFIG, weights)


def test_every_kind_of_track_has_its_outcome(rows: dict[str, Row], select: Input) -> None:
    well = ("ok", None, None)
    assert {name: outcome(row) for name, row in rows.items()} == {
        "tone.mkv": well,
        "span.mkv": well,
        "surround.mkv": well,
        "telephone.mkv": well,
        "studio.mkv": well,
        "late.mkv": well,
        "early.mkv": well,
        "longer.mkv": well,
        "variable.mkv": well,
        "much_later.mkv": ("filtered", "short_audio", "encode_sound"),
        "shorter.mkv": ("filtered", "short_audio", "encode_sound"),
        "brief.mkv": ("filtered", "too_few_frames", "encode_sound"),
        "none.mp4": ("filtered", "no_audio_stream", "encode_sound"),
        "silent.mp4": ("filtered", "silent", "encode_sound"),
        "broken.mkv": ("quarantined", "decode_error", "encode_sound"),
        "still.png": ("filtered", "other_media", "encode_sound"),
        "wave.avi": ("quarantined", "decode_error", "probe"),
    }
    buckets = {name: row["bucket"] for name, row in rows.items() if row["status"] == "ok"}
    assert buckets.pop("span.mkv") == "35"
    assert set(buckets.values()) == {"50"}
    assert all(row["bucket"] is row["audio_latent_bytes"] is None for row in rows.values() if row["status"] != "ok")
    # What the score of sound says of a clip, this stage says too.
    scored = computed(SOUND_OPERATOR, {"clips": select}, SoundConfig(), Env(str(select.path.parent / "clips")))
    said = {row["clip_id"]: (row["status"], row["reason"], row["detail"]) for row in scored.to_pylist()}
    for row in rows.values():
        if row["reason"] not in ("too_few_frames", "other_media"):
            assert said[row["clip_id"]] == (row["status"], row["reason"], row["detail"])


def test_latents_are_those_of_a_plain_loop(rows: dict[str, Row], select: Input, weights: dict[str, str]) -> None:
    codec = load_codec(weights["audio_codec"])
    with av.open(str(select.path.parent / "clips" / "tone.mkv")) as container:
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
    heard = torch.from_numpy(samples.astype(np.float32) / 2**15)
    found = codec.encode(filter_bank(heard, 200)[None])
    row = rows["tone.mkv"]
    mean, std = unpack(row["audio_latent_bytes"], row["audio_latent_shape"], row["audio_latent_dtype"])
    assert mean.shape == (8, 50, 16)
    assert torch.equal(mean, found.mean[0])
    assert torch.equal(std, found.std[0])
    assert row["text_id"] == text_id("the sound of tone")
    assert row["sets"] in ("aligned all", "all")
    assert row["recipe_id"] == CONFIG.on("cpu").recipe_id


def test_rows_depend_on_none_beside_them(rows: dict[str, Row], select: Input, weights: dict[str, str]) -> None:
    assert encoded(ENCODE_SOUND_OPERATOR, select, CONFIG, weights, backwards=True) == rows
    # As a GPU does: several of one length together, in half the bits.
    other = EncodeSoundConfig(batch_size=4, dtype="bfloat16")
    together = encoded(ENCODE_SOUND_OPERATOR, select, other, weights)
    for name, row in rows.items():
        assert outcome(together[name]) == outcome(row)
        if row["status"] == "ok":
            one, two = (
                unpack(each["audio_latent_bytes"], each["audio_latent_shape"], each["audio_latent_dtype"]).float()
                for each in (row, together[name])
            )
            torch.testing.assert_close(one, two, rtol=0.01, atol=0.01)


def test_the_report_tells_what_channels_are_like(rows: dict[str, Row], select: Input, weights: dict[str, str]) -> None:
    out = select.path.parent / ENCODE_SOUND_OPERATOR.name
    encoded(ENCODE_SOUND_OPERATOR, select, CONFIG, weights)
    assert report(ENCODE_SOUND_OPERATOR, select, CONFIG).files == (STATS_FILE,)
    train = [row for row in rows.values() if row["status"] == "ok" and row["split"] == "train"]
    found = json.loads((out / STATS_FILE).read_text())
    assert found["clips"] == len(train) < sum(row["status"] == "ok" for row in rows.values())
    every = [unpack(row["audio_latent_bytes"], row["audio_latent_shape"], "float32").double() for row in train]
    means, stds = (torch.cat([one[part].flatten(1) for one in every], dim=1) for part in (0, 1))
    mean = means.mean(1)
    torch.testing.assert_close(torch.tensor(found["mean"], dtype=torch.float64), mean)
    spread = ((means - mean[:, None]).square() + stds.square()).mean(1).sqrt()
    torch.testing.assert_close(torch.tensor(found["std"], dtype=torch.float64), spread)
    backwards = ds.dataset(to_table(list(reversed(rows.values())), AUDIO_LATENTS))
    assert latent_stats(backwards) == found
    index = Index([out], SOUNDS)
    assert len(index) == sum(row["status"] == "ok" for row in rows.values())
    assert index.place(0).shape[:2] == (2, 8)


def test_numbers_in_half_the_bits_have_the_same_stats(rows: dict[str, Row]) -> None:
    one = next(row for row in rows.values() if row["status"] == "ok")
    half = pack(unpack(one["audio_latent_bytes"], one["audio_latent_shape"], "float32"), "bfloat16")
    columns = {"audio_latent_bytes": half.data, "audio_latent_shape": half.shape, "audio_latent_dtype": half.dtype}
    exact = unpack(half.data, half.shape, half.dtype).double()[0].mean((1, 2))
    found = latent_stats(ds.dataset(to_table([one | columns | {"split": "train"}], AUDIO_LATENTS)))
    torch.testing.assert_close(torch.tensor(found["mean"], dtype=torch.float64), exact)
    nothing = ds.dataset(to_table([one | {"split": "heldout"}], AUDIO_LATENTS))
    with pytest.raises(ValueError, match=r"no clip of split train is left to encode.*select.heldout_fraction"):
        latent_stats(nothing)


def test_the_vae_alone_is_read(weights: dict[str, str], select: Input, rows: dict[str, Row], tmp_path: Path) -> None:
    codec = load_codec(weights["audio_codec"])
    codec.vae.register_to_config(scaling_factor=codec.scale)
    codec.vae.save_pretrained(tmp_path / "vae")
    found = encoded(ENCODE_SOUND_OPERATOR, select, CONFIG, {"audio_codec": str(tmp_path)})
    assert found == rows


def test_the_recipe_tells_what_decides_the_latents() -> None:
    cpu, gpu = (CONFIG.on(device) for device in ("cpu", "cuda:1"))
    assert (cpu.dtype, cpu.compute_dtype, cpu.batch_size) == ("float32", "float32", 1)
    assert (gpu.dtype, gpu.compute_dtype, gpu.batch_size) == ("bfloat16", "bfloat16", 16)
    assert cpu.recipe_id != gpu.recipe_id
    assert cpu.recipe_id == EncodeSoundConfig(min_cover=0.5, batch_size=3).on("cpu").recipe_id
    assert cpu.recipe_id != EncodeSoundConfig(window_s=4).on("cpu").recipe_id
    assert [ENCODE_SOUND_OPERATOR.rows_per_batch(one) for one in (CONFIG, cpu, gpu)] == [1, 1, 16]
