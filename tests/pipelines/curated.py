"""A store with runs of curation, made by the real operators without Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from curation.decode import PROBE_OPERATOR, ProbeConfig
from curation.latents import ENCODE_LATENTS_OPERATOR, EncodeLatentsConfig
from curation.manifests import INGEST_OPERATOR, IngestConfig
from curation.motion_scores import MOTION_OPERATOR, MotionConfig
from curation.operator import Env, Input, Operator, dataset
from curation.selection import SELECT_OPERATOR, SelectConfig
from curation.sources import TAG_OPERATOR, TagConfig
from lumina.config import Config
from lumina.video import write_h264
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, StageEntry
from pipelines.engine.store.store import Store
from tests.curation.in_memory import computed

SETS = {"small": EncodeLatentsConfig(name="small", num_frames=5), "large": EncodeLatentsConfig(name="large")}


def make_clips(root: Path) -> Path:
    """Ten rows of two sources: six videos, of which one is short, a copy, a text file, a missing and a remote one."""
    root.mkdir(parents=True)
    rng = np.random.Generator(np.random.Philox(7))
    lines = ["video,caption,source,beauty"]
    for number in range(6):
        texture = rng.integers(0, 255, (64, 64 + 32 * (number % 2), 3), dtype=np.uint8)
        frames = np.stack([np.roll(texture, number * t, axis=1) for t in range(12 if number else 2)])
        write_h264(root / f"clip{number}.mp4", frames, fps=8 if number < 4 else 4)
        lines.append(f"clip{number}.mp4,a red {number},{'web' if number < 3 else 'phone'},{number}")
    (root / "notes.mp4").write_text("no video")
    lines += ["clip1.mp4,again,phone,1", "notes.mp4,notes,web,0", "gone.mp4,gone,web,0", "ftp://b/far.mp4,far,phone,0"]
    (root / "clips.csv").write_text("\n".join(lines) + "\n")
    return root


class Curated:
    """A store, and the stages that its runs share."""

    def __init__(self, root: Path, media: Path) -> None:
        self.store, self.media = Store(root), media
        self.tables: dict[str, dict[str, Any]] = {}
        self.shared = self._stages(
            ("ingest", INGEST_OPERATOR, IngestConfig(), {"manifest": Input(media)}),
            ("probe", PROBE_OPERATOR, ProbeConfig(), {"clips": "ingest"}),
            ("motion", MOTION_OPERATOR, MotionConfig(estimator="dis", height=32, width=32), {"clips": "probe"}),
            ("tag", TAG_OPERATOR, TagConfig(template="Videos from {source}."), {"clips": "probe"}),
        )

    def run(self, run: str, policy: SelectConfig, name: str = "folder") -> RunRecord:
        """Select and plan the latents sets under a policy; the run's record is in the store."""
        inputs = {"clips": "probe", "motion": "motion", "tag": "tag"}
        latents = ((f"encode_latents@{key}", ENCODE_LATENTS_OPERATOR, config, {"select": "select", "tag": "tag"})
                   for key, config in SETS.items())  # fmt: skip
        stages = self.shared | self._stages(("select", SELECT_OPERATOR, policy, inputs), *latents)
        started = f"2026-11-01T00:00:{len(list((self.store.root / 'runs').glob('*.json'))):02}+00:00"
        record = RunRecord(run=run, name=name, started=started, media_root=str(self.media), stages=stages)
        self.store.put_run(record)
        return record

    def _stages(self, *stages: tuple[str, Operator, Config, Mapping[str, str | Input]]) -> dict[str, StageEntry]:
        return {stage: self._stage(stage, operator, config, inputs) for stage, operator, config, inputs in stages}

    def _stage(self, stage: str, operator: Operator, config: Config, inputs: Mapping[str, str | Input]) -> StageEntry:
        known = {
            key: value if isinstance(value, Input) else Input(self.tables[value]["full"])
            for key, value in inputs.items()
        }
        env = Env(str(self.media))
        # The plan of latents has all but the tensors.
        rows = computed(operator, known, config, env, operator is not ENCODE_LATENTS_OPERATOR)
        fingerprint = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
        out = self.store.directory(stage, fingerprint) / "a-1"
        (out / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, out / "data" / "part.parquet")
        operator.report(dataset(out / "data"), config, out)
        recipe = {"config": config.model_dump(mode="json")}
        manifest = Manifest(stage, fingerprint, out.name, "rows", "", recipe, ())
        (out.parent / "MANIFEST.json").write_text(manifest.to_json())
        path = str(out.relative_to(self.store.root))
        self.tables[stage] = {"full": out}
        read = {key: value for key, value in inputs.items() if isinstance(value, str)}
        return StageEntry(state="done", path=path, fingerprint=fingerprint, digest="", inputs=read)
