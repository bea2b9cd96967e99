"""A small fuzz run over the whole of curation; `benchmarks/fuzz_curation.py` is the large one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.decode import ProbeConfig
from curation.latents import EncodeLatentsConfig
from curation.manifests import IngestConfig
from curation.motion_scores import MotionConfig
from curation.selection import SelectConfig
from curation.sources import TagConfig
from jobs.context import InputRef
from jobs.runtime import RuntimeConfig
from lumina.randomness import generator
from lumina.shapes import SOURCES, film, sample_scene
from lumina.video import write_h264
from tests.curation.fuzz import make_files, vanish
from tests.jobs.chain import Chain
from tests.lumina.tiny import autoencoder


def bases(folder: Path) -> list[Path]:
    """A few Shapes clips and a still."""
    folder.mkdir()
    for number, source in enumerate(("synthetic", "handheld", "web")):
        rng = generator(1, "fuzz base", number)
        frames = film(sample_scene(rng), SOURCES[source], rng, num_frames=35, height=96, width=96, fps=16)
        write_h264(folder / f"{number}.mp4", frames, 16)
    cv2.imwrite(str(folder / "still.png"), np.ascontiguousarray(frames[0][..., ::-1]))
    return sorted(folder.iterdir())


def curate(chain: Chain, media: Path) -> None:
    """All stages up to latents; what is to vanish does so after ingest."""
    chain.refs["manifest"] = InputRef("manifest", media / "clips.csv", "")
    chain.run("ingest", "curation.manifests:INGEST_OPERATOR", IngestConfig(), manifest="manifest")
    vanish(media)
    chain.run("probe", "tests.jobs.hostile:PROBE", ProbeConfig(), clips="ingest")
    motion = MotionConfig(estimator="dis", height=64, width=64)
    chain.run("motion", "tests.jobs.hostile:MOTION", motion, clips="probe")
    chain.run("tag", "curation.sources:TAG_OPERATOR", TagConfig(template="From {source}."), clips="probe")
    inputs = {"clips": "probe", "motion": "motion", "tag": "tag"}
    chain.run("select", "curation.selection:SELECT_OPERATOR", SelectConfig(), **inputs)
    latents = EncodeLatentsConfig(resolution=64, num_frames=9)
    chain.run("latents", "tests.jobs.hostile:LATENTS", latents, select="select", tag="tag")


@pytest.mark.ray
def test_every_file_is_accounted_for(tmp_path: Path, ray_cluster: None) -> None:
    media = tmp_path / "media"
    media.mkdir()
    kinds = make_files(media, bases(tmp_path / "bases"), 60, rare=30)
    autoencoder().save_pretrained(tmp_path / "vae")
    chain = Chain(tmp_path / "run", media, {"vae": str(tmp_path / "vae")})
    chain.runtime = RuntimeConfig(decode_timeout_s=5)
    curate(chain, media)
    rows = chain.by_uri("latents")
    assert set(rows) == set(kinds)
    reasons = Counter((kinds[name], row["status"], row["reason"]) for name, row in rows.items())
    for kind, status, reason in reasons:
        if kind == "intact":
            assert status == "ok", reasons
        if kind in ("empty", "directory", "loop"):
            assert status != "ok", reasons
        assert reason != "internal_error", reasons
    assert {reason for kind, _, reason in reasons if kind == "hang"} == {"decode_timeout"}
    assert {reason for kind, _, reason in reasons if kind == "crash"} == {"decode_crashed"}
