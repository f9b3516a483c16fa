"""The `reborn` command: daemons by name, made of programs that know nothing of it.

A module for each of its nouns; imports point upwards only:

    foreign_pidfile, registry            the files of a daemon: its pid file, its record, its log
    overview                             its state, for people and programs
    converters, grammar, parser          the command line: values, verbs and options, argparse
    completion                           the shell's help with it
    spec, start                          a program with its options, and starting it
    verbs, cli                           one function for each verb; the command itself

`cli` reads a command line into a `Request`. `verbs` finds the daemon's record (`registry`) and its
state (`overview`), and makes a `Spec` of both, which `start` carries out. With ``--restart`` the
daemon is a supervisor (`_supervisor`, which knows nothing of the command line). Programs that have
reborn for their own command line share the verbs of `_verbs`.
"""
