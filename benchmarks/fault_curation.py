"""Let the machine fail in every way at random moments of each curation stage, mend it, and compare with a whole run.

    python benchmarks/fault_curation.py --rounds 2

Stages ingest, probe, motion (DIS) and encode_latents run over rendered clips, half of them in an archive;
`tests/jobs/faulty.py` says what the faults are. Moments are drawn from the seed, and counted in files that are looked
at. Prints what a user would see of each fault; ends with 1 if a digest differs or a row is set aside.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])

from jobs import cluster
from jobs.context import InputRef
from jobs.runtime import RuntimeConfig
from lumina import zoo
from lumina.faults import MachineError
from lumina.randomness import generator
from tests.jobs.chain import Chain
from tests.jobs.faulty import KINDS, Fault
from tests.jobs.test_faults import CLIPS, STAGES, render, stage


def strike(chain: Chain, name: str, fault: Fault, kind: str, moment: int) -> str:
    """What the stage says of a fault; empty if the work was done before it struck."""
    media = Path(chain.media_root)
    fault.set(kind, moment, media)
    try:
        stage(chain, name)
        return ""
    except MachineError as error:
        return str(error)
    finally:
        fault.mend(media)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    runtime, wrong = RuntimeConfig(curation_workers=2), 0
    with tempfile.TemporaryDirectory() as directory:
        root, media = Path(directory), Path(directory) / "media"
        render(media)
        fault = Fault(root / "fault")
        weights = {"vae": str(Path(zoo.__file__).parent / "vae"), "fault": str(fault.root)}
        whole, disturbed = Chain(root / "whole", media, weights), Chain(root / "disturbed", media, weights)
        for chain in (whole, disturbed):
            chain.refs["manifest"], chain.runtime = InputRef("manifest", media / "clips.csv", ""), runtime
        cluster.ensure(runtime)
        for name in STAGES:
            expected = stage(whole, name)
            for number in range(args.rounds):
                for kind in KINDS:
                    shutil.rmtree(root / "disturbed" / name, ignore_errors=True)
                    moment = int(generator(args.seed, name, kind, number).integers(1, CLIPS + 1))
                    said = strike(disturbed, name, fault, kind, moment)
                    digest = stage(disturbed, name)
                    aside = sum(row["status"] != "ok" for row in disturbed.rows(name))
                    wrong += digest != expected or bool(aside)
                    told = said.replace(str(root), "") or "not struck"
                    print(f"{name:8} {kind:8} {moment} same={digest == expected} aside={aside} {told}", flush=True)
        cluster.shutdown()
    print(f"{wrong} of {len(STAGES) * len(KINDS) * args.rounds} went wrong")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
