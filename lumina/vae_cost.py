"""Cost of the frozen networks: the CogVideoX VAE and the Gemma-2 text encoder, counted for the released ones.

Bytes are those of tensors that live at once, in numbers per column of pixels (one pixel of all frames), since all
activations of the VAE grow with the picture: `tests/lumina/test_live_bytes.py` runs the real network on fake tensors.
The network itself cuts a clip into chunks of 8 frames, so a longer one takes hardly more. The workspace of convolution
kernels comes on top. Letters: b bytes of a number, T frames, W x H pixels.
"""

from __future__ import annotations

import math
from typing import Literal

VAE_PARAMETERS = 215_583_907
"""Of THUDM/CogVideoX-2b/vae: widths 128, 256, 256 and 512, three layers a block."""
TEXT_PARAMETERS = 2_614_341_888
"""Of google/gemma-2-2b without its head, 589,824,000 of them in the table of tokens."""
_TOKEN_TABLE = 589_824_000

_DECODE, _DECODE_IMAGE = 22_465, 5_172
"""Live numbers per column of pixels while the last, finest block decodes 8 frames: 22 activations of 128 channels."""
_ENCODE, _ENCODE_IMAGE = 9_523, 2_662
_SPLIT_PIXELS, _SPLIT = (2 << 30) // (2 * 128 * 10), 15 * 128
"""A convolution whose input is over 2 GiB in half precision is computed in pieces, which are then joined: twice its
output (diffusers 0.42.1, CogVideoXSafeConv3d)."""
_DECODE_FLOPS, _DECODE_IMAGE_FLOPS = 18_538_432, 21_694_464
_ENCODE_FLOPS, _ENCODE_FIRST_FLOPS = 8_691_840, 13_823_744
"""Operations per pixel and frame, as torch counts them; a clip's first frame has a latent of its own."""
_TILE, _TILE_STEP = (30, 45), (25, 36)
"""Latent rows and columns of a tile, and from one to the next (diffusers' overlaps of 1/6 and 1/5)."""


def vae_bytes(
    way: Literal["encode", "decode"], width: int, height: int, frames: int, bytes_per_number: int, tiled: bool = False
) -> int:
    """Bytes that live at once, weights not counted.

    b W H (22,465 + 3 T) to decode, where the finished frames take 3 T; b W H (9,523 + 4.6 T) to encode, with the
    frames as bytes and as numbers, and 1,920 more from 838,860 pixels on. `tiled` takes the area of a tile, 360x240, in
    place of the picture's, and keeps the tiles that are done.
    """
    image, pixels = frames == 1, width * height
    area = min(pixels, 64 * math.prod(_TILE)) if tiled else pixels
    if way == "decode":
        done = _tiled_pixels(width, height) if tiled else pixels
        return round(bytes_per_number * (area * (_DECODE_IMAGE if image else _DECODE) + 3 * frames * done))
    # Bytes of uint8 are half a number in bfloat16, a quarter in float32.
    given = 3 * frames * (1 + 1 / bytes_per_number) + 0.125 * frames
    live = _ENCODE_IMAGE if image else _ENCODE + (_SPLIT if area > _SPLIT_PIXELS else 0)
    return round(bytes_per_number * (area * live + pixels * given))


def vae_flops(way: Literal["encode", "decode"], width: int, height: int, frames: int, tiled: bool = False) -> int:
    """Operations; tiles overlap, which costs up to 1.44 times as many."""
    pixels = _tiled_pixels(width, height) if tiled else width * height
    if way == "decode":
        return pixels * frames * (_DECODE_IMAGE_FLOPS if frames == 1 else _DECODE_FLOPS)
    return pixels * (_ENCODE_FIRST_FLOPS + (frames - 1) * _ENCODE_FLOPS)


def text_flops(tokens: int) -> int:
    """Operations of the text encoder for one prompt: 2 per weight and token, the table left out, and attention."""
    # 26 layers, 8 heads of 256; of queries and keys, and of weights and values.
    return 2 * tokens * (TEXT_PARAMETERS - _TOKEN_TABLE) + 26 * 2 * 2 * tokens * tokens * 8 * 256


def _tiled_pixels(width: int, height: int) -> int:
    """Pixels of all tiles: the last ones of a row and a column are smaller."""
    sides = []
    for pixels, tile, step in ((height, _TILE[0], _TILE_STEP[0]), (width, _TILE[1], _TILE_STEP[1])):
        latents = pixels // 8
        sides.append(sum(min(tile, latents - start) for start in range(0, latents, step)))
    return 64 * math.prod(sides)
