"""Serve a directory as a file system some of whose operations fail (FUSE).

    failing_disk.py FAULTS DIRECTORY MOUNT_POINT

FAULTS is a file that is read at each operation: {"flock": 38} has that one fail with that errno.
"""

import fcntl
import json
import os
import sys

import mfusepy


class FaultyDisk(mfusepy.Operations):
    """The files of *directory*, and an error where *faults* has one."""

    use_ns = True  # or mfusepy warns of times in seconds

    def __init__(self, directory, faults):
        self.directory = directory
        self.faults = faults

    def _at(self, path, operation):
        with open(self.faults) as file:
            number = json.load(file).get(operation)
        if number is not None:
            raise OSError(number, os.strerror(number))
        return self.directory + path

    def init(self, path):
        print("mounted", flush=True)

    def getattr(self, path, fh=None):
        status = os.lstat(self._at(path, "getattr"))
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")
        return {name: getattr(status, name) for name in names}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self._at(path, "readdir"))]

    def create(self, path, mode, fi=None):
        return os.open(self._at(path, "create"), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def open(self, path, flags):
        # The kernel appends by itself: it says where each write goes.
        return os.open(self._at(path, "open"), flags & ~os.O_APPEND)

    def read(self, path, size, offset, fh):
        self._at(path, "read")
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        self._at(path, "write")
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(self._at(path, "truncate"), length)

    def unlink(self, path):
        os.unlink(self._at(path, "unlink"))

    def chmod(self, path, mode):
        os.chmod(self._at(path, "chmod"), mode)

    def chown(self, path, uid, gid):
        os.chown(self._at(path, "chown"), uid, gid)

    def flush(self, path, fh):
        self._at(path, "flush")

    def release(self, path, fh):
        os.close(fh)

    def flock(self, path, fh, op):
        self._at(path, "flock")
        # Never waiting: one thread serves them all.
        fcntl.flock(fh, op | fcntl.LOCK_NB)


if __name__ == "__main__":
    faults, directory, mount_point = map(os.path.abspath, sys.argv[1:])
    disk = FaultyDisk(directory, faults)
    options = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    mfusepy.FUSE(disk, mount_point, foreground=True, nothreads=True, hard_remove=True, **options)
