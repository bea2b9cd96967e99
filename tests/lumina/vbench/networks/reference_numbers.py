"""Numbers of VBench's networks, stored when they agreed with the official ones: the check where ../shared is missing.

    python -m tests.lumina.vbench.networks.reference_numbers    # writes them anew; only when the golden tests pass

Small networks with drawn weights by the published names, which the file holds too; RAFT has one size.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumina.vbench.networks import preprocess
from lumina.vbench.networks.aesthetic import load_aesthetic_head
from lumina.vbench.networks.clip import load_clip
from lumina.vbench.networks.dino import DinoConfig, load_dino
from lumina.vbench.networks.flow import load_raft
from lumina.vbench.networks.human_action import ActionConfig, load_human_action
from tests.lumina.reference_numbers import draw

FILE = Path(__file__).parent / "fixtures" / "reference_numbers.safetensors"
DINO, ACTION = DinoConfig(48, 2, 3), ActionConfig(32, 2, 2, 12)
PREPARATIONS = ("dino", "clip_float", "clip_uint8", "clip_pil", "human_action", "raft")
SIZES = ((90, 160), (300, 236), (224, 227))
GAINS = {
    # As in the official fixtures: what a network sees and where it is must weigh as much as what it adds.
    "dino": {r"^(pos_embed|cls_token)$": 7.0, r"^patch_embed\.proj\.weight$": 8.0},
    "clip": {r"^logit_scale$": 4.0, r"^visual\.conv1\.weight$": 3.0},
    "action": {r"^pos_embed$": 600.0, r"^patch_embed\.proj\.weight$": 4.0},
    "aesthetic": {r"^weight$": 30.0},
    # Activations so small that the eps of the norms shows.
    "dino_tiny": {r"^pos_embed$": 0.3, r"^cls_token$": 0.02, r"^patch_embed": 0.01},
    "raft": {
        r"^[fc]net.*(conv1|conv2|downsample\.0)\.weight$": 1.4,
        r"encoder\.convc.*\.weight$": 2.5,
        r"update_block\.encoder\..*\.weight$": 1.4,
        r"flow_head\.conv2\.weight$": 0.06,
        r"flow_head\.conv2\.bias$": 0.02,
        r"\.mask\.2\.weight$": 6.0,
    },
}
TOLERANCE = {"dino": 5e-5, "dino_tiny": 5e-5, "clip": 5e-5, "action": 1e-3, "aesthetic": 5e-5, "raft": 2e-4}
"""Relative L2, of the fixtures' README, 6.2."""

Shapes = dict[str, list[int]]


def weights(network: str, shapes: Shapes) -> dict[str, Tensor]:
    """Drawn weights of a network by its published names."""
    found = {}
    for name, shape in shapes.items():
        gain = next((gain for pattern, gain in GAINS[network].items() if re.search(pattern, name)), 1.0)
        if name.endswith("num_batches_tracked"):
            found[name] = torch.zeros(shape, dtype=torch.int64)
            continue
        drawn = draw(f"{network}.{name.replace('.norm3.', '.downsample.1.')}", *shape)
        if len(shape) > 1:
            found[name] = gain * drawn / math.sqrt(math.prod(shape[1:]))
        elif name.endswith("running_var"):
            found[name] = torch.exp(0.2 * drawn)
        else:
            found[name] = gain * (1 + 0.2 * drawn if name.endswith((".weight", "logit_scale")) else 0.2 * drawn)
    return found


def frames(count: int, height: int, width: int) -> preprocess.Frames:
    """Blocks of colour that move two pixels right and one down a frame, uint8 [T, H, W, 3]."""
    coarse = draw(f"frames.{height}x{width}", height // 10 + 1, width // 10 + 1, 3).numpy()
    image = np.clip(128 + 60 * coarse.repeat(10, 0).repeat(10, 1)[:height, :width], 0, 255).astype(np.uint8)
    return np.stack([np.roll(image, (number, 2 * number), (0, 1)) for number in range(count)])


def manifests() -> dict[str, Shapes]:
    """Published names and shapes of each network, from the stored file."""
    with safe_open(FILE, "pt") as stored:
        found: dict[str, Shapes] = json.loads(stored.metadata()["manifests"])
    return found


def save_weights(folder: Path) -> dict[str, Path]:
    """A file of drawn weights of each network."""
    found = {}
    for network, shapes in manifests().items():
        found[network] = folder / f"{network}.pth"
        torch.save(weights(network, shapes), found[network])
    return found


def prepared(_: Path) -> dict[str, Tensor]:
    """Every preparation of frames of three shapes; it needs no weights."""
    return {
        f"{name}.{height}x{width}": getattr(preprocess, name)(frames(1, height, width))[0, :, ::16, ::16].contiguous()
        for name in PREPARATIONS
        for height, width in SIZES
    }


def of_dino(file: Path) -> dict[str, Tensor]:
    """Features of squares, of both kinds of rectangles, and of one that loses three columns."""
    dino = load_dino(file, DINO)
    return {f"{height}x{width}": dino.features(frames(2, height, width)) for height, width in ((224, 224), *SIZES)}


def of_clip(file: Path) -> dict[str, Tensor]:
    """Embeddings of frames and of texts, and the scale."""
    clip = load_clip(file)
    numbers = {f"{height}x{width}": clip.images(frames(2, height, width)) for height, width in SIZES}
    numbers["tokens"] = clip.tokens(torch.tensor([[8, 3, 5, 9, 0, 0], [8, 1, 9, 0, 0, 0]]))
    numbers["scale"] = torch.tensor([clip.logit_scale])
    return numbers


def of_raft(file: Path) -> dict[str, Tensor]:
    """Every fourth number of the flow of two pairs."""
    flow = np.stack(list(load_raft(file).flows(frames(3, 130, 150))))
    return {"flow": torch.from_numpy(flow[:, :, ::4, ::4].copy())}


GROUPS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "preprocess": prepared,
    "dino": of_dino,
    "dino_tiny": of_dino,
    "clip": of_clip,
    "action": lambda file: {"logits": load_human_action(file, ACTION).logits(frames(16, 90, 160))},
    "aesthetic": lambda file: {"scores": load_aesthetic_head(file).scores(draw("features", 5, 768))},
    "raft": of_raft,
}


def compute(group: str, files: dict[str, Path]) -> dict[str, Tensor]:
    """The numbers of one group."""
    return {f"{group}.{name}": value for name, value in GROUPS[group](files.get(group, Path())).items()}


def _write() -> None:
    """From the official fixtures' names, with the sizes of here."""
    from lumina.vbench.networks import clip_names, human_action, raft
    from lumina.vbench.networks import dino as dino_module

    tower = clip_names._Tower(64, 2)
    sizes = clip_names._Sizes(24, tower, tower, vocabulary=10, context=6)
    shapes = {
        "dino": dino_module._shapes(DINO),
        "dino_tiny": dino_module._shapes(DINO),
        "clip": clip_names._shapes(sizes),
        "action": human_action._shapes(ACTION),
        "aesthetic": {"weight": [1, 768], "bias": [1]},
        "raft": {name: list(value.shape) for name, value in raft.Raft().state_dict().items()},
    }
    FILE.parent.mkdir(exist_ok=True)
    metadata = {"manifests": json.dumps({network: dict(sorted(names.items())) for network, names in shapes.items()})}
    save_file({"none": torch.zeros(1)}, FILE, metadata)
    with tempfile.TemporaryDirectory() as folder:
        files = save_weights(Path(folder))
        save_file({name: value for group in GROUPS for name, value in compute(group, files).items()}, FILE, metadata)


if __name__ == "__main__":
    _write()
