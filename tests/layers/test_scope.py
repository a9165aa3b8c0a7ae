import threading

import pytest

from tfadv.layers import scope


def test_scopes_nest():
    assert scope.current().domain == "adv" and not scope.current().running_statistics
    with scope.enter("clean", running_statistics=True) as outer:
        assert scope.current() is outer
        with scope.enter(3):
            assert scope.current().domain == 3 and not scope.current().running_statistics
        assert scope.current() is outer
    assert scope.current().domain == "adv"


def test_an_exception_ends_the_scope():
    with pytest.raises(KeyError), scope.enter("clean"):
        raise KeyError
    assert scope.current().domain == "adv"


def test_other_threads_do_not_see_it():
    seen = []
    with scope.enter("clean"):
        thread = threading.Thread(target=lambda: seen.append(scope.current().domain))
        thread.start()
        thread.join()
    assert seen == ["adv"]


def test_calls_without_a_scope_are_not_recorded():
    scope.current().seen.add(1)
    assert scope.current().seen == set()
