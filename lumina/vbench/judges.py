"""Judges: the dimensions of VBench that are computed here, one clip at a time, by networks that are loaded once.

What a dimension needs and is not given is one reason for all clips; what is wrong with a clip is a reason of its own,
in whose place the official code has NaN, a crash, or a figure that means nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lumina.files import sha256_file
from lumina.pretrained import locate
from lumina.vbench import dynamic_degree, flicker, frame_choice, recognition
from lumina.vbench.clip_score import ClipScore, of_clip, of_frames
from lumina.vbench.consistency import consistency
from lumina.vbench.prompts import VBenchPrompt
from lumina.vbench.reading import ClipFrames
from lumina.vbench.suite_config import VBenchWeights, used_weights

if TYPE_CHECKING:
    import torch

    from lumina.vbench.networks.aesthetic import AestheticHead
    from lumina.vbench.networks.clip import Clip
    from lumina.vbench.networks.dino import Dino
    from lumina.vbench.networks.flow import FlowNetwork
    from lumina.vbench.networks.human_action import HumanAction

PROTOCOL = "native/1"
"""Raised when a native figure changes its meaning: what was scored before is scored again."""
_READ = (".json", ".safetensors", ".txt", ".model")
_LABELS = Path("third_party", "umt", "kinetics_400_categories.txt")


@dataclass(frozen=True)
class Verdict:
    """What one dimension says of one clip: a score, or the reason why there is none."""

    score: ClipScore | None
    reason: str | None = None
    is_static: bool | None = None
    """Of temporal flickering with a flow network: whether the static filter lets the clip through."""


def key(dimension: str, weights: VBenchWeights, dtype: str) -> str:
    """Digest of all that a dimension's scores depend on beside the clip and its prompt: what was scored with another
    one is scored again."""
    digests = {name: content_digest(place) for name, place in used_weights(dimension, weights).items()}
    names = list(action_names(weights)) if dimension == "human_action" else []
    content = [PROTOCOL, dimension, dtype, digests, names]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def content_digest(place: str) -> str:
    """SHA-256 of a file of weights, or of the files of a directory: "sha256:<hex>".

    Raises FileNotFoundError naming the place.
    """
    path = Path(place)
    if path.is_file():
        return f"sha256:{sha256_file(path)}"
    folder = locate(place, "weights", ("*",)).folder
    files = sorted(file for file in folder.rglob("*") if file.suffix in _READ and file.is_file())
    content = [(file.relative_to(folder).as_posix(), sha256_file(file)) for file in files]
    return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"


@dataclass(frozen=True, eq=False)
class Judges:
    """Networks by the settings that name them, loaded when a dimension first wants them."""

    weights: VBenchWeights
    device: str = "cpu"
    dtype: str = "float32"

    @cached_property
    def _torch_dtype(self) -> torch.dtype:
        import torch

        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @cached_property
    def dino(self) -> Dino:
        """The network of subject consistency."""
        from lumina.vbench.networks.dino import load_dino

        return load_dino(str(self.weights.dino), None, self.device, self._torch_dtype)

    @cached_property
    def clip_b32(self) -> Clip:
        """CLIP ViT-B/32."""
        from lumina.vbench.networks.clip import load_clip

        return load_clip(str(self.weights.clip_b32), self.device, self._torch_dtype)

    @cached_property
    def clip_l14(self) -> Clip:
        """CLIP ViT-L/14."""
        from lumina.vbench.networks.clip import load_clip

        return load_clip(str(self.weights.clip_l14), self.device, self._torch_dtype)

    @cached_property
    def aesthetic(self) -> AestheticHead:
        """The head of aesthetic quality."""
        from lumina.vbench.networks.aesthetic import load_aesthetic_head

        return load_aesthetic_head(str(self.weights.aesthetic))

    @cached_property
    def raft(self) -> FlowNetwork:
        """Optical flow; always in float32, since bfloat16 cannot tell pixels apart."""
        from lumina.vbench.networks.flow import load_raft

        return load_raft(str(self.weights.raft), self.device)

    @cached_property
    def human_action(self) -> HumanAction:
        """The classifier of actions."""
        from lumina.vbench.networks.human_action import load_human_action

        return load_human_action(str(self.weights.human_action), None, self.device, self._torch_dtype)

    @cached_property
    def actions(self) -> Mapping[int, str]:
        """Names of the classes."""
        return dict(enumerate(action_names(self.weights)))

    def judge(self, dimension: str, clip: ClipFrames, prompt: VBenchPrompt | None, name: str) -> Verdict:
        """Judge one clip.

        Args:
            dimension: a native one whose weights are given.
            clip: its frames.
            prompt: what it was made of; only appearance style looks at it.
            name: its file's name, from which human action reads the action.

        Raises ValueError or FileNotFoundError for weights that are not the network's: it is no clip's fault.
        """
        self._load(dimension)
        try:
            verdict = self._judge(dimension, clip, prompt, name)
        except ValueError as error:
            return Verdict(None, str(error))
        if verdict.score is not None and not math.isfinite(verdict.score.total):
            return Verdict(None, "the score is not a number: its networks or frames are broken")
        return verdict

    def _load(self, dimension: str) -> None:
        for name in (*used_weights(dimension, self.weights), *(["actions"] if dimension == "human_action" else [])):
            getattr(self, name)

    def _judge(self, dimension: str, clip: ClipFrames, prompt: VBenchPrompt | None, name: str) -> Verdict:
        frames = clip.pixels
        if dimension == "temporal_flickering":
            is_static = self._is_static(clip) if self.weights.raft is not None else None
            return Verdict(ClipScore(flicker.flicker(frames), 1), is_static=is_static)
        if dimension == "dynamic_degree":
            return Verdict(ClipScore(float(self._is_dynamic(clip)), 1))
        if dimension == "subject_consistency":
            return Verdict(consistency(self.dino.features(frames).numpy()))
        if dimension == "background_consistency":
            return Verdict(consistency(self.clip_b32.images(frames).numpy()))
        if dimension == "aesthetic_quality":
            return Verdict(of_clip(self.aesthetic.scores(self.clip_l14.images(frames)).numpy() / 10))
        if dimension == "appearance_style":
            return Verdict(self._appearance(clip, prompt))
        chosen = frames[frame_choice.middle_frames(16, len(frames))]
        return Verdict(recognition.human_action(self.human_action.logits(chosen).numpy(), self.actions, name))

    def _is_static(self, clip: ClipFrames) -> bool:
        frames = clip.pixels
        pairs = [(at, at + 1) for at in range(len(frames) - 1)] + [(0, len(frames) - 1), (len(frames) - 1, 0)]
        scores = [flicker.static_score(flow) for flow in self.raft.flows(frames, pairs)]
        return flicker.is_static(scores[:-2], scores[-2:], min(frames.shape[1:3]), len(frames))

    def _is_dynamic(self, clip: ClipFrames) -> bool:
        kept = clip.pixels[:: frame_choice.eight_a_second(clip.fps)]
        if len(kept) < dynamic_degree.LEAST_FRAMES:
            raise ValueError(
                f"dynamic degree needs {dynamic_degree.LEAST_FRAMES} frames at 8 a second, the clip has {len(kept)}"
            )
        scores = [dynamic_degree.pair_score(flow) for flow in self.raft.flows(kept)]
        return dynamic_degree.is_dynamic(scores, min(kept.shape[1:3]), len(kept))

    def _appearance(self, clip: ClipFrames, prompt: VBenchPrompt | None) -> ClipScore:
        from lumina.vbench.networks import preprocess

        told = prompt.auxiliary.get("appearance_style") if prompt else None
        if told is None:
            raise ValueError("appearance style needs the style that the prompt file tells")
        images = self.clip_b32.images(clip.pixels, preprocess.clip_pil).numpy()
        text = self.clip_b32.texts([told["appearance_style"]]).numpy()[0]
        cosines = images @ text / (np.linalg.norm(images, axis=1) * np.linalg.norm(text))
        return of_frames(cosines * self.clip_b32.logit_scale / 100)


def action_names(weights: VBenchWeights) -> Sequence[str]:
    """Names of Kinetics-400 in their order.

    Raises ValueError naming the file unless it has 400 names, FileNotFoundError saying where to get it.
    """
    path = actions_file(weights)
    names = path.read_text(encoding="utf-8").splitlines()
    names = [name.strip() for name in names if name.strip()]
    if len(names) != 400 or len(set(names)) != 400:
        raise ValueError(f"{path}: expected 400 names of actions, a line each; it has {len(set(names))}")
    return names


def actions_file(weights: VBenchWeights) -> Path:
    """The file with the names, or that of an installed package vbench. FileNotFoundError saying where to get it."""
    if weights.actions:
        return Path(weights.actions)
    found = find_spec("vbench")
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / _LABELS).is_file():
            return Path(place) / _LABELS
    raise FileNotFoundError(
        f"no {_LABELS.name}: name it in actions; the wheel of vbench on PyPI holds it, vbench/{_LABELS}"
    )
