"""Time the training loop against a plain one in the released style, on the data of a finished demo.

    make demo                                          # once; or any store that `lumina run demo` has filled
    python benchmarks/training.py --store runs

Trains the demo's stage `train@3` (images and videos at three scales) from the weights of `train@2`, in float32 on one
thread, in one process. The loops take turns: ten steps of ours, ten of the plain one (`plain_training.py`) that reads
latents, ten of it with the images encoded in the step as released. Ours prepares batches on a second thread, which is
idle in the others' turns; CPU time counts it, wall time on a free core does not. Both train the same weights on the
same clips in batches of the same size, and the script first checks that their losses agree on the same batches.

Then, without a clock: what of the batches is padding, how equal the workers' shares are, and how fast latents are read.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import numpy as np
import pyarrow.dataset as ds
import reading
import torch
from imbalance import print_imbalance
from plain_training import Item, PlainTrainer
from torch import Tensor

from lumina import checkpoints, zoo
from lumina.files import read_jsonl
from lumina.models.text_encoder import TextEncoder
from lumina.sizes import SPATIAL_COMPRESSION, resize_crop
from lumina.training.data.latents import Clip, LatentDataset
from lumina.training.loop_config import LoopSettings
from lumina.training.objective import MicroBatch
from lumina.training.stage import TrainStageConfig
from lumina.training.trainer import Trainer
from lumina.training.video_workload import VideoWorkload
from pipelines.engine.store.store import Store
from pipelines.errors import StoreError

ZOO = Path(zoo.__file__).parent
STAGE = "train@3"
TOLERANCE = 1e-4
"""Relative difference of two losses of one batch that is rounding."""
READER_BYTES = 64 << 20
"""What the reader may keep of the clips that it reads: a part of them, as in a large data set."""


@dataclass(frozen=True)
class Demo:
    """What a finished run of the demo left for the stage."""

    config: TrainStageConfig
    dataset: LatentDataset
    init: Path
    prompts: dict[str, str]
    """Text id to what the text encoder reads."""
    images: dict[str, Path]
    """Clip id of each image to its file."""


def find(store: Path, steps: int) -> Demo:
    """Look up the newest run in `store`; SystemExit says what is missing."""
    try:
        record = Store(store).get_run("demo")
    except StoreError as error:
        raise SystemExit(f"{error}: make one with `make demo`, or give its --store") from error
    paths = {name: store / stage.path for name, stage in record.stages.items() if stage.path}
    needed = ("select", "encode_text", "encode_latents@images", "encode_latents@videos", "train@2", STAGE)
    missing = [name for name in needed if name not in paths]
    if missing:
        raise SystemExit(f"{store}: the newest run of the demo lacks {', '.join(missing)}: finish it with `make demo`")
    recipe = json.loads((paths[STAGE].parent / "MANIFEST.json").read_text())["recipe"]["config"]
    known = {key: value for key, value in recipe.items() if key in TrainStageConfig.model_fields}
    config = TrainStageConfig.model_validate(known | {"steps": steps, "warmup_steps": 0, "precision": "fp32"})
    latents = [paths["encode_latents@images"], paths["encode_latents@videos"]]
    texts = ds.dataset(paths["encode_text"] / "data").to_table(["text_id", "prompt"])
    clips = ds.dataset(paths["select"] / "data").to_table(["clip_id", "uri", "media"]).to_pylist()
    media = store / record.media_root
    return Demo(
        config,
        LatentDataset(latents, paths["encode_text"]),
        paths["train@2"] / "transformer",
        dict(zip(texts["text_id"].to_pylist(), texts["prompt"].to_pylist(), strict=True)),
        {row["clip_id"]: media / row["uri"] for row in clips if row["media"] == "image"},
    )


def items_of(demo: Demo, clips: Sequence[Clip], folder: Path) -> list[Item]:
    """Write the pickles that the plain loop reads."""
    from PIL import Image

    items = []
    for clip in clips:
        whole = demo.dataset._latents.read(clip.row)
        latent = _pickled(folder / f"{clip.clip_id}.{clip.bucket}.pkl", {"latent": whole.clone()})
        pixels = None
        if clip.media == "image":
            size = (clip.shape[3] * SPATIAL_COMPRESSION, clip.shape[2] * SPATIAL_COMPRESSION)
            frame = resize_crop(np.asarray(Image.open(demo.images[clip.clip_id]).convert("RGB"))[None], size)
            scaled = torch.from_numpy(frame).permute(3, 0, 1, 2).float() / 127.5 - 1
            pixels = _pickled(folder / f"{clip.clip_id}.pixels.pkl", {"pixels": scaled})
        prompt, alone = demo.prompts[clip.text_id], demo.prompts[clip.text_id_dropped]
        items.append(Item(latent, pixels, prompt, alone, clip.motion_score, clip.shape[1]))
    return items


def _pickled(path: Path, value: dict[str, Tensor]) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def plain_trainers(demo: Demo, folder: Path) -> dict[str, PlainTrainer]:
    """The plain loop, reading latents, and with images that its VAE encodes."""
    from diffusers import AutoencoderKLCogVideoX

    items = []
    for task in demo.config.tasks:
        chosen = [clip for clip in demo.dataset.clips if clip.media == task.media]
        shapes = {clip.shape for clip in chosen}
        if len(shapes) > 1:
            raise SystemExit(f"task {task.name}: the plain network takes clips of one shape, but these have {shapes}")
        items.append(items_of(demo, chosen, folder))
    model = checkpoints.load_model(demo.init, torch.device("cpu"), torch.float32)
    encoder = TextEncoder.from_pretrained(ZOO / "text_encoder")
    vae = AutoencoderKLCogVideoX.from_pretrained(ZOO / "vae", low_cpu_mem_usage=False).eval().requires_grad_(False)
    return {
        name: PlainTrainer(demo.config, copy.deepcopy(model), items, encoder, network)
        for name, network in (("plain", None), ("plain with VAE", vae))
    }


def check_losses(demo: Demo, trainer: Trainer, plain: PlainTrainer) -> float:
    """Largest relative difference of the two loops' losses on the first batches; SystemExit if it is no rounding."""
    worst = 0.0
    for task, data in zip(demo.config.tasks, trainer.tasks, strict=True):
        chosen = data.items(data.plan.micro_batches(0, 0, 1)[0])
        batch = trainer.objective.micro_batch(0, task, chosen)
        ids = [
            clip.text_id if torch.equal(text, demo.dataset.text(clip.text_id)) else clip.text_id_dropped
            for (_, clip), text in zip(chosen, batch.text, strict=True)
        ]
        features = plain.encode([demo.prompts[text] for text in ids])
        with torch.no_grad():
            ours = trainer.objective.losses(trainer.engine.module, batch, torch.float32, torch.device("cpu"))
            mse, direction = plain.losses(batch.x_1, batch.x_0, batch.t.tolist(), features, batch.motion.tolist(), task)
        for one, other in ((ours.task, mse), (ours.direction, direction)):
            worst = max(worst, float(((one - other).abs() / one.abs()).max()))
    if worst > TOLERANCE:
        raise SystemExit(f"the losses of the two loops differ by {worst:.1e}: nothing to compare")
    return worst


@dataclass
class Turn:
    """Some steps of one loop."""

    wall_s: float
    cpu_s: float


@dataclass
class Padding:
    """Numbers in what the network was given, and how many of them are data."""

    numbers: int = 0
    data: int = 0
    keys: int = 0
    """Caption keys that attention computes with on this device."""
    real_keys: int = 0

    def add(self, x: Any, text: Sequence[Tensor], batch: MicroBatch) -> None:
        """Count one forward pass: `x` and `text` went in for `batch`."""
        latents = x.numel() if isinstance(x, Tensor) else sum(one.numel() for one in x)
        self.numbers += latents + sum(one.numel() for one in text)
        self.data += sum(one.numel() for one in batch.x_1) + sum(one.numel() for one in batch.text)
        self.keys += len(text) * max(map(len, text))
        self.real_keys += sum(map(len, text))


class InTurns(Trainer):
    """The real loop, which stops every `length` steps, after `warm_up` ones, to let the others have their turn."""

    def prepare(self, others: Callable[[], None], warm_up: int, length: int) -> None:
        """Set up the turns; call it once, before `run`."""
        self.others, self.warm_up, self.length = others, warm_up, length
        self.turns: list[Turn] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.spent: defaultdict[str, float] = defaultdict(float)
        """Seconds of each part in all turns so far."""
        self.padding = Padding()
        self._made, self._taken, self._begun = 0, 0, (0.0, 0.0)
        inner, losses = self.engine._engine, self.objective.losses
        inner.backward = self._timed("backward", inner.backward)
        inner.step = self._timed("optimizer", inner.step)

        def watched(model: Any, batch: MicroBatch, *rest: Any) -> Any:
            def network(x: Any, t: Tensor, text: Any, motion: Tensor, patch: Any) -> Any:
                self.padding.add(x, text, batch)
                return model(x, t, text, motion, patch)

            return losses(network, batch, *rest)

        self.objective.losses = self._timed("forward", watched)  # type: ignore[method-assign]
        self.ema.update = self._timed("EMA", self.ema.update)  # type: ignore[method-assign]
        self._make = self._timed("second thread", super()._micro_batch)

    def _timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begun = time.perf_counter()
            result = work(*args)
            self.seconds[part] += time.perf_counter() - begun
            return result

        return timed

    def _micro_batch(self, one: Any) -> Any:
        made = self._make(one)
        self._made += 1
        return made

    def _optimizer_step(self, step: int, batches: Iterator[Any]) -> None:
        if step >= self.warm_up and (step - self.warm_up) % self.length == 0:
            self._turn(step)
        super()._optimizer_step(step, self._waited(batches))

    def _waited(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            begun = time.perf_counter()
            batch = next(batches)
            self.seconds["data"] += time.perf_counter() - begun
            self._taken += 1
            yield batch

    def _turn(self, step: int) -> None:
        # Each turn starts and ends with as many batches in hand, so it pays for as many as it uses.
        passes = sum(len(data.plan.micro_batches(0, 0, 1)) for data in self.tasks) * self.config.steps
        while self._made < min(self._taken + self.settings.prefetch, passes):
            time.sleep(1e-4)
        if step > self.warm_up:
            wall, cpu = self._begun
            self.turns.append(Turn(time.perf_counter() - wall, time.process_time() - cpu))
            self.spent = self.seconds.copy()
        else:
            self.seconds.clear()
            self.clock.restart()
        with self.clock.paused():
            self.others()
        self._begun = (time.perf_counter(), time.process_time())


@dataclass
class Others:
    """The plain loops' turns."""

    loops: dict[str, PlainTrainer]
    warm_up: int
    length: int
    turns: dict[str, list[Turn]] = field(default_factory=dict)

    def __call__(self) -> None:
        """One turn of each; the first warms up."""
        for name, loop in self.loops.items():
            if name not in self.turns:
                self.turns[name] = []
                for _ in range(self.warm_up):
                    loop.step()
                loop.seconds.clear()
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(self.length):
                loop.step()
            self.turns[name].append(Turn(time.perf_counter() - wall, time.process_time() - cpu))


def compare(demo: Demo, folder: Path, warm_up: int, length: int, pairs: int) -> None:
    """Print pace, where the time goes, what was waited for, and padding."""
    trainer = InTurns(
        VideoWorkload(demo.config, demo.dataset),
        LoopSettings(work=folder, checkpoint_every=10**9, validation_clips=0),
        demo.init,
    )
    loops = plain_trainers(demo, folder)
    plain = loops["plain"]
    worst = check_losses(demo, trainer, plain)
    print(f"same weights, same batches: losses differ by {worst:.1e} at most (relative)")
    plain.prompt_tokens = plain.padded_tokens = 0
    others = Others(loops, warm_up, length)
    trainer.prepare(others, warm_up, length)
    trainer.run()

    samples = sum(task.batch_size for task in demo.config.tasks)
    table = {"ours": trainer.turns, **others.turns}
    print(f"\n{pairs} turns of {length} steps of {samples} samples, median [least, most]")
    for name, turns in table.items():
        wall = statistics.median(turn.wall_s for turn in turns) / length
        cpu = statistics.median(turn.cpu_s for turn in turns) / length
        print(f"{name:15} {samples / wall:6.1f} samples/s, {1e3 * wall:6.1f} ms and {1e3 * cpu:6.1f} CPU ms a step")
    for name, turns in others.turns.items():
        both = list(zip(turns, trainer.turns, strict=True))
        times = spread([other.wall_s / own.wall_s for other, own in both])
        cpu_times = spread([other.cpu_s / own.cpu_s for other, own in both])
        print(f"ours over {name}: {times} x the samples/s (aim 2), {cpu_times} x per CPU second")

    steps = length * pairs
    seconds = {"ours": trainer.spent, **{name: loop.seconds for name, loop in loops.items()}}
    parts = ("data", "VAE", "text", "forward", "backward", "optimizer", "EMA", "metrics")
    print("\nms a step       " + "".join(f"{part:>10}" for part in (*parts, "rest")))
    for name, spent in seconds.items():
        rest = sum(turn.wall_s for turn in table[name]) - sum(spent[part] for part in parts)
        print(f"{name:15} " + "".join(f"{1e3 * value / steps:10.2f}" for value in (*(spent[p] for p in parts), rest)))
    print(f"batches prepared beside ours, on another thread: {1e3 * trainer.spent['second thread'] / steps:.2f} ms")

    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if row["step"] > warm_up]
    share = sum(row["data_share"] for row in rows) / len(rows)
    print(f"\nshare of time that our loop waited for data: {share:.2%} (aim 2 %)")
    padding = trainer.padding
    print(
        f"padding: {1 - padding.data / padding.numbers:.2%} of {padding.numbers:,} numbers that the network was given "
        f"(aim 0), {1 - padding.real_keys / padding.keys:.1%} of the caption keys that attention pads inside, which it "
        f"does on a CPU alone; the plain loop's text encoder: {1 - plain.prompt_tokens / plain.padded_tokens:.1%}"
    )


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs"), help="a store with a finished run of the demo")
    parser.add_argument("--warm-up", type=int, default=5, help="steps of each loop before the clock starts")
    parser.add_argument("--length", type=int, default=10, help="steps of a turn")
    parser.add_argument("--pairs", type=int, default=7, help="turns of each loop")
    parser.add_argument("--clips", type=int, default=600, help="clips of 688 kB that are read (`reading.py`)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # The last turn ends where a next would start.
    demo = find(args.store, args.warm_up + args.length * args.pairs + 1)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        compare(demo, Path(folder), args.warm_up, args.length, args.pairs)
    print_imbalance([demo.dataset.of_task(task, demo.config) for task in demo.config.tasks])
    print("\nreading latents (aim 0.8 of pyarrow)")
    with tempfile.TemporaryDirectory() as folder:
        reading.compare(Path(folder), args.clips, READER_BYTES, 5)


if __name__ == "__main__":
    main()
