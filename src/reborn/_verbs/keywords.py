"""The options of `DaemonContext` as keywords that another call passes on; type checkers read this.

Without `pidfile`, `log_file` and `detach_process`: these are what the command line decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from signal import Signals

    from reborn._options import File, Handler, Path


class ContextOptions(TypedDict, total=False):
    """The options that `background` and `control` pass on to the context."""

    pidfile_mode: int
    log_file_mode: int
    stdin: File | None
    stdout: File | None
    stderr: File | None
    working_directory: Path | None
    umask: int
    chroot_directory: Path | None
    uid: int | str | None
    gid: int | str | None
    initgroups: bool
    prevent_core: bool
    files_preserve: Collection[File | None] | None
    signal_map: Mapping[int, Handler] | Mapping[Signals, Handler] | None
    strategy: Literal["fork", "reexec"]
    args: Sequence[str] | None
    env: Mapping[str, str] | None
    wait_ready: bool | None
    ready: str | Callable[[], object] | None
    ready_timeout: float
    upgradable: bool
    drain_timeout: float
    ports: Mapping[str, tuple[str, int]] | None
