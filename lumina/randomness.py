"""Random numbers with an address: a counter-based generator keyed by (seed, purpose, address).

The numbers drawn for one address depend on nothing else, so a resumed run, or a run on another number of workers,
draws the same ones.
"""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, purpose: str, *address: int | str) -> np.random.Generator:
    """Return the generator of one address, e.g. `generator(seed, "noise", step, clip_id)`.

    The Philox key is the first 128 bits of the BLAKE2b digest of the address; each part carries its type and length,
    so ("a", 1) and ("a1",) differ.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (seed, purpose, *address):
        text = str(part).encode()
        digest.update(f"{type(part).__name__}:{len(text)}:".encode())
        digest.update(text)
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))
