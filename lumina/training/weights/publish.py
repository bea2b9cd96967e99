"""From engine checkpoints, which are private to a stage, to weights that anybody may load."""

from __future__ import annotations

import shutil
from pathlib import Path

from lumina import checkpoints
from lumina.training import resume
from lumina.training.stage import TrainStageConfig
from lumina.training.weights.lora import merge, save_adapter
from lumina.training.weights.start import initial_model

PUBLISHED = {"transformer": "weights", "transformer_ema": "ema"}
"""Directory of published weights, and the line of the engine checkpoint that they are cut from."""


def publish(config: TrainStageConfig, checkpoint: resume.EngineCheckpoint, init: Path | None, out: Path) -> None:
    """Write a checkpoint's weights to `out/transformer` and their average to `out/transformer_ema`.

    Adapters are added to the weights that they were trained beside, and written alone to `out/adapter` and
    `out/adapter_ema`, as the library peft does.
    """
    for folder, line in PUBLISHED.items():
        trained = resume.read_tensors(checkpoint, line)
        adapter = out / folder.replace("transformer", "adapter")
        for written in (adapter, out / folder):
            # A worker group that failed after its export has been here.
            if written.exists():
                shutil.rmtree(written)
        if config.lora is None:
            checkpoints.save_weights(config.model, trained, out / folder)
        else:
            weights = merge(initial_model(config, init).state_dict(), trained, config.lora)
            digest = checkpoints.save_weights(config.model, weights, out / folder)
            save_adapter(trained, config.lora, adapter, digest)
