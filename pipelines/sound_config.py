"""The whole config of a video-to-audio run: one section a stage, checked by the class of the code it configures."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from curation.av_align import AVAlignConfig
from curation.caption_features import EncodeCaptionsConfig
from curation.page import CurationPageConfig
from curation.sound import SoundConfig
from curation.sound_latents import EncodeSoundConfig
from curation.sync_features import EncodeSyncConfig
from curation.visual_features import EncodeVisualConfig
from jobs.evaluate_sound import SoundCompareConfig, SoundEvaluateConfig
from jobs.export_sound import SoundExportConfig
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.training.stage import SoundStageConfig
from pipelines.base_config import BaseConfig, Weights
from pipelines.errors import did_you_mean

ALL = "all"
"""The set of all selected clips; the others are of `select.sets`."""


class SoundWeights(Weights):
    """Pretrained networks: a local directory, `hf:owner/name` of the hub, or `zoo:<name>` for small shipped ones."""

    audio_codec: str = "zoo:audio_codec"
    """AudioLDM's VAE and vocoder: a directory with `vae` and `vocoder`, such a model of the hub, or its checkpoint."""
    clip: str = "zoo:clip"
    """A CLIP with its tokenizer."""
    synchformer: str = "zoo:synchformer"
    """Synchformer's visual tower: a directory, or `synchformer_state_dict.pth`."""
    transformer: str | None = None
    """What the first training stage starts from: a video-to-audio transformer (`transformer` and `transformer_ema` of a
    training stage), or an exported checkpoint; None starts from nothing."""


class SoundPipelineConfig(BaseConfig):
    """Everything that one run of video_to_audio is made from."""

    pipeline: Literal["video_to_audio"] = "video_to_audio"
    """Which model the run trains: this, or `text_to_video`."""
    weights: SoundWeights = SoundWeights()
    """Pretrained networks."""
    sound: SoundConfig = SoundConfig()
    """Measure each audio track: the stage `score@sound`."""
    av_align: AVAlignConfig = AVAlignConfig()
    """Measure whether sounds begin when things move: the stage `score@av_align`."""
    curation_page: CurationPageConfig = CurationPageConfig()
    """The page that shows what was kept, what was set aside, and why."""
    encode_captions: EncodeCaptionsConfig = EncodeCaptionsConfig()
    """CLIP's features of the captions."""
    encode_sound: EncodeSoundConfig = EncodeSoundConfig()
    """Audio latents."""
    encode_visual: EncodeVisualConfig = EncodeVisualConfig()
    """CLIP's features of the frames."""
    encode_sync: EncodeSyncConfig = EncodeSyncConfig()
    """Synchformer's features of the frames."""
    model: VideoToAudioConfig
    """The network that all training stages share."""
    train: dict[str, SoundStageConfig] = Field(min_length=1)
    """Training stages, in this order: each starts from the weights of the one before, and may be of the clips of one
    set alone."""
    evaluate: SoundEvaluateConfig = SoundEvaluateConfig()
    """How the checkpoint of every training stage is judged."""
    compare: SoundCompareConfig = SoundCompareConfig()
    """The last checkpoint beside the first, on the same clips and noises."""
    export: SoundExportConfig = SoundExportConfig()
    """The directory that `lumina sound` reads."""

    @model_validator(mode="before")
    @classmethod
    def _share_the_model(cls, data: Any) -> Any:
        """The network is written once: training stages that do not name one take the shared one."""
        if not isinstance(data, dict) or "model" not in data or not isinstance(data.get("train"), dict):
            return data
        stages = {
            name: {"model": data["model"], **one} if isinstance(one, dict) else one
            for name, one in data["train"].items()
        }
        return {**data, "train": stages}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if ALL in self.select.sets:
            raise ValueError(f"select.sets names {ALL!r}, which is the set of all selected clips: give it another name")
        sets = list(self.select.sets)
        for name, stage in self.train.items():
            if stage.model != self.model:
                raise ValueError(f"train.{name}.model differs from model: one network goes through all stages")
            if stage.clips is not None and stage.clips not in sets:
                there = f"there are {', '.join(sets)}" if sets else "there are none"
                raise ValueError(
                    f"train.{name}.clips names {stage.clips!r}, which is no set of select.sets; "
                    f"{did_you_mean(stage.clips, sets, there)}"
                )
            if stage.batch_size < self.runtime.train_workers:
                raise ValueError(
                    f"train.{name} has batch_size {stage.batch_size}, but runtime.train_workers is "
                    f"{self.runtime.train_workers}: every worker needs a sample; raise the one or lower the other"
                )
        windows = {name: getattr(self, name).window_s for name in ("encode_sound", "encode_visual", "encode_sync")}
        if len(set(windows.values())) > 1:
            told = ", ".join(f"{name}.window_s {value:g}" for name, value in windows.items())
            raise ValueError(f"sounds and features are of the same seconds of a clip, but here of others: {told}")
        networks = [
            "encode_captions",
            *windows,
            "scores",
            "caption",
            "embeddings",
            *(f"score@{name}" for name in self.scoring),
        ]
        self._check_runtime([f"train@{name}" for name in self.train], networks)
        return self
