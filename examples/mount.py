"""A file system in user space (FUSE) that mounts itself in the background, as `juicefs mount -d`.

    python mount.py DIRECTORY            comes back when the mount answers
    kill $(cat DIRECTORY.pid)            unmounts it

What is in the directory says how the daemon is: its pid, and since when it runs. It needs mfusepy
and libfuse. Its main thread is in libfuse's loop, in C, until the end; SIGTERM ends that loop: it
unmounts, and the program goes on after FUSE(...).
"""

import errno
import os
import stat
import sys
import threading
import time

import mfusepy

from reborn import DaemonContext


class Status(mfusepy.Operations):
    """A directory with a file for each fact."""

    use_ns = True  # times are whole numbers of nanoseconds

    def __init__(self, mount_point: str, context: DaemonContext) -> None:
        self.mount_point = mount_point
        self.context = context
        self.files = {
            "/pid": f"{os.getpid()}\n".encode(),
            "/since": f"{time.time():.0f}\n".encode(),
        }

    def init(self, _: str) -> None:
        """Have another thread look for the mount, which answers when this is over."""
        threading.Thread(target=self.say_ready).start()

    def say_ready(self) -> None:
        """Report READY as soon as the mount answers."""
        os.stat(os.path.join(self.mount_point, "pid"))
        self.context.ready(f"mounted at {self.mount_point}")

    def getattr(self, path: str, _: int | None = None) -> dict[str, int]:
        """Return what stat(2) asks for."""
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2}
        if path not in self.files:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": len(self.files[path])}

    def readdir(self, *_: object) -> list[str]:
        """Return what is in the directory."""
        return [".", "..", *(name[1:] for name in self.files)]

    def read(self, path: str, size: int, offset: int, _: int) -> bytes:
        """Return a part of a file."""
        return self.files[path][offset : offset + size]


def refuse_unless_free(path: str) -> None:
    """End with a line that says why nothing can be mounted there."""
    try:
        is_mount = os.path.ismount(path)
        os.listdir(path)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            sys.exit(f"{path} is a stale mount, whose daemon was killed; umount {path} first")
        sys.exit(f"{path}: {error.strerror}")
    if is_mount:
        sys.exit(f"{path} is mounted already")


def main() -> None:
    """Mount the directory named on the command line."""
    path = os.path.abspath(sys.argv[1])
    refuse_unless_free(path)
    with DaemonContext(f"{path}.pid", log_file=f"{path}.log", wait_ready=True) as context:
        mfusepy.FUSE(Status(path, context), path, foreground=True)


if __name__ == "__main__":
    main()
