"""Subprocess of the official VBench: one dimension, in the interpreter that has the package `vbench`.

It is run by its path with that interpreter, so it imports nothing of this project:

    python official_child.py REQUEST.json

REQUEST holds prompts (the full-info JSON), clips (the folder), dimension, out (a folder), device. The package writes
`clips_eval_results.json` to `out`. Without a request, versions of the libraries are printed.
"""

import json
import platform
import sys
from pathlib import Path


def versions() -> dict[str, str]:
    """Of the interpreter and the libraries that scores depend on."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    found = {"python": platform.python_version()}
    for package in ("vbench", "torch", "torchvision", "transformers", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # From its repository's folder: nothing states a version.
            found[package] = "unknown" if find_spec(package) else "not installed"
    return found


def score(request_file: str) -> None:
    """Score the dimension that the request names."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    # Before torch: its absence is told sooner.
    from vbench import VBench  # type: ignore[import-not-found]  # isort: skip
    import torch

    # The official detectors read `.type`: a text would not do.
    judge = VBench(torch.device(request["device"]), request["prompts"], request["out"])
    judge.evaluate(videos_path=request["clips"], name="clips", dimension_list=[request["dimension"]])


if __name__ == "__main__":
    if sys.argv[1:]:
        score(sys.argv[1])
    else:
        print(json.dumps(versions()))
