"""VideoToAudioDiT: the Next-DiT that gives a silent clip a sound (paper appendix D, figure 8).

Audio tokens alone are updated. Their queries attend to themselves, turned over time and frequency, and through a
tanh-gated branch to what is seen and said. Time, the pooled embeddings and Synchformer's features give every time step
a condition of its own, which scales and gates the blocks. Both gates come after a norm and not before it, as in the
released video model: a norm would undo the gate that figure 8 puts before it.

Shape letters as in `lumina.models.blocks`; V, Y and S are the widths of visual, text and synchronisation features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lumina.models.attention import Segments, segments
from lumina.models.blocks import Block, BlockStack, FinalLayer, Linear, SinusoidEmbedder, normalise
from lumina.models.patches import patchify, unpatchify
from lumina.video_to_audio.config import VideoToAudioConfig
from lumina.video_to_audio.lengths import SEGMENT, SEGMENT_TOKENS, STRIDE, TUBELET

_SLOTS = STRIDE // TUBELET
"""Of the time grid from one segment to the next."""


class Conv1d(nn.Conv1d):
    """A convolution whose values are set by `VideoToAudioDiT.initialise`, not by the global generator."""

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


@dataclass(frozen=True, eq=False)
class Media:
    """What a sound shall fit. None is unknown, and stands for the learned null features."""

    visual: Tensor | None = None
    """[frames at 8 fps, V]."""
    text: Tensor | None = None
    """[tokens, Y], without padding."""
    sync: Tensor | None = None
    """[8 per segment, S]."""


@dataclass(frozen=True, eq=False)
class MediaCondition:
    """What the model needs of a batch of media: constant over the sampling steps, so computed once per clip."""

    pooled: Tensor
    """[N, A] embedding of the mean visual and text embeddings."""
    sync: tuple[Tensor, ...]
    """Per item [tokens, A] embedded synchronisation features; [frames, A] on the grid of time."""
    keys: tuple[Tensor, ...]
    """Per block [T, g, d] keys of the visual and then the text embeddings, packed."""
    values: tuple[Tensor, ...]
    """Per block [T, g, d] values, packed."""
    segments: Segments
    """The items' places in keys and values."""


class VideoToAudioDiT(BlockStack):
    """Velocity of noisy audio latents.

    Args:
        config: the model's shape.
        generator: draws the initial weights; None is a generator seeded with 0. Nothing is drawn for a model built
            under `torch.device("meta")`.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VideoToAudioConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.patch = (*config.patch, 1)
        dim, width = config.dim, config.condition_dim
        self.x_embedder = Linear(config.in_channels * config.patch[0] * config.patch[1], dim)
        self.vis_embedder = nn.Sequential(nn.LayerNorm(config.visual_dim), Linear(config.visual_dim, dim))
        self.text_embedder = nn.Sequential(nn.LayerNorm(config.text_dim), Linear(config.text_dim, dim))
        self.cond_mlp = nn.Sequential(Linear(dim, width), nn.SiLU(), Linear(width, width))
        self.t_embedder = SinusoidEmbedder(width)
        self.sync_pos_emb = nn.Parameter(torch.empty(1, 1, SEGMENT_TOKENS, config.sync_dim))
        looks = TUBELET if config.sync_grid == "time" else 1
        self.sync_embedder = nn.Sequential(
            Conv1d(config.sync_dim, width, 7, padding=3), nn.SiLU(), Conv1d(width, looks * width, 3, padding=1)
        )
        self.null_vis = nn.Parameter(torch.empty(1, config.visual_dim))
        self.null_sync = nn.Parameter(torch.empty(1, config.sync_dim))
        self.null_text = nn.Parameter(torch.empty(config.text_tokens, config.text_dim))
        self.layers = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.final_layer = FinalLayer(config, self.patch)
        # Of the training set's latents; the model sees them with mean 0 and deviation 1.
        self.register_buffer("latent_mean", torch.zeros(1, config.in_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, config.in_channels, 1, 1))
        if not self.null_vis.is_meta:
            self.initialise(generator or torch.Generator().manual_seed(0))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw initial weights: every branch starts as zero, as in the video model, and so does the velocity."""
        zero = ("adaLN_modulation.1.", "final_layer.linear.", "attention.gate", "sync_pos_emb")
        for name, parameter in self.named_parameters():
            if any(part in name for part in zero) or name.endswith(".bias"):
                parameter.zero_()
            elif "t_embedder.mlp." in name or name.startswith("null_"):
                nn.init.normal_(parameter, std=0.02, generator=generator)
            elif parameter.ndim >= 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                parameter.fill_(1.0)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, in which the model computes."""
        return self.null_vis.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.null_vis.device

    def standardise(self, latents: Tensor) -> Tensor:
        """The codec's latents [N, C, T, R] as the model sees them."""
        return (latents - self.latent_mean) / self.latent_std

    def restore(self, latents: Tensor) -> Tensor:
        """The model's latents [N, C, T, R] as the codec has them."""
        return latents * self.latent_std + self.latent_mean

    def encode(self, media: Sequence[Media]) -> MediaCondition:
        """Pool the features of N clips, and project them to every block's keys and values.

        Raises ValueError for features of another width, or synchronisation tokens that fill no segment.
        """
        config = self.config
        # Made first, their gradients come last: workers add up gradients in the order in which they come, which must
        # not depend on what their clips lack.
        null_vis, null_text, null_sync = self.null_vis.clone(), self.null_text.clone(), self.null_sync.clone()
        seen, said, packed, lengths = [], [], [], []
        for row, one in enumerate(media):
            visual = self._features(row, "visual", one.visual, config.visual_dim, null_vis)
            text = self._features(row, "text", one.text, config.text_dim, null_text)
            seen.append(self.vis_embedder(visual))
            said.append(self.text_embedder(text))
            packed += [seen[-1], said[-1]]
            lengths.append(len(visual) + len(text))
        pooled = torch.stack([a.float().mean(0) + b.float().mean(0) for a, b in zip(seen, said, strict=True)])
        if torch.is_grad_enabled():
            # For the same reason they have one where nothing is lacking.
            pooled = pooled + 0 * sum(null.float().sum() for null in (null_vis, null_text, null_sync))
        normalised = normalise(torch.cat(packed).float(), config.norm_eps).to(self.dtype)
        # The branch has no positions: what is seen is told from what is said by its embedder alone.
        pairs = [
            block.attention.text_keys_values(normalised, block.attention_y_norm.weight)
            for block in cast(Sequence[Block], self.layers)
        ]
        return MediaCondition(
            pooled=self.cond_mlp(pooled.to(self.dtype)),
            sync=tuple(self._embed_sync(row, one.sync, null_sync) for row, one in enumerate(media)),
            keys=tuple(keys for keys, _ in pairs),
            values=tuple(values for _, values in pairs),
            segments=segments(tuple(lengths), normalised.device),
        )

    def condition(self, t: Tensor, media: MediaCondition, steps: Sequence[int]) -> Tensor:
        """Conditioning vectors of every time step: [N, F, A], or [1, f, A] of items of unlike lengths.

        Args:
            t: [N].
            media: N items.
            steps: F of each item.
        """
        whole = self.t_embedder(t * self.config.t_scale) + media.pooled
        parts = [self._upsample(sync, count) + one for sync, count, one in zip(media.sync, steps, whole, strict=True)]
        return torch.stack(parts) if len(set(steps)) == 1 else torch.cat(parts)[None]

    @overload
    def forward(self, x: Tensor, t: Tensor, media: Sequence[Media] | MediaCondition) -> Tensor: ...

    @overload
    def forward(self, x: Sequence[Tensor], t: Tensor, media: Sequence[Media] | MediaCondition) -> list[Tensor]: ...

    def forward(
        self, x: Tensor | Sequence[Tensor], t: Tensor, media: Sequence[Media] | MediaCondition
    ) -> Tensor | list[Tensor]:
        """Predict the velocity of N noisy latents.

        Args:
            x: standardised latents [C, T, R] of any lengths that the patch divides, or one tensor [N, C, T, R].
            t: [N], 0 is noise and 1 is data.
            media: of N clips, or what `encode` made of them.

        Returns:
            The velocities, shaped and grouped as x, in the dtype of the weights.
        """
        known = media if isinstance(media, MediaCondition) else self.encode(media)
        if not len(x) == len(t) == len(known.pooled):
            raise ValueError(f"got {len(x)} latents, {len(t)} times and the media of {len(known.pooled)} clips")
        for one in x:
            if one.ndim != 3 or one.shape[2] != self.config.latent_rows:
                raise ValueError(
                    f"a latent must have shape [{self.config.in_channels}, T, {self.config.latent_rows}], "
                    f"got {list(one.shape)}"
                )
        # A sound is a film of one column.
        film = x[..., None] if isinstance(x, Tensor) else [one[..., None] for one in x]
        tokens = patchify(film, self.patch, self.config)
        condition = self.condition(t, known, [grid[0] for grid in tokens.grids])
        hidden = self.x_embedder(tokens.values.to(self.dtype)).clone()
        for block, keys, values in zip(self.layers, known.keys, known.values, strict=True):
            hidden = block(hidden, condition, tokens, keys, values, known.segments)
        made = unpatchify(self.final_layer(hidden, condition, tokens), tokens, batched=isinstance(x, Tensor))
        return made[..., 0] if isinstance(made, Tensor) else [one[..., 0] for one in made]

    def _features(self, row: int, name: str, features: Tensor | None, width: int, null: Tensor) -> Tensor:
        if features is None:
            return null
        if features.ndim != 2 or features.shape[1] != width or not len(features):
            raise ValueError(f"{name} features {row} must have shape [n, {width}], n >= 1, got {list(features.shape)}")
        return features.to(self.device, self.dtype)

    def _embed_sync(self, row: int, features: Tensor | None, null: Tensor) -> Tensor:
        """[tokens, A] of one item; on the grid of time, where a token tells of each of its frames, [frames, A]."""
        tokens = self._features(row, "sync", features, self.config.sync_dim, null.expand(SEGMENT_TOKENS, -1))
        if len(tokens) % SEGMENT_TOKENS:
            raise ValueError(
                f"sync features {row} must be {SEGMENT_TOKENS} for each segment of {SEGMENT} frames, got {len(tokens)}"
            )
        tokens = (tokens.unflatten(0, (-1, SEGMENT_TOKENS)) + self.sync_pos_emb[0]).flatten(0, 1)
        if self.config.sync_grid == "time":
            place = torch.arange(len(tokens), device=tokens.device)
            slot = _SLOTS * (place // SEGMENT_TOKENS) + place % SEGMENT_TOKENS
            count = torch.zeros(int(slot[-1]) + 1, device=tokens.device, dtype=tokens.dtype).index_add(
                0, slot, torch.ones_like(slot, dtype=tokens.dtype)
            )
            tokens = tokens.new_zeros(len(count), tokens.shape[1]).index_add(0, slot, tokens) / count[:, None]
        embedded = cast(Tensor, self.sync_embedder(tokens.t()[None])[0].t())
        return embedded.reshape(-1, self.config.condition_dim)

    def _upsample(self, sync: Tensor, steps: int) -> Tensor:
        """[tokens, A] of one item to [steps, A]."""
        if self.config.sync_grid == "time":
            # A frame is as long as a latent step; of what is behind the last segment the last frame tells.
            middle = torch.arange(steps, device=sync.device) * self.config.patch[0] + self.config.patch[0] // 2
            return sync[middle.clamp(max=len(sync) - 1)]
        return F.interpolate(sync.t()[None], size=steps, mode="nearest-exact")[0].t()
