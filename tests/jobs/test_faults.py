"""Curation on a machine that fails, and is then mended."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from curation.decode import ProbeConfig
from curation.latents import EncodeLatentsConfig
from curation.manifests import IngestConfig
from curation.motion_scores import MotionConfig
from curation.operator import FAILED
from curation.selection import SelectConfig
from curation.sources import TagConfig
from jobs.context import InputRef
from jobs.parts import read_parts
from jobs.runtime import RuntimeConfig
from lumina.faults import MachineError
from lumina.randomness import generator
from lumina.video import write_h264
from tests.jobs.alike import AlikeConfig
from tests.jobs.chain import Chain
from tests.jobs.faulty import Fault
from tests.lumina.tiny import autoencoder

CLIPS = 6
STAGES = {
    "ingest": ("INGEST", IngestConfig(), {"manifest": "manifest"}),
    "probe": ("PROBE", ProbeConfig(), {"clips": "ingest"}),
    "motion": ("MOTION", MotionConfig(estimator="dis", height=32, width=32), {"clips": "probe"}),
    "latents": ("LATENTS", EncodeLatentsConfig(resolution=64, num_frames=9), {"select": "select", "tag": "tag"}),
}
SAID = {
    "stale": "Stale file handle; see that the disk or the mount behind it is well",
    "files": "Too many open files; raise the limit",
    "read": "Input/output error; see that the disk",
    "denied": "Permission denied; allow it to this user",
    "away": "media is not there; see that it is mounted",
    "full": r"\(TMPDIR\): No space left on device; free some space",
    "decoder": "the decoding process did not start: the decoder died of exit status 3",
}


def render(media: Path) -> None:
    """Clips in a folder, half of them in an archive, and a manifest."""
    media.mkdir()
    rng = generator(5, "faults")
    for number in range(CLIPS):
        texture = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        frames = np.stack([np.roll(texture, number * t, axis=1) for t in range(10)])
        write_h264(media / f"{number}.mp4", frames, fps=8)
    with zipfile.ZipFile(media / "part.zip", "w") as archive:
        for number in range(0, CLIPS, 2):
            archive.write(media / f"{number}.mp4", f"{number}.mp4")
            (media / f"{number}.mp4").unlink()
    uris = [f"{number}.mp4" if number % 2 else f"zip://{number}.mp4::part.zip" for number in range(CLIPS)]
    rows = (f"{uri},a clip of number {number},web" for number, uri in enumerate(uris))
    (media / "clips.csv").write_text("\n".join(["video,caption,source", *rows]) + "\n")


def stage(chain: Chain, name: str) -> str:
    """Run a stage of the chain, and what is needed beside it; its digest."""
    operator, config, inputs = STAGES[name]
    if name == "latents" and "select" not in chain.refs:
        chain.run("tag", "curation.sources:TAG_OPERATOR", TagConfig(template="From {source}."), clips="probe")
        selected = {"clips": "probe", "motion": "motion", "tag": "tag"}
        chain.run("select", "curation.selection:SELECT_OPERATOR", SelectConfig(), **selected)
    return chain.run(name, f"tests.jobs.faulty:{operator}", config, **inputs).digest


@pytest.mark.ray
def test_each_fault_at_some_moment_leaves_no_trace_once_it_is_mended(tmp_path: Path, ray_cluster: None) -> None:
    media, fault = tmp_path / "media", Fault(tmp_path / "fault")
    render(media)
    autoencoder().save_pretrained(tmp_path / "vae")
    weights = {"vae": str(tmp_path / "vae"), "fault": str(fault.root)}
    whole, disturbed = Chain(tmp_path / "whole", media, weights), Chain(tmp_path / "disturbed", media, weights)
    for chain in (whole, disturbed):
        chain.refs["manifest"] = InputRef("manifest", media / "clips.csv", "")
        chain.runtime = RuntimeConfig(curation_workers=2)
    drill = {"ingest": ("stale", "away"), "probe": ("full", "decoder"), "motion": ("files",), "latents": ("denied",)}
    for name, kinds in drill.items():
        expected = stage(whole, name)
        for kind in kinds:
            # From the third file on there is a member of an archive to be copied yet.
            shutil.rmtree(tmp_path / "disturbed" / name, ignore_errors=True)
            fault.set(kind, int(generator(5, name, kind).integers(1, 4)), media)
            with pytest.raises(MachineError, match=SAID[kind] + r".* \(tried \d times\)"):
                stage(disturbed, name)
            fault.mend(media)
        # Of itself it passes: nobody mends it.
        fault.set("read", 2, media, times=2)
        assert stage(disturbed, name) == expected
        fault.mend(media)
        rows = disturbed.rows(name)
        assert [row["status"] for row in rows] == ["ok"] * CLIPS
    assert read_parts(tmp_path / "disturbed" / "latents" / "work" / "parts")


@pytest.mark.ray
def test_a_stage_in_which_many_rows_fail_alike_stops_and_asks(tmp_path: Path, ray_cluster: None) -> None:
    chain, name = Chain(tmp_path, tmp_path), "tests.jobs.alike:ALIKE"
    said = (
        "21 of 40 rows failed alike, more than runtime.max_failed_share=0.5: decode_timeout, such as 19.mp4: "
        "line 1 line 2; none of them is written down."
    )
    config = AlikeConfig(reason="decode_timeout")
    (tmp_path / "stage" / "work" / FAILED).mkdir(parents=True)
    with pytest.raises(MachineError, match=said.replace(".", r"\.")) as caught:
        chain.run("stage", name, config)
    assert "raise runtime.max_failed_share (1 never stops)" in str(caught.value)
    kept = [unit for part in read_parts(tmp_path / "stage" / "work" / "parts") for unit in part.numbers]
    assert len(kept) <= 19
    assert not (tmp_path / "stage" / "work" / FAILED).exists()
    chain.runtime = RuntimeConfig(max_failed_share=0.6)
    assert chain.run("raised", name, config).counts["quarantined/decode_timeout"] == 26
    (tmp_path / "mended").touch()
    chain.runtime = RuntimeConfig()
    mended = chain.run("stage", name, config)
    assert mended.counts == {"in": 45, "ok": 40, "quarantined/decode_timeout": 5}
    assert mended.digest == chain.run("whole", name, config).digest


@pytest.mark.ray
def test_few_rows_are_no_ground_for_suspicion(tmp_path: Path, ray_cluster: None) -> None:
    chain = Chain(tmp_path, tmp_path)
    result = chain.run("stage", "tests.jobs.alike:ALIKE", AlikeConfig(rows=38))
    assert result.counts["quarantined/decode_error"] == 19
