"""The whole walk: released files to a model, an adapter, an export, and one clip by every way there is to make it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from jobs import clips, export, serve
from jobs.context import InputRef, JobContext
from jobs.runtime import RuntimeConfig
from jobs.serve_request import Limits, read_served
from lumina.assemble import RELEASED_PROMPTS
from lumina.flow_matching.schedules import SamplerConfig
from lumina.generate import TextToVideo
from lumina.generation_config import GenerationConfig
from lumina.models.config import RELEASED_MODELS
from lumina.system_prompts import write_system_prompts
from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from lumina.video import write_h264
from pipelines import cli
from tests.docs.pages import commands
from tests.jobs.here import PoolHere
from tests.jobs.test_serve import free_port
from tests.lumina import tiny
from tests.lumina.hub_cache import SHAPE, make_cache
from tests.lumina.training import toy

SMALL = GenerationConfig(
    num_frames=8,
    width=32,
    height=32,
    sampler=SamplerConfig(steps=2, patches=((0.0, (2, 2, 2)), (0.3, (1, 2, 2)))),
)
PROMPT = "A red circle moves to the right."
OTHERS = ["A blue square.", "a", "Two green triangles that turn around each other."]
STRANGER = """
import sys
for name in ("lumina", "curation", "jobs", "pipelines"):
    sys.modules[name] = None
import numpy as np, torch
from diffusers import DiffusionPipeline
prompt, *others = sys.argv[1:]
def frames(folder, adapter, *asked):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    if adapter:
        pipe.load_lora_weights(adapter)
    return [np.stack([np.stack([np.asarray(image) for image in clip]) for clip in pipe(one).frames]) for one in asked]
[adapted] = frames("lumina-video", "adapter_ema", prompt)
alone, together = frames("exported", None, prompt, [prompt, *others])
np.savez("frames.npz", adapted=adapted[0], alone=alone[0], together=together)
"""


def lumina(*words: str) -> str:
    done = CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def typed(*begin: str) -> list[str]:
    """The words of the pages' own command that begins so."""
    return next(list(one.words[1:]) for one in commands() if one.words[1 : 1 + len(begin)] == begin)


def train_adapter(start: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output of a training stage with adapters, after two steps on toy data."""
    monkeypatch.setattr(toy, "CHANNELS", SHAPE.in_channels)
    monkeypatch.setattr(toy, "TEXT_WIDTH", SHAPE.cap_feat_dim)
    latents, text = toy.write(root / "toy", videos=2, images=2)
    config = toy.stage(2, model=SHAPE, tasks=(toy.FINE,), lr=0.1, lora={"rank": 2})
    trainer = Trainer(VideoWorkload(config, LatentDataset([latents], text)), LoopSettings(work=root / "work"), start)
    trainer.run()
    trainer.export(root / "trained")
    return root / "trained"


def run_export(root: Path, checkpoint: Path, out: Path) -> None:
    """The stage `export`."""
    (root / "tag" / "data").mkdir(parents=True)
    write_system_prompts(root / "tag" / "system_prompts.json", RELEASED_PROMPTS.values())
    pq.write_table(pa.table({"source": ["released"], "status": ["ok"]}), root / "tag" / "data" / "part-0.parquet")
    out.mkdir()
    export.run(
        JobContext(
            stage="export",
            fingerprint="f" * 64,
            operator="",
            config=export.ExportConfig(**SMALL.model_dump()),
            runtime=RuntimeConfig(),
            inputs={
                "checkpoint": InputRef("finetune", checkpoint, "sha256:1"),
                "tag": InputRef("tag", root / "tag", "sha256:2"),
            },
            weights={"vae": "hf:THUDM/CogVideoX-2b/vae", "text_encoder": "hf:google/gemma-2-2b"},
            media_root="",
            out=out,
            work=root / "work",
            progress=lambda done, total, unit: None,
            log_metrics=lambda metrics, step: None,
        )
    )


def diffusers_frames(root: Path) -> dict[str, NDArray[np.uint8]]:
    """Of somebody who has none of our code."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(root / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STRANGER, PROMPT, *OTHERS]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(root / "frames.npz") as found:
        return dict(found)


def served_clip(checkpoint: str) -> bytes:
    """By HTTP from a server on the cluster of the tests."""
    server = serve.Server("127.0.0.1", free_port(), 1, "cpu", torch.get_num_threads())

    def ask(path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{server.address}{path}", data, {"content-type": "application/json"})  # noqa: S310
        with urlopen(request, timeout=60) as answer:  # noqa: S310  (our own)
            return bytes(answer.read())

    with serve.serving(server, read_served(checkpoint), Limits()):
        job = json.loads(ask("/v1/videos", {"prompt": PROMPT}))
        while job["status"] != "completed":
            assert job["status"] != "failed", job["error"]
            time.sleep(0.05)
            job = json.loads(ask(f"/v1/videos/{job['id']}"))
        return ask(f"/v1/videos/{job['id']}/content")


def as_file(frames: NDArray[np.uint8], path: Path) -> bytes:
    write_h264(path, frames, SMALL.fps)
    return path.read_bytes()


@pytest.mark.ray
def test_released_weights_become_a_model_that_makes_one_clip_everywhere(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cache(tmp_path, tiny.dit_without_zeros(0.1, SHAPE))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(RELEASED_MODELS, "2B_GQA", SHAPE)
    monkeypatch.setattr("lumina.generation_config.released_settings", lambda name: SMALL)
    # The clips of a file are made in this process: what a worker dies of is no matter here.
    monkeypatch.setattr(clips, "hand_out", PoolHere())
    monkeypatch.setattr("jobs.cluster.ensure", lambda runtime: "")
    monkeypatch.setattr("jobs.cluster.shutdown", lambda: None)
    monkeypatch.chdir(tmp_path)

    lumina(*typed("assemble", "lumina-video"))
    trained = train_adapter(tmp_path / "lumina-video" / "transformer", tmp_path, monkeypatch)
    (trained / "adapter_ema").rename(tmp_path / "adapter_ema")
    run_export(tmp_path, trained, tmp_path / "exported")
    (tmp_path / "hub").rename(tmp_path / "gone")  # both hold all that they need

    model = TextToVideo.from_pretrained("exported")
    frames = model(PROMPT).frames[0]
    clip = as_file(frames, tmp_path / "wanted.mp4")
    plain = TextToVideo.from_pretrained("lumina-video")(PROMPT).frames[0]
    assert not np.array_equal(plain, frames)

    words = typed("generate", "--checkpoint", "exported", "--prompt")
    assert PROMPT in words
    lumina(*words)
    assert (tmp_path / words[words.index("--out") + 1]).read_bytes() == clip
    words = typed("generate", "--checkpoint", "exported", "--adapter")
    lumina(*("lumina-video" if word == "exported" else word for word in words[:-1]), "adapted.mp4")
    assert (tmp_path / "adapted.mp4").read_bytes() == clip
    (tmp_path / "prompts.csv").write_text(f"prompt,seed,output\n{PROMPT},0,one\n")
    lumina(*typed("generate", "--checkpoint", "exported", "--prompts"))
    [row] = map(json.loads, (tmp_path / "clips" / "manifest.jsonl").read_text().splitlines())
    assert row["frames_sha256"] == hashlib.sha256(frames.tobytes()).hexdigest()
    assert (tmp_path / "clips" / "one.mp4").read_bytes() == clip
    assert served_clip(str(tmp_path / "exported")) == clip

    strangers = diffusers_frames(tmp_path)
    np.testing.assert_array_equal(strangers["alone"], frames)
    np.testing.assert_array_equal(strangers["adapted"], frames)
    together = model([PROMPT, *OTHERS]).frames
    np.testing.assert_array_equal(strangers["together"], together)
    for one, prompt in zip(together, [PROMPT, *OTHERS], strict=True):
        assert np.abs(one.astype(int) - model(prompt).frames[0]).max() <= 1
