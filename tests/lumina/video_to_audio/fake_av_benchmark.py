"""A stand-in for av-benchmark's repository, which writes what the real one does, and an evaluation's output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lumina.video_to_audio.wav_files import write_wav

_EXTRACT = """
import sys
from pathlib import Path
given = dict(one.lstrip("-").split("=", 1) for one in sys.argv[1:])
names = sorted(path.name for path in Path(given["video_path"]).iterdir())
(Path(given["gt_cache"]) / "synchformer_video.pth").write_text(" ".join(names))
"""
# As its own: figures by these names, in a file of the generated sounds' cache.
_EVALUATE = """
import json, os, sys, wave
from pathlib import Path
given = dict((one.lstrip("-") + "=").split("=", 1) for one in sys.argv[1:])
given = {name: value.rstrip("=") for name, value in given.items()}
Path("given.json").write_text(json.dumps(given))
true, made = (sorted(path.name for path in Path(given[side]).iterdir()) for side in ("gt_audio", "pred_audio"))
assert true == made and all(name.endswith(".wav") for name in true), "unpaired"
[wave.open(str(Path(given["pred_audio"]) / name)).close() for name in made]
found = {"FD-VGG": 2.5, "FD-PANN": 10.0, "FD-PASST": 100.25, "KL-PANNS-softmax": 1.5, "KL-PASST-softmax": 1.25,
         "ISC-PANNS-mean": 3.0, "ISC-PANNS-std": 0.5, "ISC-PASST-mean": 4.0, "ISC-PASST-std": 0.25}
if (Path(given["gt_cache"]) / "synchformer_video.pth").exists():
    found |= {"IB-Score": 0.3, "DeSync": 0.45}
print("INFO: Starting evaluation...")
exec(Path("then.py").read_text())
(Path(given["pred_cache"]) / "output_metrics.json").write_text(json.dumps(found, indent=4))
"""


def write_clone(folder: Path) -> Path:
    """Write the repository; `then.py` in there is run before the results are written."""
    folder.mkdir()
    for name, text in (("evaluate.py", _EVALUATE), ("extract_video.py", _EXTRACT), ("then.py", "")):
        (folder / name).write_text(text)
    return folder


def write_evaluation(out: Path, *durations_s: float) -> Path:
    """Write an evaluate stage's output: clips a and b, of one of which an ablation was kept."""
    rows = []
    for condition in ("truth", "given", "text_dropped"):
        for clip, seconds in zip("ab", durations_s, strict=True):
            sound = f"sounds/{condition}/{clip}.wav" if condition != "text_dropped" or clip == "a" else None
            if sound:
                (out / sound).parent.mkdir(parents=True, exist_ok=True)
                write_wav(out / sound, np.zeros(160, np.int16), 16_000)
            rows.append({"clip_id": clip, "condition": condition, "sound": sound, "duration_s": seconds})
    (out / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), out / "data" / "clips.parquet")
    return out
