"""The paper's four claims, derived again: train, study and evaluate by `lumina sweep`, then judge by a stated rule.

    python -m benchmarks.claims --store /tmp/claims           # three seeds; the same command goes on after any kill
    python -m benchmarks.claims --store /tmp/claims --pages   # of the runs that are done, judge again
    python -m benchmarks.claims --store /tmp/claims --demo /tmp/demo_seeds   # (d) of runs of the demo
    python -m benchmarks.claims --store /tmp/tiny --tiny      # does it all work? Its verdicts mean nothing

From the root of the repository. `claims.yaml` is the config and `shares.yaml` has the arms: each seed trains all scales
three times, on other shares of synthetic clips. The runs with the clips as they come carry the claims a to c and the
first half of d, unless `--demo` names what `demo_seeds.py` has made: its models train longer and know shapes.

Prints a sentence for each claim, and writes a page of each into the folder `claims` of the store, with `claims.json`.
Exit 1 if a run failed; what is done is judged all the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.claims.evidence import read_demos, read_runs
from benchmarks.claims.pages import claim_page
from benchmarks.claims.statements import Claim, claims
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from pipelines.sweep.processes import end_with_parent

HERE = Path(__file__).parent
SWEEP = "claims"
TINY = (
    "data.shapes.clips={synthetic: 30, handheld: 20, web: 20}",
    "select.heldout_fraction=0.3",
    "train.1.steps=20",
    "train.1.warmup_steps=5",
    "finetune.steps=10",
    "evaluate.suite.count=4",
    "evaluate.sampler.steps=3",
    "export.sampler.steps=3",
)


def command(store: Path, seeds: str, overrides: Sequence[str], arms: Path, parallel: int = 1) -> list[str]:
    """The sweep that makes what the claims read."""
    lumina = str(Path(sys.executable).with_name("lumina"))
    words = [lumina, "sweep", str(HERE / "claims.yaml"), "--arms", str(arms), "--seeds", seeds]
    words += ["--name", SWEEP, "--store", str(store), "--parallel", str(parallel)]
    return [*words, *(part for one in overrides for part in ("-o", one))]


def run(words: Sequence[str]) -> int:
    """Exit code of a child that ends with this process. At Ctrl-C it is waited for: it stops its runs in good order."""
    process = subprocess.Popen(words, preexec_fn=end_with_parent())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def write(found: Sequence[Claim], folder: Path) -> None:
    """A page for each claim, and all verdicts as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for claim in found:
        (folder / f"{claim.key}.html").write_text(claim_page(claim, found), encoding="utf-8")
    content = {
        claim.key: {
            "claim": claim.title,
            "verdict": claim.judged.verdict,
            "sentence": claim.judged.sentence,
            "seeds": claim.seeds,
            "parts": {name: asdict(one) for name, one in claim.judged.parts},
        }
        for claim in found
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / "claims.json").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="store of the runs; what it has is not made again")
    parser.add_argument("--seeds", default="0,1,2", help="of training; more may be added later")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time")
    parser.add_argument("--arms", type=Path, default=HERE / "shares.yaml", help="shares of synthetic clips")
    parser.add_argument("--demo", type=Path, help="folder that demo_seeds.py has filled, for claim d")
    parser.add_argument("--only", default="abcd", help="the claims that are judged")
    parser.add_argument("--pages", action="store_true", help="run nothing")
    parser.add_argument("--tiny", action="store_true", help="a few steps and clips")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(arguments)
    code = 0
    if not args.pages:
        overrides = [*(TINY if args.tiny else ()), *args.override]
        code = run(command(args.store, args.seeds, overrides, args.arms, args.parallel))
        if code not in (0, 1):
            return code
    # Threads that wait for each other take ten times as long where other work keeps the cores.
    torch.set_num_threads(1)
    try:
        runs = read_runs(Store(args.store), SWEEP)
        runs += read_demos(args.demo) if args.demo else []
        found = claims(runs, args.only)
    except (ValueError, PipelineError) as error:
        print(error, file=sys.stderr)
        return 1
    folder = args.store / "claims"
    write(found, folder)
    for claim in found:
        print(f"({claim.key}) {claim.title}.\n    {claim.judged.sentence}\n    {folder / claim.key}.html")
    return code


if __name__ == "__main__":
    sys.exit(main())
