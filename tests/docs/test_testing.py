"""The recipes of docs/testing.md are run as their readers would, and leave nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reborn import _outer_conditions, _readiness

pytestmark = pytest.mark.brute

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("test_")])
def test_recipe_passes(tmp_path, name):
    for other, text in FILES.items():
        if not other.startswith("test_") or other == name:
            (tmp_path / other).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-Werror", "-p", "no:cacheprovider"]
    if name == "test_workers.py":
        command += ["-n", "4"]
    environment = {
        **os.environ,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "reborn.pytest_plugin,xdist.plugin",
    }
    result = subprocess.run(
        [*command, f"--basetemp={tmp_path}/inner", name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    skipped = re.search(r"NEEDS .*", result.stdout)
    if skipped:
        pytest.skip(skipped[0])


def test_every_condition_of_the_page_is_understood():
    table = PAGE.partition("| `ready=` |")[2].partition("\n\n")[0]
    conditions = re.findall(r'^\| `"(.+?)"`', table, re.MULTILINE)
    assert len(conditions) == 9
    for text in conditions:
        _readiness.parse(text.replace("[HOST:]PORT", "8080").replace("SECONDS", "1"))
    kinds = {re.split(r":|$", text)[0] for text in conditions}
    assert kinds == {*_readiness._MAKERS, *_outer_conditions.MAKERS, "http", "notify"}
