"""The export of a video-to-audio run: a directory that gives clips sounds, from weights in any published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs.context import InputRef, JobContext
from jobs.export_sound import SoundExportConfig, run
from jobs.runtime import RuntimeConfig
from lumina.checkpoints import digest, save_model
from lumina.video_to_audio.config import SoundSamplerConfig
from lumina.video_to_audio.networks import synchformer
from lumina.video_to_audio.networks.clip import load_clip_features
from lumina.video_to_audio.networks.codec import load_codec
from lumina.video_to_audio.networks.synchformer import SynchformerConfig
from lumina.video_to_audio.sound_model import SoundModel
from tests.lumina import tiny
from tests.lumina.video_to_audio.reference_numbers import SYNC, save_weights
from tests.lumina.video_to_audio.tiny_sound import film, save_dit, save_networks

CONFIG = SoundExportConfig(sampler=SoundSamplerConfig(steps=3), seed=5)


def context(checkpoint: Path, out: Path, weights: dict[str, str]) -> JobContext:
    out.mkdir()
    return JobContext(
        stage="export",
        fingerprint="f" * 64,
        operator="",
        config=CONFIG,
        runtime=RuntimeConfig(),
        inputs={"checkpoint": InputRef("train@2", checkpoint, "sha256:checkpoint")},
        weights=weights,
        media_root="",
        out=out,
        work=out,
        progress=lambda done, total, unit: None,
        log_metrics=lambda metrics, step: None,
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: str(path) for name, path in save_networks(tmp_path_factory.mktemp("parts")).items()}


def test_the_directory_gives_a_clip_a_sound_and_says_where_it_is_from(parts: dict[str, str], tmp_path: Path) -> None:
    model = save_dit(tmp_path / "train" / "transformer_ema")
    ctx = context(tmp_path / "train", tmp_path / "out", parts)
    result = run(ctx)
    assert (result.kind, result.digest) == ("checkpoint", digest({"transformer": model.state_dict()}))
    loaded = SoundModel.load(ctx.out)
    assert (loaded.defaults.sampler.steps, loaded.defaults.seed) == (3, 5)
    wave = loaded.sound(film(16), [index / 16 for index in range(16)], 1.0)
    assert wave.shape == (16_000,)
    lineage = json.loads((ctx.out / "lineage.json").read_text())
    assert lineage["inputs"] == {"checkpoint": {"stage": "train@2", "digest": "sha256:checkpoint"}}
    wanted = {f"{part}/model.safetensors" for part in ("transformer", "codec/vocoder", "clip", "synchformer")}
    assert wanted | {"sound.json", "README.md"} < set(lineage["files_sha256"])
    assert str(tmp_path) not in json.dumps(lineage)
    card = (ctx.out / "README.md").read_text()
    assert "lumina sound CLIP.mp4 --checkpoint . --out FILE.mp4" in card
    assert "f" * 64 in card


def test_parts_as_they_were_published_are_converted(parts: dict[str, str], tmp_path: Path) -> None:
    save_dit(tmp_path / "train" / "transformer_ema")
    (tmp_path / "published").mkdir()
    files = save_weights(tmp_path / "published")
    (files["clip"] / "LICENSE").write_text("as it is")
    weights = {"audio_codec": str(files["codec"]), "clip": str(files["clip"]), "synchformer": parts["synchformer"]}
    ctx = context(tmp_path / "train", tmp_path / "out", weights)
    run(ctx)
    assert r"clip\/LICENSE" in (ctx.out / "README.md").read_text()
    published = load_codec(files["codec"])
    assert load_codec(ctx.out / "codec").scale == published.scale
    clip, frames = load_clip_features(files["clip"]), film(2)
    assert np.array_equal(load_clip_features(ctx.out / "clip").visual(frames), clip.visual(frames))


class TinySynchformer(SynchformerConfig):
    """What a published file holds, were it as small."""

    width: int = SYNC.width
    depth: int = SYNC.depth
    heads: int = SYNC.heads
    patch: int = SYNC.patch


def test_synchformer_s_published_file_becomes_a_directory(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synchformer, "SynchformerConfig", TinySynchformer)
    save_dit(tmp_path / "train" / "transformer_ema")
    (tmp_path / "published").mkdir()
    file = save_weights(tmp_path / "published")["sync"]
    published = torch.load(file, weights_only=True)
    ctx = context(tmp_path / "train", tmp_path / "out", parts | {"synchformer": str(file)})
    run(ctx)
    written = load_file(ctx.out / "synchformer" / "model.safetensors")
    # The tower for sound stays where it is.
    assert set(published) - set(written) == {"afeat_extractor.norm.weight"}
    assert all(torch.equal(value, published[name]) for name, value in written.items())
    clip, model = film(17), SoundModel.load(ctx.out).synchformer
    assert torch.equal(model.features(clip), synchformer.load_synchformer(file, SYNC).features(clip))

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "done",))

    name = next(name for name in published if name.startswith("vfeat_extractor."))
    refused = {
        "other": {f"other.{name}" if name == one else one: value for one, value in published.items()},
        "code": published | {"code": Evil()},
    }
    for kind, content in refused.items():
        torch.save(content, tmp_path / f"{kind}.pth")
        out = tmp_path / f"of_{kind}"
        with pytest.raises(ValueError, match=rf"{kind}\.pth"):
            run(context(tmp_path / "train", out, parts | {"synchformer": str(tmp_path / f"{kind}.pth")}))
        assert not (out / "synchformer").exists()
    assert not (tmp_path / "done").exists()


def test_weights_of_the_wrong_kind_are_refused(parts: dict[str, str], tmp_path: Path) -> None:
    save_model(tiny.text_to_video().transformer, tmp_path / "train" / "transformer_ema")
    with pytest.raises(ValueError, match="text-to-video"):
        run(context(tmp_path / "train", tmp_path / "out", parts))
