"""Clips with planted faults: rendered scenes and pieces of real films, changed by OpenCV, Pillow and FFmpeg.

What a clip's faults are is known from what was drawn or encoded, and of real films from looking at them; no scorer of
ours has a say in it. Every draw is keyed, so a number of clips is always the same clips.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from itertools import count, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lumina.colour import to_rgb
from lumina.randomness import generator
from lumina.shapes import SOURCES, Scene, caption, film, sample_scene
from lumina.video import write_h264

SEED = 24
FPS, FRAMES, SIZE = 8, 17, (256, 384)
"""Of rendered clips: whose shapes stay whole for these frames. (height, width)."""
HEIGHTS = (8, 10, 12, 13, 14, 16, 20, 24, 28, 32, 40)
"""Pixels of the capitals of titles."""
TEXT, BANNER, CAPTION = "text", "stable text", "wrong caption"
DARK, WHITE, BLUR, BARS = "dark", "over-exposed", "blurred", "black bars"
STUCK, COMBS = "stuck frames", "combs"
COPIES = ("re-encoded", "cropped", "rescaled", "letterboxed", "shifted", "mirrored")
PARTS = {
    "clean": 54, "title": 66, "banner": 16, CAPTION: 20, "re-encoded": 26, "cropped": 20, "rescaled": 12,
    "letterboxed": 12, "shifted": 12, "mirrored": 10, DARK: 8, WHITE: 8, BLUR: 12, BARS: 8, STUCK: 8, COMBS: 8,
}  # fmt: skip
"""Clips of each kind in 300."""
_TTF = ("DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf", "LiberationSerif-Italic.ttf",
        "LiberationSansNarrow-Regular.ttf", "DejaVuSans-ExtraLight.ttf")  # fmt: skip
_WORDS = ("Episode 12", "Breaking news", "Chapter Two", "To be continued", "NEW YORK 1968", "Watch more at noon",
          "Directed by Jane Roe", "SUBSCRIBE NOW", "Part 3 of 7", "Three years later")  # fmt: skip
_BRANDS = ("www.clips.example", "CHANNEL 5", "Stock Footage", "@filmfan", "LIVE NOW", "preview only")

Frames = np.ndarray
"""uint8 [T, H, W, 3], RGB."""
Rng = np.random.Generator
Change = Callable[[Frames, float, Rng], Frames]


@dataclass(frozen=True)
class Clip:
    """One clip of the set."""

    name: str
    """Of its file."""
    kind: str
    """What was planted: a key of `PARTS`."""
    base: str
    """What it shows: clips with the same base are copies of each other."""
    source: str
    """`shapes` or `films`."""
    caption: str
    faults: frozenset[str]
    unsure: frozenset[str]
    """What it may be said to have or not to have."""
    write: Callable[[Path], None]
    text_px: int = 0
    """Of a title's capitals."""
    words: str = ""


@dataclass(frozen=True)
class Base:
    """What is changed, or left as it is."""

    name: str
    source: str
    caption: str
    frames: Callable[[], tuple[Frames, float]]
    """With their rate."""
    scene: Scene | None = None
    faults: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()
    plain: bool = True
    """Large and long enough, and without a text of its own: good for every fault."""


@dataclass(frozen=True)
class Film:
    """A piece of a real film, in seconds, and what a person sees in it."""

    file: str
    start_s: float
    end_s: float
    caption: str
    faults: frozenset[str] = frozenset()
    unsure: frozenset[str] = field(default_factory=frozenset)
    plain: bool = True


FILMS = (
    Film("hiker.mp4", 0, 3, "A hiker on a rocky peak at sunset."),
    Film("pancake.mkv", 0, 3, "A woman in a striped shirt flips a pancake in a kitchen."),
    Film("sintel_10s.mp4", 0.2, 2.8, "A girl in a hood before a snowy mountain.", frozenset({BARS})),
    Film("sintel_10s.mp4", 7.6, 10, "An old man in a dark room.", frozenset({BARS}), frozenset({DARK}), False),
    Film("fps2_7frames.mp4", 0, 4, "A herd of horses on a green field.", plain=False),
    Film("non_zero_start.mp4", 0, 1, "A path in a park with tall trees.", plain=False),
    Film("av1.mkv", 0, 3, "A test card with a number that counts.", unsure=frozenset({TEXT, BANNER}), plain=False),
    Film("odd_size_vp9.mp4", 0, 2, "A test card with a clock.", unsure=frozenset({TEXT, BANNER}), plain=False),
)
"""Of `../shared/clips`; two of them are of one file, and show different things."""


def rendered(number: int) -> Base:
    """A scene in which something moves, every third time by a camera that shakes."""
    rng = generator(SEED, "planted", number)
    scene = sample_scene(rng, speed=("slow", "fast")[number % 2])
    # Without its motion blur, which takes three times the frames.
    source = replace(SOURCES["handheld" if number % 3 == 2 else "synthetic"], supersampling=1)

    def frames() -> tuple[Frames, float]:
        size = {"height": SIZE[0], "width": SIZE[1]}
        return film(scene, source, generator(SEED, "filmed", number), num_frames=FRAMES, fps=FPS, **size), FPS

    return Base(f"scene {number}", "shapes", caption(scene, rng), frames, scene)


def of_film(folder: Path, one: Film) -> Base:
    """A piece of a film, 384 pixels wide at most."""

    @cache
    def frames() -> tuple[Frames, float]:
        with av.open(str(folder / one.file)) as container:
            stream = container.streams.video[0]
            first, taken = None, []
            for frame in container.decode(stream):
                first = float(frame.time) if first is None else first
                if one.start_s <= float(frame.time) - first < one.end_s:
                    taken.append(_sized(to_rgb(frame), min(1, SIZE[1] / frame.width)))
            return np.stack(taken), float(stream.average_rate)

    name = f"{one.file} {one.start_s}"
    return Base(name, "films", one.caption, frames, None, one.faults, one.unsure, one.plain)


def plan(clips: int, films: Path | None) -> list[Clip]:
    """About so many clips, the same for the same number."""
    numbers, planned = map(rendered, count()), list[Clip]()
    real = [of_film(films, one) for one in FILMS if films is not None and (films / one.file).exists()]
    clean = [*real, *(next(numbers) for _ in range(_part("clean", clips) - len(real)))]
    for number, base in enumerate(clean):
        planned.append(_clip("clean", number, base, _same))
    plain = [base for base in real if base.plain]
    for kind, change in FAULTS.items():
        for number in range(_part(kind, clips)):
            # Real films take one in four, in turns.
            real_one = plain[number // 4 % len(plain)] if plain and number % 4 == 3 else None
            planned.append(_faulty(kind, number, real_one or next(numbers), change))
    for number in range(_part(CAPTION, clips)):
        base = next(numbers)
        planned.append(
            replace(
                _clip(CAPTION, number, base, _same), caption=_another(base.scene, number), faults=frozenset({CAPTION})
            )
        )
    of = [base for base in clean if "card" not in base.caption and "park" not in base.caption]
    for kind in COPIES:
        for number in range(_part(kind, clips)):
            planned.append(_copy(kind, number, of[(number * 5 + len(kind)) % len(of)]))
    return planned


def write(folder: Path, clips: Sequence[Clip]) -> None:
    """Write the manifest, and the files that are not there yet; SystemExit where those of another plan are."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder.parent / "clips.csv"
    lines = [f'{clip.name},"{clip.caption}",{clip.source}' for clip in clips]
    text = "\n".join(["video,caption,source", *lines]) + "\n"
    if manifest.exists() and manifest.read_text(encoding="utf-8") != text:
        # Their names are the same, and what they show is other.
        raise SystemExit(f"{folder} holds the clips of other --clips or --films: name an empty folder for --work")
    manifest.write_text(text, encoding="utf-8")
    for clip in clips:
        path = folder / clip.name
        if not path.exists():
            unfinished = path.with_name(f"unfinished-{path.name}")
            clip.write(unfinished)
            unfinished.rename(path)


def _part(kind: str, clips: int) -> int:
    return max(1, round(PARTS[kind] * clips / 300))


def _clip(kind: str, number: int, base: Base, change: Change, crf: int = 20, suffix: str = "mp4") -> Clip:
    name = f"{kind.replace(' ', '_')}-{number:03}.{suffix}"

    def to(path: Path) -> None:
        frames, fps = base.frames()
        _encode(
            path, change(frames, fps, generator(SEED, kind, number)), fps, crf, number if kind == "re-encoded" else 0
        )

    return Clip(name, kind, base.name, base.source, base.caption, base.faults, base.unsure, to)


def _encode(path: Path, frames: Frames, fps: float, crf: int, way: int) -> None:
    """By x264, or another codec in turns."""
    even = np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2])
    codec = ("libx264", "mpeg4", "libvpx-vp9")[way % 3]
    if codec == "libx264":
        write_h264(path, even, fps, crf=crf, preset="veryfast")
        return
    options = {"mpeg4": {"b": "250k"}, "libvpx-vp9": {"crf": "45", "b": "0", "deadline": "realtime", "cpu-used": "8"}}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, Fraction(fps).limit_denominator(1001), options=options[codec])
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _faulty(kind: str, number: int, base: Base, change: Change) -> Clip:
    crf = int(generator(SEED, "crf", kind, number).integers(18, 29))
    if kind in ("title", "banner"):
        heights = HEIGHTS if kind == "title" else tuple(one for one in HEIGHTS if 13 <= one <= 24)
        words = (_WORDS if kind == "title" else _BRANDS)[number % (10 if kind == "title" else 6)]
        pixels = heights[number % len(heights)]
        drawn = Drawn(words, pixels, number // len(heights) + number, banner=kind == "banner")
        clip = _clip(kind, number, base, drawn, crf)
        faults = {TEXT} if kind == "title" else {TEXT, BANNER}
        return replace(clip, faults=clip.faults | faults, text_px=pixels, words=words)
    clip = _clip(kind, number, base, change, crf)
    return replace(clip, faults=clip.faults | {kind})


def _copy(kind: str, number: int, base: Base) -> Clip:
    crf = int(generator(SEED, "crf", kind, number).integers(28, 37))
    clip = _clip(kind, number, base, _COPYING[kind], crf, "mkv" if kind == "re-encoded" else "mp4")
    if kind == "letterboxed":
        return replace(clip, faults=clip.faults | {BARS})
    return replace(clip, caption=_swapped(clip.caption)) if kind == "mirrored" else clip


def _swapped(text: str) -> str:
    return re.sub(r"\b(left|right)\b", lambda found: {"left": "right", "right": "left"}[found[0]], text)


def _another(scene: Scene | None, number: int) -> str:
    """The caption of another scene, which tells of another thing or of another way to move."""
    rng = generator(SEED, "another", number)
    while True:
        other = sample_scene(rng)
        if scene is None or _told(other) != _told(scene):
            return caption(other, rng)


def _told(scene: Scene) -> set[tuple[str, str, str]]:
    return {(shape.kind, shape.color, shape.direction) for shape in scene.shapes}


def _sized(frame: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(16, round(side * scale) // 2 * 2) for side in frame.shape[:2])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale <= 1 else cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Drawn:
    """Writes words over a part of the frames, or a banner over all."""

    words: str
    pixels: int
    """Height of the capitals."""
    way: int
    """Numbers of fonts and styles, in turns."""
    banner: bool

    def __call__(self, frames: Frames, _fps: float, rng: Rng) -> Frames:
        fonts = fonts_found()
        mask = cut_out(self.words, self.pixels, fonts[self.way % len(fonts)])
        edge = max(2, self.pixels // 3)
        height, width = (side + 2 * edge for side in mask.shape)
        length, high, wide = frames.shape[:3]
        if width > wide:  # too long a line: its first word
            return Drawn(self.words.split()[0], self.pixels, self.way, self.banner)(frames, _fps, rng)
        top = int(rng.integers(0, high - height + 1))
        if self.banner:
            top = (0, high - height)[int(rng.integers(2))]
        left = int(rng.integers(0, wide - width + 1))
        shown = slice(0, length)
        if not self.banner:
            start = round(length * rng.uniform(0.05, 0.4))
            shown = slice(start, start + round(length * rng.uniform(0.4, 0.55)))
        letters = np.pad(mask, edge).astype(np.float32)[..., None] / 255
        out = frames.copy()
        place = out[shown, top : top + height, left : left + width].astype(np.float32)
        style, ink = ("plain", "outlined", "boxed")[self.way % 3], 255.0 if place.mean() < 150 else 0.0
        if style == "boxed":
            place = 0.35 * place + 0.65 * (255 - ink)
        elif style == "outlined":
            around = cv2.dilate(letters, np.ones((3, 3)), iterations=max(1, self.pixels // 14))[..., None]
            place += around * (255 - ink - place)
        place += letters * (ink - place)
        out[shown, top : top + height, left : left + width] = np.rint(place)
        return out


@cache
def fonts_found() -> tuple[str, ...]:
    """Names of fonts that are here, Pillow's own, and OpenCV's stroke font."""
    found = []
    for name in _TTF:
        try:
            ImageFont.truetype(name, 20)
        except OSError:
            continue
        found.append(name)
    return (*found, "Pillow", "Hershey")


def cut_out(words: str, pixels: int, font: str) -> np.ndarray:
    """A mask [H, W] of words, whose letter H is so many pixels high."""
    if font == "Hershey":
        face, stroke = cv2.FONT_HERSHEY_DUPLEX, max(1, round(pixels / 10))
        scale = pixels / 21
        (wide, high), below = cv2.getTextSize(words, face, scale, stroke)
        mask = np.zeros((high + below + 2 * stroke, wide + 2 * stroke), np.uint8)
        cv2.putText(mask, words, (stroke, high + stroke), face, scale, 255, stroke, cv2.LINE_AA)
    else:
        load = ImageFont.load_default if font == "Pillow" else lambda size: ImageFont.truetype(font, size)
        size = next(s for s in np.arange(pixels, 3 * pixels, 0.25) if _capital(load(float(s))) >= pixels)
        face = load(float(size))
        left, top, right, bottom = face.getbbox(words)
        image = Image.new("L", (round(right - left) + 2, round(bottom - top) + 2))
        ImageDraw.Draw(image).text((1 - left, 1 - top), words, fill=255, font=face)
        mask = np.asarray(image)
    rows, columns = (np.flatnonzero(mask.max(axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _capital(face: ImageFont.FreeTypeFont) -> float:
    _, top, _, bottom = face.getbbox("H")
    return bottom - top


def _same(frames: Frames, _fps: float, _rng: Rng) -> Frames:
    return frames


def _dark(frames: Frames, _fps: float, rng: Rng) -> Frames:
    """To a mean of 2 to 6 % of white."""
    return np.rint(frames * (255 * rng.uniform(0.02, 0.06) / frames.mean())).astype(np.uint8)


def _white(frames: Frames, _fps: float, rng: Rng) -> Frames:
    """So bright that 40 to 90 % of it are white."""
    level = np.quantile(frames.min(axis=-1), 1 - rng.uniform(0.4, 0.9))
    return np.clip(frames * (255 / max(1, level)), 0, 255).astype(np.uint8)


def _blurred(frames: Frames, _fps: float, rng: Rng) -> Frames:
    sigma = rng.uniform(0.008, 0.025) * min(frames.shape[1:3])
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def _bars(frames: Frames, _fps: float, rng: Rng) -> Frames:
    axis = 1 + int(rng.integers(2))
    size = round(frames.shape[axis] * rng.uniform(0.04, 0.16))
    out = np.moveaxis(frames.copy(), axis, 0)
    out[:size], out[-size:] = 0, 0
    return np.moveaxis(out, 0, axis)


def _stuck(frames: Frames, _fps: float, rng: Rng) -> Frames:
    """Each frame is shown two to four times, or half of the frames stand."""
    numbers = np.arange(len(frames))
    if rng.random() < 0.5:
        return frames[numbers // int(rng.integers(2, 5))]
    start = round(len(frames) * rng.uniform(0.1, 0.45))
    stop = start + len(frames) // 2
    return frames[np.where((numbers >= start) & (numbers <= stop), start, numbers)]


def _combed(frames: Frames, _fps: float, _rng: Rng) -> Frames:
    woven = []
    for now, later in pairwise(frames):
        both = now.copy()
        both[1::2] = later[1::2]
        woven.append(both)
    return np.stack(woven)


def _cropped(frames: Frames, _fps: float, rng: Rng) -> Frames:
    """By up to a tenth of the height and of the width, anywhere."""
    for axis in (1, 2):
        away = round(frames.shape[axis] * rng.uniform(0.03, 0.1))
        start = round(away * rng.uniform())
        frames = frames.take(range(start, frames.shape[axis] - away + start), axis=axis)
    return frames


def _rescaled(frames: Frames, _fps: float, rng: Rng) -> Frames:
    scale = (rng.uniform(0.4, 0.8), rng.uniform(1.2, 1.5))[int(rng.integers(2))]
    return np.stack([_sized(frame, scale) for frame in frames])


def _letterboxed(frames: Frames, _fps: float, rng: Rng) -> Frames:
    axis = 1 + int(rng.integers(2))
    bar = round(frames.shape[axis] * rng.uniform(0.06, 0.16))
    return np.pad(frames, [(bar, bar) if one == axis else (0, 0) for one in range(4)])


def _shifted(frames: Frames, fps: float, rng: Rng) -> Frames:
    return frames[round(rng.uniform(0.1, 1) * fps) :]


FAULTS: dict[str, Change] = {
    "title": _same,
    "banner": _same,
    DARK: _dark,
    WHITE: _white,
    BLUR: _blurred,
    BARS: _bars,
    STUCK: _stuck,
    COMBS: _combed,
}
_COPYING: dict[str, Change] = {
    "re-encoded": _same,
    "cropped": _cropped,
    "rescaled": _rescaled,
    "letterboxed": _letterboxed,
    "shifted": _shifted,
    "mirrored": lambda frames, _fps, _rng: frames[:, :, ::-1],
}


def pairs_of(clips: Sequence[Clip]) -> Iterator[tuple[Clip, str]]:
    """Every copy with the name of the clip that is left as it was."""
    first = {clip.base: clip.name for clip in clips if clip.kind == "clean"}
    for clip in clips:
        if clip.kind in COPIES:
            yield clip, first[clip.base]
