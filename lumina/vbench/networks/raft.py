"""RAFT optical flow (Teed & Deng 2020, arXiv 2003.12039), for dynamic degree and the filter of static clips.

Parameter names are those of raft-things.pth. Shape letters: N pairs, H and W the sides of a map, an eighth of those of
padded frames.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ITERATIONS = 20
LEVELS, RADIUS = 4, 4
HIDDEN, CONTEXT = 128, 128
SMALLEST_SIDE = 128
"""Of padded frames: the coarsest correlations are a 64th of it, and a side of one divides by zero."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms, and a skip."""

    def __init__(self, in_channels: int, channels: int, norm: type[nn.Module], stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1:
            self.norm3 = norm(channels)
            # The norm has two names in the published file.
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride), self.norm3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class Encoder(nn.Module):
    """Images [N, 3, 8 H, 8 W] to 256 features [N, 256, H, W]."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.norm1 = norm(64)
        self.layer1 = nn.Sequential(ResidualBlock(64, 64, norm, 1), ResidualBlock(64, 64, norm, 1))
        self.layer2 = nn.Sequential(ResidualBlock(64, 96, norm, 2), ResidualBlock(96, 96, norm, 1))
        self.layer3 = nn.Sequential(ResidualBlock(96, 128, norm, 2), ResidualBlock(128, 128, norm, 1))
        self.conv2 = nn.Conv2d(128, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = F.relu(self.norm1(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """Correlations and the flow so far to 128 features, the flow itself the last two."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(64 + 192, 126, 3, padding=1)

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        """See the class."""
        seen = F.relu(self.convc2(F.relu(self.convc1(correlations))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([seen, moved], 1))), flow], 1)


class SepConvGRU(nn.Module):
    """A gated recurrent unit of convolutions along rows, then along columns."""

    def __init__(self) -> None:
        super().__init__()
        channels = HIDDEN + CONTEXT + 128
        for number, size in ((1, (1, 5)), (2, (5, 1))):
            for gate in "zrq":
                padding = (size[0] // 2, size[1] // 2)
                self.add_module(f"conv{gate}{number}", nn.Conv2d(channels, HIDDEN, size, padding=padding))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """The next state [N, 128, H, W] by the inputs x [N, 256, H, W]."""
        for number in (1, 2):
            convz, convr, convq = (self.get_submodule(f"conv{gate}{number}") for gate in "zrq")
            both = torch.cat([h, x], 1)
            z, r = torch.sigmoid(convz(both)), torch.sigmoid(convr(both))
            h = (1 - z) * h + z * torch.tanh(convq(torch.cat([r * h, x], 1)))
        return h


class FlowHead(nn.Module):
    """The state to a step of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """[N, 128, H, W] to [N, 2, H, W]."""
        return self.conv2(F.relu(self.conv1(h)))


class UpdateBlock(nn.Module):
    """What each iteration runs, and at the end how to interpolate."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = SepConvGRU()
        self.flow_head = FlowHead()
        self.mask = nn.Sequential(nn.Conv2d(HIDDEN, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * 64, 1))

    def forward(self, h: Tensor, context: Tensor, correlations: Tensor, flow: Tensor) -> Tensor:
        """The next state."""
        return self.gru(h, torch.cat([context, self.encoder(flow, correlations)], 1))


class Raft(nn.Module):
    """RAFT of full size, "things" configuration: 5.3 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet = Encoder(nn.InstanceNorm2d)
        self.cnet = Encoder(nn.BatchNorm2d)
        self.update_block = UpdateBlock()

    def features(self, images: Tensor) -> Tensor:
        """What is matched, [N, 256, H, W], of padded frames [N, 3, 8 H, 8 W] with values 0 to 255."""
        return self.fnet(_signed(images))

    def forward(self, first: Tensor, features: tuple[Tensor, Tensor], iterations: int = ITERATIONS) -> Tensor:
        """Flow [N, 2, 8 H, 8 W], in pixels right and down, from the first frames to the second.

        Args:
            first: padded first frames [N, 3, 8 H, 8 W] with values 0 to 255.
            features: of the first and of the second frames; see `features`.
            iterations: 20 in VBench.

        Raises ValueError for sides below 128 pixels, where the official code gives NaN.
        """
        check_sides(*first.shape[2:])
        pyramid = correlation_pyramid(*features)
        h, context = self.cnet(_signed(first)).split([HIDDEN, CONTEXT], dim=1)
        h, context = torch.tanh(h), F.relu(context)
        start = _grid(h)
        points = start
        for _ in range(iterations):
            seen, flow = look_up(pyramid, points), points - start
            h = self.update_block(h, context, seen.to(h.dtype), flow.to(h.dtype))
            points = points + self.update_block.flow_head(h).float()
        return upsample(points - start, 0.25 * self.update_block.mask(h).float())


def check_sides(height: int, width: int) -> None:
    """ValueError if padded frames are too small for the pyramid."""
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"RAFT needs sides of {SMALLEST_SIDE} pixels or more after padding, got {width}x{height}: VBench's dynamic "
            "degree is not defined for such clips (the official code computes NaN)"
        )


def correlation_pyramid(first: Tensor, second: Tensor) -> list[Tensor]:
    """Products of all features [N, C, H, W] of two frames, [N H W, 1, H / 2^l, W / 2^l] for each level l, float32."""
    n, channels, height, width = first.shape
    products = first.flatten(2).transpose(1, 2) @ second.flatten(2) / math.sqrt(channels)
    levels = [products.float().reshape(n * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def look_up(pyramid: list[Tensor], points: Tensor) -> Tensor:
    """Correlations [N, 4 * 81, H, W] around each point [N, 2, H, W], bilinear, zero outside.

    Numbers of a window run along columns first, as the published weights expect.
    """
    n, _, height, width = points.shape
    steps = torch.arange(-RADIUS, RADIUS + 1, device=points.device, dtype=points.dtype)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)
    centres = points.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    found = []
    for level, products in enumerate(pyramid):
        sides = torch.tensor([products.shape[3] - 1, products.shape[2] - 1], device=points.device)
        window = centres / 2**level + offsets
        sampled = F.grid_sample(products, 2 * window / sides - 1, align_corners=True)
        found.append(sampled.reshape(n, height, width, -1))
    return torch.cat(found, dim=-1).permute(0, 3, 1, 2).contiguous()


def upsample(flow: Tensor, mask: Tensor) -> Tensor:
    """Flow [N, 2, H, W] to [N, 2, 8 H, 8 W]: each pixel a convex combination of the 3x3 around it."""
    n, _, height, width = flow.shape
    shares = mask.reshape(n, 1, 9, 8, 8, height, width).softmax(dim=2)
    around = F.unfold(8 * flow, 3, padding=1).reshape(n, 2, 9, 1, 1, height, width)
    return (shares * around).sum(dim=2).permute(0, 1, 4, 2, 5, 3).reshape(n, 2, 8 * height, 8 * width)


def _signed(images: Tensor) -> Tensor:
    return 2 * (images / 255) - 1


def _grid(x: Tensor) -> Tensor:
    """Where each pixel of a map [N, C, H, W] is: [N, 2, H, W], x before y, float32."""
    rows, columns = (torch.arange(side, device=x.device, dtype=torch.float32) for side in x.shape[2:])
    y, right = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([right, y]).expand(len(x), -1, -1, -1)
