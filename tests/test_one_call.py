"""The way of a call that CONTRIBUTING shows to newcomers."""

from tests import one_call


def test_a_call_goes_all_its_way_in_one_thread(store):
    assert one_call.walk(store) == (3, 1)
