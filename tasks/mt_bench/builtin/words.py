"""The words of the built-in conversations, and what a conversation is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...common.words import MEN, POOLS, WOMEN, plural

PEOPLE = WOMEN + MEN


class Talk(NamedTuple):
    """A conversation.

    Attributes:
        facts: What the first turn tells, however it is worded and, where more than names is told,
            whomever it is about.
        turns: What the user says.
        replies: What there is to answer.
    """

    facts: tuple[object, ...]
    turns: tuple[str, str]
    replies: tuple[str, str]


class FollowUp(NamedTuple):
    """A second turn, which makes no sense without the first, and its answer."""

    turn: str
    reply: str


class Deed(NamedTuple):
    """Something that people do, in the forms that a sentence may need."""

    base: str
    third: str
    past: str
    objects: tuple[str, ...]


class Measure(NamedTuple):
    """Something that things of one sort have more or less of.

    Attributes:
        verb: What the things do, such as `weighs`.
        base: The same without its ending.
        unit: Of the numbers.
        most: What the thing with the greatest number is called.
        least: What that with the smallest is called.
        things: Each a noun.
    """

    verb: str
    base: str
    unit: str
    most: str
    least: str
    things: tuple[str, ...]


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _deed(forms: str, objects: str) -> Deed:
    base, third, past = forms.split()
    return Deed(base, third, past, tuple(objects.split(", ")))


GOODS = tuple(plural(noun) for pool in POOLS.values() for noun in pool.things)
EVENTS = _split(
    "meeting party concert lesson dinner game race trip picnic exam film play dance walk sale fair"
)
HOURS = _split("eight nine ten eleven noon two three four five six seven")
PLACES = _split("garden kitchen library school hall park museum office station theatre barn club")
CITIES = _split("Oslo Rome Paris Berlin London Madrid Vienna Prague Athens Dublin Lisbon Warsaw")
TOPICS = _split(
    "trains music books bread horses boats taxes films maps roses bridges birds shoes tea clocks "
    "paintings wool glass honey snow"
)
DEEDS = (
    _deed("open opens opened", "the door, the window, a box, the letter"),
    _deed("close closes closed", "the gate, the shop, a book, the window"),
    _deed("paint paints painted", "the wall, a fence, a picture, the door"),
    _deed("clean cleans cleaned", "the floor, the kitchen, a car, the shop"),
    _deed("cook cooks cooked", "a soup, the dinner, the rice, some beans"),
    _deed("carry carries carried", "the bags, a ladder, the boxes, a chair"),
    _deed("visit visits visited", "the museum, a friend, the market, the school"),
    _deed("repair repairs repaired", "the bicycle, a clock, the roof, the radio"),
    _deed("write writes wrote", "a letter, a song, the list, a poem"),
    _deed("read reads read", "the paper, a book, the map, a poem"),
    _deed("sing sings sang", "a song, the hymn, a tune, the words"),
    _deed("drink drinks drank", "some tea, the milk, a coffee, some water"),
    _deed("buy buys bought", "some bread, a hat, the tickets, a lamp"),
    _deed("sell sells sold", "the car, a horse, some wool, the house"),
    _deed("find finds found", "the key, a coin, the cat, a ring"),
    _deed("lose loses lost", "the ring, a glove, the tickets, a coin"),
    _deed("draw draws drew", "a horse, the map, a tree, the bridge"),
    _deed("bring brings brought", "the milk, some wood, a cake, the bags"),
)
MEASURES = (
    Measure(
        "weighs", "weigh", "kg", "heaviest", "lightest",
        _split("goat dog sheep pig calf fox goose deer wolf bear pony seal"),
    ),
    Measure(
        "costs", "cost", "coins", "dearest", "cheapest",
        _split("lamp chair table coat hat clock radio knife rug mirror drum kite"),
    ),
    Measure(
        "lasts", "last", "minutes", "longest", "shortest",
        _split("film song lesson match speech walk ride call break show nap swim"),
    ),
    Measure(
        "measures", "measure", "metres", "longest", "shortest",
        _split("rope bridge fence pool boat road wall tunnel train field barn ladder"),
    ),
)  # fmt: skip
# A comparison, what the first and what the last of all are called.
RELATIONS: Mapping[str, tuple[str, str]] = {
    "older": ("oldest", "youngest"),
    "taller": ("tallest", "shortest"),
    "faster": ("fastest", "slowest"),
    "richer": ("richest", "poorest"),
    "stronger": ("strongest", "weakest"),
    "louder": ("loudest", "quietest"),
}
VERBS = _split("get find make count check show read sum add load")
NOUNS = _split(
    "price total size score weight length speed cost points tax width height rate level share age"
)
ARGUMENTS = _split("a b c n m x y z left right first last old new low high step rate base bonus")
# What is done first, and what then: each its word and its sign.
OPERATIONS = (
    (("times", "*"), ("plus", "+")),
    (("times", "*"), ("minus", "-")),
    (("plus", "+"), ("minus", "-")),
    (("minus", "-"), ("plus", "+")),
)
