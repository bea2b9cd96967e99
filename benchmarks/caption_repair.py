"""Captions: are a source's wrong ones found by disagreement and repaired, and how often is a model asked?

    python benchmarks/caption_repair.py --work /tmp/caption_repair --flaws mild strong

Renders the clips of `lumina run demo` with mild or strong flaws, and runs the demo as far as its curation page with the
section `caption`. The model is a server of this process, asked over HTTP: it measures the frames that it is sent, and
tells another scene in a share of its answers (`--wrong`). Truth is what a scene was drawn with: a caption is right that
tells each shape with its colour, its kind and where it moves, and no other shape.

Prints for each source how many captions are right before, how many are where the new ones train (`caption.use=new`),
how many right ones that spoils, and how many wrong and right ones a threshold of `caption_agreement` sets aside; each
with its 95 % interval (Wilson). Then the requests of the first run, of the same again, of the other `use`, and after
one clip was replaced. Exit 1 if one of the last three is not 0, 0 and 1. Wants an empty folder.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scipy.stats import binomtest

from curation.caption_choice import AGREEMENT
from curation.operator import dataset
from jobs.shapes import COLUMNS, RenderShapesConfig, _Chunk, _render_chunk
from lumina.randomness import generator
from lumina.shapes import caption, sample_scene
from pipelines.config import load_config
from pipelines.engine.store.store import Store
from tests.curation.captioning import Captioner, Reply, chat, is_right, seen, served

Rows = list[dict[str, str]]


def demo(flaws: str, share: float) -> RenderShapesConfig:
    """What the demo renders, or a share of it."""
    shapes = load_config("demo").data.shapes
    if shapes is None:
        raise TypeError("the demo renders no clips")
    less = {name: {one: math.ceil(share * count) for one, count in getattr(shapes, name).items()}
            for name in ("clips", "images")}  # fmt: skip
    return shapes.model_copy(update={"flaws": flaws, **less})


def render(config: RenderShapesConfig, media: Path) -> Rows:
    """Write the clips, and their manifest; what they show."""
    chunks = [
        _Chunk(source, kind, 0, count)
        for kind, counts in (("video", config.clips), ("image", config.images))
        for source, count in sorted(counts.items())
    ]
    rows = [row for chunk in chunks for row in _render_chunk(config, chunk, str(media))]
    list_clips(media, rows)
    return rows


def list_clips(media: Path, rows: Rows) -> None:
    """The manifest, without the truth."""
    with (media / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in COLUMNS if name != "scene"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def replace_one(config: RenderShapesConfig, media: Path, rows: Rows) -> None:
    """Put another clip in the place of the first of `web`."""
    number = config.clips["web"]
    [other] = _render_chunk(config, _Chunk("web", "video", number, number + 1), str(media / "other"))
    first = next(row for row in rows if row["source"] == "web")
    shutil.copyfile(media / "other" / other["video"], media / first["video"])
    list_clips(media, [row | {"caption": other["caption"]} if row is first else row for row in rows])


def mistaken(share: float) -> Any:
    """A captioner's replies, of which a share tells another scene, whoever asks and whenever."""

    def reply(body: dict[str, Any], _number: int) -> Reply | None:
        rng = generator(0, "caption repair", hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest())
        if rng.random() >= share:
            return None
        return chat(caption(sample_scene(rng), rng, image=len(seen(body)[1]) == 1))

    return reply


class Demo:
    """Runs of the demo's curation in one store."""

    def __init__(self, work: Path, captioner: Captioner, threshold: float) -> None:
        self.store, self.captioner = Store(work / "store"), captioner
        self.settings = {
            "data": f"{{manifest: {work / 'media' / 'clips.csv'}}}",
            # No figure here is of motion.
            "motion": "{estimator: dis, height: 32, width: 32, samples: 2}",
            "caption.endpoint": f"{{model: shapes, url: {captioner.url!r}, in_flight: 4}}",
            "caption.use": "original",
            "caption.style": "short",
            "select.scores.caption_agreement.min": str(threshold),
        }

    def run(self, **changes: str | None) -> tuple[int, dict[str, dict[str, Any]]]:
        """Requests that it took, and by URI the row of `select`."""
        before = len(self.captioner.requests)
        settings = {name: value for name, value in {**self.settings, **changes}.items() if value is not None}
        words = [str(Path(sys.executable).with_name("lumina")), "run", "demo", "--until", "curation_page"]
        words += ["--store", str(self.store.root)]
        overrides = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        subprocess.run([*words, *overrides], check=True)
        path = self.store.get_run("demo").stages["select"].path
        if path is None:
            raise RuntimeError("the run has no output of select")
        rows = dataset(self.store.root / path / "data").to_table().to_pylist()
        return len(self.captioner.requests) - before, {row["uri"]: row for row in rows}


@dataclass(frozen=True)
class Judged:
    """One clip."""

    source: str
    before: bool
    """Whether its own caption is right."""
    after: bool
    """Whether that is which trains where new captions do."""
    found: bool
    """Whether the threshold sets it aside."""


def judged(rows: Rows, original: Mapping[str, Any], new: Mapping[str, Any]) -> list[Judged]:
    """Each clip that both runs know."""
    found = []
    for row in rows:
        scene, image = json.loads(row["scene"]), row["video"].endswith(".png")
        one, other = original[row["video"]], new[row["video"]]
        found.append(
            Judged(
                row["source"],
                is_right(row["caption"], scene, image=image),
                is_right(other["caption"] or "", scene, image=image),
                f"score:{AGREEMENT}" in one["failed_rules"],
            )
        )
    return found


def share(hits: Iterable[bool]) -> str:
    """A share with its interval by Wilson."""
    values = list(hits)
    if not values:
        return "none"
    right, n = sum(values), len(values)
    low, high = binomtest(right, n).proportion_ci(method="wilson")
    return f"{right} of {n}: {right / n:.1%} [{low:.1%}, {high:.1%}]"


def table(clips: list[Judged]) -> str:
    """Markdown."""
    heads = ["source", "right before", "right where the new ones train", "right ones spoilt", "wrong ones found",
             "right ones set aside", "right among what is left"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for source in [*sorted({one.source for one in clips}), "all"]:
        own = [one for one in clips if source in (one.source, "all")]
        cells = [
            source,
            share(one.before for one in own),
            share(one.after for one in own),
            share(not one.after for one in own if one.before),
            share(one.found for one in own if not one.before),
            share(one.found for one in own if one.before),
            share(one.before for one in own if not one.found),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--flaws", nargs="+", choices=("mild", "strong"), default=("mild", "strong"))
    parser.add_argument("--share", type=float, default=1.0, help="of the demo's clips")
    parser.add_argument("--wrong", type=float, default=0.05, help="share of answers that tell another scene")
    parser.add_argument("--threshold", type=float, default=0.45, help="of caption_agreement")
    args = parser.parse_args()
    bad = False
    for flaws in args.flaws:
        work = args.work / flaws
        config = demo(flaws, args.share)
        rows = render(config, work / "media")
        with served(Captioner(mistaken(args.wrong))) as captioner:
            runs = Demo(work, captioner, args.threshold)
            first, original = runs.run()
            again, _ = runs.run()
            other, new = runs.run(**{"caption.use": "new", "select.scores.caption_agreement.min": None})
            replace_one(config, work / "media", rows)
            changed, _ = runs.run()
        asked = {"first run": first, "again": again, "caption.use=new": other, "one clip replaced": changed}
        print(f"\n{flaws} flaws\n\n{table(judged(rows, original, new))}\n")
        print(f"requests: {', '.join(f'{name} {count}' for name, count in asked.items())}", flush=True)
        bad |= [again, other, changed] != [0, 0, 1]
    if bad:
        raise SystemExit("asked more often, or less, than it should be")


if __name__ == "__main__":
    main()
