"""The shipped parts are small, safe to load, and as good as their cards say."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lumina.frame_times import pick_indices
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.text_encoder import TextEncoder
from lumina.models.unimatch import UniMatch
from lumina.motion import UniMatchFlow
from lumina.randomness import generator
from lumina.shapes import COLORS, SOURCES, Scene, film, measure, sample_scene
from lumina.sizes import resize_crop
from lumina.video import read_frames, write_h264
from lumina.video_to_audio.networks.clip import load_clip_features
from lumina.video_to_audio.networks.synchformer import load_synchformer
from lumina.zoo import train_clip, train_synchformer, train_unimatch, train_vae
from lumina.zoo.sound_films import sound_film

ZOO = Path(train_vae.__file__).parent


@pytest.fixture(scope="module")
def vae() -> VideoAutoencoder:
    return VideoAutoencoder.from_pretrained(ZOO / "vae")


def test_the_parts_are_small_and_hold_no_code() -> None:
    files = [path for path in ZOO.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert sum(path.stat().st_size for path in files) <= 18_500_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    for part in ("vae", "text_encoder", "unimatch", "clip", "synchformer"):
        assert len(list((ZOO / part).glob("*.safetensors"))) == 1
        assert "python -m lumina.zoo.train_" in json.loads((ZOO / part / "figures.json").read_text())["trained_by"]


def test_the_vae_keeps_heldout_clips(vae: VideoAutoencoder) -> None:
    figures = json.loads((ZOO / "vae" / "figures.json").read_text())
    assert figures["heldout_clips"] >= 64
    assert figures["psnr_video_db"] >= 28
    assert train_vae.psnr(vae.vae, 8, train_vae.FRAMES) >= 28
    vae.vae.eval()


def test_the_flow_network_measures_motion() -> None:
    figures = json.loads((ZOO / "unimatch" / "figures.json").read_text())
    assert figures["epe_px"] <= 0.5
    assert figures["spearman"] >= 0.95
    now = train_unimatch.figures(UniMatch.from_pretrained(ZOO / "unimatch"), 8)
    assert now["epe_px"] <= 0.5
    assert now["epe_moving_px"] <= 1.5


def test_the_flow_network_sees_textures_move() -> None:
    pairs = [train_unimatch.texture_pair(generator(5, "test/texture", index)) for index in range(8)]
    estimator = UniMatchFlow.from_pretrained(ZOO / "unimatch")
    assert estimator.name.startswith("unimatch/")
    found = estimator(np.stack([pair.first for pair in pairs]), np.stack([pair.second for pair in pairs]))
    true = np.stack([pair.flow for pair in pairs])
    error, length = (np.hypot(flow[:, 0], flow[:, 1]).mean() for flow in (found - true, true))
    assert error < 0.5 * length


def test_latents_have_unit_scale(vae: VideoAutoencoder) -> None:
    clips = np.stack([train_vae.clip("heldout", index) for index in range(4)])
    assert 0.7 < float(vae.encode(torch.from_numpy(clips))[:, :, 1:].std()) < 1.4


def test_the_text_encoder_tells_captions_apart() -> None:
    figures = json.loads((ZOO / "text_encoder" / "figures.json").read_text())
    assert min(figures[f"probe_{name}_accuracy"] for name in ("color", "shape", "direction")) > 0.95
    encoder = TextEncoder.from_pretrained(ZOO / "text_encoder")
    features = encoder.encode([f"A {color} circle moves up." for color in COLORS])
    assert {feature.shape[1] for feature in features} == {encoder.feature_dim}
    means = torch.stack([feature.mean(dim=0) for feature in features])
    assert float(torch.pdist(means).min()) > 0.1


def test_clip_tells_shapes_and_colours() -> None:
    figures = json.loads((ZOO / "clip" / "figures.json").read_text())
    assert figures["color_accuracy"] >= 0.95
    assert figures["kind_accuracy"] >= 0.85
    network = load_clip_features(ZOO / "clip")
    now = train_clip.figures(network, 12)
    assert now["color_accuracy"] >= 0.95
    assert now["kind_accuracy"] >= 0.85
    frames = sound_film("heldout", 0).frames[:5]
    torch.testing.assert_close(network.visual(frames, batch=2), network.visual(frames))


def test_clip_takes_any_text() -> None:
    network = load_clip_features(ZOO / "clip")
    ends = network.token_ids("")
    assert ends == [network.clip.tokenizer.bos_token_id, network.clip.model.config.text_config.eos_token_id]
    unknown = network.token_ids("Zebra \u6f22\u5b57 #42!")
    assert not set(ends) & set(unknown[1:-1])
    assert len(network.token_ids("a red circle " * 30)) == 32
    (text,) = network.text(["A red circle bounces before a dark background."])
    assert text.shape == (11, network.text_width)


def test_synchformer_knows_when_shapes_hop() -> None:
    figures = json.loads((ZOO / "synchformer" / "figures.json").read_text())
    assert figures["event_f1"] >= 0.65
    network = load_synchformer(ZOO / "synchformer")
    now = train_synchformer.figures(network, 12)
    assert now["event_f1"] >= 0.5
    assert now["event_color_accuracy"] >= 0.9
    frames = sound_film("heldout", 0).frames[:40]
    torch.testing.assert_close(network.features(frames, batch=1), network.features(frames))


def facts(scene: Scene | object) -> list[tuple[str, str, str, str]]:
    return sorted((s.color, s.kind, s.direction, s.speed) for s in scene.shapes)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Scene, np.ndarray]]:
    """Scenes with their clips as the demo's encode stage reads them: H.264 at 96 px and 16 fps, 64 px at 8 fps."""
    cv2.setNumThreads(1)
    folder, clips = tmp_path_factory.mktemp("clips"), []
    for index in range(40):
        rng = generator(5, "test/zoo", index)
        scene = sample_scene(rng)
        source = SOURCES["synthetic"]
        path = folder / f"{index}.mp4"
        write_h264(path, film(scene, source, rng, num_frames=35, height=96, width=96, fps=16), 16, crf=source.crf)
        frames = read_frames(path, pick_indices([step / 8 for step in range(17)], 16, 35))
        clips.append((scene, resize_crop(frames, (64, 64))))
    return clips


def test_h264_keeps_the_scene(files: list[tuple[Scene, np.ndarray]]) -> None:
    assert sum(facts(measure(frames, 8)) == facts(scene) for scene, frames in files) >= 38


def test_the_vae_keeps_the_scene(vae: VideoAutoencoder, files: list[tuple[Scene, np.ndarray]]) -> None:
    right = 0
    for scene, frames in files:
        latents = vae.encode(torch.from_numpy(frames))[:, :, 1:]
        right += facts(measure(vae.decode(latents)[0].numpy(), 8)) == facts(scene)
    assert right >= 38
