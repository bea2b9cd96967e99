"""Training a video-to-audio model: its network, task, losses, and held-out samples, as a Trainer wants them."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lumina.models.config import Recompute
from lumina.randomness import generator
from lumina.training import resume
from lumina.training.data.clips import TaskData
from lumina.training.resume import EngineCheckpoint
from lumina.training.times import time_quantile
from lumina.training.validation import BATCH, QUANTILES, choose, chunks
from lumina.training.weights.publish import PUBLISHED
from lumina.training.workload import Sample
from lumina.video_to_audio.checkpoints import load_dit, load_weights, save_weights
from lumina.video_to_audio.cost import training_cost
from lumina.video_to_audio.networks.dit import Media, VideoToAudioDiT
from lumina.video_to_audio.training.dataset import SoundClip, SoundDataset
from lumina.video_to_audio.training.objective import SoundBatch, SoundObjective
from lumina.video_to_audio.training.stage import SoundStageConfig

_STATS = ("latent_mean", "latent_std")
_training_cost = lru_cache(maxsize=1 << 14)(training_cost)


class SoundWorkload:
    """The workload of a stage config and a dataset; see `lumina.training.workload.Workload`."""

    def __init__(self, config: SoundStageConfig, dataset: SoundDataset, init: Path | None = None) -> None:
        """Train as `config` says on the clips of `dataset`.

        Latents are standardised as those of the weights in `init`, which the stage starts from; without, by the mean
        and deviation of the dataset. Raises ValueError if those are of another number of channels than the model's.
        """
        self.config = config
        self.dataset = dataset
        self._stats = _stats(config, dataset, init)
        self.objective = SoundObjective(config, dataset, *self._stats)

    @cached_property
    def tasks(self) -> list[TaskData[SoundClip]]:
        """The one task. Raises ValueError if the data do not fit the model."""
        return [self.dataset.task_data(self.config)]

    def model(self, init: Path | None, recompute: Recompute) -> VideoToAudioDiT:
        """The network. One that starts from nothing knows no text by the features of the empty one.

        Raises ValueError if these are of another shape than the model's.
        """
        model = initial_dit(self.config, self.dataset, self._stats, init).train().requires_grad_(True)
        model.checkpoint_blocks(recompute)
        if self.config.compile:
            model.compile_blocks()
        return model

    def flops(self, batch: SoundBatch) -> int:
        """Operations of training on a micro-batch."""
        config = self.config.model
        total = 0
        for x, one in zip(batch.x_1, batch.media, strict=True):
            visual = 1 if one.visual is None else len(one.visual)
            text = config.text_tokens if one.text is None else len(one.text)
            total += _training_cost(config, x.shape[1], visual, text, 8 if one.sync is None else len(one.sync))
        return total

    def held_out(self, clips: int) -> list[list[Sample]]:
        """Passes over clips of every source, each of clips of one length."""
        config = self.config
        groups: dict[int, list[Sample]] = defaultdict(list)
        for clip in choose(self.dataset.heldout, clips, config.seed, lambda clip: (clip.source,)):
            self.dataset.check_clip(clip, config)
            groups[clip.steps] += [Sample(config.task, clip, quantile) for quantile in QUANTILES]
        passes: list[list[Sample]] = []
        for steps in sorted(groups):
            passes += chunks(groups[steps], _batch_size(config, steps))
        return passes

    def held_out_batch(self, samples: Sequence[Sample]) -> SoundBatch:
        """What is seen and said is given unless training never gives it."""
        config = self.config
        x_1, x_0, media = [], [], []
        for sample in samples:
            address = ("validation", sample.task.name, sample.clip.clip_id, str(sample.quantile))
            of_latent, of_noise = (generator(config.seed, *address, name) for name in ("latent", "noise"))
            data, noise = self.objective.latent_and_noise(sample.clip, of_latent, of_noise)
            x_1.append(data)
            x_0.append(noise)
            known = self.dataset.media(sample.clip)
            if config.media_drop == 1:
                known = Media(None, known.text, None)
            media.append(Media(known.visual, None, known.sync) if config.text_drop == 1 else known)
        u = [time_quantile(config.t_distribution, sample.quantile) for sample in samples]
        return self.objective.batch([sample.clip for sample in samples], x_1, x_0, u, media)

    def publish(self, checkpoint: EngineCheckpoint, init: Path | None, out: Path) -> None:
        """Write weights and average, each with the latents' mean and deviation."""
        del init
        stats = {name: value.view(1, -1, 1, 1) for name, value in zip(_STATS, self._stats, strict=True)}
        for folder, line in PUBLISHED.items():
            if (out / folder).exists():
                # A worker group that failed after its export has been here.
                shutil.rmtree(out / folder)
            save_weights(self.config.model, {**resume.read_tensors(checkpoint, line), **stats}, out / folder)


def initial_dit(
    config: SoundStageConfig, dataset: SoundDataset, stats: tuple[Tensor, Tensor], init: Path | None
) -> VideoToAudioDiT:
    """The float32 network that a stage starts from: drawn by its seed, or loaded.

    Raises ValueError if the weights in `init` are of another network than the config's, or the features of the empty
    text do not fit it.
    """
    if init is not None:
        model = load_dit(init, "cpu", torch.float32)
        if model.config != config.model:
            raise ValueError(
                f"{init} holds {model.config}, but this stage's model is {config.model}: stages that build on "
                "one another need the same model"
            )
        return model
    rng = torch.Generator().manual_seed(int(generator(config.seed, "init").integers(2**63)))
    model = VideoToAudioDiT(config.model, rng)
    text, wanted = dataset.null_text(), model.null_text.shape
    if text.shape != wanted:
        raise ValueError(
            f"the empty text has features of shape {list(text.shape)}, but the model takes {list(wanted)}: set "
            "model.text_tokens and model.text_dim to those of the text encoder"
        )
    with torch.no_grad():
        model.null_text.copy_(text)
        for name, value in zip(_STATS, stats, strict=True):
            getattr(model, name).copy_(value.view(1, -1, 1, 1))
    return model


def _stats(config: SoundStageConfig, dataset: SoundDataset, init: Path | None) -> tuple[Tensor, Tensor]:
    if init is not None:
        weights = load_weights(init)
        mean, std = (weights[name].float().flatten() for name in _STATS)
    else:
        mean, std = dataset.latent_stats()
    if len(mean) != config.model.in_channels:
        raise ValueError(
            f"the latents have the mean of {len(mean)} channels, but the model has {config.model.in_channels}: set "
            "model.in_channels to what the audio codec gives"
        )
    return mean, std


def _batch_size(config: SoundStageConfig, steps: int) -> int:
    """Samples of a forward pass of a validation: no more than one of the training."""
    most = min(config.micro_batch_size or BATCH, BATCH)
    if config.micro_batch_tokens is None:
        return most
    tokens = steps // config.model.patch[0] * (config.model.latent_rows // config.model.patch[1])
    return max(1, min(most, config.micro_batch_tokens // tokens))
