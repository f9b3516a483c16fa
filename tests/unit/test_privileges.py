"""Accounts are looked up, and what does not go together is refused; dropping is for processes/."""

import grp
import os
import pwd

import pytest

from reborn import _privileges

SOMEBODY = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(SOMEBODY.pw_gid)
WITHOUT_ACCOUNT = next(n for n in range(2**31, 2**32) if n not in {p[2] for p in pwd.getpwall()})


@pytest.mark.parametrize(
    ("uid", "gid", "initgroups", "expected"),
    [
        (None, None, False, None),
        ("nobody", None, False, (SOMEBODY.pw_uid, SOMEBODY.pw_gid, None)),
        (SOMEBODY.pw_uid, None, False, (SOMEBODY.pw_uid, SOMEBODY.pw_gid, None)),
        (SOMEBODY.pw_uid, None, True, (SOMEBODY.pw_uid, SOMEBODY.pw_gid, "nobody")),
        ("nobody", 4242, True, (SOMEBODY.pw_uid, 4242, "nobody")),
        ("root", GROUP.gr_name, False, (0, GROUP.gr_gid, None)),
        (0, 0, False, (0, 0, None)),
        (WITHOUT_ACCOUNT, 4242, False, (WITHOUT_ACCOUNT, 4242, None)),
        (None, 4242, False, (None, 4242, None)),
    ],
)
def test_accounts_are_found_by_name_and_number(uid, gid, initgroups, expected):
    found = _privileges.look_up(uid, gid, initgroups=initgroups)
    assert expected == (found and (found.uid, found.gid, found.groups_of))


@pytest.mark.parametrize(
    ("uid", "gid", "initgroups", "message"),
    [
        ("no such user", None, False, "uid names 'no such user', and there is no such user"),
        (None, "no such group", False, "gid names 'no such group', and there is no such group"),
        (WITHOUT_ACCOUNT, None, False, f"uid {WITHOUT_ACCOUNT} has no account .*; give gid, too"),
        (WITHOUT_ACCOUNT, 1, True, f"initgroups needs .* uid {WITHOUT_ACCOUNT} has none"),
        (None, None, True, "initgroups takes the groups of a user; give uid, too"),
        (None, 4242, True, "initgroups takes the groups of a user; give uid, too"),
    ],
)
def test_what_cannot_be_is_refused_by_the_options_name(uid, gid, initgroups, message):
    with pytest.raises(ValueError, match=message):
        _privileges.look_up(uid, gid, initgroups=initgroups)


def test_identity_can_be_named_in_a_message():
    assert str(_privileges.Identity(33, 44, None)) == "uid 33 and gid 44"
    assert str(_privileges.Identity(None, 0, None)) == "gid 0"


@pytest.mark.root
def test_way_back_is_found():
    # The real thing would not be undone; here is a user who could still become root.
    os.seteuid(SOMEBODY.pw_uid)
    try:
        with pytest.raises(PermissionError):
            _privileges._verify(SOMEBODY.pw_uid, None)
    finally:
        os.seteuid(0)
