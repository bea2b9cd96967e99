"""What `lumina gc` shows on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table

from lumina.formats import counted, size
from pipelines.engine.store.gc import Collection, Item
from pipelines.terminal import Text, titled_table

_NOUNS = {
    "output": ("output", "outputs"),
    "attempt": ("abandoned attempt", "abandoned attempts"),
    "unfinished": ("piece of unfinished work", "pieces of unfinished work"),
    "partial": ("half-written file", "half-written files"),
    "status": ("status of a killed run", "statuses of killed runs"),
}
"""One of a kind, and several."""


def collection_view(found: Collection, removed: bool) -> RenderableType:
    """What goes, what stays though no kept run needs it, and a line in bold.

    Args:
        found: the collection.
        removed: whether it is done, not only looked at.
    """
    runs = len(found.kept_runs) + len(found.dropped_runs)
    parts: list[RenderableType] = [Text(f"{len(found.kept_runs)} of {runs} runs are kept.", "dim")]
    if found.remove:
        parts.append(_table("removed" if removed else "to remove", found.remove))
    if found.left:
        parts.append(_table("left, though no kept run needs it", found.left))
    if not found.remove:
        return Group(*parts, Text("Nothing to remove.", "bold green"))
    what = f"{_count(found.remove)}, {size(found.bytes)}"
    line = Text(f"Removed {what}." if removed else f"{what} can go; --yes removes them.", "bold")
    return Group(*parts, line)


def _table(title: str, items: Iterable[Item]) -> Table:
    table = titled_table(title)
    table.add_column("what", no_wrap=True)
    table.add_column("where", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for item in items:
        table.add_row(item.what, item.path, size(item.bytes), Text(item.why, "dim"))
    return table


def _count(items: Iterable[Item]) -> str:
    """`3 outputs, 1 abandoned attempt`."""
    return ", ".join(counted(number, *_NOUNS[what]) for what, number in Counter(item.what for item in items).items())
