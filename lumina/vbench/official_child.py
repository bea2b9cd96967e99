"""Subprocess of the official VBench: one dimension, in the interpreter that has the package `vbench`.

It is run by its path with that interpreter, so it imports nothing of this project:

    python official_child.py REQUEST.json

REQUEST holds prompts (the full-info JSON), clips (the folder), dimension, out (a folder), device. The package writes
`clips_eval_results.json` to `out`, and this one `versions.json` beside it.
"""

import json
import platform
import sys
from pathlib import Path


def main(request_file: str) -> None:
    """Score the dimension that the request names."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    from importlib.metadata import PackageNotFoundError, version

    from vbench import VBench  # type: ignore[import-not-found]  # isort: skip - before torch: its absence is told sooner
    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("vbench", "torchvision", "transformers", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    # The official detectors read `.type`: a text would not do.
    judge = VBench(torch.device(request["device"]), request["prompts"], request["out"])
    judge.evaluate(videos_path=request["clips"], name="clips", dimension_list=[request["dimension"]])
    Path(request["out"], "versions.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
