"""Prefetching: the same results in the same order, no further ahead than asked, and no thread left behind."""

from __future__ import annotations

import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator

import pytest

from lumina.training.data.prefetch import prefetched


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_every_result_in_order(depth: int, threads: int) -> None:
    def make(number: int) -> int:
        # The first of any few take longest.
        time.sleep(0.001 * (3 - number % 4))
        return number * 2

    with prefetched(make, iter(range(20)), depth, threads) as batches:
        assert list(batches) == list(range(0, 40, 2))
    assert not _threads()


def test_as_many_are_made_at_the_same_time_as_there_are_threads() -> None:
    together = threading.Barrier(3)

    def make(number: int) -> int:
        together.wait(10)
        return number

    with prefetched(make, range(12), 4, 3) as batches:
        assert list(batches) == list(range(12))


def test_requests_are_drawn_in_order_and_no_further_ahead_than_asked_for_many_threads() -> None:
    drawn, threads = [], set()

    def requests() -> Iterator[int]:
        for number in range(50):
            threads.add(threading.current_thread())
            drawn.append(number)
            yield number

    with prefetched(str, requests(), 3, 8) as batches:
        for number in range(10):
            assert next(batches) == str(number)
            _until(lambda number=number: len(drawn) == number + 1 + 3)
            time.sleep(0.002)
            assert drawn == list(range(number + 1 + 3))
    assert len(threads) == 1


@pytest.mark.parametrize("depth", [1, 3])
def test_no_further_ahead_than_asked_and_on_another_thread(depth: int) -> None:
    made, threads = [], set()

    def requests() -> Iterator[int]:
        for number in range(50):
            threads.add(threading.current_thread())
            yield number

    def make(number: int) -> int:
        threads.add(threading.current_thread())
        made.append(number)
        return number

    with prefetched(make, requests(), depth) as batches:
        for number in range(10):
            assert next(batches) == number
            _until(lambda number=number: len(made) == number + 1 + depth)
            time.sleep(0.002)
            assert len(made) == number + 1 + depth
    assert len(threads) == 1
    assert threads != {threading.current_thread()}


def test_the_next_is_made_while_the_loop_works() -> None:
    begun = threading.Event()

    def make(number: int) -> int:
        if number == 1:
            begun.set()
        return number

    with prefetched(make, range(3), 1) as batches:
        assert next(batches) == 0
        assert begun.wait(10)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_the_loop_is_done_with_is_freed(threads: int) -> None:
    with prefetched(lambda _number: threading.Event(), range(10), 2, threads) as batches:
        first = weakref.ref(next(batches))
        _until(lambda: first() is None)


@pytest.mark.parametrize(("depth", "threads"), [(0, 1), (2, 1), (4, 3)])
def test_an_error_comes_at_its_place_with_its_own_traceback(depth: int, threads: int) -> None:
    def cannot_read(number: int) -> int:
        if number == 2:
            raise ValueError("row 2 is broken")
        return number

    with prefetched(cannot_read, range(5), depth, threads) as batches:
        assert [next(batches), next(batches)] == [0, 1]
        with pytest.raises(ValueError, match="row 2 is broken") as caught:
            next(batches)
        assert list(batches) == []
    assert "cannot_read" in {frame.name for frame in traceback.extract_tb(caught.value.__traceback__)}
    assert not _threads()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_requests_comes_at_its_place(threads: int) -> None:
    def requests() -> Iterator[int]:
        yield 1
        raise ValueError("no plan for step 2")

    with prefetched(str, requests(), 2, threads) as batches:
        assert next(batches) == "1"
        with pytest.raises(ValueError, match="no plan for step 2"):
            next(batches)


def test_leaving_early_drops_what_waits() -> None:
    made, release = [], threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number:
            release.wait(10)
        return number

    def fail() -> None:
        with prefetched(make, range(1000), 50) as batches:
            assert next(batches) == 0
            _until(lambda: len(made) == 2)
            threading.Timer(0.05, release.set).start()
            raise RuntimeError("the loop failed")

    with pytest.raises(RuntimeError, match="the loop failed"):
        fail()
    assert made == [0, 1]
    assert not _threads()


def test_a_context_that_is_never_asked_makes_nothing() -> None:
    with prefetched(lambda number: 1 // number, [0], 2):
        pass
    assert not _threads()
    with pytest.raises(ValueError, match="depth must be at least 0, got -1"), prefetched(str, [1], -1):
        pass
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"), prefetched(str, [1], 1, 0):
        pass
