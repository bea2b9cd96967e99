"""Kill `lumina vbench` five times, and compare its clips, scores and report with those of an undisturbed run.

    python benchmarks/kill_vbench.py

A network of the demo's shape with random weights, or `--model`; clips of 128x128, and judges with random weights: the
figures mean nothing. The driver and a worker get SIGKILL in turns, three times while clips are made and twice while
they are judged; a driver that was killed is started again with the same command. Prints whether clips, scores and
report are equal, how many scores were computed twice, and that the command once more makes and scores nothing.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import torch

REPOSITORY, HERE = Path(__file__).resolve().parent.parent, Path(__file__).resolve().parent
sys.path[:0] = [str(REPOSITORY), str(HERE)]

from kill_generate import COLOURS, SHAPES, write_model
from transformers import ViTConfig, ViTModel

from lumina.vbench.networks.raft import Raft

VICTIMS = ("driver", "worker", "driver", "worker", "driver")
JUDGED = ("subject_consistency", "dynamic_degree")


def write_judges(folder: Path) -> list[str]:
    """Weights by the names of the published files; returns the command's words for them."""
    torch.manual_seed(0)
    torch.save(Raft().state_dict(), folder / "raft.pth")
    config = ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder / "dino")
    places = {"raft": folder / "raft.pth", "dino": folder / "dino"}
    return [word for name, place in places.items() for word in ("--weights", f"{name}={place}")]


def write_prompts(path: Path, count: int) -> None:
    texts = [f"A {colour} {shape} moves." for colour in COLOURS for shape in SHAPES][:count]
    still = {"prompt_en": "Nothing moves.", "dimension": ["temporal_flickering"]}
    path.write_text(json.dumps([still, *({"prompt_en": text, "dimension": list(JUDGED)} for text in texts)]))


def finished(out: Path) -> int:
    """Clips with a record, and scores."""
    scores = out / "scores.jsonl"
    lines = scores.read_bytes().count(b"\n") if scores.exists() else 0
    return len(list(out.glob("clips/.clips/*.mp4.json"))) + lines


def run(words: list[str], out: Path, moments: list[tuple[str, int]]) -> float:
    """The command to its end, with kills after so many clips and scores; returns seconds."""
    began, waiting = time.monotonic(), list(moments)
    driver = start(words, out)
    while driver.poll() is None:
        if waiting and finished(out) >= waiting[0][1] and kill(waiting[0][0], driver):
            print(f"{waiting.pop(0)[0]} killed after {finished(out)} clips and scores", flush=True)
            if driver.poll() is not None:
                driver = start(words, out)
        time.sleep(0.02)
    if driver.returncode != 0 or waiting:
        raise SystemExit(f"the driver ended with {driver.returncode}, {len(waiting)} kills to come: {out}.log")
    return time.monotonic() - began


def start(words: list[str], out: Path) -> subprocess.Popen[bytes]:
    program = "import sys; from pipelines.cli import main; sys.argv[0] = 'lumina'; main()"
    with out.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-c", program, "vbench", *words, "--out", str(out)]
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)


def kill(victim: str, driver: subprocess.Popen[bytes]) -> bool:
    """kill -9, without a warning; False if there is no worker yet."""
    if victim == "driver":
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        return True
    for one in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "ClipWorker" in " ".join(one.cmdline()) or "JudgeWorker" in " ".join(one.cmdline()):
                one.kill()
                return True
        except psutil.Error:
            continue
    return False


def scores(out: Path) -> Counter[str]:
    return Counter((out / "scores.jsonl").read_text(encoding="utf-8").splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=12, help="at most 20, beside one that is still")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", type=Path, help="a checkpoint, such as the demo's, in place of random weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.model is None:
            write_model(folder / "model", args.steps)
        write_prompts(folder / "VBench_full_info.json", args.prompts)
        words = [
            str(args.model or folder / "model"),
            "--steps",
            str(args.steps),
            "--prompts",
            str(folder / "VBench_full_info.json"),
            "--size",
            "128x128",
        ]
        words += ["--samples", str(args.samples), "--dimensions", ",".join((*JUDGED, "temporal_flickering"))]
        words += write_judges(folder)
        calm, killed = folder / "calm", folder / "killed"
        seconds = run(words, calm, [])
        clips = len(list(calm.glob("clips/*.mp4")))
        every = finished(calm)
        print(f"undisturbed: {clips} clips, {every - clips} scores in {seconds:.0f} s", flush=True)
        moments = [
            clips // 4,
            clips // 2,
            3 * clips // 4,
            clips + (every - clips) // 3,
            clips + 2 * (every - clips) // 3,
        ]
        took = run(words, killed, list(zip(VICTIMS, moments, strict=True)))
        bytes_of = {
            out: {p.name: p.read_bytes() for p in sorted(out.glob("clips/*.*")) if p.is_file()}
            for out in (calm, killed)
        }
        reports = [(out / "vbench.json").read_bytes() for out in (calm, killed)]
        equal = {
            "clips and manifest": bytes_of[calm] == bytes_of[killed],
            "scores": scores(calm).keys() == scores(killed).keys(),
            "report": reports[0] == reports[1],
        }
        twice = sum(count - 1 for count in scores(killed).values())
        print(f"killed {len(VICTIMS)} times: {took:.0f} s; scores computed twice: {twice}")
        print(*(f"{what} {'equal' if same else 'DIFFERENT'}" for what, same in equal.items()), sep=", ")
        before = finished(killed)
        again = run(words, killed, [])
        print(f"once more: {finished(killed) - before} clips and scores, {again:.0f} s")
        if not all(equal.values()) or twice or finished(killed) != before:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
