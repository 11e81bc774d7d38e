"""Options declared once: TOML there and back, merging, documentation of the Python call."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from cllm_bench.core.options import (
    Kind,
    Option,
    Options,
    StrPath,
    build_options,
    declared,
    read_config,
    takes,
    write_config,
)
from cllm_bench.errors import UserError


@dataclass(frozen=True)
class Some(Options):
    name: Annotated[str, Option("The name. It is short.", positional=True)]
    words: Annotated[Sequence[str], Option("Some words.", "--word")]
    _: KW_ONLY
    output: Annotated[StrPath | None, Option("A file.", default="none")] = None
    files: Annotated[Sequence[StrPath], Option("Some files.", "--file")] = ()
    roles: Annotated[Mapping[str, str], Option("Some pairs.", "--role")] = field(
        default_factory=dict
    )
    count: Annotated[int | None, Option("A count.")] = None
    share: Annotated[float, Option("A share.")] = 0.5
    on: Annotated[bool, Option("A switch.")] = True
    heard: Annotated[object, Option("A callback.", python_only=True)] = None


WHOLE = Some(
    "a",
    ["x", "y"],
    output="out",
    files=["f.py"],
    roles={"target": "t", "cllm": 'odd "name"'},
    count=3,
    on=False,
)


def config(folder, text):
    file = folder / "some.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_kinds_flags_and_defaults():
    found = {each.name: each for each in declared(Some)}
    assert [each.kind for each in found.values()] == [
        *(Kind.TEXT, Kind.TEXTS, Kind.PATH, Kind.PATHS, Kind.PAIRS, Kind.INTEGER, Kind.NUMBER),
        Kind.FLAG,
    ]
    assert [each.flag for each in found.values()] == [
        *("NAME", "--word", "--output", "--file", "--role", "--count", "--share", "--on"),
    ]
    assert found["name"].required
    assert not found["words"].required
    assert found["output"].shown_default == "none"
    assert found["share"].shown_default == "0.5"
    assert found["count"].shown_default is None


def test_toml_there_and_back(tmp_path):
    assert build_options(Some, {}, config(tmp_path, write_config(WHOLE))) == WHOLE
    least = Some("a", [])
    assert build_options(Some, {}, config(tmp_path, write_config(least))) == least


def test_a_single_string_is_a_list_of_one_and_paths_are_paths():
    assert Some("a", "word").words == ("word",)
    assert WHOLE.output == Path("out")
    assert WHOLE.files == (Path("f.py"),)


def test_what_was_given_replaces_the_file(tmp_path):
    file = config(tmp_path, write_config(WHOLE))
    given = {"words": ["z"], "roles": {"cllm": "other"}, "count": 5}
    found = build_options(Some, given, file)
    assert found.words == ("z",)
    assert found.roles == {"target": "t", "cllm": "other"}
    assert found.count == 5
    assert found.on is False
    assert found.output == Path("out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word = ['x']", "unknown key 'word'; did you mean 'words'"),
        ("heard = 3", "unknown key 'heard'"),
        ("words = 'x'", "words = 'x' must be a list of strings"),
        ("words = ['x', 3]", "must be a list of strings"),
        ("count = true", "count = True must be a whole number"),
        ("count = 1.5", "must be a whole number"),
        ("share = 'x'", "must be a number"),
        ("on = 1", "must be true or false"),
        ("output = 1", "must be a path"),
        ("[roles]\ntarget = 1", "must be a table of strings"),
        ("words = [", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_config(config(tmp_path, text), Some)
    assert "\n" not in str(error.value)
    assert "some.toml" in str(error.value)


def test_a_file_that_is_not_there_and_an_option_that_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"cannot read '.*none.toml'"):
        read_config(tmp_path / "none.toml", Some)
    with pytest.raises(UserError, match=r"NAME is missing: the name$"):
        build_options(Some, {"words": ["x"]})


def test_a_call_takes_the_keywords_and_their_documentation():
    @takes(Some)
    def call(options: Some) -> str:
        """Do something.

        Args:
            options: See `Some`.
        """
        return f"{options.name} {options.words}"

    assert call("a", words=["x"]) == "a ('x',)"
    with pytest.raises(TypeError, match="wrds"):
        call("a", wrds=["x"])
    assert list(inspect.signature(call).parameters) == [
        *("name", "words", "output", "files", "roles", "count", "share", "on", "heard"),
    ]
    assert "words: Some words." in call.__doc__
    assert "heard: A callback." in call.__doc__
    assert "options:" not in call.__doc__
