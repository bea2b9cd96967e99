"""Sampling while training: clips of fixed prompts and noises, shared out to the workers, each batch made once.

    <work>/samples/step-00000500/<source>--<prompt>--<seed>.{mp4,png}     a clip, and its frames in a row
    <work>/samples/step-00000500/.batch-00000.json                        put last: these clips are whole

Whoever is killed in between leaves batches that are whole, and others that are made again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from lumina.evaluation.contact_sheet import write_strip
from lumina.evaluation.metrics import measure_clip
from lumina.evaluation.noise import evaluation_noise
from lumina.files import read_json, replace_file, replacing
from lumina.flow_matching.sampler import sample
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.text_encoder import TextEncoder
from lumina.motion import DISFlow
from lumina.sizes import SPATIAL_COMPRESSION, generated_latents
from lumina.system_prompts import compose
from lumina.training.sample_config import FOLDER, SampledClip, SamplePlan, step_folder
from lumina.video import write_h264

if TYPE_CHECKING:
    from numpy.typing import NDArray

IN_NO_DIGEST = True
"""Clips on the way inform: no stage's digest covers them, so none is trained again for their sake."""


class Samples(Protocol):
    """What a trainer makes of its averaged weights now and then, whatever it trains."""

    def due(self, step: int, steps: int) -> bool:
        """Whether there is a look after `step` of `steps` steps: the same for all workers."""

    def wanted(self, step: int) -> bool:
        """Whether this worker has something to make of it. Depends on what lies there."""

    def make(self, step: int, model: Any, device: torch.device) -> None:
        """Make this worker's share with `model`, which has the averaged weights and is in evaluation mode."""


class VideoSamples:
    """The clips of one worker of a text-to-video training; see `Samples`."""

    def __init__(self, plan: SamplePlan, work: Path, rank: int, world: int) -> None:
        """Make every `world`-th batch of `plan`, from the one of number `rank` on, into `work`."""
        self.plan, self.folder = plan, work / FOLDER
        self._mine = list(enumerate(plan.batches()))[rank::world]
        self._texts: dict[str, Tensor] = {}
        self._vae: VideoAutoencoder | None = None
        self._flow = DISFlow()

    def due(self, step: int, steps: int) -> bool:
        """Whether the plan has a look then."""
        return self.plan.due(step, steps)

    def wanted(self, step: int) -> bool:
        """Whether a batch of this worker is still to be made."""
        return bool(self._missing(step))

    def make(self, step: int, model: Any, device: torch.device) -> None:
        """Make the batches that are not there, in `model`'s type."""
        for number, batch in self._missing(step):
            rows = self._clips(self.folder / step_folder(step), batch, model, device)
            text = json.dumps({"key": self.plan.key, "rows": rows})
            replace_file(batch_record(self.folder, step, number), text.encode(), sync=True)

    def _missing(self, step: int) -> list[tuple[int, tuple[SampledClip, ...]]]:
        return [one for one in self._mine if read_batch(self.folder, step, one[0], self.plan.key) is None]

    def _clips(
        self, folder: Path, batch: tuple[SampledClip, ...], model: Any, device: torch.device
    ) -> list[dict[str, Any]]:
        plan = self.plan
        shape = (
            model.config.in_channels,
            generated_latents(plan.num_frames),
            plan.height // SPATIAL_COMPRESSION,
            plan.width // SPATIAL_COMPRESSION,
        )
        noises = [evaluation_noise(clip.seed, clip.prompt.prompt_id, 0).draw(shape) for clip in batch]
        systems = [plan.system_prompts[clip.source] for clip in batch]
        texts = [compose(system, clip.prompt.caption) for system, clip in zip(systems, batch, strict=True)]
        negatives = [compose(system, "") for system in systems]
        self._encode(model, device)
        latents = sample(
            model,
            torch.stack([torch.from_numpy(noise) for noise in noises]),
            [self._texts[text].to(device) for text in texts],
            [self._texts[text].to(device) for text in negatives],
            plan.sampler,
        )
        frames = self._decode(latents, model.dtype, device)
        return [self._write(folder, clip, one) for clip, one in zip(batch, frames, strict=True)]

    def _encode(self, model: Any, device: torch.device) -> None:
        """Read all prompts once, each on its own, so that no bit depends on the others; then the encoder goes."""
        if self._texts:
            return
        plan = self.plan
        encoder = TextEncoder.from_pretrained(plan.text_encoder, device, model.dtype)
        clips = [clip for _, batch in self._mine for clip in batch]
        wanted = {compose(plan.system_prompts[clip.source], clip.prompt.caption) for clip in clips}
        wanted |= {compose(plan.system_prompts[clip.source], "") for clip in clips}
        for text in sorted(wanted):
            [found] = encoder.encode([text])
            self._texts[text] = found.cpu()

    def _decode(self, latents: Tensor, dtype: torch.dtype, device: torch.device) -> NDArray[Any]:
        """Frames [N, T, H, W, 3]; the VAE waits on the CPU for its turn, since training wants the device's memory."""
        if self._vae is None:
            self._vae = VideoAutoencoder.from_pretrained(self.plan.vae, torch.device("cpu"), dtype)
        self._vae.vae.to(device)
        frames: NDArray[Any] = self._vae.decode(latents).numpy()
        self._vae.vae.to("cpu")
        return frames

    def _write(self, folder: Path, clip: SampledClip, frames: NDArray[Any]) -> dict[str, Any]:
        plan, names = self.plan, {"strip": f"{clip.name}.png"}
        with replacing(folder / names["strip"]) as partial:
            write_strip(partial, frames)
        if len(frames) > 1:
            names["video"] = f"{clip.name}.mp4"
            with replacing(folder / names["video"]) as partial:
                write_h264(partial, frames, plan.fps)
        measured = plan.metrics()
        values = measure_clip(frames, plan.fps, clip.prompt.truth, measured, self._flow) if measured else {}
        return {
            "source": clip.source,
            "prompt_id": clip.prompt.prompt_id,
            "prompt": clip.prompt.caption,
            "seed": clip.seed,
            **names,
            "frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest(),
            **values,
        }


def batch_record(folder: Path, step: int, number: int) -> Path:
    """File that says, put last, that the clips of a batch are whole."""
    return folder / step_folder(step) / f".batch-{number:05d}.json"


def read_batch(folder: Path, step: int, number: int, key: str) -> list[dict[str, Any]] | None:
    """The rows of a batch; None as long as it is not whole, or where it is of another plan."""
    path = batch_record(folder, step, number)
    if not path.is_file():
        return None
    record = read_json(path)
    return record["rows"] if record["key"] == key else None
