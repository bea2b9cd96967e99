"""Prepare what a loop needs next while it works on what it has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Request = TypeVar("Request")
Made = TypeVar("Made")


@contextmanager
def prefetched(make: Callable[[Request], Made], requests: Iterable[Request], depth: int) -> Iterator[Iterator[Made]]:
    """Give `make(request)` for each request in order, made on one thread up to `depth` ahead of the one in hand.

    Requests are drawn on that thread too, so that planning them takes none of the loop's time either; depth 0 draws and
    makes each when it is asked for, on the caller's thread.
    What `make` or `requests` raises, the loop gets at its place; nothing comes after it. Leaving the context waits for
    the call that is running and drops the rest.

        with prefetched(make, requests, 4) as batches:
            batch = next(batches)

    Raises ValueError if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth must be at least 0, got {depth}")
    if depth == 0:
        yield map(make, requests)
        return
    executor = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        yield _ahead(executor, map(make, requests), depth)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _ahead(executor: ThreadPoolExecutor, results: Iterator[Made], depth: int) -> Iterator[Made]:
    def one() -> list[Made]:
        return list(islice(results, 1))

    pending = deque(executor.submit(one) for _ in range(depth))
    while made := pending.popleft().result():
        pending.append(executor.submit(one))
        # Popped: what the loop is done with must not stay in memory while it waits for the next.
        yield made.pop()
