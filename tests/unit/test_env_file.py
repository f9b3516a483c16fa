"""A file of variables: what is read, and what is refused because others read it differently."""

import os

import pytest

from reborn._supervisor import env_file


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "app.env"

    def read(text):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return env_file.read(str(path))

    return read


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("  A=1", "1"),
        ("A=", ""),
        ("A=two words # no comment", "two words # no comment"),
        ("A=b=c", "b=c"),
        ("A='two words'", "two words"),
        ('A="it\'s"', "it's"),
        (r"A='C:\new'", r"C:\new"),
        (r"A=C:\new", r"C:\new"),
        ("A=$HOME `id`", "$HOME `id`"),
        ("A=it's", "it's"),
        ("A=''", ""),
        ("A=ä", "ä"),
        ("A=\udcff", "\udcff"),
    ],
)
def test_value_is_the_rest_of_the_line_without_quotes_around_it(read, line, value):
    assert read(f"# a comment\n\n{line}\n") == {"A": value}
    assert read(line) == {"A": value}


def test_last_of_two_with_one_name_counts(read):
    assert read("A=1\nB=2\nA=3\n") == {"A": "3", "B": "2"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("export A=secret", "line 2 is not NAME=VALUE"),
        ("secret", "line 2 is not NAME=VALUE"),
        ("A = secret", "line 2 is not NAME=VALUE"),
        ("1A=secret", "line 2 is not NAME=VALUE"),
        ("=secret", "line 2 is not NAME=VALUE"),
        ("\ufeffA=secret", "line 2 is not NAME=VALUE"),
        ("A='secret", "line 2 has a quote that does not end with the value of A"),
        ("A='", "line 2 has a quote that does not end with the value of A"),
        ("A='secret' # so", "line 2 has a quote that does not end with the value of A"),
        ("A='se'cret'", "line 2 has a quote that does not end with the value of A"),
        (r'A="se\ncret"', "line 2 has a backslash in double quotes; put the value of A in single"),
        ("A=secret\r", "line 2 ends as in DOS; convert the file by dos2unix"),
        ("A=se\0cret", "line 2 has a zero byte in it"),
    ],
)
def test_what_others_read_differently_is_refused_and_not_shown(read, line, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        read(f"B=1\n{line}\nC=2\n")
    assert "secret" not in str(refused.value)


def test_what_cannot_be_read_again_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="it is not a regular file"):
        env_file.read(str(tmp_path / "fifo"))


def test_file_without_an_end_is_refused(tmp_path):
    path = tmp_path / "app.env"
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ValueError, match="larger than 1048576 bytes"):
        env_file.read(str(path))
