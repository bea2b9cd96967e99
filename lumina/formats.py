"""Number formats for people: quantities with a decimal prefix, durations, figures with intervals, counts of things."""

from __future__ import annotations


def quantity(value: float, unit: str = "") -> str:
    """Three digits with a decimal prefix: `34 MB`, `1.2 TFLOP`, `86.4 k`."""
    prefix = ""
    for larger in "kMGTPE":
        if abs(value) < 999.5:
            break
        value, prefix = value / 1000, larger
    return f"{value:.3g} {prefix}{unit}".strip()


def size(number: float) -> str:
    """Bytes, in powers of 1000: `560 B`, `34 MB`."""
    return quantity(number, "B")


def duration(seconds: float) -> str:
    """`420 ms`, `12.3 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 0:  # by another machine's clock
        return f"−{duration(-seconds)}"
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def figure(value: float | None, sign: bool = False) -> str:
    """Three digits behind the point below 10, fewer above; with a true minus, and a plus where `sign` is asked for."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return "0" if sign and float(text) == 0 else text.replace("-", "−")


def interval(low: float | None, high: float | None, sign: bool = False) -> str:
    """`[0.812, 0.934]`; empty where a bound is missing."""
    return "" if low is None or high is None else f"[{figure(low, sign)}, {figure(high, sign)}]"


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 clip`, `1,234 clips`; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def short_digest(digest: str, digits: int = 12) -> str:
    """The first digits of a digest or a commit, without the name of its scheme."""
    return digest.rpartition(":")[2][:digits]
