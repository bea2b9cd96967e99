"""Kill `lumina generate --prompts` three times, and compare its clips with those of an undisturbed run.

    python benchmarks/kill_generate.py

A network of the demo's shape with random weights, and its VAE and text encoder. The driver, then a worker, then the
driver again get SIGKILL after as many clips as are drawn from the seed; a driver that was killed is started again with
the same command, as a user would. Prints whether every clip was made once (what was finished before a kill is the same
file afterwards), whether the bytes and the manifest are those of the undisturbed run, and the time that the kills cost.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from lumina import zoo
from lumina.flow_matching.schedules import SamplerConfig
from lumina.generate import TextToVideo
from lumina.generation_config import GenerationConfig
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.models.text_encoder import TextEncoder
from lumina.randomness import generator
from lumina.system_prompts import RELEASED_SYSTEM_PROMPT, SystemPrompt

VICTIMS = ("driver", "worker", "driver")
COLOURS, SHAPES = ("red", "green", "blue", "yellow", "white"), ("circle", "square", "triangle", "cross")
WAYS = ("to the left", "to the right", "up", "down", "in a ring", "not at all", "fast", "slowly", "twice", "again")


def write_model(folder: Path, steps: int) -> None:
    """A directory as `export` writes it."""
    networks = Path(zoo.__file__).parent
    encoder = TextEncoder.from_pretrained(networks / "text_encoder")
    vae = VideoAutoencoder.from_pretrained(networks / "vae")
    config = NextDiTConfig(dim=128, n_layers=4, n_heads=4, multiple_of=32, cap_feat_dim=encoder.feature_dim)
    rng = torch.Generator().manual_seed(0)
    network = MultiScaleNextDiT(config, rng)
    with torch.no_grad():
        for parameter in network.parameters():
            # The released initialisation gives zero velocity.
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng))
    defaults = GenerationConfig(num_frames=8, width=64, height=64, sampler=SamplerConfig(steps=steps))
    prompts = {"all": SystemPrompt("all", RELEASED_SYSTEM_PROMPT)}
    TextToVideo(network.eval(), vae, encoder, prompts, defaults).save_pretrained(folder)


def run(model: Path, prompts: Path, out: Path, workers: int, moments: list[tuple[str, int]]) -> tuple[float, bool]:
    """Generate to the end with kills after so many clips; returns seconds, and whether each clip was made once."""
    began, waiting = time.monotonic(), list(moments)
    kept: list[dict[str, tuple[int, int]]] = []
    driver = start(model, prompts, out, workers)
    while driver.poll() is None:
        if waiting and len(finished(out)) >= waiting[0][1]:
            victim, _ = waiting.pop(0)
            before = kill(victim, driver, out)
            print(f"{victim} killed after {len(before)} clips", flush=True)
            if victim == "driver":
                driver.wait()
                before = finished(out)
                driver = start(model, prompts, out, workers)
            kept.append(before)
        time.sleep(0.02)
    if driver.returncode != 0 or waiting:
        raise SystemExit(f"the driver ended with {driver.returncode}, {len(waiting)} kills to come: {out}.log")
    ended = finished(out)
    once = all(ended[name] == when for before in kept for name, when in before.items())
    return time.monotonic() - began, once


def start(model: Path, prompts: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    words = ["generate", "--checkpoint", str(model), "--prompts", str(prompts), "--out", str(out)]
    program = "import sys; from pipelines.cli import main; sys.argv[0] = 'lumina'; main()"
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", program, *words, "--workers", str(workers)], stdout=log, stderr=log, cwd=REPOSITORY
        )


def kill(victim: str, driver: subprocess.Popen[bytes], out: Path) -> dict[str, tuple[int, int]]:
    """kill -9, without a warning; returns what was finished then."""
    before = finished(out)
    if victim == "driver":
        driver.send_signal(signal.SIGKILL)
        return before
    workers = [one for one in psutil.Process(driver.pid).children(recursive=True) if "ClipWorker" in _line(one)]
    workers[0].kill()
    return before


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """The clips with a record: name to inode and time of the last change."""
    found = {}
    for record in out.glob(".clips/*.mp4.json"):
        status = (out / record.name.removesuffix(".json")).stat()
        found[record.name] = (status.st_ino, status.st_mtime_ns)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200, help="at most 200")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="an empty folder, kept; else a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.work or Path(name)
        folder.mkdir(exist_ok=True)
        write_model(folder / "model", args.steps)
        texts = [f"A {colour} {shape} moves {way}." for way in WAYS for colour in COLOURS for shape in SHAPES]
        prompts = folder / "prompts.txt"
        prompts.write_text("\n".join(texts[: args.prompts]) + "\n")
        rng = generator(args.seed, "kills")
        each = args.prompts // (len(VICTIMS) + 1)
        moments = [
            (victim, each * (number + 1) + int(rng.integers(-each // 3, each // 3)))
            for number, victim in enumerate(VICTIMS)
        ]
        calm, _ = run(folder / "model", prompts, folder / "calm", args.workers, [])
        print(f"undisturbed: {len(finished(folder / 'calm'))} clips in {calm:.0f} s", flush=True)
        seconds, once = run(folder / "model", prompts, folder / "killed", args.workers, moments)
        wanted, got = (
            {path.name: path.read_bytes() for path in sorted((folder / run_).glob("*"), key=str) if path.is_file()}
            for run_ in ("calm", "killed")
        )
        left = [str(path.name) for path in (folder / "killed").rglob("*.tmp")]
        print(
            f"killed {len(VICTIMS)} times: {seconds:.0f} s ({seconds / calm:.2f} of the undisturbed time); "
            f"clips that were finished {'made once' if once else 'MADE AGAIN'}; {len(got) - 1} clips and the manifest "
            f"{'equal' if got == wanted else 'DIFFERENT'}; {len(left)} unfinished files left"
        )
        if not once or got != wanted or left:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
