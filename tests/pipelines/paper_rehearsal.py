"""A rehearsal of the paper's run: the structure of `paper.yaml`, with tiny networks and a few rendered clips."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from PIL import Image

from lumina.randomness import generator
from lumina.shapes import caption, render, sample_scene
from lumina.video import write_h264
from pipelines.config import PipelineConfig, load_config

VIDEO_SOURCES = ("openvid", "panda", "synthetic")
IMAGE_SOURCE = "journeydb"
_DIMENSION = "temporal_flickering"
_FPS, _FRAMES, _SIZE = 24, 27, 128


def write_clips(folder: Path, videos: int, images: int) -> Path:
    """A manifest as the paper's data: images are a source of their own, the others hold videos."""
    folder.mkdir()
    rows = []
    for source, count in ((IMAGE_SOURCE, images), *((source, videos) for source in VIDEO_SOURCES)):
        for index in range(count):
            rng = generator(0, "rehearsal", source, str(index))
            scene = sample_scene(rng, num_shapes=1)
            text = f"{caption(scene, rng)} {index}"
            name = f"{source}-{index}" + (".png" if source == IMAGE_SOURCE else ".mp4")
            count_frames = 1 if source == IMAGE_SOURCE else _FRAMES
            frames = render(scene, num_frames=count_frames, height=_SIZE, width=_SIZE, fps=_FPS)
            if source == IMAGE_SOURCE:
                Image.fromarray(frames[0]).save(folder / name)
            else:
                write_h264(folder / name, frames, fps=_FPS)
            rows.append({"video": name, "caption": text, "source": source})
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "clips.csv"


def _prompts(folder: Path) -> Path:
    """A prompt file as VBench's."""
    path = folder / "VBench_full_info.json"
    path.write_text(json.dumps([{"prompt_en": text, "dimension": [_DIMENSION]} for text in ("a dog", "a red car")]))
    return path


def rehearsal(manifest: Path) -> PipelineConfig:
    """`paper.yaml` with the same stages, tasks and rules in small: sizes and steps alone are other ones."""
    paper = load_config("paper", needs_clips=False)
    changes = {
        "data.manifest": str(manifest),
        "weights": {"vae": "zoo:vae", "text_encoder": "zoo:text_encoder", "unimatch": "zoo:unimatch"},
        "motion": {"estimator": "unimatch", "height": 64, "width": 64, "samples": 3},
        "model": {"dim": 64, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "multiple_of": 32, "cap_feat_dim": 128},
        "select.heldout_fraction": 0.3,
        "runtime.train_workers": 1,
        "runtime.curation_workers": 2,
        "runtime.use_gpu": False,
        "runtime.validation_clips": 1,
    }
    # A twelfth of the sides, in whole cells.
    for name, one in paper.latents.items():
        changes[f"latents.{name}.resolution"] = {256: 32, 512: 64, 960: 96}[one.resolution]
        if name in paper.select.sets:
            changes[f"select.sets.{name}.min_area"] = int(paper.select.sets[name].min_area / 80)
    for key, training in paper.training().items():
        changes |= {f"{key}.steps": 1, f"{key}.compile": False}
        changes |= {f"{key}.tasks.{index}.batch_size": 2 for index in range(len(training.tasks))}
    for branch in paper.branches():
        for section, one in (("evaluate", branch.evaluate), ("export", branch.export)):
            key = f"{branch.prefix}{section}"
            sampler = one.sampler.model_copy(update={"steps": 3}).model_dump(mode="json")
            changes |= {f"{key}.sampler": sampler, f"{key}.num_frames": 16, f"{key}.width": 64, f"{key}.height": 32}
        # Without weights, one dimension has a judge.
        suite = {"kind": "vbench", "prompts": str(_prompts(manifest.parent)), "dimensions": [_DIMENSION]}
        changes |= {f"{branch.prefix}evaluate.suite": suite, f"{branch.prefix}evaluate.resamples": 100}
        changes[f"{branch.prefix}evaluate.samples"] = 1
        changes[f"{branch.prefix}choose.score"] = {f"vbench_native/{_DIMENSION}": 1.0}
        changes[f"{branch.prefix}choose.resamples"] = 100
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
    return load_config("paper", [f"{key}={text}" for key, text in texts.items()])
