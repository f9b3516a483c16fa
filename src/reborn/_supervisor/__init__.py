"""Start a program again when it ends: what `reborn start --restart` and `reborn run` do.

    program      what is run, and what makes a process become it
    probe        a process that looks whether the program is ready
    health       whether a program that is ready goes on to be well
    watch        the wait for a program without a supervisor, in the intermediate
    output       what the program writes, on its way to the log (`rotation`: which ends somewhere)
    run          one run of the program: from before its start until nothing of it is left
    policy       after which ends it is started again, and after which delays: arithmetic
    state        what is recorded of the program
    loop         the loop that waits for events
    supervisor   the table of states and events: what is done about each

It knows no command line: `_command` hands over values. And as it lives for years, it loads little,
sleeps in one poll(2), and polls nothing but a log in which a line is waited for.

Rejected: to have the launcher's DaemonContext restart its program (a supervisor has to survive
what it supervises, and so is a process of its own); one supervisor for all programs (its end would
be the end of all, and its rights would be the sum of theirs).
"""
