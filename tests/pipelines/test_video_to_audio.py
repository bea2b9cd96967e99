"""The DAG of Lumina-V2A: its stages, and mistakes in its config, told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import train_sound
from lumina.checkpoints import save_model
from lumina.video_to_audio.checkpoints import save_dit
from lumina.video_to_audio.networks.dit import VideoToAudioDiT
from pipelines.config import load_config
from pipelines.dag import build
from pipelines.errors import PipelineError
from pipelines.run_lock import portable
from pipelines.sound_config import SoundPipelineConfig
from tests.lumina.tiny import text_to_video

FEATURES = {"sounds": "encode_sound", "visual": "encode_visual", "sync": "encode_sync", "captions": "encode_captions"}


def _sound(*overrides: str) -> SoundPipelineConfig:
    config = load_config("sound", overrides)
    assert isinstance(config, SoundPipelineConfig)
    return config


def test_every_stage_reads_what_it_needs() -> None:
    pipeline = build(_sound())
    stages = {stage.name: stage for stage in pipeline.stages}
    assert pipeline.name == "video_to_audio"
    assert list(stages) == [
        "render_shapes", "ingest", "probe", "score@sound", "score@av_align", "select", "curation_page",
        "encode_captions", "encode_sound", "encode_visual", "encode_sync", "train@1", "train@2", "evaluate@1",
        "evaluate@2", "compare", "export",
    ]  # fmt: skip
    scored = {"clips": "probe", "score@sound": "score@sound", "score@av_align": "score@av_align"}
    assert stages["select"].inputs == scored
    assert stages["train@1"].inputs == FEATURES
    assert stages["train@2"].inputs == FEATURES | {"init": "train@1"}
    assert {stages[name].entry for name in ("train@1", "train@2")} == {train_sound.run.entry}
    judged = FEATURES | {"clips": "probe", "media": "render_shapes"}
    assert stages["evaluate@2"].inputs == judged | {"checkpoint": "train@2"}
    assert stages["compare"].inputs == {"before": "evaluate@1", "after": "evaluate@2"}
    assert stages["export"].inputs == {"checkpoint": "train@2"}
    assert sorted(stages["export"].weights) == ["audio_codec", "clip", "synchformer"]


def test_all_selected_clips_are_a_set_beside_those_with_rules() -> None:
    policy = next(stage.config for stage in build(_sound()).stages if stage.name == "select")
    assert policy.encoded == {"all": ("video",), "aligned": ("video",)}
    assert set(policy.sets) == {"aligned"}


def test_a_run_of_one_training_stage_compares_nothing(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(
        "pipeline: video_to_audio\nname: one\ndata: {shapes: {images: {}, sound: {}}}\n"
        "model: {dim: 32, n_layers: 1, n_heads: 2, visual_dim: 64, text_dim: 64, text_tokens: 32, sync_dim: 64}\n"
        "train: {only: {steps: 1, batch_size: 2}}\n"
    )
    names = [stage.name for stage in build(load_config(str(file))).stages]
    assert names[-3:] == ["train@only", "evaluate@only", "export"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.2.clips=alined",
            "train.2.clips names 'alined', which is no set of select.sets; did you mean 'aligned'?",
        ),
        ("train.1.stepps=3", "train.1.stepps: unknown key; did you mean 'steps'?"),
        ("select.sets.all={}", "select.sets names 'all', which is the set of all selected clips"),
        ("train.1.batch_size=1", "train.1 has batch_size 1, but runtime.train_workers is 2"),
        ("encode_sync.window_s=4", "sounds and features are of the same seconds of a clip, but here of others"),
        ("pipeline=video_to_sound", "there is no 'video_to_sound'"),
        ("runtime.curation_gpus={encode_sinc: 1}", "runtime.curation_gpus names 'encode_sinc'"),
    ],
)
def test_a_mistake_is_told_with_what_to_write_instead(override: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        _sound("runtime.train_workers=2", override)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.visual_dim=32", "has projection_dim 64: set model.visual_dim=64"),
        ("model.text_tokens=77", "has text_config.max_position_embeddings 32: set model.text_tokens=32"),
        ("model.in_channels=4", "has latent_channels 8: set model.in_channels=8"),
        ("select.min_motion=3", "select.min_motion is about motion, but there is no motion stage in this run"),
        ("select.scores.av_aling.min=0", "did you mean 'av_align'?"),
        ("select.sources.wep.min_fps=3", "select.sources names wep; the sources are handheld, synthetic, web"),
        ("train.1.source_weights={wep: 2}", "train.1.source_weights names wep; the sources are"),
        ("weights.synchformer=/nowhere", "/nowhere"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(override: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        build(_sound(override))
    assert message in str(caught.value)


def test_training_starts_from_a_given_model(tmp_path: Path) -> None:
    config = _sound()
    save_dit(VideoToAudioDiT(config.model), tmp_path / "export" / "transformer")
    for given in (tmp_path / "export", tmp_path / "export" / "transformer"):
        stages = build(_sound(f"weights.transformer={given}")).by_name
        assert stages["train@1"].weights == {"init": str(tmp_path / "export" / "transformer")}
        assert not stages["train@2"].weights
    with pytest.raises(PipelineError, match=r"is another network: set model.n_layers=4$"):
        build(_sound(f"weights.transformer={tmp_path / 'export'}", "model.n_layers=2"))
    save_model(text_to_video().transformer, tmp_path / "video")
    with pytest.raises(
        PipelineError, match=r"video holds no video-to-audio transformer: give the output of a training"
    ):
        build(_sound(f"weights.transformer={tmp_path / 'video'}"))


def test_vggsound_is_planned_with_the_paper_s_sizes(tmp_path: Path) -> None:
    manifest = tmp_path / "vggsound.csv"
    manifest.write_text('-aB_cD0eF12,30,"dog barking, howling",train\nGhI-jK3lM45,0,cat purring,test\n')
    (tmp_path / "synchformer_state_dict.pth").touch()
    config = load_config("v2a", [f"data.manifest={manifest}"])
    assert isinstance(config, SoundPipelineConfig)
    assert [config.train["2"].clips, config.encode_sound.window_s] == ["aligned", 8]
    assert config.select.sets["aligned"].scores["av_align"].min == 0.2
    assert portable(config)["data"]["manifest"] == str(manifest)
