"""Adapter: these networks under the names that the fixtures' own checker calls, through files and their loaders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.vbench import frame_choice
from lumina.vbench.networks import aesthetic, preprocess
from lumina.vbench.networks.clip import load_clip
from lumina.vbench.networks.dino import DinoConfig, load_dino
from lumina.vbench.networks.flow import load_raft
from lumina.vbench.networks.human_action import ActionConfig, load_human_action

Frame = NDArray[np.uint8]


def preparations() -> SimpleNamespace:
    """A frame [H, W, 3] to what a network gets, [3, H', W']."""

    def one(prepare: Callable[..., Tensor]) -> Callable[[Frame], NDArray[np.float32]]:
        return lambda frame: prepare(frame[None])[0].numpy()

    return SimpleNamespace(
        pre_dino=one(preprocess.dino),
        pre_clip_float=one(preprocess.clip_float),
        pre_clip_uint8=one(preprocess.clip_uint8),
        pre_clip_pil=one(preprocess.clip_pil),
        pre_umt=lambda frames: preprocess.human_action(frames).transpose(0, 1).numpy(),
        middle_index=frame_choice.middle_frames,
    )


def networks(folder: Path) -> SimpleNamespace:
    """Networks on frames: here preparing a frame only says how it is to be prepared. Weights go through `folder`."""
    loaded: dict[int, Any] = {}

    def network(load: Callable[..., Any], sd: dict[str, Tensor], *more: Any) -> Any:
        if id(sd) not in loaded:
            torch.save(sd, folder / f"{id(sd)}.pth")
            loaded[id(sd)] = load(folder / f"{id(sd)}.pth", *more)
        return loaded[id(sd)]

    def raft_flow(sd: dict[str, Tensor], names: dict[str, str | None], first: Frame, second: Frame, _: int) -> Any:
        return next(network(load_raft, sd).flows(np.stack([first, second])))

    return SimpleNamespace(
        pre_dino=lambda frame: frame[None],
        pre_clip_float=lambda frame: (frame[None], preprocess.clip_float),
        pre_clip_pil=lambda frame: (frame[None], preprocess.clip_pil),
        pre_umt=lambda frames: frames,
        dino_feature=lambda sd, x: network(load_dino, sd, DinoConfig(48, 3, 3)).features(x)[0],
        clip_image=lambda sd, x: network(load_clip, sd).images(*x)[0],
        clip_text=lambda sd, ids: network(load_clip, sd).tokens(ids[None])[0],
        cosine=lambda one, other: torch.cosine_similarity(one, other, dim=0),
        umt=lambda sd, x: network(load_human_action, sd, ActionConfig(64, 2, 4, 20)).logits(x),
        aesthetic_frames=aesthetic_frames,
        aesthetic_video=lambda scores: scores.mean() / 10,
        aesthetic_aggregate=lambda clips: np.mean([scores.mean() / 10 for scores in clips]),
        raft_flow=raft_flow,
        middle_index=frame_choice.middle_frames,
    )


def aesthetic_frames(features: NDArray[Any], weight: Tensor, bias: Tensor) -> NDArray[np.float32]:
    return aesthetic.AestheticHead(weight, bias, "").scores(torch.from_numpy(features)).numpy()
