"""What a SIGTERM asks for, and of whom."""

import signal

import pytest

from merit_modules.training import stopping


def test_a_signal_ends_the_run_that_it_was_sent_to_and_no_later_one():
    with pytest.raises(stopping.Terminated), stopping.listening():
        with stopping.request.deferred():
            signal.raise_signal(signal.SIGTERM)
            saved = True
    assert saved
    with stopping.request.deferred():
        pass
