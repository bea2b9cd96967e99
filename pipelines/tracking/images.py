"""Pictures that stages make on the way: read from where one lies that an event names, whichever way its stage went."""

from __future__ import annotations

from pathlib import Path

from pipelines.engine.store.store import Store


def picture(store: Store, stage: str, fingerprint: str, file: str) -> bytes | None:
    """The bytes of the file, from the stage's scratch directory or, once it is finished, from its output; None if it is
    gone.

    A link is none: it may lead out of the store.
    """
    found = _read(store, store.directory(stage, fingerprint) / "work", file)
    if found is None and (manifest := store.lookup(stage, fingerprint)) is not None:
        # It has ended, perhaps just now.
        found = _read(store, store.output(manifest), file)
    return found


def _read(store: Store, root: Path, file: str) -> bytes | None:
    path = root / file
    try:
        if path.resolve() == store.root.resolve() / path.relative_to(store.root):
            return path.read_bytes()
    except FileNotFoundError:
        pass
    return None
