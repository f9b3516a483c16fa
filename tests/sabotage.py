"""The places inside the package that negative controls take out, each by a name of our own.

What is underscored has its name here, and outside of tests/unit nowhere else in code that only runs
later: so a rename breaks tests/unit/test_sabotage.py at once, and not a control at run time.

    put("flush", lambda: None)                      in this process
    code("flush", "lambda: None")                   the line that does so in a program under test
    monkeypatch.setattr(*seam("flush"), ...)        for one test

Little is loaded for it, since programs under test have it, too.
"""

import os

SEAMS = {
    # The process and the system.
    "signals there are": "_signals:numbers",
    "reset signals": "_signals:reset",
    "set timers": "_signals:set_timers",
    "install signals": "_signals:install",
    "may sit in C": "_signals:main_thread_may_sit_in_c",
    "patience with the main thread": "_main_thread:_UNTIL_END",
    "patience with calls": "_main_thread:_UNTIL_KILLED",
    "block all signals": "_signals:block_all",
    "end the program": "_signals:end_program",
    "leave the loop": "_loops:leave",
    "exit from groups": "_loops:exit_from_groups",
    "end children": "_libraries:end_children",
    "is open": "_descriptors:is_open",
    "number of open descriptors": "_descriptors:_count",
    "open descriptors": "_descriptors:open_descriptors",
    "system of descriptors": "_descriptors:os",
    "fill standard streams": "_descriptors:fill_standard",
    "close what is inherited": "_descriptors:close_inherited",
    "redirect streams": "_descriptors:redirect",
    "descriptors of writers": "_descriptors:of_writers",
    "handlers there are": "_descriptors:_handlers",
    "copies of the caller's streams": "_descriptors:of_caller",
    "what is carried on": "_open_files:carried_on",
    "open a placeholder": "_descriptors:open_placeholder",
    "open the null device": "_descriptors:open_null",
    "replace by copies": "_descriptors:replace",
    "files locked by fcntl(2)": "_open_files:record_locked",
    "flush": "_descriptors:flush",
    "drop privileges": "_privileges:drop",
    "clear the status line": "_status_line:StatusLine.clear",
    "process table": "_proc:_PROC",
    "be a subreaper": "_proc:adopt_orphans",
    "children of a process": "_proc:children",
    "descendants of a process": "_proc:descendants",
    "has a handler": "_proc:handles",
    # Files, the pid file, the daemon.
    "flags of careful opening": "_files:CAREFUL",
    "check a file": "_files:check",
    "is named": "_files:is_named",
    "open or create": "_files:open_or_create",
    "remove a file": "_files:remove",
    "shows a pid file": "_holder:is_shown",
    "process exists": "_holder:_exists",
    "locks of holders": "_holder:fcntl",
    "take a record lock": "_record_lock:take",
    "take a lease": "_record_lock:take_lease",
    "end leases": "_record_lock:end_leases",
    "mark a stop": "_record_lock:mark_stop",
    "try a start lock": "_start_lock:StartLock.acquire",
    "start lock is released": "_start_lock:StartLock.release",
    "join a start": "_start_lock:StartLock.join",
    "alone in this process": "_ensure:_Alone.lock",
    "hear of other threads": "_ensure:_Alone.failure_since",
    "search for a daemon": "_command.foreign_pidfile:ForeignDaemon.search",
    "status of a daemon": "_verbs.control:DaemonVerbs.status",
    "look how a daemon stands": "_command.ensured:EnsuredDaemon._standing",
    "leave the addresses": "_idle:close",
    "wait for an address": "_upgrade.listening:_may_wait",
    "doubt a holder": "_holder:LockHolder.refuse_if_doubtful",
    "locks": "_pidfile:fcntl",
    "starter of a daemon": "_pidfile:LockedPidFile.starter",
    "patience with lookers": "_pidfile:_PATIENCE",
    "refuse if locked": "_pidfile:LockedPidFile.refuse_if_locked",
    "undo a mark": "_pidfile:LockedPidFile.unmark",
    "write the pid": "_pidfile:LockedPidFile.write",
    "write the pid over another": "_pidfile:LockedPidFile.write_over",
    "leave the directory": "_pidfile:LockedFile.leave_directory",
    "give the log": "_log:_give",
    "open a pidfd": "_process:_open_pidfd",
    "descriptors of gRPC": "_libraries:_kernel_objects",
    "wait of greenlets": "_process:_greenlets_wait",
    "head start of a program": "_ending:_HEAD_START",
    "kill a family": "_ending:Ending.kill",
    "signal a family": "_ending:Ending._signal",
    "descendants": "_ending:descendants",
    "stop": "_process:Daemon.stop",
    # A start.
    "accept an upgrader": "_upgrade.messages:accept",
    "connect to the holder": "_upgrade.launch:connect",
    "take over": "_upgrade.daemon:_ask",
    "take back": "_upgrade.daemon:Generation._take_back",
    "probation": "_upgrade.daemon:_PROBATION",
    "look of a generation": "_upgrade.daemon:Generation._look",
    "begin to serve": "_upgrade.daemon:Generation.take_over",
    "name the successor": "_notifier:Notifier.superseded",
    "longest line": "_handshake:_LONGEST_LINE",
    "channel": "_handshake:Channel",
    "close a channel": "_handshake:Channel.close",
    "close a report": "_handshake:Report.close",
    "error of a program": "_handshake:program_error",
    "report a failure": "_handshake:Report.failed",
    "signal on close": "_handshake:signal_on_close",
    "byte of who is not ready": "_record_lock:UNREADY_BYTE",
    "disarm SIGTERM": "_handshake:disarm_sigterm_on_close",
    "await the answer": "_handshake:Report._await_answer",
    "report ready": "_handshake:Report.ready",
    "report the end": "_handshake:Report.ending",
    "open file for a stream": "_options:_stream",
    "steps": "_steps:STEPS",
    "load what later steps need": "_steps:load_what_is_needed_later",
    "give up a start": "_launcher:Attempt.abandon",
    "dismiss the intermediate": "_launcher:Attempt._dismiss_intermediate",
    "reap the intermediate": "_launcher:Attempt._reap",
    "moment of a program": "_launcher:_MOMENT",
    "threads of a family": "_process:family_states",
    "shell": "_reexec:SHELL",
    "variables of the shell": "_reexec:_SHELL_OWN",
    "directory of a fresh program": "_own_command:directory",
    "command of a fresh program": "_own_command:command",
    "spawn by fork": "_posix_spawn:posix_spawn",
    "spawn through the shell": "_reexec:spawn_shell",
    "fork": "_steps:fork",
    "lead the session": "_steps:lead",
    "await the mark of a daemon": "_launcher:Launcher._await_mark",
    "prepare the start": "_launcher:Launcher._open",
    "refuse subinterpreters": "_launcher:refuse_subinterpreters",
    "descriptors of libraries": "_libraries:descriptors",
    "renew libraries": "_libraries:after_fork",
    "outlive the parent": "_signals:outlive_parent",
    "end of the launcher": "_launcher:end_program",
    "undo the start": "_launcher:Launcher._undo",
    "is an upgrader": "_inherited:is_upgrader",
    "end of a block": "_context:DaemonContext._end",
    # The fixtures.
    "switches of the sentinel": "_spawning.channel:_SWITCHES",
    "adopt orphans": "_spawning.keeper:adopt_orphans",
    "reset output": "_spawning.reset:reset",
    "is a loop running": "_spawning.function:_loops.running",
    "detector of leaks": "_spawning.leaks:LeakDetector",
    "processes that libraries keep": "_spawning.leaks:_kept",
    # Who runs us.
    "files of the process table": "_manager:_read",
}


def seam(name):
    """Return the object in which a place is, and its name there."""
    module, _, path = SEAMS[name].partition(":")
    owner = __import__(f"reborn.{module}", fromlist=["_"])
    *classes, attribute = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    return owner, attribute


def whole(name):
    """Return what is there."""
    return getattr(*seam(name))


def put(name, value):
    """Put *value* there."""
    owner, attribute = seam(name)
    if not hasattr(owner, attribute):
        raise AttributeError(SEAMS[name])
    setattr(owner, attribute, value)


def expression(name):
    """Return code for what is there."""
    module, _, path = SEAMS[name].partition(":")
    return f"__import__('reborn.{module}', fromlist=['_']).{path}"


def code(name, value):
    """Return a line of code that puts a value there.

    *value* is an expression; it may name what was there, `whole`, and where that was, `seam`.
    """
    owner, _, attribute = expression(name).rpartition(".")
    new = f"(lambda whole: {value})(seam.{attribute})"
    return f"(lambda seam: setattr(seam, {attribute!r}, {new}))({owner})\n"


def load_all():
    """Load each module of a start or an upgrade: later they may be out of reach."""
    import reborn
    import reborn._upgrade.daemon
    import reborn._upgrade.launch

    for directory in reborn.__path__:
        with os.scandir(directory) as entries:
            names = [entry.name.removesuffix(".py") for entry in entries if entry.is_file()]
        for name in sorted(names):
            if name.startswith("_") and not name.startswith("__"):
                __import__(f"reborn.{name}")
