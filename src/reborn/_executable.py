"""Why execve(2) refuses a file, in more words than an errno has.

"No such file or directory" of a file that is there means its interpreter (execve(2), ENOENT); "Exec
format error" is the answer to a program for another machine, and also to a script without an
interpreter line, which execvp(3) gives to /bin/sh. A file with a zero byte near its beginning is
not a script, as bash has it: fed to a shell, it would run as whatever its bytes happen to spell.

Read only after a refusal, and before a program is stopped that is to be started again.
"""

import os
from errno import EACCES, ENOENT, ENOEXEC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

_HEADER = 4096
# elf(5): the class and the byte order in e_ident, e_machine after it; the kind of PT_INTERP.
_ELF, _MACHINE, _INTERPRETER = b"\x7fELF", slice(18, 20), 3
# Whose scripts no shell can run; import(1), of ImageMagick, would even take pictures of the screen.
_OTHER_LANGUAGES = (".js", ".php", ".pl", ".py", ".rb")


def is_script(path: str) -> bool:
    """Tell whether the file that execve(2) does not know may be for a shell."""
    return b"\0" not in _header(path)[:256] and not needs_interpreter(path)


def needs_interpreter(path: str) -> bool:
    """Tell whether a file that execve(2) does not know is a script in another language."""
    return path.endswith(_OTHER_LANGUAGES)


def reason(path: str, number: int | None) -> str:
    """Return why execve(2) refuses the program *path*, or "" if the reason is unknown."""
    header = _header(path)
    if number == ENOENT and header:
        interpreter = _interpreter(header)
        ends = ", and its lines end as on Windows" if (interpreter or "").endswith("\r") else ""
        return f"whose interpreter {interpreter!r} is missing{ends}"
    if number == ENOEXEC:
        if needs_interpreter(path):
            return "whose first line names no interpreter (#!)"
        return (
            "which is built for another machine"
            if _is_foreign(header)
            else "which is not a program"
        )
    # Otherwise a directory on the way may not be searched.
    return _no_access(path, header) if number == EACCES and os.path.exists(path) else ""


def _no_access(path: str, header: bytes) -> str:
    if os.path.isdir(path):
        return "which is a directory"
    if os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0):
        return "which is on a file system without programs (noexec)"
    interpreter = _interpreter(header) if header.startswith(b"#!") else None
    if interpreter and os.access(path, os.X_OK) and not os.access(interpreter, os.X_OK):
        return f"whose interpreter {interpreter!r} may not be executed"
    if os.access(path, os.X_OK):
        return ""
    nobody = not os.stat(path).st_mode & 0o111
    return "which is not executable (chmod +x)" if nobody else "which this user may not execute"


def find(paths: "Iterable[str]") -> str:
    """Return the first of *paths* that can be executed, as far as can be seen.

    Raises:
        OSError: none of them can; the refusal is that of execve(2), with the path.
    """
    refusal: OSError = FileNotFoundError(ENOENT, os.strerror(ENOENT))
    for path in paths:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            interpreter = _interpreter(_header(path))
            if interpreter and not os.path.exists(interpreter):
                raise FileNotFoundError(ENOENT, os.strerror(ENOENT), path)
            return path
        if os.path.lexists(path):
            refusal = PermissionError(EACCES, os.strerror(EACCES), path)
    raise refusal


def _header(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _HEADER)
    except OSError:
        return b""  # a directory
    finally:
        os.close(fd)


def _interpreter(header: bytes) -> str | None:
    """Return the program that is to run a script, or the dynamic linker of a binary."""
    if header.startswith(b"#!"):
        # As the kernel does, to which a carriage return is a letter of the name.
        line = header[2:].partition(b"\n")[0].replace(b"\t", b" ").strip(b" ")
        return os.fsdecode(line.partition(b" ")[0]) if line else None
    if not header.startswith(_ELF) or _is_foreign(header):
        return None
    wide = header[4] == 2
    order: Literal["little", "big"] = "little" if header[5] == 1 else "big"

    def number(at: int, width: int) -> int:
        return int.from_bytes(header[at : at + width], order)

    # e_phoff, e_phentsize and e_phnum; p_type and p_offset of each entry.
    word = 8 if wide else 4
    table = number(32 if wide else 28, word)
    size, count = (number(at, 2) for at in ((54, 56) if wide else (42, 44)))
    for entry in range(table, table + size * count, size or 1):
        if number(entry, 4) == _INTERPRETER:
            begin = number(entry + (8 if wide else 4), word)
            return os.fsdecode(header[begin:].partition(b"\0")[0]) or None
    return None


def _is_foreign(header: bytes) -> bool:
    """Tell whether a binary is for another machine than the one that runs us."""
    ours = _header("/proc/self/exe")
    if not (header.startswith(_ELF) and ours.startswith(_ELF)):
        return header.startswith((b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", _ELF))
    return (header[4:6], header[_MACHINE]) != (ours[4:6], ours[_MACHINE])
