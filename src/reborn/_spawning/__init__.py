"""Spawn daemons for tests, await them, and reap them with all that came of them.

Who is who:

    owner       pytest, or a worker of pytest-xdist; it may end in any way at any time
    sentinel    a small process that outlives its owner, and forks keepers
    keeper      parent of one program and of whatever comes of it; ends all of it with its owner
    program     what the test has asked for; the daemon is this process, or one that came of it

`pytest_plugin` gives a `spawner` to the tests, each call of which makes a `daemon`, the handle.
Each start of it (`start`) talks by a channel (`channel`) to a keeper. Imports point upwards only:

    ends, tree, ports, plan, log        a noun each
    keeper, sentinel, function          the processes beside the owner
    channel, start, daemon, spawner     the owner's side
    meeting, sharing                    more than one owner: the workers of pytest-xdist
    leaks                               what a test has started without us
"""
