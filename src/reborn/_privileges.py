"""User, group and supplementary groups: looked up in the launcher, dropped to in the daemon.

credentials(7) and Chen, Wagner and Dean, "Setuid Demystified" (2002). The rules:

- Accounts are looked up before anything is forked, where a wrong name is an error at the terminal.
- Supplementary groups first, then the group, the user last: changing the user gives up the
  privilege that the other two need.
- Real, effective and saved id change together, since each of the three is a way back.
- Afterwards the ids are compared, and a user other than root must not be able to become root again.

Rejected: seteuid(2), which keeps the saved id; keeping supplementary groups the way python-daemon
does, because they are root's.
"""

import os
from errno import EPERM


class Identity:
    """The user and group that the daemon becomes; None leaves one unchanged.

    *groups_of*: the user whose supplementary groups it takes; None: it has no group but *gid*.
    """

    __slots__ = ("gid", "groups_of", "uid")

    def __init__(self, uid: int | None, gid: int | None, groups_of: str | None) -> None:
        self.uid = uid
        self.gid = gid
        self.groups_of = groups_of

    def __str__(self) -> str:
        wanted = {"uid": self.uid, "gid": self.gid}
        return " and ".join(
            f"{name} {number}" for name, number in wanted.items() if number is not None
        )


def look_up(uid: int | str | None, gid: int | str | None, *, initgroups: bool) -> Identity | None:
    """Look up the accounts; return None if nothing is to change.

    Raises:
        ValueError: there is no such user or group, or the options exclude each other.
    """
    if uid is None and gid is None:
        if initgroups:
            message = "initgroups takes the groups of a user; give uid, too"
            raise ValueError(message)
        return None
    name, own_group = None, None
    if uid is not None:
        uid, name, own_group = _find_user(uid)
        if initgroups and name is None:
            message = f"initgroups needs a user with an account, and uid {uid} has none"
            raise ValueError(message)
        if gid is None and own_group is None:
            message = f"uid {uid} has no account and so no group of its own; give gid, too"
            raise ValueError(message)
    elif initgroups:
        message = "initgroups takes the groups of a user; give uid, too"
        raise ValueError(message)
    number = own_group if gid is None else _find_group(gid)
    return Identity(uid, number, name if initgroups else None)


def _find_user(uid: int | str) -> tuple[int, str | None, int | None]:
    """Return number, name and group of a user."""
    import pwd

    try:
        entry = pwd.getpwnam(uid) if isinstance(uid, str) else pwd.getpwuid(uid)
    except (KeyError, ValueError):  # no such name, or one that no account can have
        if isinstance(uid, str):
            message = f"uid names {uid!r}, and there is no such user"
            raise ValueError(message) from None  # noqa: TRY004
        return uid, None, None
    return entry.pw_uid, entry.pw_name, entry.pw_gid


def _find_group(gid: int | str) -> int:
    if isinstance(gid, int):
        return gid
    import grp

    try:
        return grp.getgrnam(gid).gr_gid
    except (KeyError, ValueError):
        message = f"gid names {gid!r}, and there is no such group"
        raise ValueError(message) from None


def drop(identity: Identity) -> None:
    """Become *identity* irrevocably.

    Raises:
        PermissionError: the process lacks the privilege, or the change did not take effect.
    """
    uid, gid = identity.uid, identity.gid
    if _has_ids(uid, gid) and os.geteuid() != 0:
        return  # unchanged, and setgroups(2) would be refused
    if uid is not None and gid is not None:
        if identity.groups_of is not None:
            os.initgroups(identity.groups_of, gid)
        else:
            os.setgroups([gid])
    if gid is not None:
        _set_all(gid, "gid")
    if uid is not None:
        _set_all(uid, "uid")
    _verify(uid, gid)


def _set_all(number: int, which: str) -> None:
    """Set the real, effective and saved id; without setresuid(2), setuid(2) does that for root."""
    set_three = getattr(os, f"setres{which}", None)
    if set_three is not None:
        set_three(number, number, number)
    else:
        getattr(os, f"set{which}")(number)


def _has_ids(uid: int | None, gid: int | None) -> bool:
    """Tell whether all ids of the process are these; None matches any."""
    same_user = uid is None or _current_ids("uid") == {uid}
    return same_user and (gid is None or _current_ids("gid") == {gid})


def _current_ids(which: str) -> set[int]:
    """Return the real and effective id, and the saved id where the system shows it."""
    get_three = getattr(os, f"getres{which}", None)
    if get_three is not None:
        return set(get_three())
    return {getattr(os, f"get{which}")(), getattr(os, f"gete{which}")()}


def _verify(uid: int | None, gid: int | None) -> None:
    """Raise `PermissionError` if an id is another one, or root can be regained."""
    if not _has_ids(uid, gid):
        raise PermissionError(EPERM, os.strerror(EPERM))
    if uid:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise PermissionError(EPERM, os.strerror(EPERM))
