"""The `reborn` command: daemons by name, made of programs that know nothing of it.

A module for each of its nouns; imports point upwards only:

    limits, known, named, program, overview, follow     what a daemon has
    watch, looker, life, policy, output, supervisor     who watches the program
    values, grammar, parser, completion                 what the command line says
    order, starting, verbs, cli                         doing it

A command line is read (`grammar`) into a `Request`; `verbs` finds what is known of the daemon
(`named`, `overview`), and makes of both an `Order`, which `starting` carries out. The programs that
have reborn for their own command line share the verbs, which are therefore not here (`_control`).
"""
