"""Spawn daemons for tests, wait until they are ready, and end them with all their descendants.

The processes:

    owner       pytest, or a worker of pytest-xdist; it may end in any way at any time
    sentinel    a small process that outlives its owner, and forks keepers
    keeper      parent of one program, adoptive parent of its descendants; ends them with its owner
    program     what the test starts; the daemon is this process, or a descendant of it

The modules; each imports only those that stand before it, type-checking imports included:

    lifelines, ports, log, spec         a noun each
    keeper, sentinel, reset, function   the processes beside the owner
    channel, rendezvous, owner          the owner's connections, and its daemons
    start, daemon, spawner, sharing     one start, the handle over all starts, what fixtures give
    leaks                               processes that a test has started without us

The fixtures stand in `pytest_plugin`, which pytest loads in every session where reborn is
installed; nothing of this package is loaded before the first fixture.
"""
