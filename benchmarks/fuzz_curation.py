"""Run the whole of curation over files that lie, and account for each.

    python benchmarks/fuzz_curation.py --files 1000 --clips ../shared/clips

Bases are rendered Shapes clips, a still, and the videos of `--clips`; `tests/curation/fuzz.py` says what is done to
them.
Prints what became of each kind, and what is left of processes and memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])

from jobs import cluster
from jobs.runtime import RuntimeConfig
from lumina import zoo
from tests.curation.fuzz import make_files
from tests.jobs.chain import Chain
from tests.jobs.test_fuzz import bases, curate


def children() -> list[psutil.Process]:
    """Decoding children of any process."""
    running = psutil.process_iter(["cmdline"])
    return [one for one in running if any("hostile_child" in word for word in one.info["cmdline"] or ())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--clips", type=Path, help="folder with more videos to damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout-s", type=float, default=5.0)
    args = parser.parse_args()
    # Half of these files are meant to fail.
    runtime = RuntimeConfig(decode_timeout_s=args.timeout_s, max_failed_share=1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "media").mkdir()
        found = bases(root / "bases")
        if args.clips:
            found += sorted(path for path in args.clips.iterdir() if path.suffix in (".mp4", ".mkv", ".mov"))
        kinds = make_files(root / "media", found, args.files, args.seed)
        cluster.ensure(runtime)
        chain = Chain(root / "run", root / "media", {"vae": str(Path(zoo.__file__).parent / "vae")})
        chain.runtime = runtime
        before, begun = psutil.Process().memory_info().rss, time.perf_counter()
        curate(chain, root / "media")
        seconds, grown = time.perf_counter() - begun, psutil.Process().memory_info().rss - before
        largest = max((child.memory_info().rss for child in children()), default=0)
        rows = chain.by_uri("latents")
        cluster.shutdown()
    lost = set(kinds) - set(rows)
    outcomes = Counter((kinds[name], row["status"], row["reason"] or "") for name, row in rows.items())
    for (kind, status, reason), count in sorted(outcomes.items()):
        print(f"{kind:10} {status:12} {reason:20} {count:5}")
    time.sleep(2)
    print(f"{len(rows)} of {len(kinds)} files accounted for, {len(lost)} lost, in {seconds:.0f} s")
    print(f"driver grew by {grown / 2**20:.0f} MiB; largest decoding child {largest / 2**20:.0f} MiB")
    print(f"decoding children left: {len(children())}")
    if lost or children() or any(reason == "internal_error" for _, _, reason in outcomes):
        raise SystemExit("FAILED")


if __name__ == "__main__":
    main()
