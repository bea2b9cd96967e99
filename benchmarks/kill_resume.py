"""Kill the driver of a run with SIGKILL at five moments, and compare what it ends with to an undisturbed run.

    python benchmarks/kill_resume.py --work /tmp/kill_resume
    python benchmarks/kill_resume.py --work /tmp/kill_sound --config sound --whole

Runs a small version of the config, or the whole one, twice: once in peace (or compares with the store of such a run,
`--undisturbed`), once killed in five different stages and started again each time. Prints the digest of every stage in
both stores, and what the command does once more; exit 1 if a digest differs, or if something was computed once more.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

SMALL = {
    "demo": {
        "data.shapes.clips": "{synthetic: 20, handheld: 20, web: 20}",
        "data.shapes.images": "{synthetic: 16, handheld: 16, web: 16}",
        "train.1.steps": "30",
        "train.1.warmup_steps": "5",
        "train.2.steps": "60",
        "train.2.warmup_steps": "5",
        "train.3.steps": "30",
        "train.3.warmup_steps": "5",
        "finetune.steps": "20",
        "evaluate.suite.count": "12",
        "runtime.checkpoint_every": "10",
        "runtime.log_every": "5",
    },
    "sound": {
        "data.shapes.clips": "{synthetic: 20, handheld: 20, web: 20}",
        "train.1.steps": "60",
        "train.1.warmup_steps": "5",
        "train.2.steps": "20",
        "evaluate.clips": "4",
        "runtime.checkpoint_every": "10",
        "runtime.log_every": "5",
    },
}
MOMENTS = {
    "demo": (
        (r"▶ render_shapes +running", 2),
        (r"▶ encode_latents@videos +running", 6),
        (r"▶ train@1 +running", 3),
        # Long enough for some checkpoints of the 60 steps.
        (r"▶ train@2 +running", 22),
        (r"▶ evaluate@\w+ +running", 4),
    ),
    "sound": (
        (r"▶ render_shapes +running", 2),
        (r"▶ encode_sync +running", 6),
        (r"▶ train@1 +running", 22),
        (r"▶ train@2 +running", 8),
        (r"▶ evaluate@2 +running", 6),
    ),
}
"""What the log shows, and the seconds from there to the kill."""
LATER = {r"▶ train@1 +running": 150, r"▶ train@2 +running": 40, r"▶ evaluate@2 +running": 40}
"""The seconds instead, in the whole `sound`."""


def command(config: str, store: Path, whole: bool) -> list[str]:
    """The same command line every time."""
    small = {} if whole else SMALL[config]
    overrides = [part for key, value in small.items() for part in ("-o", f"{key}={value}")]
    return [str(Path(sys.executable).with_name("lumina")), "run", config, "--store", str(store), *overrides]


def run(command: list[str], kill_at: str | None, delay_s: float = 0) -> bool:
    """Run until the end, or until `delay_s` after a line that matches `kill_at`; return whether it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout or ():
        if re.search(r"\d+ stages? done", line):
            print(line.strip(), flush=True)
        if kill_at is not None and re.search(kill_at, line):
            time.sleep(delay_s)
            process.kill()
            process.wait()
            print(f"killed {delay_s} s after: {line.strip()}", flush=True)
            return True
    if process.wait() != 0:
        raise SystemExit(f"the run ended with exit code {process.returncode}: {shlex.join(command)}")
    return False


def attempts(store: Path) -> set[Path]:
    """Every attempt at a stage that the store has, finished or not."""
    return set(store.glob("stages/*/*/a-*"))


def digests(store: Path) -> dict[str, str]:
    """Stage to digest, from the manifests."""
    manifests = (json.loads(path.read_text()) for path in store.glob("stages/*/*/MANIFEST.json"))
    return {manifest["stage"]: manifest["digest"] for manifest in manifests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory for the two stores")
    parser.add_argument("--config", choices=sorted(SMALL), default="demo")
    parser.add_argument("--whole", action="store_true", help="the config as it is")
    parser.add_argument("--undisturbed", type=Path, help="store of a run in peace, instead of one more")
    args = parser.parse_args()
    calm, rough = args.undisturbed or args.work / "undisturbed", args.work / "killed"
    if args.undisturbed is None:
        started = time.monotonic()
        run(command(args.config, calm, args.whole), None)
        print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
    started = time.monotonic()
    disturbed = command(args.config, rough, args.whole)
    for moment, delay_s in MOMENTS[args.config]:
        if not run(disturbed, moment, LATER.get(moment, delay_s) if args.whole else delay_s):
            print(f"never seen, so not killed there: {moment}", flush=True)
    run(disturbed, None)
    print(f"killed: {time.monotonic() - started:.0f} s", flush=True)
    expected, found = digests(calm), digests(rough)
    for stage in sorted(expected | found):
        same = expected.get(stage) == found.get(stage)
        print(f"{stage:24} {'same' if same else 'DIFFERS':8} {expected.get(stage)} {found.get(stage)}")
    before = attempts(rough)
    run(disturbed, None)
    again = sorted(str(path) for path in attempts(rough) - before)
    print(f"computed once more: {', '.join(again) or 'nothing'}")
    sys.exit(expected != found or bool(again))


if __name__ == "__main__":
    main()
