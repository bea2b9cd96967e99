"""MultiScaleNextDiT: one transformer for all patch sizes, with a patch embedder and a final layer per scale.

Paper section 3.1. Parameter names are those of the released checkpoints. Shape letters: N items, T tokens of all items
packed, L tokens of one item, C latent channels, F frames, D model width, A conditioning width, Y text width,
h query heads, g key heads, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import torch
from torch import Tensor, nn

from lumina.models.attention import Segments, segments
from lumina.models.block_cache import BlockCache
from lumina.models.blocks import Block, BlockStack, FinalLayer, Linear, SinusoidEmbedder, normalise
from lumina.models.config import NextDiTConfig, PatchSize, patch_key
from lumina.models.patches import patchify, unpatchify


@dataclass(frozen=True, eq=False)
class TextCondition:
    """What the model needs of a batch of prompts: constant over the sampling steps, so computed once per prompt."""

    pooled: Tensor
    """[N, A] embedding of the mean text feature."""
    keys: tuple[Tensor, ...]
    """Per block [T, g, d] caption keys, packed."""
    values: tuple[Tensor, ...]
    """Per block [T, g, d] caption values, packed."""
    segments: Segments
    """The prompts' places in keys and values."""

    def select(self, items: Sequence[int]) -> TextCondition:
        """Keep the prompts at these positions, in this order; a leading run is a view."""
        if list(items) == list(range(len(self.pooled))):
            return self
        lengths = self.segments.lengths
        places = segments(tuple(lengths[item] for item in items), self.pooled.device)
        if list(items) == list(range(len(items))):
            return TextCondition(
                pooled=self.pooled[: len(items)],
                keys=tuple(keys[: places.total] for keys in self.keys),
                values=tuple(values[: places.total] for values in self.values),
                segments=places,
            )

        def pick(packed: Tensor) -> Tensor:
            parts = packed.split(lengths)
            return torch.cat([parts[item] for item in items])

        return TextCondition(
            pooled=self.pooled[list(items)],
            keys=tuple(map(pick, self.keys)),
            values=tuple(map(pick, self.values)),
            segments=places,
        )


class MultiScaleNextDiT(BlockStack):
    """Velocity of noisy latents at one of several patch sizes.

    Args:
        config: the model's shape.
        generator: draws the initial weights (the released initialisation); None is a generator seeded with 0.
            Nothing is drawn for a model built under `torch.device("meta")`.
    """

    def __init__(self, config: NextDiTConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        keys = {patch_key(patch): patch for patch in config.patch_sizes}
        self.all_x_embedder = nn.ModuleDict(
            {key: Linear(math.prod(patch) * config.in_channels, config.dim) for key, patch in keys.items()}
        )
        self.all_final_layer = nn.ModuleDict({key: FinalLayer(config, patch) for key, patch in keys.items()})
        self.t_embedder = SinusoidEmbedder(config.condition_dim)
        self.motion_embedder = SinusoidEmbedder(config.condition_dim)
        self.cap_embedder = nn.Sequential(
            nn.LayerNorm(config.cap_feat_dim), Linear(config.cap_feat_dim, config.condition_dim)
        )
        self.layers = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        # Part of every released checkpoint, used by nothing.
        self.pad_token = nn.Parameter(torch.empty(config.dim))
        if not self.pad_token.is_meta:
            self.initialise(generator or torch.Generator().manual_seed(0))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the released initial weights: every branch starts as zero, so the model starts as its skip path."""
        zero = ("adaLN_modulation.1.", ".linear.", "cap_embedder.1.", "motion_embedder.mlp.2.", "attention.gate")
        for name, parameter in self.named_parameters():
            if any(part in name for part in zero) or name.endswith(".bias"):
                parameter.zero_()
            elif name == "pad_token" or "_embedder.mlp." in name:
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.fill_(1.0)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, in which the model computes."""
        return self.pad_token.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.pad_token.device

    def encode_text(self, text: Sequence[Tensor]) -> TextCondition:
        """Pool the text features [L_i, Y] of N prompts and project them to every block's keys and values."""
        for row, features in enumerate(text):
            if features.ndim != 2 or features.shape[1] != self.config.cap_feat_dim:
                raise ValueError(
                    f"text features {row} must have shape [L, {self.config.cap_feat_dim}], got {list(features.shape)}"
                )
        packed = torch.cat(list(text)).to(self.device)
        places = segments(tuple(len(features) for features in text), packed.device)
        wide = packed.float()
        sums = wide.new_zeros(len(text), wide.shape[1]).index_add_(0, places.item_of_token, wide)
        means = sums / places.offsets.diff()[:, None]
        # Every block reads the same features, so they are normalised once; only the weights differ.
        normalised = normalise(wide, self.config.norm_eps).to(self.dtype)
        pairs = [
            block.attention.text_keys_values(normalised, block.attention_y_norm.weight)
            for block in cast(Sequence[Block], self.layers)
        ]
        return TextCondition(
            pooled=self.cap_embedder(means.to(self.dtype)),
            keys=tuple(keys for keys, _ in pairs),
            values=tuple(values for _, values in pairs),
            segments=places,
        )

    def condition(self, t: Tensor, pooled: Tensor, motion: Tensor) -> Tensor:
        """Conditioning vectors [N, A] of time, caption and motion; t is scaled in its own dtype, as released."""
        score = motion * self.config.motion_scale
        moving = torch.where((score < 0)[:, None], 0, self.motion_embedder(score))
        return cast(Tensor, self.t_embedder(t * self.config.t_scale) + pooled + moving)

    @overload
    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Sequence[Tensor] | TextCondition,
        motion: Tensor,
        patch: PatchSize,
        cache: BlockCache | None = None,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        x: Sequence[Tensor],
        t: Tensor,
        text: Sequence[Tensor] | TextCondition,
        motion: Tensor,
        patch: PatchSize,
        cache: BlockCache | None = None,
    ) -> list[Tensor]: ...

    def forward(
        self,
        x: Tensor | Sequence[Tensor],
        t: Tensor,
        text: Sequence[Tensor] | TextCondition,
        motion: Tensor,
        patch: PatchSize,
        cache: BlockCache | None = None,
    ) -> Tensor | list[Tensor]:
        """Predict the velocity of N noisy latents.

        Args:
            x: latents [C, F, H, W] of any sizes, or one tensor [N, C, F, H, W]; F, H, W are multiples of the patch
                size, except that F = 1 serves at every scale.
            t: [N], 0 is noise and 1 is data.
            text: N text features [L_i, Y], or what `encode_text` made of them.
            motion: [N] motion scores; negative means dropped.
            patch: (pt, ph, pw), one of the model's scales.
            cache: kept over a sampling run, whose t are equal in a batch; lets evaluations reuse what the blocks did.

        Returns:
            The velocities, shaped and grouped as x, in the dtype of the weights.
        """
        self.config.check_patch(patch)
        if not len(x) == len(t) == len(motion):
            raise ValueError(f"got {len(x)} latents, {len(t)} times and {len(motion)} motion scores")
        condition_text = text if isinstance(text, TextCondition) else self.encode_text(text)
        if len(condition_text.pooled) != len(x):
            raise ValueError(f"got {len(x)} latents but {len(condition_text.pooled)} prompts")
        key = patch_key(patch)
        tokens = patchify(x, patch, self.config)
        condition = self.condition(t, condition_text.pooled, motion)

        def blocks(hidden: Tensor) -> Tensor:
            for block, text_k, text_v in zip(self.layers, condition_text.keys, condition_text.values, strict=True):
                hidden = block(hidden, condition, tokens, text_k, text_v, condition_text.segments)
            return hidden

        # Copied, since torch.compile would take a view, which later blocks do not get, for another kind of call.
        hidden = self.all_x_embedder[key](tokens.values.to(self.dtype)).clone()
        if cache is None:
            hidden = blocks(hidden)
        else:
            [embedding] = self.t_embedder(t[:1] * self.config.t_scale)
            hidden = cache.step((key, hidden.shape), embedding, hidden, blocks)
        return unpatchify(self.all_final_layer[key](hidden, condition, tokens), tokens, batched=isinstance(x, Tensor))
