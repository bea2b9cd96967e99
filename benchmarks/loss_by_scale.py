"""The paper's Figure 3 on the demo's clips: at which t a coarse patch size begins to lose against the finest.

    make demo && python benchmarks/loss_by_scale.py --store runs --out /tmp/figure3

The demo's own network is 128 wide, and a token of patch (2, 4, 4) holds 512 numbers of its latents: what does not fit
through cannot be predicted at any t. So a network as wide as that trains here, from nothing, on the demo's videos at
three scales, by the trainer of the project in bfloat16. Prints the loss per t and scale over the last fifth of the
steps, where each coarse scale loses, and draws the plots that every training stage has.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import torch

from jobs.train_plots import draw, late_bins, summary
from lumina.files import read_jsonl
from lumina.models.config import NextDiTConfig
from lumina.training.data.latents import LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from pipelines.engine.store.store import Store


def newest(store: Store, stage: str) -> Path:
    """Output of a stage that was computed last."""
    manifests = store.manifests(stage)
    if not manifests:
        raise SystemExit(f"{store.root} has no output of {stage}: run `make demo` first")
    return store.output(max(manifests, key=lambda manifest: manifest.started))


def config(args: argparse.Namespace) -> TrainStageConfig:
    """Three scales of the demo's videos in every step."""
    model = NextDiTConfig(
        dim=args.dim,
        n_layers=args.layers,
        n_heads=args.dim // 64,
        multiple_of=64,
        cap_feat_dim=128,
        rope_theta=0.5,
    )
    tasks = [
        {"name": name, "media": "video", "patch": patch, "time_shift": 1.0, "batch_size": 16}
        for name, patch in (("video-1x2", (1, 2, 2)), ("video-2x2", (2, 2, 2)), ("video-2x4", (2, 4, 4)))
    ]
    values = {"lr": args.lr, "warmup_steps": min(50, args.steps), "lr_decay": "cosine", "initialisation": "conditioned"}
    return TrainStageConfig.model_validate(
        {"steps": args.steps, "tasks": tasks, "model": model, "precision": "bf16", **values}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="store of a finished demo")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics and plots")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    store, stage = Store(args.store), config(args)
    data = LatentDataset([newest(store, "encode_latents@videos")], newest(store, "encode_text"))
    began = time.monotonic()
    trainer = Trainer(VideoWorkload(stage, data), LoopSettings(work=args.out, checkpoint_every=200))
    trainer.run()
    rows = read_jsonl(args.out / "metrics.jsonl")
    settings = stage.model_dump(mode="json")
    bins = late_bins(rows, [task.name for task in stage.tasks])
    print(f"{stage.steps} steps, {time.monotonic() - began:.0f} s; mean squared error, and in units of the finest")
    print("  t    " + "".join(f"{task.name:>11}" for task in stage.tasks))
    for index in sorted(set.intersection(*(set(values) for values in bins.values()))):
        values = [bins[task.name][index] for task in stage.tasks]
        ratios = "".join(f"{value / values[0]:8.2f}" for value in values[1:])
        print(f"  {(index + 0.5) / 20:.3f}" + "".join(f"{value:11.3f}" for value in values) + ratios)
    for key, value in summary(rows, settings).items():
        if "crossing" in key or "last_loss" in key:
            print(f"{key:32} {value:.3f}")
    print(", ".join(str(args.out / name) for name in draw("train", rows, settings, args.out)))


if __name__ == "__main__":
    main()
