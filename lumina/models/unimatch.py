"""UniMatch optical flow (Xu et al. 2023, arXiv 2211.05783), the estimator behind the paper's motion score.

Parameter names are those of the released checkpoints. Shape letters: N pairs, C feature channels, H and W the sides of
a map. Networks may be narrower than the released ones; all of them compute alike.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self, cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lumina.models.config import FLOW_CONFIG_FILE, UniMatchConfig, load_flow_config
from lumina.models.correspondence import (
    local_correlation,
    match_globally,
    match_locally,
    propagate_globally,
    propagate_locally,
    upsample_convexly,
    upsample_flow,
    warp,
)
from lumina.tensor_files import fitting, read_tensors

WEIGHTS_FILE = "model.safetensors"

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_COST_RADIUS = 4
_OTHER_REGION = -100.0
"""Added to the score of two tokens that a shifted window holds together though they are far apart."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norms, and a skip."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        reshapes = stride != 1 or in_channels != channels
        self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride)) if reshapes else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        y = F.relu(F.instance_norm(self.conv1(x)))
        y = F.relu(F.instance_norm(self.conv2(y)))
        skip = x if self.downsample is None else F.instance_norm(self.downsample(x))
        return F.relu(skip + y)


class Backbone(nn.Module):
    """Images to one feature map per scale, coarse first."""

    def __init__(self, config: UniMatchConfig) -> None:
        super().__init__()
        first, second, third = config.backbone_channels
        self.num_scales = config.num_scales
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3, bias=False)
        self.layer1 = nn.Sequential(ResidualBlock(first, first, 1), ResidualBlock(first, first, 1))
        self.layer2 = nn.Sequential(ResidualBlock(first, second, 2), ResidualBlock(second, second, 1))
        stride = 2 if config.num_scales == 1 else 1
        self.layer3 = nn.Sequential(ResidualBlock(second, third, stride), ResidualBlock(third, third, 1))
        self.conv2 = nn.Conv2d(third, config.feature_channels, 1)
        if config.num_scales > 1:
            self.trident_conv = nn.Conv2d(config.feature_channels, config.feature_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised images [N, 3, H, W] to [N, C, H / 8, W / 8], then with two scales [N, C, H / 4, W / 4]."""
        x = F.relu(F.instance_norm(self.conv1(x)))
        x = self.conv2(self.layer3(self.layer2(self.layer1(x))))
        if self.num_scales == 1:
            return [x]
        weight = self.trident_conv.weight
        return [F.conv2d(x, weight, stride=2, padding=1), F.conv2d(x, weight, stride=1, padding=1)]


class AttentionLayer(nn.Module):
    """Single-head attention within windows, with a feed-forward layer after cross-attention."""

    def __init__(self, channels: int, ffn_dim_expansion: int | None) -> None:
        super().__init__()
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, channels, bias=False)
        self.v_proj = nn.Linear(channels, channels, bias=False)
        self.merge = nn.Linear(channels, channels, bias=False)
        self.norm1 = nn.LayerNorm(channels)
        self.mlp: nn.Sequential | None = None
        if ffn_dim_expansion is not None:
            wide = 2 * channels
            self.mlp = nn.Sequential(
                nn.Linear(wide, wide * ffn_dim_expansion, bias=False),
                nn.GELU(),
                nn.Linear(wide * ffn_dim_expansion, channels, bias=False),
            )
            self.norm2 = nn.LayerNorm(channels)

    def forward(self, source: Tensor, target: Tensor, splits: int, shifted: bool) -> Tensor:
        """Let source look at target, both [N, H, W, C]; `shifted` moves the windows by half their size."""
        q, k, v = self.q_proj(source), self.k_proj(target), self.v_proj(target)
        message = self.norm1(self.merge(window_attention(q, k, v, splits, shifted and splits > 1)))
        if self.mlp is not None:
            message = self.norm2(self.mlp(torch.cat([source, message], dim=-1)))
        return source + message


def window_attention(q: Tensor, k: Tensor, v: Tensor, splits: int, shifted: bool) -> Tensor:
    """Scaled dot-product attention within splits x splits windows of maps [N, H, W, C]."""
    height, width = q.shape[1] // splits, q.shape[2] // splits
    shift = (height // 2, width // 2)
    mask = None
    if shifted:
        q, k, v = (x.roll((-shift[0], -shift[1]), (1, 2)) for x in (q, k, v))
        mask = _shift_mask(splits, height, width, q.device).to(q.dtype)
    windows_q, windows_k, windows_v = (_to_windows(x, splits, height, width) for x in (q, k, v))
    out = F.scaled_dot_product_attention(windows_q, windows_k, windows_v, attn_mask=mask)
    out = out.unflatten(1, (splits, splits)).unflatten(3, (height, width)).permute(0, 1, 3, 2, 4, 5)
    out = out.flatten(3, 4).flatten(1, 2)
    return out.roll(shift, (1, 2)) if shifted else out


def _to_windows(x: Tensor, splits: int, height: int, width: int) -> Tensor:
    """[N, H, W, C] to [N, splits^2, height * width, C]."""
    parts = x.unflatten(1, (splits, height)).unflatten(3, (splits, width)).permute(0, 1, 3, 2, 4, 5)
    return parts.flatten(3, 4).flatten(1, 2)


@lru_cache(maxsize=16)
def _shift_mask(splits: int, height: int, width: int, device: torch.device) -> Tensor:
    """[splits^2, L, L]: what shifted windows add to the scores, so that opposite borders do not meet."""
    bands = [_bands(splits * side, side, device) for side in (height, width)]
    region = bands[0][:, None] * 3 + bands[1][None, :]
    windows = region.view(splits, height, splits, width).transpose(1, 2).reshape(splits**2, height * width)
    return torch.where(windows[:, :, None] == windows[:, None, :], 0.0, _OTHER_REGION)


def _bands(length: int, window: int, device: torch.device) -> Tensor:
    """Along one side: 0 up to the last window, then 1, then 2 for the part that the shift brought round."""
    place = torch.arange(length, device=device)
    return (place >= length - window).int() + (place >= length - window // 2).int()


class TransformerBlock(nn.Module):
    """Self-attention, then cross-attention with the other image."""

    def __init__(self, config: UniMatchConfig) -> None:
        super().__init__()
        self.self_attn = AttentionLayer(config.feature_channels, None)
        self.cross_attn_ffn = AttentionLayer(config.feature_channels, config.ffn_dim_expansion)


class FeatureTransformer(nn.Module):
    """Makes the features of two images alike where they show the same thing."""

    def __init__(self, config: UniMatchConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([TransformerBlock(config) for _ in range(config.num_transformer_layers)])

    def forward(self, feature0: Tensor, feature1: Tensor, splits: int) -> tuple[Tensor, Tensor]:
        """Both [N, C, H, W]."""
        x = torch.cat([feature0, feature1]).movedim(1, -1)
        for index, layer in enumerate(self.layers):
            block, shifted = cast(TransformerBlock, layer), index % 2 == 1
            other = torch.cat(x.chunk(2)[::-1])
            x = block.self_attn(x, x, splits, shifted)
            x = block.cross_attn_ffn(x, other, splits, shifted)
        first, second = x.movedim(-1, 1).chunk(2)
        return first, second


class FlowPropagation(nn.Module):
    """Carries flow from where matching is certain to where it is not, by the likeness of features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)

    def forward(self, feature: Tensor, flow: Tensor, radius: int) -> Tensor:
        """feature [N, C, H, W], flow [N, 2, H, W]; radius -1 is everywhere."""
        query = self.q_proj(feature.movedim(1, -1))
        # The released network projects the queries once more for its keys, unless it looks at a window.
        key = self.k_proj(query if radius < 0 else feature.movedim(1, -1))
        query, key = query.movedim(-1, 1), key.movedim(-1, 1)
        if radius < 0:
            return propagate_globally(query, key, flow)
        return propagate_locally(query, key, flow, radius)


class MotionEncoder(nn.Module):
    """Correlation and flow to motion features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, wide = channels // 2, 2 * channels
        self.convc1 = nn.Conv2d((2 * _COST_RADIUS + 1) ** 2, wide, 1)
        self.convc2 = nn.Conv2d(wide, channels + half, 3, padding=1)
        self.convf1 = nn.Conv2d(2, channels, 7, padding=3)
        self.convf2 = nn.Conv2d(channels, half, 3, padding=1)
        self.conv = nn.Conv2d(2 * channels, channels - 2, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """[N, C, H, W]."""
        costs = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        moves = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([costs, moves], dim=1))), flow], dim=1)


class SeparableGRU(nn.Module):
    """A convolutional GRU that reads along rows, then along columns."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        for direction, kernel, padding in ((1, (1, 5), (0, 2)), (2, (5, 1), (2, 0))):
            for gate in "zrq":
                self.add_module(f"conv{gate}{direction}", nn.Conv2d(hidden + inputs, hidden, kernel, padding=padding))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Hidden state h [N, C, H, W] and inputs x to the next hidden state."""
        for direction in (1, 2):
            conv_z, conv_r, conv_q = (self.get_submodule(f"conv{gate}{direction}") for gate in "zrq")
            both = torch.cat([h, x], dim=1)
            z, r = conv_z(both).sigmoid(), conv_r(both).sigmoid()
            h = (1 - z) * h + z * conv_q(torch.cat([r * h, x], dim=1)).tanh()
        return h


class FlowHead(nn.Module):
    """Hidden state to a change of the flow."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hidden, 2 * hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * hidden, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, 2, H, W]."""
        return cast(Tensor, self.conv2(F.relu(self.conv1(x))))


class Refinement(nn.Module):
    """One iteration of the recurrent refinement."""

    def __init__(self, config: UniMatchConfig) -> None:
        super().__init__()
        channels = config.feature_channels
        self.encoder = MotionEncoder(channels)
        self.gru = SeparableGRU(channels, 2 * channels)
        self.flow_head = FlowHead(channels)
        self.mask = _mask_head(channels, config.factor)

    def forward(self, net: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next hidden state and the change of the flow."""
        motion = self.encoder(flow, correlation)
        net = self.gru(net, torch.cat([context, motion], dim=1))
        return net, self.flow_head(net)


def _mask_head(in_channels: int, factor: int, hidden: int = 256) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, hidden, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 9 * factor**2, 1)
    )


@dataclass(frozen=True, eq=False)
class _Match:
    """What one scale found."""

    feature0: Tensor
    """[N, C, H, W] features of the first image after the transformer."""
    matched: Tensor
    """[N, 2, H, W] flow by matching."""
    propagated: Tensor
    """The same after propagation."""


class UniMatch(nn.Module):
    """Optical flow between two images.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: UniMatchConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.feature_channels
        self.backbone = Backbone(config)
        self.transformer = FeatureTransformer(config)
        self.feature_flow_attn = FlowPropagation(channels)
        if config.reg_refine:
            self.refine_proj = nn.Conv2d(channels, 2 * channels, 1)
            self.refine = Refinement(config)
        else:
            self.upsampler = _mask_head(channels + 2, config.factor)

    def forward(self, image0: Tensor, image1: Tensor) -> Tensor:
        """Flow [N, 2, H, W] (x, y) in pixels from image0 to image1, both [N, 3, H, W], RGB in 0..255.

        Raises ValueError unless the shapes are equal and the sides multiples of `config.multiple`.
        """
        return self.predictions(image0, image1)[-1]

    def predictions(self, image0: Tensor, image1: Tensor) -> list[Tensor]:
        """As `forward`, with the flow after every step that training may look at, the best one last.

        In evaluation mode only the last one is upsampled and returned.
        """
        config = self.config
        if image0.shape != image1.shape or image0.ndim != 4 or image0.shape[1] != 3:
            raise ValueError(f"need two batches [N, 3, H, W], got {list(image0.shape)} and {list(image1.shape)}")
        if image0.shape[-2] % config.multiple or image0.shape[-1] % config.multiple:
            raise ValueError(
                f"sides must be multiples of {config.multiple}, got {image0.shape[-2]} x {image0.shape[-1]}"
            )
        maps = [features.chunk(2) for features in self.backbone(_normalise(torch.cat([image0, image1])))]
        found = [self._match(maps[0], None, 0)]
        for scale in range(1, config.num_scales):
            # Every scale learns on its own: no gradient passes from one to the next.
            found.append(self._match(maps[scale], upsample_flow(found[-1].propagated.detach(), 2), scale))
        last, (plain0, plain1) = found[-1], maps[-1]
        if config.reg_refine:
            best = self._refined(plain0, plain1, last)
        else:
            mask = self.upsampler(torch.cat([last.propagated, last.feature0], dim=1))
            best = [upsample_convexly(last.propagated, mask, config.factor)]
        return [*self._coarse(found), *best] if self.training else best

    def _coarse(self, found: list[_Match]) -> list[Tensor]:
        """The flows of all scales, as large as the image. What the mask upsamples later is left out."""
        result = []
        for scale, match in enumerate(found):
            factor = self.config.factor << (self.config.num_scales - 1 - scale)
            result.append(upsample_flow(match.matched, factor))
            if scale < self.config.num_scales - 1 or self.config.reg_refine:
                result.append(upsample_flow(match.propagated, factor))
        return result

    def _match(self, maps: tuple[Tensor, ...], start: Tensor | None, scale: int) -> _Match:
        config = self.config
        feature0, feature1 = self._features(maps[0], maps[1], start, config.attn_splits[scale])
        radius = config.corr_radius[scale]
        flow = match_globally(feature0, feature1) if radius < 0 else match_locally(feature0, feature1, radius)
        flow = flow if start is None else start + flow
        return _Match(feature0, flow, self.feature_flow_attn(feature0, flow.detach(), config.prop_radius[scale]))

    def _features(self, plain0: Tensor, plain1: Tensor, flow: Tensor | None, splits: int) -> tuple[Tensor, Tensor]:
        if flow is not None:
            plain1 = warp(plain1, flow)
        channels, height, width = plain0.shape[1:]
        window = _window_position(channels, height // splits, width // splits, plain0.device).to(plain0.dtype)
        position = window.repeat(1, splits, splits)
        first, second = self.transformer(plain0 + position, plain1 + position, splits)
        return first, second

    def _refined(self, plain0: Tensor, plain1: Tensor, match: _Match) -> list[Tensor]:
        config, flow = self.config, match.propagated
        hidden, context = self.refine_proj(match.feature0).chunk(2, dim=1)
        hidden, context = hidden.tanh(), context.relu()
        seen = []
        for iteration in range(config.num_reg_refine):
            flow = flow.detach()
            correlation = local_correlation(plain0, plain1, flow, _COST_RADIUS)
            # The released network starts every iteration from the same hidden state.
            net, change = self.refine(hidden, context, correlation, flow)
            flow = flow + change
            if self.training or iteration == config.num_reg_refine - 1:
                seen.append(upsample_convexly(flow, self.refine.mask(net), config.factor))
        return seen

    def save_pretrained(self, directory: Path) -> None:
        """Write config.json and safetensors weights."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, directory / WEIGHTS_FILE)
        (directory / FLOW_CONFIG_FILE).write_text(json.dumps(self.config.model_dump(mode="json"), indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, source: Path) -> Self:
        """Load a directory with config.json and safetensors, or a released `.pth` file, in evaluation mode.

        Raises:
            FileNotFoundError: `source`, or a file in it, does not exist.
            ValueError: a file is damaged, its name says nothing about its config, or its tensors are not the config's.
        """
        config = load_flow_config(source)
        weights = read_tensors(source, entry="model") if source.suffix == ".pth" else _saved(source)
        model = cls(config)
        model.load_state_dict(fitting(model.state_dict(), weights, str(source)))
        return model.eval().requires_grad_(False)


def _saved(directory: Path) -> dict[str, Tensor]:
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {WEIGHTS_FILE}: it is not a complete saved flow network")
    return read_tensors(path)


def _normalise(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (_MEAN, _STD))
    return (images / 255 - mean) / std


@lru_cache(maxsize=16)
def _window_position(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """[C, H, W] sine positions within one window: half of the channels for y, half for x."""
    half = channels // 2
    index = torch.arange(half, device=device)
    rate = 10000.0 ** (2 * (index // 2) / half)
    parts = []
    for length in (height, width):
        angle = torch.arange(1, length + 1, device=device, dtype=torch.float32) / (length + 1e-6) * (2 * math.pi)
        angle = angle[:, None] / rate
        parts.append(torch.where(index % 2 == 0, angle.sin(), angle.cos()).T)
    y = parts[0][:, :, None].expand(-1, -1, width)
    x = parts[1][:, None, :].expand(-1, height, -1)
    return torch.cat([y, x])
