from dataclasses import dataclass
from typing import NamedTuple

import pytest

from cllm_bench.core.printable import all_printable, clipped, printable, without_markup


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain – 2.41× é 表", "plain – 2.41× é 表"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),  # the same as one C1 character
        ("one\r\ntwo\tthree\u2028four", "one two three four"),
        ("abc\u202egnp.exe", "abc\\u202egnp.exe"),  # written from right to left
        ("half \ud800", "half \\ud800"),
    ],
)
def test_a_terminal_finds_nothing_to_obey(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


class Pair(NamedTuple):
    left: str
    right: int


@dataclass(frozen=True)
class Holder:
    texts: dict[str, list[str]]
    pair: Pair
    nothing: None = None


def test_texts_are_found_however_deep() -> None:
    found = all_printable((Holder({"a\nb": ["\x1b"]}, Pair("\x00", 3)), 1.5))
    assert found == (Holder({"a b": ["\\x1b"]}, Pair("\\x00", 3)), 1.5)


def test_the_middle_of_a_long_text_goes() -> None:
    assert clipped("abcdefgh", 8) == "abcdefgh"
    assert clipped("abcdefghi", 8) == "abcd…ghi"


def test_markup_is_shown_and_not_obeyed() -> None:
    assert without_markup("a <script>x</script>") == "a &lt;script>x&lt;/script>"
    assert without_markup("\\<img src=x>") == "\\&lt;img src=x>"
    assert without_markup("![x](http://a) [2, 3]") == "![x]&#40;http://a) [2, 3]"
    assert without_markup("<0.1% **bold** `code`") == "<0.1% **bold** `code`"
