"""From weights to clips with a model of the released size: wall time and memory of each command on the way.

    python benchmarks/walk_2b.py

The weights are random numbers in bfloat16: a transformer of the shape 2B_GQA as its authors lay it out, CogVideoX's
VAE, and Gemma-2-2b's blocks with the small vocabulary of our own text encoder, since its tokenizer is not free. Prints
for each command its wall time, and the peak of the largest of its processes (`VmHWM`: with the pages of mapped files),
beside the bytes of the networks' files; then whether they made the same clip.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import torch
from safetensors.torch import save_file

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from lumina import zoo
from lumina.checkpoints import tensors_of
from lumina.flow_matching.schedules import SamplerConfig
from lumina.generation_config import GenerationConfig
from lumina.models.config import RELEASED_MODELS
from lumina.video import write_h264

PROMPTS = ("A red circle moves to the right.", "A blue square stays.")
PORT = 8391
STRANGER = """
import sys
for name in ("lumina", "curation", "jobs", "pipelines"):
    sys.modules[name] = None
import numpy as np, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True, torch_dtype=torch.bfloat16)
pipe.set_progress_bar_config(disable=True)
np.save(sys.argv[2], np.asarray([np.asarray(image) for image in pipe(sys.argv[3], seed=0).frames[0]]))
"""


def write_released(folder: Path, text_layers: int) -> None:
    """Random weights in the released layouts, written a network at a time."""
    rng = torch.Generator().manual_seed(0)
    shapes = {name: value.shape for name, value in tensors_of(RELEASED_MODELS["2B_GQA"]).items()}
    drawn = {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=rng) for name, shape in shapes.items()
    }
    (folder / "released").mkdir(parents=True)
    save_file(drawn, folder / "released" / "consolidated.00-of-01.safetensors")
    del drawn
    from diffusers import AutoencoderKLCogVideoX
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(0)
    # As CogVideoX-2b has it.
    AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(128, 256, 256, 512),
        layers_per_block=3,
        latent_channels=16,
        scaling_factor=1.15258426,
    ).to(torch.bfloat16).save_pretrained(folder / "cogvideox" / "vae")
    small = Path(zoo.__file__).parent / "text_encoder"
    torch.set_default_dtype(torch.bfloat16)
    config = Gemma2Config(vocab_size=512, num_hidden_layers=text_layers)
    Gemma2Model(config).save_pretrained(folder / "gemma")
    torch.set_default_dtype(torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(small / name, folder / "gemma" / name)


class Peak:
    """Watches a process and its descendants."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes, self._process, self._ended = 0, process, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            try:
                for one in (self._process, *self._process.children(recursive=True)):
                    status = Path(f"/proc/{one.pid}/status").read_text()
                    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
                    self.bytes = max(self.bytes, 1024 * int(found[0]) if found else 0)
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                continue

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self.bytes


def measured(what: str, command: Sequence[str], log: Path, use: Callable[[], None] | None = None) -> None:
    """Run a command to its end, or, with `use`, until that has returned; print a row of the table."""
    began = time.monotonic()
    with log.open("ab") as file:
        started = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent)
        peak = Peak(psutil.Process(started.pid))
        try:
            if use is not None:
                use()
                started.terminate()  # SIGINT may be ignored where it was
            code = started.wait()
        finally:
            started.kill()
            largest = peak.stop()
    if code:
        raise SystemExit(f"{what}: exit code {code}\n{log.read_text()[-2000:]}")
    print(f"| {what} | {time.monotonic() - began:.0f} | {largest / 1e9:.1f} |", flush=True)


def ask(path: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"http://127.0.0.1:{PORT}{path}", data, {"content-type": "application/json"})
    with urlopen(request, timeout=60) as answer:  # noqa: S310  (our own)
        return bytes(answer.read())


def serve_one(target: Path) -> None:
    """Wait for the server, and have it make the first clip."""
    while True:
        try:
            ask("/health")
            break
        except (URLError, ConnectionError):
            time.sleep(1)
    job = json.loads(ask("/v1/videos", {"prompt": PROMPTS[0], "seed": 0}))
    while job["status"] != "completed":
        if job["status"] == "failed":
            raise SystemExit(job["error"]["message"])
        time.sleep(1)
        job = json.loads(ask(f"/v1/videos/{job['id']}"))
    target.write_bytes(ask(f"/v1/videos/{job['id']}/content"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="64x64", help="of the clips, WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--text-layers", type=int, default=26)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory(prefix="walk-2b-", dir=os.environ.get("TMPDIR")) as name:
        root = Path(name)
        log = root / "log"
        write_released(root, options.text_layers)
        settings = GenerationConfig(
            num_frames=options.frames,
            width=width,
            height=height,
            # Every scale, as in the released schedule.
            sampler=SamplerConfig(steps=options.steps, patches=((0.0, (2, 4, 4)), (0.2, (2, 2, 2)), (0.5, (1, 2, 2)))),
        )
        (root / "settings.json").write_text(settings.model_dump_json())
        (root / "prompts.txt").write_text("\n".join(PROMPTS))
        size = sum(path.stat().st_size for path in root.rglob("*.safetensors"))
        print(
            f"{size / 1e9:.1f} GB of random weights; {options.frames} frames of {options.size}, {options.steps} steps"
        )
        print("| command | seconds | GB of the largest process |\n|---|---|---|", flush=True)
        program = str(Path(sys.executable).with_name("lumina"))
        assemble = (
            "--transformer released --preset 2B_GQA --vae cogvideox --text-encoder gemma --settings settings.json"
        )
        measured("assemble", [program, "assemble", "model", *assemble.split()], log)
        for part in ("released", "cogvideox", "gemma"):
            shutil.rmtree(root / part)
        generate = [program, "generate", "--checkpoint", "model", "--dtype", "bfloat16"]
        measured("generate", [*generate, "--prompt", PROMPTS[0], "--out", "clip.mp4"], log)
        measured("generate --prompts, 2 clips", [*generate, "--prompts", "prompts.txt", "--out", "clips"], log)
        measured("diffusers", [sys.executable, "-c", STRANGER, "model", "frames.npy", PROMPTS[0]], log)
        serve = [program, "serve", "model", "--dtype", "bfloat16", "--port", str(PORT)]
        measured("serve, 1 clip", serve, log, lambda: serve_one(root / "served.mp4"))
        import numpy as np

        write_h264(root / "diffusers.mp4", np.load(root / "frames.npy"), settings.fps)
        made = {name: (root / f"{name}.mp4").read_bytes() for name in ("clip", "served", "diffusers")}
        for one, content in made.items():
            print(f"{one}: {hashlib.sha256(content).hexdigest()[:12]}")


if __name__ == "__main__":
    main()
