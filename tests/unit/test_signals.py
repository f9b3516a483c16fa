"""What was ignored or blocked for us is undone; what the program arranged stays."""

import errno
import faulthandler
import os
import signal

import pytest

from reborn import DaemonContext, _inherited, _options, _signals

# Signals that nothing else in a test run uses.
OURS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE)


@pytest.fixture(autouse=True)
def as_before():
    handlers = {number: signal.getsignal(number) for number in OURS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def handler(*_):
    pass


def test_everything_can_be_blocked_and_put_back():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    mask = _signals.block_all()
    assert mask == before | {signal.SIGUSR1}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert blocked >= set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}
    _signals.restore_mask(mask)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_mask_is_put_back_at_the_second_attempt(monkeypatch):
    calls = []

    def once(how, mask):
        calls.append(mask)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(_signals._signal, "pthread_sigmask", once)
        _signals.restore_mask({signal.SIGUSR1})
    assert calls == [{signal.SIGUSR1}] * 2


def test_no_signal_is_offered_that_cannot_be_handled():
    numbers = set(_signals.numbers())
    assert numbers == signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def test_ignored_signals_are_found():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, handler)
    assert signal.SIGUSR1 in _inherited.ignored_signals()
    assert not {signal.SIGUSR2, signal.SIGKILL} & _inherited.ignored_signals()


@pytest.mark.parametrize(
    ("number", "before", "inherited", "after"),
    [
        (signal.SIGHUP, signal.SIG_IGN, True, signal.SIG_DFL),  # nohup
        (signal.SIGINT, signal.SIG_IGN, True, signal.default_int_handler),  # a job with "&"
        (signal.SIGHUP, signal.SIG_IGN, False, signal.SIG_IGN),  # the program's own wish
        (signal.SIGHUP, handler, True, handler),
        (signal.SIGUSR1, signal.SIG_DFL, True, signal.SIG_DFL),
        (signal.SIGPIPE, signal.SIG_DFL, False, signal.SIG_IGN),
        (signal.SIGPIPE, signal.SIG_IGN, True, signal.SIG_IGN),
        (signal.SIGPIPE, handler, False, handler),
    ],
)
def test_reset_undoes_what_was_inherited_and_leaves_the_programs_own(
    number, before, inherited, after
):
    signal.signal(number, before)
    _signals.reset(frozenset({number} if inherited else ()), ())
    assert signal.getsignal(number) == after


def test_reset_unblocks_everything():
    _signals.block_all()
    _signals.reset(frozenset(), ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.parametrize(
    ("disposition", "inherited", "untouched"),
    [
        (signal.SIG_DFL, False, True),
        (signal.SIG_IGN, True, True),
        (signal.SIG_IGN, False, False),
        (handler, True, False),
    ],
)
def test_signal_is_untouched_unless_the_program_has_set_something(
    disposition, inherited, untouched
):
    signal.signal(signal.SIGUSR1, disposition)
    ignored = frozenset({signal.SIGUSR1} if inherited else ())
    assert (signal.SIGUSR1 in _signals.untouched({signal.SIGUSR1}, ignored)) is untouched


def test_handler_of_a_library_in_c_counts(monkeypatch):
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1)
    try:
        assert signal.SIGUSR1 not in _signals.untouched({signal.SIGUSR1}, frozenset())
        monkeypatch.setattr("builtins.open", failing)  # where /proc does not say so
        assert signal.SIGUSR1 in _signals.untouched({signal.SIGUSR1}, frozenset())
    finally:
        faulthandler.unregister(signal.SIGUSR1)


def failing(*_, **__):
    raise OSError


def test_default_map_is_for_signals_that_the_program_has_not_set():
    context = DaemonContext()
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, handler)
        assert signal.SIGTERM not in _options.resolve(context).handlers
        # That of an earlier context is not the program's.
        signal.signal(signal.SIGTERM, DaemonContext().terminate)
        assert _options.resolve(context).handlers[signal.SIGTERM] == context.terminate
        signal.signal(signal.SIGTERM, handler)
        context.signal_map = {signal.SIGTERM: "terminate"}
        assert _options.resolve(context).handlers == {signal.SIGTERM: context.terminate}
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_are_installed_however_the_user_wrote_them():
    context = DaemonContext(
        signal_map={
            signal.SIGUSR1: handler,
            int(signal.SIGUSR2): signal.SIG_IGN,
            signal.SIGHUP: None,
            signal.SIGPIPE: 0,
            signal.SIGINT: "terminate",
        }
    )
    _signals.install(_options.resolve(context).handlers)
    assert [signal.getsignal(number) for number in OURS] == [
        handler,
        signal.SIG_IGN,
        signal.SIG_IGN,
        context.terminate,
        signal.SIG_DFL,
    ]
