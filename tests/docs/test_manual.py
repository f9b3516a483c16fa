"""The manual page is what the parser says today, comes with the package, and can be read."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import harness
import pytest

from reborn._command import grammar

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reborn.1"


def test_manual_page_is_up_to_date():
    pytest.importorskip("argparse_manpage", reason="NEEDS argparse-manpage to see it")
    spec = importlib.util.spec_from_file_location("manual", DOCS / "manual.py")
    manual = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(manual)
    assert PAGE.read_text() == manual.page(), "run python docs/manual.py"


def test_man_shows_every_verb_and_option_without_a_warning():
    if shutil.which("man") is None:
        pytest.skip("NEEDS man: apt-get install man-db to see it")
    shown = subprocess.run(
        ["man", "--warnings", "-l", PAGE],
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    for name, verb in grammar.VERBS.items():
        section = shown.stdout.partition(f"\n   reborn {name}\n")[2].partition("\n   reborn ")[0]
        for option in verb.options:
            assert all(flag in section for flag in option.flags), (name, option.dest)
    for section in ("CONDITIONS", "FILES", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO"):
        assert f"\n{section}\n" in shown.stdout


def test_manual_page_comes_with_the_wheel():
    package = harness.installed()
    if json.loads(package.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        pytest.skip("NEEDS the wheel, which ./dev test installs, to see it")
    installed = Path(sys.prefix) / "share" / "man" / "man1" / "reborn.1"
    assert installed.read_bytes() == PAGE.read_bytes()
