"""Which descriptors survive, and where 0, 1 and 2 point."""

import concurrent.futures
import errno
import fcntl
import gc
import io
import logging
import logging.handlers
import mmap
import os
import queue
import select
import signal
import socket
import sys
import tempfile
import types
from pathlib import Path

import pytest

from reborn import _descriptors


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        if _descriptors.is_open(fd):
            os.close(fd)


@pytest.fixture
def standard():
    """Put 0, 1 and 2 back as they were."""
    kept = [os.dup(fd) for fd in range(3)]
    yield
    for number, fd in enumerate(kept):
        os.dup2(fd, number)
        os.close(fd)


@pytest.fixture
def spare(pipe):
    """Two descriptors to be closed; whatever else is open is not ours to close."""
    inheritable, private = os.dup(pipe[0]), os.dup(pipe[1])
    os.set_inheritable(inheritable, True)
    yield inheritable, private
    for fd in (inheritable, private):
        if _descriptors.is_open(fd):
            os.close(fd)


def is_null(fd):
    return os.path.sameopenfile(fd, NULL)


NULL = os.open(os.devnull, os.O_RDONLY)  # to compare with


@pytest.fixture(params=[True, False], ids=["O_PATH", "pipe"])
def placeholders(request, monkeypatch):
    """As on Linux, and as where there is no O_PATH."""
    if not request.param:
        monkeypatch.delattr(os, "O_PATH", raising=False)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_closed_standard_descriptor_is_filled_with_the_null_device(standard, number):
    os.close(number)
    assert _descriptors.fill_standard() == [number]
    assert is_null(number)


def test_open_standard_descriptors_are_left_alone(standard):
    before = [os.fstat(fd) for fd in range(3)]
    assert _descriptors.fill_standard() == []
    assert [os.fstat(fd) for fd in range(3)] == before


def test_streams_are_connected_even_in_a_circle(standard):
    with tempfile.TemporaryFile() as a, tempfile.TemporaryFile() as b:
        os.dup2(a.fileno(), 0)
        os.dup2(b.fileno(), 1)
        _descriptors.redirect((1, 0, None))
        assert os.path.sameopenfile(0, b.fileno())
        assert os.path.sameopenfile(1, a.fileno())
        assert not os.path.sameopenfile(2, a.fileno())
        assert all(os.get_inheritable(fd) for fd in (0, 1))


def test_copy_is_above_the_standard_descriptors_and_private(standard, pipe):
    os.close(0)
    copy = _descriptors.duplicate(pipe[0])
    os.dup2(pipe[0], 0)
    assert copy > 2
    assert not os.get_inheritable(copy)
    os.close(copy)


@pytest.fixture(params=["proc", "dev", "numbers"])
def listing(request, monkeypatch):
    """As here, as on macOS, and as where only the numbers can be tried."""
    shown = {"proc": ("/proc/self/fd",), "dev": ("/dev/fd",), "numbers": ()}[request.param]
    listdir = os.listdir

    def limited(folder):
        if folder not in shown:
            raise FileNotFoundError
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", limited)
    if request.param != "proc":
        monkeypatch.setattr(_descriptors, "_count", int)


def test_open_descriptors_are_found_on_every_platform(listing, pipe):
    found = _descriptors.open_descriptors()
    assert found == sorted(found)
    assert {0, 1, 2, *pipe} <= set(found)
    os.close(pipe[1])
    assert set(found) - set(_descriptors.open_descriptors()) == {pipe[1]}


def test_partial_listing_is_not_believed(monkeypatch, pipe):
    monkeypatch.setattr(_descriptors, "_count", int)
    monkeypatch.setattr(os, "listdir", lambda _: ["0", "1", "2"])  # FreeBSD without fdescfs
    assert set(pipe) <= set(_descriptors.open_descriptors())


@pytest.mark.parametrize("more", [0, 1], ids=["promise", "control"])
def test_descriptors_are_not_listed_where_their_number_says_it_all(monkeypatch, more):
    lowest = _descriptors._lowest_free()
    monkeypatch.setattr(_descriptors, "_count", lambda: lowest + more)
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    assert _descriptors.open_descriptors()[:lowest] == [*range(lowest)]
    assert bool(listed) == bool(more)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_many_descriptors_are_found_without_a_listing(monkeypatch, pipe, sparse, full):
    listed = _descriptors.open_descriptors()
    if full:
        monkeypatch.setattr(os, "open", failing)
    if sparse:
        os.dup2(pipe[0], 200)
        listed = sorted([*listed, 200])
    monkeypatch.setattr(_descriptors, "_MANY", 0)
    monkeypatch.setattr(os, "listdir", failing)
    try:
        assert _descriptors.open_descriptors() == listed
    finally:
        if sparse:
            os.close(200)


@pytest.mark.skipif(not _descriptors._count(), reason="NEEDS Linux 6.2")
def test_search_for_many_descriptors_ends_with_the_last(monkeypatch, pipe):
    os.dup2(pipe[0], 900)
    monkeypatch.setattr(_descriptors, "_MANY", 0)
    monkeypatch.setattr(_descriptors, "_table_size", lambda: 2**30)  # to try all takes minutes
    try:
        assert _descriptors.open_descriptors()[-1] == 900
    finally:
        os.close(900)


def failing(*_, **__):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def close(fds):
    """Close *fds* by keeping everything else; return what was kept."""
    opened = _descriptors.open_descriptors()
    keep = set(opened) - set(fds)
    _descriptors.close_inherited(opened, keep=keep)
    return keep


USES = {
    "write": lambda fd: os.write(fd, b"lost"),
    "read": lambda fd: os.read(fd, 1),
    "write at a place": lambda fd: os.pwrite(fd, b"lost", 0),
    "read at a place": lambda fd: os.pread(fd, 1, 0),
    "truncate": lambda fd: os.ftruncate(fd, 0),
    "write to the disk": os.fsync,
    "map": lambda fd: mmap.mmap(fd, 4096),
    "enter": os.fchdir,
}
# A pipe cannot refuse these; they are harmless there.
MORE_USES = {
    "lock": lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
    "wait": lambda fd: select.epoll().register(fd),
    "look up": lambda fd: os.open("null", os.O_RDONLY, dir_fd=fd),
}


@pytest.mark.parametrize("use", USES)
def test_number_of_a_closed_descriptor_refuses_every_use(placeholders, spare, use):
    close(spare)
    for fd in spare:
        assert not os.get_inheritable(fd)
        with pytest.raises((OSError, ValueError)):
            USES[use](fd)
    assert min(os.pipe()) > max(spare)  # they stay taken


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="NEEDS os.O_PATH, which PyPy does not have")
@pytest.mark.parametrize("use", MORE_USES)
def test_placeholder_can_be_neither_locked_nor_waited_for(spare, use):
    close(spare)
    for fd in spare:
        with pytest.raises(OSError, match=r"Bad file descriptor|Not a directory"):
            MORE_USES[use](fd)


def test_who_waits_for_a_placeholder_does_not_wait(spare):
    close(spare)
    poll = select.poll()
    poll.register(spare[0], select.POLLIN)
    refusal = select.POLLNVAL if hasattr(os, "O_PATH") else select.POLLERR
    assert poll.poll() == [(spare[0], refusal)]
    assert select.select([spare[0]], [], [])[0] == [spare[0]]


@pytest.mark.parametrize("use", USES)
def test_uses_of_a_descriptor_control(tmp_path, use):
    with open(tmp_path / "file", "wb+") as file:
        file.write(b"x" * 4096)
        file.flush()
        if use == "enter":
            with pytest.raises(NotADirectoryError):
                os.fchdir(file.fileno())
        else:
            USES[use](file.fileno())


def test_descriptors_are_closed_in_a_full_table(spare, monkeypatch):
    """There is no free number for a placeholder but one that is closed."""
    opened = os.open

    def open_in_full_table(path, flags, *more, **options):
        assert not all(_descriptors.is_open(fd) for fd in spare)
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", open_in_full_table)
    _descriptors.close_inherited(spare, keep=())
    monkeypatch.undo()
    for fd in spare:
        with pytest.raises(OSError, match=r"Bad file descriptor|Broken pipe"):
            os.write(fd, b"lost")


def test_placeholder_that_is_given_is_used_and_closed(spare):
    placeholder = _descriptors.open_placeholder()
    _descriptors.close_inherited(spare, keep=(), placeholder=placeholder)
    assert not _descriptors.is_open(placeholder)
    assert all(_descriptors.is_open(fd) for fd in spare)


def test_kept_descriptor_stays(spare):
    before = [os.fstat(fd) for fd in spare]
    close([])
    assert [os.fstat(fd) for fd in spare] == before


@pytest.fixture
def logger():
    logger = logging.getLogger("reborn.test")
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "file", "w") as file:
        yield file


class Tee:
    """What people write to print to two files."""

    def __init__(self, *files):
        self.files = files

    def fileno(self):
        return self.files[0].fileno()


class Proxy:
    """Knows every name, as proxies of remote objects do; asking costs."""

    def __getattr__(self, name):
        raise AssertionError(name)


class Wrapper:
    """As those of colorama and rich: what it wraps is an attribute of a name of its own."""

    def __init__(self, wrapped):
        self._Wrapper__wrapped = wrapped

    def __getattr__(self, name):
        return getattr(self.__dict__["_Wrapper__wrapped"], name)


class Slotted:
    __slots__ = ("wrapped",)

    def __init__(self, wrapped):
        self.wrapped = wrapped


class Lazy:
    """Begins to work when it is looked at, and cannot; as the settings of Django."""

    @property
    def __class__(self):
        raise LookupError("__class__")

    @property
    def __dict__(self):
        raise LookupError("__dict__")

    def __getattr__(self, name):
        raise LookupError(name)

    def fileno(self):
        raise LookupError("fileno")


WRITERS = {
    "a handler of no logger": logging.StreamHandler,
    "behind a queue": lambda file: logging.handlers.QueueListener(
        queue.SimpleQueue(), logging.StreamHandler(file)
    ),
    "behind a buffer": lambda file: logging.handlers.MemoryHandler(
        9, target=logging.StreamHandler(file)
    ),
    "a wrapped file": lambda file: logging.StreamHandler(Wrapper(file)),
    "one of two files": lambda file: logging.StreamHandler(Tee(sys.__stderr__, file)),
    "a console": lambda file: attributed(logging.NullHandler(), console=Wrapper(Wrapper(file))),
    "a method of the file": lambda file: attributed(logging.NullHandler(), sink=file.write),
    "a function": lambda file: attributed(
        logging.NullHandler(), sink=lambda text: file.write(f"{text}")
    ),
    "one of many": lambda file: attributed(logging.NullHandler(), files={"error": file}),
    "a slot": lambda file: attributed(logging.NullHandler(), sink=Slotted(file)),
    "a lock beside it": lambda file: attributed(logging.NullHandler(), stream_lock=file),
}


def attributed(owner, **attributes):
    vars(owner).update(attributes)
    return owner


@pytest.mark.parametrize("kind", WRITERS)
def test_descriptors_of_all_handlers_are_found(file, kind):
    assert file.fileno() not in _descriptors.of_writers()
    writer = WRITERS[kind](file)
    assert _descriptors.of_writers()[file.fileno()] == 2
    del writer


def detached(path):
    stream = path.open("w")
    stream.detach().close()
    return stream


OPENED = {
    "text": (lambda path: path.open("w"), False),
    "bytes": (lambda path: path.open("wb"), False),
    "unbuffered": (lambda path: io.TextIOWrapper(io.FileIO(path, "w")), False),
    "standard input": (Path.open, False),
    "detached": (detached, True),
    "with more": (lambda path: attributed(path.open("w"), tee=Tee()), True),
    "with more inside": (
        lambda path: io.TextIOWrapper(attributed(path.open("wb"), tee=Tee())),
        True,
    ),
}


@pytest.mark.parametrize("kind", OPENED)
def test_stream_as_python_opens_it_is_not_taken_apart(monkeypatch, file, kind):
    """Each start would pay for it; but what a program has hung onto one is found."""
    asked = []
    monkeypatch.setattr(_descriptors, "_parts", lambda writer: asked.append(writer) or [])
    monkeypatch.setattr(_descriptors, "_handlers", list)
    make, is_taken_apart = OPENED[kind]
    stream = make(Path(file.name))
    monkeypatch.setattr(sys, "stdout", stream)
    try:
        _descriptors.of_writers()
        assert any(each is stream for each in asked) == is_taken_apart
    finally:
        if kind != "detached":
            stream.close()


def test_descriptor_of_a_handler_that_logging_has_not_made_is_found(logger, file):
    class Handler:
        level = 0
        close = print

        def __init__(self):
            self.stream = file

    logger.addHandler(Handler())
    assert file.fileno() in _descriptors.of_writers()


def test_nothing_is_asked_of_what_knows_every_name(logger):
    logger.addHandler(attributed(logging.NullHandler(), proxy=Proxy(), lazy=Lazy()))
    _descriptors.of_writers()


def test_function_that_uses_what_is_not_there_yet_has_no_descriptors(logger):
    def sink(text):
        later.write(text)

    logger.addHandler(attributed(logging.NullHandler(), sink=sink))
    _descriptors.of_writers()
    later = None


def test_socket_of_a_logging_handler_is_found(logger, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        logger.addHandler(handler := logging.handlers.SysLogHandler(str(tmp_path / "log")))
        assert handler.socket.fileno() in _descriptors.of_writers()


@pytest.mark.parametrize(("number", "name"), [(0, "stdin"), (1, "stdout"), (2, "stderr")])
def test_files_in_place_of_the_standard_ones_are_found(monkeypatch, file, number, name):
    monkeypatch.setattr(sys, name, Tee(file))
    assert _descriptors.of_writers()[file.fileno()] == number


def test_sinks_of_loguru_are_found(monkeypatch, file):
    sink = attributed(Wrapper(file), name="as loguru.Handler")
    core = types.SimpleNamespace(handlers={1: sink})
    loguru = types.SimpleNamespace(logger=types.SimpleNamespace(_core=core))
    monkeypatch.setitem(sys.modules, "loguru", loguru)
    assert file.fileno() in _descriptors.of_writers()


@pytest.mark.parametrize("make", [os.pipe, lambda: [end.detach() for end in socket.socketpair()]])
def test_both_ends_of_what_signals_are_written_to_are_found(make):
    gc.collect()  # PyPy: so that no numbers are taken between the two
    reader, writer = make()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    try:
        assert {reader, writer} <= _descriptors.of_wakeup()[1]
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def test_nothing_is_found_where_signals_are_written_to_nothing():
    before = signal.set_wakeup_fd(-1)
    assert _descriptors.of_wakeup() == (-1, set())
    with concurrent.futures.ThreadPoolExecutor() as pool:  # where it cannot be asked for
        assert pool.submit(_descriptors.of_wakeup).result() == (-1, set())
    signal.set_wakeup_fd(before)


def test_nothing_is_found_where_whoever_wanted_signals_has_closed_the_descriptor():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer)
    os.close(reader)
    os.close(writer)
    assert _descriptors.of_wakeup() == (-1, set())
    assert signal.set_wakeup_fd(before) == -1


def test_copies_of_the_callers_pipe_are_told_from_files(standard, pipe, file, monkeypatch):
    os.dup2(pipe[1], 1)
    other = os.pipe()
    writers = {pipe[1]: 2, file.fileno(): 2, other[1]: 2, 999: 2}
    # It is 1 that it is a copy of, whatever is meant.
    assert _descriptors.of_caller(writers) == {pipe[1]: 1}
    os.dup2(pipe[1], 2)
    assert _descriptors.of_caller(writers) == {pipe[1]: 2}
    for fd in other:
        os.close(fd)


def test_copy_is_replaced_and_passed_on_as_before(pipe, file):
    for inheritable in (False, True):
        os.set_inheritable(pipe[1], inheritable)
        _descriptors.replace({pipe[1]: file.fileno()})
        assert os.path.sameopenfile(pipe[1], file.fileno())
        assert os.get_inheritable(pipe[1]) is inheritable


def test_descriptor_of_a_file_or_a_number_or_of_nothing(pipe):
    with open(pipe[0], closefd=False) as file:
        assert _descriptors.fileno(file) == pipe[0]
    assert _descriptors.fileno(file) is None  # closed
    assert _descriptors.fileno(7) == 7
    assert _descriptors.fileno("7") is None
    assert _descriptors.fileno(None) is None


def test_closing_never_fails():
    reader, writer = os.pipe()
    _descriptors.close(reader, None, reader, -1, writer)
    assert not _descriptors.is_open(writer)
