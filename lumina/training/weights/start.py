"""The network that a training stage starts from: drawn by its seed or loaded, with adapters where it trains those."""

from __future__ import annotations

from pathlib import Path

import torch

from lumina import checkpoints
from lumina.models.config import Recompute
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.randomness import generator
from lumina.training.stage import TrainStageConfig
from lumina.training.weights.initialisation import condition_from_the_start
from lumina.training.weights.lora import add_adapters


def initial_model(config: TrainStageConfig, init: Path | None) -> MultiScaleNextDiT:
    """Return the float32 network that a stage starts from.

    Raises ValueError if the weights in `init` are of another network than the config's.
    """
    if init is None:
        rng = torch.Generator().manual_seed(int(generator(config.seed, "init").integers(2**63)))
        model = MultiScaleNextDiT(config.model, rng)
        if config.initialisation == "conditioned":
            condition_from_the_start(model, rng)
        return model
    model = checkpoints.load_model(init, torch.device("cpu"), torch.float32)
    if model.config != config.model:
        raise ValueError(
            f"{init} holds {model.config}, but this stage's model is {config.model}: stages that build on "
            "one another need the same model"
        )
    return model


def trained_model(config: TrainStageConfig, init: Path | None, recompute: Recompute) -> MultiScaleNextDiT:
    """Return the network as an engine takes it over: what requires gradients is trained.

    `recompute` is for `MultiScaleNextDiT.checkpoint_blocks`. Raises ValueError as `initial_model`.
    """
    model = initial_model(config, init).train().requires_grad_(True)
    if config.lora is not None:
        rng = torch.Generator().manual_seed(int(generator(config.seed, "adapters").integers(2**63)))
        add_adapters(model, config.lora, rng)
    model.checkpoint_blocks(recompute)
    if config.compile:
        model.compile_blocks()
    return model
