"""Run the demo on several data seeds: what it chooses, whether that is significant, and what fine-tuning brings.

    python benchmarks/demo_seeds.py --work /tmp/demo_seeds --seeds 20 21 22 23 24
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/demo_seeds.py --work /tmp/avx2

The seed is that of the rendered scenes (`data.shapes.seed`), so that every run has other clips, captions and held-out
clips. Each run has a store of its own in the folder; a seed whose run has ended there is not run again, so the command
goes on after a kill. Whole runs, twelve to twenty-two minutes each on two quiet cores; the second line emulates an
older processor. `--override` passes on `-o` of `lumina run`.

Prints a row for each seed, and how many of them met the aim: `synthetic` chosen, and both others significantly worse;
shape accuracy of at least 80 % after fine-tuning; a figure that fine-tuning lifted significantly. Exit 1 unless four of
five seeds did.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.engine.store.run_record import RunRecord, run_ids
from pipelines.engine.store.store import Store

JUDGED = ("shapes/colour_acc", "shapes/shape_acc", "shapes/direction_acc", "shapes/speed_rank_corr")
SHAPE = "shapes/shape_acc"
PLANTED = "synthetic"
"""The source that is rendered without flaws."""
AIM = 0.8


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    seed: int
    minutes: float
    """Of the run; of a resumed one, since it was resumed."""
    selection: Mapping[str, Any]
    """`selection.json` of `choose`."""
    final: Mapping[str, Any]
    """`metrics.json` of `evaluate_final`."""

    @property
    def decided(self) -> bool:
        """Whether the planted source was chosen, and all others are significantly worse."""
        return list(self.selection["best_set"]) == [PLANTED]

    @property
    def lifted(self) -> list[str]:
        """Judged figures that fine-tuning raised significantly."""
        return [name for name in JUDGED if self.final["difference"][name]["low"] > 0]

    @property
    def meets(self) -> tuple[bool, bool, bool]:
        """The choice, the accuracy, the lift."""
        return self.decided, self.final["after"][SHAPE]["value"] >= AIM, bool(self.lifted)

    def row(self) -> str:
        """A line of Markdown's table."""
        others = [
            f"{one['source']} -{interval(one['below_best'])}{'' if one['in_best_set'] else ' *'}"
            for one in self.selection["table"]
            if one["below_best"] is not None
        ]
        cells = (
            str(self.seed),
            self.selection["chosen"],
            "; ".join(others),
            interval(self.final["before"][SHAPE]),
            interval(self.final["after"][SHAPE]),
            ", ".join(name.removeprefix("shapes/") for name in self.lifted) or "none",
            f"{self.minutes:.1f}",
        )
        return f"| {' | '.join(cells)} |"


def interval(figure: Mapping[str, float]) -> str:
    """A share with its interval, in percent."""
    return f"{figure['value']:.0%} [{figure['low']:.0%}, {figure['high']:.0%}]"


def whole_run(store: Store) -> RunRecord | None:
    """The newest run that went to its end; None if there is none. Raises StoreError where a record cannot be read."""
    records = (store.get_run(run) for run in reversed(run_ids(store.objects)))
    return next((one for one in records if one.ok and "evaluate_final" in one.stages), None)


def outcome(root: Path, seed: int) -> Outcome | None:
    """Of the newest whole run of a store; None if there is none."""
    record = whole_run(Store(root))
    if record is None:
        return None
    selection, final = (
        json.loads((root / (record.stages[stage].path or "") / name).read_text(encoding="utf-8"))
        for stage, name in (("choose", "selection.json"), ("evaluate_final", "metrics.json"))
    )
    return Outcome(seed, record.seconds / 60, selection, final)


def run(store: Path, seed: int, overrides: Sequence[str]) -> Outcome:
    """Run the demo, unless it has ended in this store. Raises SystemExit if it fails."""
    if found := outcome(store, seed):
        return found
    lumina = str(Path(sys.executable).with_name("lumina"))
    given = [part for one in (f"data.shapes.seed={seed}", *overrides) for part in ("-o", one)]
    store.mkdir(parents=True, exist_ok=True)
    with (store / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run([lumina, "run", "demo", "--store", str(store), *given], stdout=log, stderr=log, check=False)
    found = outcome(store, seed)
    if found is None:
        raise SystemExit(f"the run of seed {seed} failed: see {store / 'log.txt'}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the stores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    print("| seed | chosen | the others (* significantly worse) | shape before | after | lifted | minutes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    outcomes = []
    for seed in args.seeds:
        outcomes.append(run(args.work / f"seed-{seed}", seed, args.override))
        print(outcomes[-1].row(), flush=True)
    choice, accuracy, lift = (sum(kept) for kept in zip(*(one.meets for one in outcomes), strict=True))
    met = sum(all(one.meets) for one in outcomes)
    count = len(outcomes)
    print(
        f"\nof {count} seeds: {PLANTED} chosen and significant in {choice}, shape accuracy of {AIM:.0%} in {accuracy}, "
        f"a figure lifted in {lift}, all three in {met} (aim: four of five)"
    )
    if 5 * met < 4 * count:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
