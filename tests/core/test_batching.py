from __future__ import annotations

import time
from concurrent.futures import CancelledError
from threading import Lock

import numpy as np
import pytest

from bgem3.batching import Merger, ahead, in_flight, token_batches


def test_batches_hold_the_budget_longest_first():
    lengths = np.array([3, 10, 4, 10, 5])
    batches = token_batches(lengths, budget=20)
    # 10 + 10 fill a batch; 5, 4, 3 cost 3 x 5 = 15
    assert [batch.tolist() for batch in batches] == [[1, 3], [4, 2, 0]]


def test_a_long_sequence_makes_a_batch_of_its_own():
    assert [batch.tolist() for batch in token_batches(np.array([2, 100, 2]), budget=8)] == [[1], [0, 2]]


def test_every_sequence_stands_in_one_batch():
    lengths = np.random.default_rng(0).integers(1, 600, 1000)
    batches = token_batches(lengths, budget=2048)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert all(len(b) == 1 or lengths[b].sum() <= 2048 for b in batches)
    assert all(len(b) == 1 or lengths[b].max() * len(b) <= 3072 for b in batches)


def test_nothing_gives_no_batch():
    assert token_batches(np.empty(0, dtype=np.int64), budget=8) == []


def test_requests_that_wait_together_run_together():
    seen: list[list[int]] = []

    def run(requests):
        seen.append(list(requests))
        time.sleep(0.05)
        return [r * 2 for r in requests]

    merger = Merger(run)
    futures = [merger.submit(n) for n in range(6)]
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8, 10]
    assert len(seen) <= 2
    assert sorted(n for group in seen for n in group) == list(range(6))
    merger.close()


def test_an_exception_result_is_raised_for_its_caller_only():
    merger = Merger(lambda requests: [ValueError("odd") if r % 2 else r for r in requests])
    futures = [merger.submit(n) for n in range(2)]
    assert futures[0].result() == 0
    with pytest.raises(ValueError, match="odd"):
        futures[1].result()
    merger.close()


def test_a_failing_run_reaches_every_caller_and_the_worker_lives_on():
    def run(requests):
        if 0 in requests:
            raise MemoryError("full")
        return list(requests)

    merger = Merger(run)
    first = merger.submit(0)
    with pytest.raises(MemoryError, match="full"):
        first.result()
    assert merger.submit(1).result() == 1
    merger.close()


def test_a_cancelled_request_never_runs():
    seen: list[int] = []

    def run(requests):
        seen.extend(requests)
        time.sleep(0.05)
        return list(requests)

    merger = Merger(run)
    merger.submit(0)
    time.sleep(0.01)
    second = merger.submit(1)
    assert second.cancel()
    merger.close()
    assert seen == [0]
    with pytest.raises(CancelledError):
        second.result()


def test_a_long_sequence_takes_no_crowd_of_short_ones_with_it():
    """Padded to 100 tokens each, six of them would cost 600 places for 150 tokens."""
    lengths = np.array([100, 10, 10, 10, 10, 10])
    assert [len(batch) for batch in token_batches(lengths, budget=200)] == [3, 3]


@pytest.mark.parametrize("count", [1, 3])
def test_in_flight_keeps_the_order_and_the_bound(count):
    running, most, lock = 0, 0, Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002 * (number % 3))
        with lock:
            running -= 1
        return number * 2

    assert list(in_flight(work, range(20), count)) == [2 * number for number in range(20)]
    assert most <= count


def test_in_flight_raises_what_the_work_raised():
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    with pytest.raises(ValueError, match="the third"):
        list(in_flight(work, range(10), 2))


def test_ahead_makes_one_item_more_than_was_taken():
    made = []

    def numbers():
        for number in range(5):
            made.append(number)
            yield number

    taken = ahead(numbers())
    assert next(taken) == 0
    time.sleep(0.05)
    assert made == [0, 1]
    assert list(taken) == [1, 2, 3, 4]


def test_ahead_raises_where_the_item_would_stand():
    def numbers():
        yield 1
        raise ValueError("no second")

    taken = ahead(numbers())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="no second"):
        next(taken)
