"""Live upgrade: a new generation takes over the lock, the pid file and the listening sockets.

An upgrade is a start that asks the holder of the lock instead of being refused by it. It has the
launcher, the handshake, the steps, the time-outs and the messages of any start; what differs is

    grant     what one generation gives to the next, as it travels between processes
    messages  the conversation over the control socket, with descriptors
    launch    the launcher of a daemon that can be replaced, and of one that replaces another
    listening a listening socket by name: the predecessor's, the manager's, or a new one
    daemon    the generation that this process is: it answers, takes over, and is superseded

The control socket stands beside the pid file, mode 0600. It listens only to root and its own user;
who connects sees that the other end is the process that the pid file proves.

    1. upgrader  {"request": "grant"}        its own options are checked
    2. old       {"generation": 7, ...}      with the lock, the control socket, the sockets
    or old       {"refused": "another ..."}  and nothing has happened
    3. upgrader  starts the new generation, which inherits the connection
    4. new       {"request": "take"}         it is ready, and its launcher has noted that
    5. old       {"take": "go"}              from here on the old one does not remove the file
    6. new       {"request": "taken"}        the pid file names the new one
    7. old       {"taken": "noted"}          it watches the new one for a moment; both serve
    8. old       closes the connection       it has closed the lock; it drains
    or new       {"request": "ends"}         it is being stopped, and nobody is to come back

The lock is held at every moment: both have it between 2 and 8, since flock(2) belongs to the open
file. The grant ends with the connection, so a new generation that fails before 4 leaves nothing.
The old one writes its own number back if the new one ends between 5 and 8, by a signal or an error.
If the old one dies before 8, the new one has lock and sockets already. The launcher of the new one
comes back after 8.

Rejected:

- the old daemon starts the new one: it has another user, another root, old limits and an old
  environment, cannot report to the user, and would be the wrong parent for a manager
- SO_REUSEPORT, with a socket for each generation: closing one resets what waits in its queue
- a second lock for the upgrade: the connection is one, and ends with its process
"""
