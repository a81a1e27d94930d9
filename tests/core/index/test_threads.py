"""Work on items in several threads."""

import time
from threading import Barrier, Semaphore

import pytest

from bgem3.index.threads import map_shared, thread_count


def test_results_come_in_the_order_of_the_items():
    def work(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    assert map_shared(work, range(40)) == [i * i for i in range(40)]


def test_nothing_to_do():
    assert map_shared(len, []) == []


def test_threads_take_items_side_by_side():
    meeting = Barrier(min(2, thread_count()), timeout=10)
    map_shared(lambda _: meeting.wait(), range(2))


def test_a_thread_that_is_done_takes_the_next_item():
    others = Semaphore(0)

    def work(i):
        if i == 0:
            assert all(others.acquire(timeout=10) for _ in range(9))
        else:
            others.release()

    if thread_count() > 1:
        map_shared(work, range(10))


@pytest.mark.parametrize("bad", [0, 7, 19])
def test_an_error_in_the_work_is_raised(bad):
    def work(i):
        if i == bad:
            raise ValueError(f"not {i}")
        return i

    with pytest.raises(ValueError, match=f"not {bad}"):
        map_shared(work, range(20))
    assert map_shared(str, range(3)) == ["0", "1", "2"]
