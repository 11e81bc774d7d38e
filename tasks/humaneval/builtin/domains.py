"""Predicates and transformations for each kind of member of a collection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .parts import COUNTS, NUMBER_LISTS, SECOND_NUMBERS, TEXTS, WORD_LISTS, Argument, Part


class Source(NamedTuple):
    """A collection.

    Attributes:
        name: Of its kind: `given` is gone through as it is.
        code: What is gone through.
        noun: Name of a member.
        says: Words for all members.
        argument: From which it comes.
    """

    name: str
    code: str
    noun: str
    says: str
    argument: Argument


class End(NamedTuple):
    """What becomes of the members that were chosen and changed.

    Attributes:
        body: Lines, with `<all>` for the generator of the results.
        of: What is returned, before "the values that …".
        order: The last of several orders.
        tail: Behind all that.
    """

    body: str
    of: str
    order: str
    tail: str = ""


class Loop(NamedTuple):
    """The same as a loop.

    Attributes:
        start: Lines before it.
        step: Lines in it, with `<change>` for the changed member.
        end: The line behind it.
        verb: What is done to the members.
    """

    start: str
    step: str
    end: str
    verb: str


class Domain(NamedTuple):
    """A kind of members.

    Attributes:
        name: Of the domain; characters and words share theirs, because their functions do.
        sources: Where members come from.
        second: Names of a second argument, a number.
        conditions: What they can be chosen by.
        changes: What they can be changed to.
        ends: What can become of them.
        loops: What loops can make of them.
        nothing: In code and in words, what stands for a member that is not there.
    """

    name: str
    sources: tuple[Source, ...]
    second: tuple[str, ...]
    conditions: Mapping[str, Part]
    changes: Mapping[str, Part]
    ends: Mapping[str, End]
    loops: Mapping[str, Loop]
    nothing: tuple[str, str]


_NONE = ", or 0 if there are none"
_LIST = End("return [<all>]", "a list of", "return the list")
_RISING = End(
    "return sorted(<all>)", "a list, in ascending order, of", "return them in ascending order"
)
_DISTINCT = End(
    "return len({<all>})", "the number of different ones among", "count the different ones"
)
_NUMBER_ENDS = {
    "list": _LIST,
    "sum": End("return sum(<all>)", "the sum of", "return the sum"),
    "largest": End("return max((<all>), default=0)", "the largest of", "return the largest", _NONE),
    "smallest": End(
        "return min((<all>), default=0)", "the smallest of", "return the smallest", _NONE
    ),
    "rising": _RISING,
    "falling": End(
        "return sorted((<all>), reverse=True)",
        "a list, in descending order, of",
        "return them in descending order",
    ),
    "distinct": _DISTINCT,
    "span": End(
        "found = [<all>]\nif not found:\n    return 0\nreturn max(found) - min(found)",
        "the largest minus the smallest of",
        "return the largest minus the smallest",
        _NONE,
    ),
}
_COLLECT = Loop("found = []", "found.append(<change>)", "return found", "collect")
_NUMBER_LOOPS = {
    "sum": Loop("total = 0", "total += <change>", "return total", "add up"),
    "product": Loop("result = 1", "result *= <change>", "return result", "multiply"),
    "list": _COLLECT,
    "running": Loop(
        "total = 0\nfound = []",
        "total += <change>\nfound.append(total)",
        "return found",
        "list the running totals of",
    ),
}
_SMALL = range(2, 10)

NUMBERS = Domain(
    name="numbers",
    sources=(
        *(
            Source("given", plural, noun, f"the {plural}", Argument(plural, "numbers"))
            for plural, noun in NUMBER_LISTS
        ),
        *(
            Source(
                "range",
                f"range(1, {name} + 1)",
                "i",
                f"the integers from 1 to {name}",
                Argument(name, "count"),
            )
            for name in COUNTS
        ),
    ),
    second=SECOND_NUMBERS,
    conditions={
        "even": Part("<x> % 2 == 0", "<is> even", stem="multiple"),
        "odd": Part("<x> % 2 == 1", "<is> odd", stem="multiple"),
        "positive": Part("<x> > 0", "<is> positive", stem="above"),
        "negative": Part("<x> < 0", "<is> negative", stem="below"),
        "above": Part("<x> > <k>", "<is> greater than <k>", constants=range(1, 10)),
        "below": Part("<x> < <k>", "<is> less than <k>", constants=_SMALL),
        "multiple": Part("<x> % <k> == 0", "<is> divisible by <k>", constants=range(3, 7)),
        "rest": Part("<x> % <k> != 0", "<is> not divisible by <k>", constants=range(3, 7)),
        "other": Part("<x> != <k>", "<is> not equal to <k>", constants=range(1, 10)),
        "far": Part("abs(<x>) > <k>", "<is> more than <k> away from zero", constants=range(2, 8)),
        "over": Part("<x> > <q>", "<is> greater than <q>"),
        "under": Part("<x> < <q>", "<is> less than <q>"),
    },
    changes={
        "square": Part("<x> * <x>", "squared", "square each"),
        "cube": Part("<x> ** 3", "cubed", "cube each"),
        "double": Part("<x> * 2", "doubled", "double each", stem="times"),
        "times": Part("<x> * <k>", "multiplied by <k>", "multiply each by <k>", range(3, 10)),
        "plus": Part("<x> + <k>", "increased by <k>", "add <k> to each", range(1, 10)),
        "minus": Part("<x> - <k>", "decreased by <k>", "subtract <k> from each", range(1, 10)),
        "from": Part("<k> - <x>", "subtracted from <k>", "subtract each from <k>", _SMALL),
        "absolute": Part("abs(<x>)", "stripped of the sign", "drop the sign of each"),
        "opposite": Part("-<x>", "negated", "negate each"),
        "modulo": Part("<x> % <k>", "taken modulo <k>", "take each modulo <k>", range(3, 8)),
        "quotient": Part(
            "<x> // <k>",
            "divided by <k> and rounded down",
            "divide each by <k>, rounding down",
            range(2, 5),
        ),
        "floor": Part(
            "max(<x>, <k>)", "raised to at least <k>", "raise each to at least <k>", range(1, 7)
        ),
        "cap": Part("min(<x>, <k>)", "capped at <k>", "cap each at <k>", range(2, 9)),
        "shift": Part("<x> + <q>", "increased by <q>", "add <q> to each"),
        "scale": Part("<x> * <q>", "multiplied by <q>", "multiply each by <q>"),
    },
    ends=_NUMBER_ENDS,
    loops=_NUMBER_LOOPS,
    nothing=("-1", "-1"),
)

_LETTERS = "aeinorst"
_MARKS = "-_.+"
_JOINED = {
    "joined": End('return "".join(<all>)', "the text made of", "join them"),
    "dashed": End(
        'return "-".join(<all>)', "the text, with dashes between, of", "join with dashes"
    ),
    "spaced": End(
        'return " ".join(<all>)', "the text, with spaces between, of", "join with spaces"
    ),
    "backward": End(
        'return "".join(<all>)[::-1]',
        "the text, read backward, made of",
        "join them and read the text backward",
    ),
    "list": _LIST,
    "distinct": _DISTINCT,
    "rising": _RISING,
}
_TEXT_LOOPS = {
    "joined": Loop('result = ""', "result += <change>", "return result", "append"),
    "backward_joined": Loop(
        'result = ""', "result = <change> + result", "return result", "put in front"
    ),
    "list": _COLLECT,
}
_CASES = {
    "upper": Part("<x>.upper()", "put in upper case", "put each in upper case"),
    "lower": Part("<x>.lower()", "put in lower case", "put each in lower case"),
    "swapped": Part("<x>.swapcase()", "put in the other case", "swap the case of each"),
    "twice": Part("<x> * 2", "doubled", "double each", stem="repeated"),
    "repeated": Part("<x> * <k>", "repeated <k> times", "repeat each <k> times", range(3, 6)),
    "followed": Part('<x> + "<k>"', "followed by <k>", "put <k> behind each", _MARKS),
    "preceded": Part('"<k>" + <x>', "preceded by <k>", "put <k> before each", _MARKS),
    "often": Part("<x> * <q>", "repeated <q> times", "repeat each <q> times"),
}

CHARACTERS = Domain(
    name="texts",
    sources=tuple(
        Source("given", name, "char", f"the characters of {name}", Argument(name, "text"))
        for name in TEXTS
    ),
    second=("times", "copies", "repeats"),
    conditions={
        "upper": Part("<x>.isupper()", "<is> in upper case"),
        "lower": Part("<x>.islower()", "<is> in lower case"),
        "digit": Part("<x>.isdigit()", "<is> numeric"),
        "letter": Part("<x>.isalpha()", "<is> alphabetic"),
        "no_letter": Part("not <x>.isalpha()", "<is> not alphabetic"),
        "filled": Part('<x> != " "', "<is> not blank"),
        "vowel": Part('<x> in "aeiou"', "<is> among the vowels aeiou"),
        "no_vowel": Part('<x> not in "aeiou"', "<is> not among the vowels aeiou"),
        "other": Part('<x> != "<k>"', "<is> not equal to <k>", constants=_LETTERS),
        "later": Part('<x> > "<k>"', "<is> greater than <k>", constants="egkmp"),
        "earlier": Part('<x> < "<k>"', "<is> less than <k>", constants="egkmp"),
    },
    changes=_CASES | {"code": Part("str(ord(<x>))", "replaced by the code", "take each code")},
    ends=_JOINED,
    loops=_TEXT_LOOPS,
    nothing=('""', "an empty text"),
)

_WORD_SOURCES = (
    *(
        Source("given", plural, noun, f"the {plural}", Argument(plural, "words"))
        for plural, noun in WORD_LISTS
    ),
    *(
        Source("split", f"{name}.split()", "word", f"the words of {name}", Argument(name, "text"))
        for name in TEXTS
    ),
)
_WORD_CONDITIONS = {
    "longer": Part("len(<x>) > <k>", "<is> longer than <k> letters", constants=range(2, 6)),
    "shorter": Part("len(<x>) < <k>", "<is> shorter than <k> letters", constants=range(3, 7)),
    "exact": Part("len(<x>) == <k>", "<is> exactly <k> letters long", constants=range(2, 6)),
    "even": Part("len(<x>) % 2 == 0", "<is> of even length", stem="parity"),
    "odd": Part("len(<x>) % 2 == 1", "<is> of odd length", stem="parity"),
    "with": Part('"<k>" in <x>', "<has> the letter <k>", constants=_LETTERS),
    "without": Part('"<k>" not in <x>', "<has> no letter <k>", constants=_LETTERS),
    "last": Part('<x>[-1] == "<k>"', "<has> the last letter <k>", constants="denrst"),
    "capital": Part("<x>[0].isupper()", "<is> capitalized"),
    "small": Part("<x>.islower()", "<is> in lower case"),
    "over": Part("len(<x>) > <q>", "<is> longer than <q> letters"),
    "under": Part("len(<x>) < <q>", "<is> shorter than <q> letters"),
}

WORDS = Domain(
    name="texts",
    sources=_WORD_SOURCES,
    second=("limit", "length", "size", "width"),
    conditions=_WORD_CONDITIONS,
    changes=_CASES
    | {
        "capital": Part("<x>.capitalize()", "capitalized", "capitalize each"),
        "reversed": Part("<x>[::-1]", "reversed", "reverse each"),
        "initial": Part("<x>[0]", "cut to the first letter", "cut each to the first letter"),
        "final": Part("<x>[-1]", "cut to the last letter", "cut each to the last letter"),
        "start": Part(
            "<x>[:<k>]", "cut to the first <k> letters", "cut each to the first <k> letters", (2, 3)
        ),
        "rest": Part("<x>[1:]", "stripped of the first letter", "strip each of the first letter"),
    },
    ends=_JOINED,
    loops=_TEXT_LOOPS,
    nothing=('""', "an empty text"),
)

LENGTHS = Domain(
    name="lengths",
    sources=_WORD_SOURCES,
    second=("limit", "extra", "gap", "width"),
    conditions=_WORD_CONDITIONS,
    changes={
        "length": Part("len(<x>)", "replaced by the length", "take the length of each"),
        "plus": Part(
            "len(<x>) + <k>", "replaced by the length plus <k>", "add <k> to each length", _SMALL
        ),
        "times": Part(
            "len(<x>) * <k>",
            "replaced by the length times <k>",
            "multiply each length by <k>",
            range(2, 6),
        ),
        "square": Part(
            "len(<x>) ** 2", "replaced by the squared length", "square the length of each"
        ),
        "letters": Part(
            '<x>.count("<k>")',
            "replaced by the number of letters <k> in it",
            "count the letters <k> in each",
            _LETTERS,
        ),
        "plus_argument": Part(
            "len(<x>) + <q>", "replaced by the length plus <q>", "add <q> to each length"
        ),
    },
    ends=_NUMBER_ENDS,
    loops=_NUMBER_LOOPS,
    nothing=('""', "an empty text"),
)
