"""Start a program the way `ssh -t host program` does: it leads the session of a terminal.

    on_terminal.py TERMINAL PROGRAM [ARGUMENT...]

To be started as the leader of a session without a terminal. What a careless caller leaves behind
comes along: a umask, an open descriptor, signals that are ignored or blocked.
"""

import os
import signal
import sys

terminal, *command = sys.argv[1:]
fd = os.open(terminal, os.O_RDWR)  # without O_NOCTTY: it becomes the session's (APUE 9.6)
for number in (0, 1, 2):
    os.dup2(fd, number)
os.dup2(os.open(__file__, os.O_RDONLY), 9)
os.umask(0o077)
for ignored in (signal.SIGUSR1, signal.SIGINT):
    signal.signal(ignored, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
os.execv(command[0], command)
