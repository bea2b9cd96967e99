"""Kill the driver of a run with SIGKILL at five moments, and compare what it ends with to an undisturbed run.

    python benchmarks/kill_resume.py --work /tmp/kill_resume

Runs a small version of the demo twice: once in peace, once killed in five different stages and started again each
time. Prints the digest of every stage in both stores; exit 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

SMALL = {
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
}
MOMENTS = (
    (r"▶ render_shapes +running", 2),
    (r"▶ encode_latents@videos +running", 6),
    (r"▶ train@1 +running", 3),
    # Long enough for some checkpoints of the 60 steps.
    (r"▶ train@2 +running", 22),
    (r"▶ evaluate@\w+ +running", 4),
)
"""What the log shows, and the seconds from there to the kill."""


def command(store: Path) -> list[str]:
    """The same command line every time."""
    overrides = [part for key, value in SMALL.items() for part in ("-o", f"{key}={value}")]
    return [str(Path(sys.executable).with_name("lumina")), "run", "demo", "--store", str(store), *overrides]


def run(store: Path, kill_at: str | None, delay_s: float = 0) -> bool:
    """Run until the end, or until `delay_s` after a line that matches `kill_at`; return whether it was killed."""
    process = subprocess.Popen(command(store), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout or ():
        if kill_at is not None and re.search(kill_at, line):
            time.sleep(delay_s)
            process.kill()
            process.wait()
            print(f"killed at: {line.strip()}", flush=True)
            return True
    if process.wait() != 0:
        raise SystemExit(f"the run in {store} ended with exit code {process.returncode}")
    return False


def digests(store: Path) -> dict[str, str]:
    """Stage to digest, from the manifests."""
    manifests = (json.loads(path.read_text()) for path in store.glob("stages/*/*/MANIFEST.json"))
    return {manifest["stage"]: manifest["digest"] for manifest in manifests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory for the two stores")
    work = parser.parse_args().work
    started = time.monotonic()
    run(work / "undisturbed", None)
    print(f"undisturbed: {time.monotonic() - started:.0f} s", flush=True)
    for moment, delay_s in MOMENTS:
        if not run(work / "killed", moment, delay_s):
            print(f"never seen, so not killed there: {moment}", flush=True)
    run(work / "killed", None)
    expected, found = digests(work / "undisturbed"), digests(work / "killed")
    for stage in sorted(expected | found):
        same = expected.get(stage) == found.get(stage)
        print(f"{stage:24} {'same' if same else 'DIFFERS':8} {expected.get(stage)} {found.get(stage)}")
    sys.exit(expected != found)


if __name__ == "__main__":
    main()
