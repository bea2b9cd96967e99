"""Memory of the clips that a training stage makes on its way, beside the training: before the stage starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lumina.cluster_cost import NUMBER_BYTES, StageCost
from lumina.evaluation_cost import Generation, evaluation_cost
from lumina.formats import size
from lumina.hardware import Cluster
from lumina.vae_cost import TEXT_PARAMETERS, VAE_PARAMETERS
from pipelines.config import PipelineConfig, TrainConfig, stage_name
from pipelines.sampling import sampled_clip


def sample_warnings(
    config: PipelineConfig, stages: Sequence[StageCost], cluster: Cluster, text_tokens: int
) -> Iterator[str]:
    """The stages whose clips do not fit beside what training keeps between two steps, each with what takes less."""
    costs = {stage.stage: stage for stage in stages}
    for key, section in config.training().items():
        if section.sample is not None:
            needed = sample_bytes(config, key, section, costs[stage_name(key)], cluster, text_tokens)
            if needed > cluster.usable_bytes:
                yield (
                    f"{key}.sample needs {size(needed)} of {size(cluster.gpu.memory_bytes)} per GPU beside the "
                    f"training: {key}.sample.batch_size=1, a smaller evaluate.width and evaluate.height, or more GPUs "
                    f"take less; {key}.sample=null makes no clips."
                )


def sample_bytes(
    config: PipelineConfig, key: str, section: TrainConfig, cost: StageCost, cluster: Cluster, text_tokens: int
) -> int:
    """Bytes of one GPU while a batch is made: no activations of training, but its weights, gradients and state, another
    copy of the worker's share of the weights, and in turn the text encoder, the latents' sampling and the VAE."""
    clip, sampler, num_frames, _ = sampled_clip(config, key, section)
    number = NUMBER_BYTES[section.precision]
    batch = section.sample.batch_size if section.sample else 1
    generation = Generation(clip.width, clip.height, num_frames, batch, number)
    made = evaluation_cost(config.model, sampler, generation, text_tokens)
    kept = cost.memory.weights + cost.memory.gradients + cost.memory.state + cost.memory.caches
    share = math.ceil(4 * cost.trained / cluster.count)
    decoding = number * VAE_PARAMETERS + made.decode_bytes
    return kept + share + max(number * TEXT_PARAMETERS, made.sampling_bytes, decoding)
