"""One run of a sweep over toy stages, as a process: `driver.py STORE NAME TEXT SLEEP`; the text `fail` fails at `d`."""

from __future__ import annotations

import sys
from dataclasses import replace

from pipelines.engine.events import Interrupted
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, identifier, stage


def line(text: str, sleep: float) -> Pipeline:
    """a -> b -> d, of which the last alone is of the arm."""
    last = replace(stage("d", "fail" if text == "fail" else "write", ("b",), text=text, sleep=sleep))
    return Pipeline("line", (stage("a", sleep=sleep), stage("b", inputs=("a",), sleep=sleep), last))


if __name__ == "__main__":
    store, name, text, sleep = sys.argv[1:]
    try:
        done = run(line(text, float(sleep)), Store(store), EXECUTE, name=name, identifier=identifier())
    except Interrupted:
        sys.exit(130)
    sys.exit(0 if done.ok else 1)
