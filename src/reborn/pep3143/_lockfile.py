"""The errors and the base class of lockfile, for where it is not installed.

A lock is taken or not (`LockError`), released or not (`UnlockError`); lockfile's tree and names.
"""
# ruff: noqa: N818 - the names are lockfile's

from __future__ import annotations

import os


class Error(Exception):
    """Base of all errors of a lock."""


class LockError(Error):
    """The lock was not taken."""


class LockTimeout(LockError):
    """The lock did not become free in time."""


class AlreadyLocked(LockError):
    """Somebody holds the lock."""


class LockFailed(LockError):
    """The file of the lock cannot be made."""


class UnlockError(Error):
    """The lock was not released."""


class NotLocked(UnlockError):
    """There is nothing to release."""


class NotMyLock(UnlockError):
    """Somebody else holds the lock."""


class _SharedBase:
    """What every lock has."""

    path: str | os.PathLike[str]


class LockBase(_SharedBase):
    """The attributes of a lock, which are lockfile's."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        threaded: bool = False,  # noqa: ARG002 - taken by position
        timeout: float | None = None,
    ) -> None:
        self.path = path
        self.lock_file: str = os.path.abspath(os.fspath(path)) + ".lock"
        self.hostname: str = os.uname().nodename
        self.pid: int = os.getpid()
        self.tname: str = ""
        self.unique_name: str | os.PathLike[str] = path
        self.timeout: float | None = timeout
