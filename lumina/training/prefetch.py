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

    0 makes each when it is asked for, on the caller's thread. Requests are drawn on the caller's thread either way.
    What `make` raises, the loop gets at its place; nothing comes after it. Leaving the context waits for the call that
    is running and drops the rest.

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
        yield _ahead(executor, make, iter(requests), depth)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _ahead(
    executor: ThreadPoolExecutor, make: Callable[[Request], Made], requests: Iterator[Request], depth: int
) -> Iterator[Made]:
    pending = deque(executor.submit(make, request) for request in islice(requests, depth))
    while pending:
        made = pending.popleft().result()
        pending.extend(executor.submit(make, request) for request in islice(requests, 1))
        yield made
        # What the loop is done with must not stay in memory while it waits for the next.
        del made
