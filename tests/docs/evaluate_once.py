"""Evaluates a tiny checkpoint with whatever metrics the program in this directory has.

`python evaluate_once.py FOLDER` prints the figures as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jobs import clips
from jobs.context import InputRef, JobContext
from jobs.evaluate import EvaluateConfig, run
from jobs.runtime import RuntimeConfig
from lumina.checkpoints import save_model
from lumina.evaluation.prompts import ShapesSuite
from lumina.evaluation.selection import METRICS_FILE
from lumina.flow_matching.schedules import SamplerConfig
from lumina.models.config import NextDiTConfig
from lumina.system_prompts import PROMPT_START, SystemPrompt, write_system_prompts
from tests.jobs.here import PoolHere
from tests.lumina.tiny import dit_without_zeros, save_parts

MODEL = NextDiTConfig(dim=32, n_layers=1, n_heads=2, multiple_of=16, cap_feat_dim=24, patch_sizes=((1, 2, 2),))
SAMPLER = SamplerConfig(steps=2, patches=((0.0, (1, 2, 2)),), guidance=((0.0, 1.0),))


def main(root: Path) -> None:
    """Run the job of `evaluate@web`."""
    clips.hand_out = PoolHere()
    save_model(dit_without_zeros(0.1, MODEL), root / "train" / "transformer_ema")
    vae, text_encoder = save_parts(root)
    for folder in ("tag", "out", "work"):
        (root / folder).mkdir()
    write_system_prompts(root / "tag" / "system_prompts.json", [SystemPrompt("web", f"Web videos.{PROMPT_START}")])
    config = EvaluateConfig(
        source="web", suite=ShapesSuite(count=2), sampler=SAMPLER, num_frames=8, height=32, width=32, samples=1,
        resamples=100,
    )  # fmt: skip
    run(
        JobContext(
            stage="evaluate@web",
            fingerprint="f" * 64,
            operator="",
            config=config,
            runtime=RuntimeConfig(),
            inputs={"checkpoint": InputRef("train@2", root / "train", ""), "tag": InputRef("tag", root / "tag", "")},
            weights={"vae": str(vae), "text_encoder": str(text_encoder)},
            media_root="",
            out=root / "out",
            work=root / "work",
            progress=lambda done, total, unit: None,
            log_metrics=lambda metrics, step: None,
        )
    )
    print(json.dumps(json.loads((root / "out" / METRICS_FILE).read_text())["metrics"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
