"""Tests of the garbage collector during the imports of a command, and after them."""

import gc

import pytest

from service.quick_imports import quick_imports


def test_the_collector_rests_while_importing_and_never_looks_at_it_again() -> None:
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert not gc.isenabled()
        cycle: list[object] = []
        cycle.append(cycle)
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    assert all(each is not cycle for each in gc.get_objects())


def test_it_is_back_after_an_error_and_stays_off_where_it_was_off() -> None:
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
