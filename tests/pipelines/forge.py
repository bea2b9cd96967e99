"""Fill a store with finished outputs that no job computed.

    python forge.py CONFIG STORE [-o KEY=VALUE]... [STAGE=DIGEST]

Recipes are real, digests are made up unless given. With a given stage, it ends there.
"""

from __future__ import annotations

import hashlib
import sys

from pipelines.config import load_config
from pipelines.engine.fingerprint import Identifier
from pipelines.engine.store.attempt import list_files
from pipelines.engine.store.lease import Holder
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.store import Store
from pipelines.text_to_video import build


def forge(config: str, root: str, overrides: list[str], given: dict[str, str]) -> None:
    """Walk the pipeline as the runner does, and commit what is missing."""
    store, identifier, digests = Store(root), Identifier(), dict[str, str]()
    store.prepare()
    pipeline = build(load_config(config, overrides))
    for stage in pipeline.until(next(iter(given), None)).order:
        found = identifier.identify(stage, digests)
        manifest = store.lookup(stage.name, found.fingerprint)
        if manifest is None:
            attempt = store.acquire(stage.name, found.fingerprint)
            assert not isinstance(attempt, Holder)
            (attempt.out / "output.txt").write_text(stage.name)
            manifest = Manifest(
                stage=stage.name,
                fingerprint=found.fingerprint,
                attempt=attempt.out.name,
                kind="files",
                digest=given.get(stage.name) or f"sha256:{hashlib.sha256(found.fingerprint.encode()).hexdigest()}",
                recipe=found.recipe,
                files=list_files(attempt.out),
                seconds=60.0,
            )
            store.commit(attempt, manifest)
        digests[stage.name] = manifest.digest


if __name__ == "__main__":
    rest = sys.argv[3:]
    overrides = [rest[index + 1] for index, word in enumerate(rest) if word == "-o"]
    given = dict(word.split("=", 1) for index, word in enumerate(rest) if word != "-o" and rest[index - 1] != "-o")
    forge(sys.argv[1], sys.argv[2], overrides, given)
