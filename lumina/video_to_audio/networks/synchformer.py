"""Synchformer's visual tower (Iashin et al. 2024, arXiv 2401.16423): what moves when, eight tokens for 16 frames.

A ViT with divided space-time attention (Motionformer's), whose frames are then pooled one by one. The names are those
of the published `synchformer_state_dict.pth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from lumina.tensor_files import check_shapes
from lumina.vbench.networks import weights
from lumina.video_to_audio.config import SynchformerConfig
from lumina.video_to_audio.frames import Frames, sync_frames
from lumina.video_to_audio.lengths import SEGMENT, SEGMENT_TOKENS, TUBELET, sync_segments

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
EPS = 1e-6
_PREFIX = "vfeat_extractor."
"""Of the visual tower; the checkpoint holds the one for sound and the synchronisation head too."""
_NETWORK = "Synchformer's visual tower"
_INSTEAD = f"synchformer_state_dict.pth, or a directory with {CONFIG_FILE} and {WEIGHTS_FILE}"


class _DividedAttention(nn.Module):
    """Patches see their own place in all frames, or their own frame, and the class token, which sees everything."""

    def __init__(self, config: SynchformerConfig, along: Literal["time", "space"]) -> None:
        super().__init__()
        self.heads, self.along = config.heads, along
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1 + 8 P, D] to [N, 1 + 8 P, D]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        first = F.scaled_dot_product_attention(q[:, :, :1], k, v)

        def groups(tokens: Tensor) -> Tensor:
            """[N, h, G, L, d] of [N, h, 8 P, d]."""
            grid = tokens.unflatten(2, (SEGMENT_TOKENS, -1))
            return grid.transpose(2, 3) if self.along == "time" else grid

        def with_class(tokens: Tensor) -> Tensor:
            inside = groups(tokens[:, :, 1:])
            first = tokens[:, :, None, :1].expand(-1, -1, inside.shape[2], -1, -1)
            return torch.cat([first, inside], dim=3)

        rest = F.scaled_dot_product_attention(groups(q[:, :, 1:]), with_class(k), with_class(v))
        rest = rest.transpose(2, 3) if self.along == "time" else rest
        out = torch.cat([first, rest.flatten(2, 3)], dim=2)
        return cast(Tensor, self.proj(out.transpose(1, 2).flatten(2)))


class _Mlp(nn.Module):
    def __init__(self, config: SynchformerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_ratio * config.width)
        self.fc2 = nn.Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class _Block(nn.Module):
    """Time, then space, then the feed-forward layers; the third norm is the first one used."""

    def __init__(self, config: SynchformerConfig) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.width, eps=EPS) for _ in range(3))
        self.attn = _DividedAttention(config, "space")
        self.timeattn = _DividedAttention(config, "time")
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.timeattn(self.norm3(x))
        x = x + self.attn(self.norm1(x))
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class _PatchEmbedding(nn.Module):
    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.proj = convolution


class _FramePooling(nn.TransformerEncoderLayer):
    """One encoder layer over a class token of its own and the patches of a frame: the class token is the frame."""

    def __init__(self, config: SynchformerConfig) -> None:
        super().__init__(
            config.width,
            config.heads,
            config.mlp_ratio * config.width,
            dropout=0.0,
            activation=F.gelu,
            layer_norm_eps=EPS,
            batch_first=True,
            norm_first=True,
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))


class SynchformerVisual(nn.Module):
    """Segments of 16 frames to 8 tokens each. Build it under `torch.device("meta")`: its weights come from a file."""

    def __init__(self, config: SynchformerConfig) -> None:
        super().__init__()
        self.config = config
        width, side = config.width, config.image_size // config.patch
        tower = nn.Module()
        tower.cls_token = nn.Parameter(torch.empty(1, 1, width))
        tower.pos_embed = nn.Parameter(torch.empty(1, 1 + side**2, width))
        tower.temp_embed = nn.Parameter(torch.empty(1, SEGMENT_TOKENS, width))
        # Part of the published file, used by nothing.
        tower.patch_embed = _PatchEmbedding(nn.Conv2d(3, width, config.patch, config.patch))
        tubelet = (TUBELET, config.patch, config.patch)
        tower.patch_embed_3d = _PatchEmbedding(nn.Conv3d(3, width, tubelet, tubelet))
        tower.blocks = nn.ModuleList([_Block(config) for _ in range(config.depth)])
        tower.norm = nn.LayerNorm(width, eps=EPS)
        tower.spatial_attn_agg = _FramePooling(config)
        self.vfeat_extractor: Any = tower

    def forward(self, segments: Tensor) -> Tensor:
        """Tokens [N, 8, D] of segments [N, 16, 3, H, H] from -1 to 1, of the network's side."""
        side = self.config.image_size
        if segments.ndim != 5 or tuple(segments.shape[1:]) != (SEGMENT, 3, side, side):
            raise ValueError(f"segments must be [N, {SEGMENT}, 3, {side}, {side}], got {list(segments.shape)}")
        tower = self.vfeat_extractor
        patches = tower.patch_embed_3d.proj(segments.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)
        patches = patches + tower.pos_embed[:, None, 1:] + tower.temp_embed[:, :, None]
        first = (tower.cls_token + tower.pos_embed[:, :1]).expand(len(patches), -1, -1)
        x = torch.cat([first, patches.flatten(1, 2)], dim=1)
        for block in tower.blocks:
            x = block(x)
        frames = tower.norm(x[:, 1:]).unflatten(1, (SEGMENT_TOKENS, -1)).flatten(0, 1)
        pooling = tower.spatial_attn_agg
        pooled: Tensor = pooling(torch.cat([pooling.cls_token.expand(len(frames), -1, -1), frames], dim=1))[:, 0]
        return pooled.unflatten(0, (len(segments), SEGMENT_TOKENS))


@dataclass(frozen=True)
class Synchformer:
    """The network, and the digest of its weights."""

    model: SynchformerVisual
    digest: str

    @property
    def width(self) -> int:
        """Of a token."""
        return self.model.config.width

    @torch.no_grad()
    def features(self, frames: Frames, batch: int = 4) -> Tensor:
        """Tokens float32 [8 S, D] on the CPU of frames uint8 [T, H, W, 3] at 25 fps; S segments, 8 frames apart.

        `batch` segments are looked at together. Raises ValueError for fewer than 16 frames.
        """
        return self.video(sync_frames(frames, self.model.config.image_size)[None], batch)[0]

    @torch.no_grad()
    def video(self, frames: Tensor, batch: int = 4) -> Tensor:
        """Tokens float32 [B, 8 S, D] on the CPU of prepared frames [B, T, 3, H, H] of the network's side."""
        weight = next(self.model.parameters())
        starts = sync_segments(frames.shape[1])
        videos = []
        for one in frames:
            found = []
            for begin in range(0, len(starts), batch):
                taken = torch.stack([one[start : start + SEGMENT] for start in starts[begin : begin + batch]])
                found.append(self.model(taken.to(weight.device, weight.dtype)).float().cpu())
            videos.append(torch.cat(found).flatten(0, 1))
        return torch.stack(videos)


def load_synchformer(
    source: str | Path,
    config: SynchformerConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Synchformer:
    """Load synchformer_state_dict.pth by its published names, or a directory of this network.

    Of a file the towers for sound and synchronisation are left out; `config` counts for a file alone. Raises
    FileNotFoundError if there is nothing, ValueError if it is damaged or the weights are another network's.
    """
    path = Path(source)
    if path.is_dir():
        size = _read_config(path / CONFIG_FILE)
        path = path / WEIGHTS_FILE
    else:
        size = config or SynchformerConfig()
    with torch.device("meta"):
        model = SynchformerVisual(size)
    wanted = {name: list(value.shape) for name, value in model.state_dict().items()}
    tensors = weights.plain(weights.read_file(path, _NETWORK, _INSTEAD), wanted)
    own = {name: value.clone() for name, value in tensors.items() if name.startswith(_PREFIX)}
    check_shapes(wanted, own, str(path), _NETWORK)
    digest = weights.digest(own)
    model.load_state_dict(own, assign=True)
    return Synchformer(model.to(device, dtype).eval().requires_grad_(False), digest)


def _read_config(path: Path) -> SynchformerConfig:
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: give {_INSTEAD}")
    try:
        return SynchformerConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{path} is no config of {_NETWORK}: {where}: {first['msg']}") from error
