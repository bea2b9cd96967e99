"""What the pages take for granted: clips, manifests, an exported checkpoint, stores with runs."""

from __future__ import annotations

import csv
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from curation.selection import SelectConfig
from lumina.randomness import generator
from lumina.video import write_h264
from pipelines.engine.runner import run
from pipelines.engine.store.store import Store
from pipelines.load import CONFIGS
from tests.pipelines.curated import Curated, make_clips
from tests.pipelines.reports.page.toy_run import pipeline
from tests.pipelines.toy import EXECUTE, identifier

RUNS = ("my-run", "another-run")
"""Names of runs on the pages."""


def make_desk(root: Path) -> Path:
    """A folder with the files that the pages name: manifests with their clips, and a config of one's own."""
    root.mkdir()
    rows = [{"video": f"clips/{n}.mp4", "caption": f"a square number {n}", "source": ("web", "phone")[n % 2]}
            for n in range(6)]  # fmt: skip
    for number, row in enumerate(rows):
        _clip(root / row["video"], number)
    _table(root / "clips.csv", [row | {"aesthetic": str(4 + n)} for n, row in enumerate(rows)])
    _clip(root / "my_videos" / "clip.mp4", 7)
    (root / "my_videos" / "clip.txt").write_text("a square that moves")
    _clip(root / "videos" / "abc.mp4", 8)
    span = "[['0:00:00.000', '0:00:02.000']]"
    _table(root / "panda70m.csv", [{"videoID": "abc", "timestamp": span, "caption": "['a square']"}])
    (root / "vggsound.csv").write_text("---g-f_I2yQ,1,a square,test\n")
    scores = {"aesthetic score": "5", "motion score": "3"}
    _table(root / "OpenVid-1M.csv", [{"video": "one.mp4", "caption": "a square", **scores}])
    with zipfile.ZipFile(root / "OpenVid_part0.zip", "w") as archive:
        archive.write(root / "clips" / "0.mp4", "one.mp4")
    _table(root / "scores.csv", [{"source": "web", "total": "80.1"}, {"source": "phone", "total": "82.5"}])
    shutil.copyfile(CONFIGS / "folder.yaml", root / "my.yaml")
    (root / "shards").mkdir()
    with tarfile.open(root / "shards" / "train-000.tar", "w") as archive:
        archive.add(root / "clips" / "0.mp4", "0.mp4")
        archive.add(root / "my_videos" / "clip.txt", "0.txt")
    (root / "mixtures.yaml").write_text("all: {}\nno web: {train.2.tasks.0.source_weights: {web: 0}}\n")
    return root


def make_checkpoint(desk: Path) -> None:
    """The checkpoint `exported`, tiny networks and the system prompts that the pages name, and `adapter_ema` for it."""
    from lumina.diffusers_export.layout import write_diffusers
    from lumina.training.stage import LoraConfig
    from lumina.training.weights.lora import add_adapters, save_adapter
    from tests.lumina.tiny import text_to_video

    model = text_to_video()
    prompts = {"synthetic": replace(model.system_prompts["clean"], source="synthetic"), **model.system_prompts}
    replace(model, system_prompts=prompts).save_pretrained(desk / "exported")
    write_diffusers(desk / "exported")
    add_adapters(model.transformer, LoraConfig(), torch.Generator().manual_seed(0))
    trained = {name: value for name, value in model.transformer.named_parameters() if value.requires_grad}
    save_adapter(trained, LoraConfig(), desk / "adapter_ema")


def make_compared(root: Path) -> Path:
    """A folder whose store has two runs with evaluations, a choice and a fine-tuned model."""
    root.mkdir()
    for name, rate in zip(RUNS, (0.9, 0.5), strict=True):
        made = pipeline(("web", rate), ("phone", 0.4))
        assert run(made, Store(root / "runs"), EXECUTE, identifier=identifier(), name=name, run_id=name).ok
    shutil.copytree(root / "runs", root / "shared" / "runs", symlinks=True)
    return root


def make_curated(root: Path) -> Path:
    """A folder whose store has two runs of curation under other policies, with broken clips."""
    curated = Curated(root / "runs", make_clips(root / "media"))
    for name, policy in zip(RUNS, (SelectConfig(min_fps=8), SelectConfig(min_caption_chars=6)), strict=True):
        curated.run(name, policy, name)
    return root


def _clip(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    texture = generator(number, "docs").integers(0, 255, (64, 64, 3), dtype=np.uint8)
    write_h264(path, np.stack([np.roll(texture, step * (1 + number), axis=1) for step in range(24)]), fps=8)


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
