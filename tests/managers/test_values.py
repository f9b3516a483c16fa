"""What a program is given is what it gets, under every manager that is told of it."""

import json
import os
import plistlib
import re
import subprocess
import sys

import pytest
from harness import PATIENCE, eventually
from managers.machine import needed

from reborn import _export
from reborn._export import Service

pytestmark = [pytest.mark.unmeasured, pytest.mark.brute]

SHOW = """
import json, os, sys
path = sys.argv[1]
with open(path + ".new", "w") as file:
    json.dump({"env": dict(os.environ), "words": sys.argv[2:]}, file)
os.rename(path + ".new", path)
"""
VALUES = {
    "PLAIN": "plain",
    "EMPTY": "",
    "JSON": '{"a": [1, "b"], "c": {}}',
    "DOUBLE": 'a"b',
    "SINGLE": "it's",
    "BOTH": """a"b'c""",
    "QUOTED": '"quoted"',
    "PERCENT": "50% %h %(ENV_PLAIN)s %%",
    "DOLLARS": "pa$$word $HOME ${HOME} $(PLAIN) $$(PLAIN) $",
    "NEWLINE": "two\nlines",
    "TAB": "a\tb",
    "ESCAPE": "\x1b[31mred",
    "RETURN": "a\rb",
    "BACKSLASH": "a\\b\\n \\",
    "COMMENT": "a #b",
    "SEMICOLON": "a ;b; c",
    "HERE": "%(here)s",
    "COMMAS": "A=b,C=d",
    "BLANKS": "  a  ",
    "WIDE": "äöü Łódź \U0001f600 \u2028 \x7f",
    "END": "END_OF_FILE\nEND_OF_FILE_",
    "my.name": "with a dot",
    "my-name": "with a dash",
    "1st": "with a digit",
}
# What cannot be written for a manager, as a variable and as a word of the command.
REFUSED = {
    "systemd": ({"ESCAPE", "RETURN", "WIDE"}, set()),
    "supervisord": (
        {"BOTH", "QUOTED", "NEWLINE", "ESCAPE", "RETURN", "COMMENT", "SEMICOLON", "HERE", "END"},
        {"NEWLINE", "ESCAPE", "RETURN", "COMMENT", "SEMICOLON", "HERE", "END"},
    ),
    "s6": (set(), set()),
    "runit": (set(), set()),
    "launchd": ({"ESCAPE", "RETURN"}, {"ESCAPE", "RETURN"}),
    "kubernetes": ({"1st"}, set()),
    "compose": (set(), set()),
}


@pytest.fixture
def export(tmp_path):
    """Write all that a manager takes; return its text, and see what it does not take."""
    show, path = tmp_path / "show.py", tmp_path / "seen"
    show.write_text(SHOW)

    told = []

    def service(environment, words):
        command = [sys.executable, str(show), str(path), *words]
        return Service(name="app", command=command, environment=environment, speaks=False)

    def takes(manager, environment, words):
        try:
            _export.write(manager, service(environment, words))
        except ValueError as error:
            told.append(str(error))
            return False
        return True

    def export(manager, **facts):
        variables = {n: v for n, v in VALUES.items() if takes(manager, {n: v}, [])}
        words = {n: v for n, v in VALUES.items() if takes(manager, {}, [v])}
        refused = VALUES.keys() - variables.keys(), VALUES.keys() - words.keys()
        assert refused == REFUSED[manager]
        assert all(" cannot be exported for " in text for text in told)
        return (
            _export.write(manager, service(variables, words.values())),
            variables,
            [*words.values()],
        )

    export.path = path
    return export


def check(path, variables, words):
    def there():
        assert path.exists()

    eventually(there)
    seen = json.loads(path.read_text())
    assert {name: seen["env"].get(name) for name in variables} == variables
    assert seen["words"] == words


@pytest.mark.parametrize("manager", ["s6", "runit"])
def test_shell_script_hands_over_what_it_was_given(export, tmp_path, manager):
    text, variables, words = export(manager)
    subprocess.run(["sh"], input=text, text=True, check=True, cwd=tmp_path)
    subprocess.run([tmp_path / "app" / "run"], check=True, cwd=tmp_path / "app")
    check(export.path, variables, words)


def test_supervisord_hands_over_what_it_was_given(export, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS")
    text, variables, words = export("supervisord")
    path = tmp_path / "supervisord.conf"
    head = (
        f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={path}.pid\n"
    )
    head += "user=root\n" if os.geteuid() == 0 else ""
    path.write_text(f"{head}childlogdir={tmp_path}\n{text}")
    with subprocess.Popen(
        [needed("supervisord"), "-c", path], stdout=subprocess.DEVNULL
    ) as process:
        check(export.path, variables, words)
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.root
def test_systemd_hands_over_what_it_was_given(export, machine):
    text, variables, words = export("systemd")
    # Unconfined, since the file that it writes is in /tmp; the words are what this is about.
    kept = [line for line in text.split("\n") if re.match(r"\[|(Exec|Environment|Type)", line)]
    seen = machine.work / "seen"
    show = machine.work / "show.py"
    show.write_text(SHOW)
    unit = "\n".join(kept).replace(str(export.path.parent / "show.py"), str(show))
    machine.unit("app.service", unit.replace(str(export.path), str(seen)))
    verified = machine.run("systemd-analyze", "verify", "/etc/systemd/system/app.service")
    assert verified.stderr == ""
    machine.run("systemctl", "start", "app")
    check(seen, variables, words)


def test_launchd_reads_what_it_was_given(export):
    text, variables, words = export("launchd")
    job = plistlib.loads(text.encode())
    assert job["EnvironmentVariables"] == variables
    assert job["ProgramArguments"][3:] == words


def kubelet(text, known):
    """Expand as Kubernetes does (expansion.Expand, and the documentation of Container.command)."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))", lambda m: "$" if m[1] == "$" else known.get(m[2], m[0]), text
    )


def test_kubernetes_hands_over_what_it_was_given(export):
    yaml = pytest.importorskip("yaml")
    text, variables, words = export("kubernetes")
    [container] = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    known = {}
    for variable in container["env"]:
        known[variable["name"]] = kubelet(variable["value"], known)
    assert known == variables
    assert [kubelet(word, known) for word in container["command"]][3:] == words


def test_compose_hands_over_what_it_was_given(export):
    yaml = pytest.importorskip("yaml")
    text, variables, words = export("compose")
    app = yaml.safe_load(text)["services"]["app"]

    def interpolated(word):
        assert re.fullmatch(r"([^$]|\$\$)*", word)
        return word.replace("$$", "$")

    assert {n: interpolated(v) for n, v in app["environment"].items()} == variables
    assert [interpolated(word) for word in app["command"]][3:] == words


@pytest.mark.parametrize("manager", _export.MANAGERS)
def test_what_is_not_utf_8_is_refused(manager):
    odd = os.fsdecode(b"Caf\xe9")
    for facts in (
        {"command": ["/bin/x", odd]},
        {"environment": {"A": odd}},
        {"directory": f"/{odd}"},
    ):
        with pytest.raises(ValueError, match="cannot be exported for any manager: it is not UTF-8"):
            _export.write(manager, Service(**{"name": "app", "command": ["/bin/x"], **facts}))


def test_program_with_a_dollar_in_its_path_is_found_by_systemd():
    text = _export.write("systemd", Service(name="app", command=["/opt/a$b/app", "$x"]))
    assert 'ExecStart=@"/opt/a$b/app" "/opt/a$$b/app" "$$x"\n' in text


def test_program_that_env_would_take_for_a_variable_is_refused():
    service = Service(name="app", command=["/opt/a=b/app"], environment={"my.name": "x"})
    for manager in ("s6", "runit", "systemd"):
        with pytest.raises(ValueError, match="it would be a variable to env"):
            _export.write(manager, service)
