"""CLIP (Radford et al. 2021; DFN, Fang et al. 2023) as MMAudio uses it: what is seen at 8 fps, and what the text says.

For `apple/DFN5B-CLIP-ViT-H-14-378`: the network looks at the top left 378 x 378 pixels of 384 x 384, as released.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lumina.pretrained import local_folder
from lumina.vbench.networks.clip import Clip, load_clip
from lumina.video_to_audio.frames import CLIP_SIDE, Frames, clip_frames

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PUBLISHED_SIDE = 378
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class ClipFeatures:
    """A CLIP whose features are of length 1."""

    clip: Clip
    side: int
    """Pixels of the square that frames are squashed to; the network takes its top left corner."""

    @property
    def digest(self) -> str:
        """Of the weights."""
        return self.clip.digest

    @property
    def visual_width(self) -> int:
        """Of a frame's feature."""
        return int(self.clip.model.config.projection_dim)

    @property
    def text_width(self) -> int:
        """Of a token's feature."""
        return int(self.clip.model.config.text_config.hidden_size)

    def visual(self, frames: Frames, batch: int = 16) -> Tensor:
        """Features float32 [T, D] on the CPU of frames uint8 [T, H, W, 3] at 8 fps, `batch` of them at a time."""
        return F.normalize(self.clip.images(frames, self._prepare, batch), dim=-1)

    @torch.no_grad()
    def tokens(self, ids: Tensor) -> Tensor:
        """Features float32 [N, L, Y] on the CPU of token ids [N, L], after the last norm, without the projection."""
        found = self.clip.model.text_model(input_ids=ids.to(self.clip.model.device)).last_hidden_state
        return F.normalize(found.float().cpu(), dim=-1)

    def text(self, texts: Sequence[str]) -> list[Tensor]:
        """Features of texts, float32 [L_i, Y] on the CPU, with both ends and without padding.

        A token sees none after it, so these are the first rows of what padded texts give.
        """
        return [self.tokens(torch.tensor([self.token_ids(text)]))[0] for text in texts]

    def token_ids(self, text: str) -> list[int]:
        """Ids of a text with both ends, cleaned as open_clip does, and cut to the length that the network takes.

        Raises ValueError if the weights came without a tokenizer.
        """
        ids, most = self._all_ids(text), self.most_tokens
        return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]

    def tokens_cut(self, text: str) -> int:
        """How many tokens of a text `token_ids` leaves out."""
        return max(0, len(self._all_ids(text)) - self.most_tokens)

    @property
    def most_tokens(self) -> int:
        """Of a text, both ends included."""
        return int(self.clip.model.config.text_config.max_position_embeddings)

    def null_text(self) -> Tensor:
        """Features float32 [most_tokens, Y] of the empty text with its padding, whose id is 0 as open_clip's is."""
        ids = self.token_ids("")
        return self.tokens(torch.tensor([ids + [0] * (self.most_tokens - len(ids))]))[0]

    def _all_ids(self, text: str) -> list[int]:
        if self.clip.tokenizer is None:
            raise ValueError("weights of CLIP from a file have no tokenizer: give a directory with tokenizer.json")
        plain = _SPACES.sub(" ", html.unescape(html.unescape(text)).strip()).strip().lower()
        ids: list[int] = self.clip.tokenizer(plain, truncation=False, verbose=False)["input_ids"]
        return ids

    def _prepare(self, frames: Frames, device: torch.device) -> Tensor:
        taken = self.clip.model.config.vision_config.image_size
        x = clip_frames(frames, self.side)[:, :, :taken, :taken].to(device)
        mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _DEVIATION))
        return (x - mean) / deviation


def load_clip_features(
    source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ClipFeatures:
    """Load CLIP of any size: a hub id, or what `lumina.vbench.networks.clip.load_clip` takes; errors as there."""
    clip = load_clip(source if Path(source).is_file() else local_folder(source), device, dtype)
    taken = int(clip.model.config.vision_config.image_size)
    return ClipFeatures(clip, CLIP_SIDE if taken == _PUBLISHED_SIDE else taken)
