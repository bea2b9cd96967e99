"""How alike two computations of one stage have to be to count as the same: declared with the stage, kept with its
output, and no part of its identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Bitwise:
    """The same digest."""

    kind: Literal["bitwise"] = "bitwise"

    def __str__(self) -> str:
        return "bitwise"


@dataclass(frozen=True)
class Tolerance:
    """The same rows, with numbers that differ by no more than rounding does between machines.

    Everything that is no floating-point number has to be equal.
    """

    rtol: float = 1e-3
    """Of a number's size."""
    atol: float = 1e-5
    """Besides, whatever its size."""
    cosine_min: float = 0.9999
    """Of a tensor (latents, features): its cosine with the other, which takes the place of `rtol` and `atol`."""
    kind: Literal["tolerance"] = "tolerance"

    def __str__(self) -> str:
        return f"rtol {self.rtol:g}, atol {self.atol:g}, cosine {self.cosine_min:g}"


@dataclass(frozen=True)
class Metric:
    """Figures as good: each within the other's recorded interval, those without one within a band."""

    band: float = 0.05
    """Largest relative difference of a figure that has no interval."""
    kind: Literal["metric"] = "metric"

    def __str__(self) -> str:
        return f"95 % intervals, else {100 * self.band:g} %"


Tier = Bitwise | Tolerance | Metric
BITWISE: Tier = Bitwise()
_KINDS: dict[str, type[Bitwise] | type[Tolerance] | type[Metric]] = {
    "bitwise": Bitwise,
    "tolerance": Tolerance,
    "metric": Metric,
}
_ORDER = tuple(_KINDS)


def looser(a: Tier, b: Tier) -> Tier:
    """The one of two tiers that asks for less."""
    return b if _ORDER.index(b.kind) > _ORDER.index(a.kind) else a


def read_tier(record: Mapping[str, Any]) -> Tier:
    """The tier that a manifest holds; nothing at all is the strictest tier.

    Raises:
        ValueError: no such tier, or a bound that it does not have.
    """
    kind = record.get("kind", "bitwise")
    try:
        return _KINDS[kind](**record)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{dict(record)} is no tier of reproduction: {error}") from error
