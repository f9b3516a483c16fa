"""Conditions of readiness that start a process to find out."""

from reborn import _readiness


class View:
    """A program as far as a condition can see it."""

    def __init__(self, *, cwd=".", log="", said=False):
        self.cwd = str(cwd)
        self.log = log
        self.has_said_ready = said

    def read_log(self):
        return self.log


def missing(ready, **view):
    return _readiness.parse(ready).missing(View(**view))


def test_exec_has_to_succeed(tmp_path):
    assert missing("exec:test -e up", cwd=tmp_path) == "'test -e up' ends with status 1"
    assert missing("exec:true && true", cwd=tmp_path) is None
