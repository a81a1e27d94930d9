"""Work on items while the next ones are made."""

import time
from threading import Event, get_ident

import pytest

from bgem3.index.threads import map_while, thread_count


def test_results_come_in_the_order_of_the_items():
    def work(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    assert map_while(work, iter(range(40))) == [i * i for i in range(40)]


def test_nothing_to_do():
    assert map_while(len, []) == []


def test_the_first_item_is_worked_on_while_the_second_is_made():
    begun = Event()

    def items():
        yield 0
        assert begun.wait(10)
        yield 1

    def work(i):
        begun.set()
        return get_ident()

    assert map_while(work, items())[0] != get_ident()


def test_few_items_wait_at_a_time():
    made, done = 0, 0

    def items():
        nonlocal made
        for made in range(1, 101):
            assert made - done <= 3 * thread_count() + 2
            yield made

    def work(i):
        nonlocal done
        time.sleep(0.001)
        done += 1

    map_while(work, items())
    assert done == 100


@pytest.mark.parametrize("bad", [0, 7, 19])
def test_an_error_in_the_work_is_raised(bad):
    def work(i):
        if i == bad:
            raise ValueError(f"not {i}")
        return i

    with pytest.raises(ValueError, match=f"not {bad}"):
        map_while(work, range(20))
    assert map_while(str, range(3)) == ["0", "1", "2"]


def test_an_error_in_making_an_item_is_raised():
    def items():
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        map_while(str, items())
