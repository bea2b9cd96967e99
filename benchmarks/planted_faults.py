"""Curate about 300 clips with planted faults, and print the precision and recall with which each fault is found.

    python benchmarks/planted_faults.py --work /tmp/planted --films ../shared/clips

Clips of Shapes, and of the films that are there, get titles, banners, wrong captions and faults of the picture, or are
copied (`planted_clips.py`). `lumina run folder` curates them up to the page `curation.html`, with the limits below; a
server in this process captions by measuring the frames that it is sent. A fault counts as found where `select` says
that the clip fails its rule, a copy where `duplicates` puts it with the clip that it is made of. Takes the extra `ocr`.

The same command goes on after a kill; with another limit it only selects anew. `--plain` runs the same stages in this
process, without Ray: on a busy machine that starts sooner.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa

from benchmarks import plain_stages
from benchmarks.planted_clips import (
    BANNER,
    BARS,
    BLUR,
    CAPTION,
    COMBS,
    COPIES,
    DARK,
    HEIGHTS,
    STUCK,
    TEXT,
    WHITE,
    Clip,
    fonts_found,
    pairs_of,
    plan,
    write,
)
from curation.operator import Input
from pipelines.config import load_config
from pipelines.engine.store.store import Store
from pipelines.reports.recorded_rows import recorded_rows
from pipelines.text_to_video import build
from tests.curation.captioning import Captioner, served

RULES: dict[str, tuple[str, dict[str, float]]] = {
    TEXT: ("text_frames", {"max": 0.1}),
    BANNER: ("text_stable", {"max": 0.0005}),
    CAPTION: ("caption_agreement", {"min": 0.5}),
    DARK: ("luma", {"min": 0.08}),
    WHITE: ("white_clipped", {"max": 0.3}),
    BLUR: ("sharpness", {"min": 3}),
    BARS: ("black_bars", {"max": 0.02}),
    STUCK: ("duplicate_frames", {"max": 0.3}),
    COMBS: ("combed_frames", {"max": 0.3}),
}
"""Fault -> the score that tells it, and its limit: those of docs/scores.md."""
OF_FILMS = {"caption_agreement": None, "sharpness": {"min": 20}}
"""Other limits for films: their captions can be judged by no measurement, and scenes of one shape have few edges."""
LARGE = 12
"""Pixels of capitals above which text has to be found."""


def run(work: Path, plain: bool) -> Callable[[str], pa.Table]:
    """Curate what is not curated yet; gives the rows of a stage."""
    scores: dict[str, Any] = dict(RULES.values())
    with served(Captioner()) as captioner:
        endpoint = {"url": captioner.url, "model": "measure", "in_flight": 2}
        changes = {
            "data": {"manifest": str(work / "clips.csv")},
            "ingest": {"media_dir": str(work / "clips")},
            "select": {
                "min_fps": None,
                "scores": scores,
                "sources": {"films": {"scores": OF_FILMS}},
                "near_duplicates": "best",
            },
            "scores": {"quality": {}, "text": {}, "samples": 5},
            "caption": {"endpoint": endpoint, "style": "short", "short_side": 160, "use": "original"},
            "duplicates": {},
        }
        overrides = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
        if plain:
            plain_stages.run(build(load_config("folder", overrides)).until("curation_page"), work / "plain")
            return lambda stage: Input(work / "plain" / stage).rows()
        lumina = [str(Path(sys.executable).with_name("lumina")), "run", "folder", "--store", str(work / "runs")]
        words = [part for override in overrides for part in ("-o", override)]
        if subprocess.run([*lumina, "--until", "curation_page", *words], check=False).returncode:
            raise SystemExit("the run ended with an error, see above; the same command goes on")
    store = Store(work / "runs")
    record = store.get_run(None)
    return lambda stage: recorded_rows(store, record, stage).to_table()


def found(rows_of: Callable[[str], pa.Table]) -> dict[str, dict[str, Any]]:
    """What the run found of each clip, by the name of its file."""
    rows = dict[str, dict[str, Any]]()
    for stage in ("select", "duplicates", "scores", "caption"):
        for row in rows_of(stage).to_pylist():
            rows[row["clip_id"]] = row | rows.get(row["clip_id"], {})
    return {Path(row["uri"]).name: row for row in rows.values()}


def fails(row: Mapping[str, Any], fault: str) -> bool:
    """Whether a clip fails the rule of a fault."""
    return f"score:{RULES[fault][0]}" in row["failed_rules"]


def line(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def share(part: int, whole: int) -> str:
    """A share and its numbers."""
    return f"{part / whole:.3f} ({part}/{whole})" if whole else "-"


def faults(clips: Sequence[Clip], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what is found of the faults that a score tells."""
    print(line("fault", "rule", "precision", "recall", "false alarms, by what was planted"))
    print(line(*["---"] * 5))
    for fault, (score, limit) in RULES.items():
        judged = [clip for clip in clips if fault not in clip.unsure]
        if fault == CAPTION:
            judged = [clip for clip in judged if clip.source == "shapes"]
        true = {clip.name for clip in judged if fault in clip.faults}
        told = {clip.name for clip in judged if fails(rows[clip.name], fault)}
        false = Counter(clip.kind for clip in judged if clip.name in told - true)
        rule = " ".join([score, *(f"{end} {bound:g}" for end, bound in limit.items())])
        print(line(fault, f"`{rule}`", share(len(told & true), len(told)), share(len(told & true), len(true)),
                   ", ".join(f"{kind} {number}" for kind, number in false.items()) or "none"))  # fmt: skip


def titles(clips: Sequence[Clip], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what is found of titles, by their height."""
    print(line("capitals, pixels", "found", "read"))
    print(line(*["---"] * 3))
    drawn = [clip for clip in clips if clip.kind == "title"]
    for label, heights in [*((str(one), {one}) for one in HEIGHTS), (f"above {LARGE}", {*range(LARGE + 1, 99)})]:
        ours = [clip for clip in drawn if clip.text_px in heights]
        # Words that do not fit in beside each other are drawn without those behind the first.
        was_read = [any(_letters(said) in (_letters(clip.words), _letters(clip.words.split()[0]))
                        for said in rows[clip.name]["text_lines"] or ()) for clip in ours]  # fmt: skip
        print(line(label, share(sum(fails(rows[clip.name], TEXT) for clip in ours), len(ours)),
                   share(sum(was_read), len(ours))))  # fmt: skip


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def copies(clips: Sequence[Clip], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what is found of copies, and pairs of different clips that are taken for copies."""
    print(line("copy", "found"))
    print(line(*["---"] * 2))
    together, made = Counter[str](), Counter[str]()
    for clip, first in pairs_of(clips):
        group = "family" if clip.kind == "mirrored" else "cluster"
        made[clip.kind] += 1
        together[clip.kind] += rows[clip.name][group] == rows[first][group]
    for kind in COPIES:
        print(line(kind, share(together[kind], made[kind])))
    for group in ("cluster", "family"):
        pairs = list(mixed(clips, rows, group))
        print(line(f"pairs of different clips in a {group}", len(pairs)))
        for pair in pairs:
            print(line(*pair))


def mixed(clips: Sequence[Clip], rows: Mapping[str, Mapping[str, Any]], group: str) -> Collection[tuple[str, str]]:
    """Pairs of clips that are together and show different things."""
    members: dict[str, list[Clip]] = {}
    for clip in clips:
        members.setdefault(rows[clip.name][group], []).append(clip)
    return [(one.name, other.name) for ours in members.values() for at, one in enumerate(ours)
            for other in ours[at + 1 :] if one.base != other.base]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and the store")
    parser.add_argument("--clips", type=int, default=300, help="how many, about")
    parser.add_argument("--films", type=Path, help="folder with the films of `planted_clips.py`")
    parser.add_argument("--plain", action="store_true", help="the same stages in this process, without Ray")
    args = parser.parse_args()
    work = args.work.resolve()
    clips, began = plan(args.clips, args.films), time.monotonic()
    write(work / "clips", clips)
    written = time.monotonic()
    rows = found(run(work, args.plain))
    took = time.monotonic() - written
    aside = Counter(row["reason"] for row in rows.values() if row["reason_stage"] not in (None, "select"))
    for table in (faults, titles, copies):
        table(clips, rows)
        print()
    print(f"{len(clips)} clips, written in {written - began:.0f} s and curated in {took:.0f} s")
    print(f"fonts: {', '.join(fonts_found())}")
    print(f"set aside before selection: {dict(aside) or 'none'}")


if __name__ == "__main__":
    main()
