"""Starting an engine of DeepSpeed: what a worker imports for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.lumina.training import toy

START = """
import sys
from pathlib import Path

from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from tests.lumina.training import toy

latents, text, work = map(Path, sys.argv[1:])
Trainer(VideoWorkload(toy.stage(), LatentDataset([latents], text)), LoopSettings(work=work))
assert "deepspeed" in sys.modules
assert "mlflow" not in sys.modules
import mlflow
"""


def test_a_worker_does_without_mlflow_and_can_import_it_later(tmp_path: Path) -> None:
    latents, text = toy.write(tmp_path / "data", videos=6, images=2)
    command = [sys.executable, "-c", START, *map(str, (latents, text, tmp_path / "work"))]
    subprocess.run(command, env={**os.environ, "DS_ACCELERATOR": "cpu"}, check=True)
