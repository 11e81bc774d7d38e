"""Words and conditions for the questions of the built-in text-to-SQL sample.

Everything that decides the SQL is said: each filter value stands verbatim in the question, and
each operator, direction and aggregate has its own set of phrases, shared with no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .rows import Value
from .schemas import Entity, Field

# Phrases after "is" or a comparable verb; {} is the value.
_NUMBER: dict[str, tuple[str, ...]] = {
    ">": ("is above {}", "is over {}", "is greater than {}", "is more than {}", "exceeds {}"),
    "<": ("is below {}", "is under {}", "is less than {}", "is lower than {}"),
    ">=": ("is at least {}", "is {} or more", "is no less than {}"),
    "<=": ("is at most {}", "is {} or less", "is no more than {}"),
    "=": ("is exactly {}", "is equal to {}", "is {}"),
}
_YEAR: dict[str, tuple[str, ...]] = {
    ">": ("is after {}", "is later than {}"),
    "<": ("is before {}", "is earlier than {}"),
    ">=": ("is {} or later", "is no earlier than {}"),
    "<=": ("is {} or earlier", "is no later than {}"),
    "=": ("is exactly {}", "is equal to {}", "is {}"),
}
_TEXT: dict[str, tuple[str, ...]] = {
    "=": ("is {}", "equals {}", "is equal to {}"),
    "!=": ("is not {}", "differs from {}", "is anything but {}"),
}
_LIKE = {
    "{}%": ("starts with {}", "begins with {}"),
    "%{}": ("ends with {}", "ends in {}"),
    "%{}%": ("contains {}", "includes {}"),
}
_BETWEEN = ("is between {} and {}", "lies between {} and {}", "is in the range from {} to {}")
# What a place column may also be called when its table has only that one.
_PLACES = {"country": "from {}", "city": "in {}", "region": "in the {}", "district": "in {}"}
AGGREGATES = {
    "SUM": ("total", "combined", "summed"),
    "AVG": ("average", "mean"),
    "MIN": ("minimum", "lowest", "smallest"),
    "MAX": ("maximum", "highest", "largest"),
}
_EXTREME_YEARS = {"MIN": ("earliest",), "MAX": ("latest", "most recent")}


def plural(noun: str) -> str:
    """Return the plural of an English noun phrase; only its last word changes."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun if noun.endswith("species") else noun + "es"
    return noun + "s"


def listed(items: Sequence[str]) -> str:
    """Join with commas and a final `and`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def literal(value: Value) -> str:
    """Write a value as SQL; no pool holds an apostrophe."""
    return f"'{value}'" if isinstance(value, str) else str(value)


class Speaker:
    """The choice of words of one question; a synonym once chosen is kept to its end."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._words: dict[str, str] = {}

    def chance(self, probability: float) -> bool:
        """Return true with the probability."""
        return self.rng.random() < probability

    def pick(self, *options: str) -> str:
        """Choose one of the phrases."""
        return options[int(self.rng.random() * len(options))]

    def _word(self, kind: str, item: Entity | Field) -> str:
        key = kind + item.name
        if key not in self._words:
            plain = item.name.replace("_", " ")
            self._words[key] = item.synonym if item.synonym and self.chance(0.3) else plain
        return self._words[key]

    def one(self, entity: Entity) -> str:
        """Name one row of a table."""
        return self._word("table ", entity)

    def many(self, entity: Entity) -> str:
        """Name the rows of a table."""
        return plural(self.one(entity))

    def col(self, field: Field) -> str:
        """Name a column."""
        return self._word("column ", field)

    def cols(self, fields: Sequence[Field], many: bool = False) -> str:
        """Name columns, in their order."""
        return listed([plural(self.col(f)) if many else self.col(f) for f in fields])

    def aggregate(self, function: str, field: Field) -> str:
        """Name an aggregate of a column, such as `average price`."""
        years = field.role == "year" and function in _EXTREME_YEARS
        words = _EXTREME_YEARS[function] if years else AGGREGATES[function]
        return f"{self.pick(*words)} {self.col(field)}"

    def extreme(self, field: Field, descending: bool) -> str:
        """Name the end of an order by a column, such as `highest price`."""
        return self.aggregate("MAX" if descending else "MIN", field)

    def direction(self, field: Field, descending: bool) -> str:
        """Say how rows are sorted by a column."""
        verb = self.pick("sorted by", "ordered by", "arranged by")
        if field.type == "TEXT":
            if descending:
                return f"{verb} {self.col(field)} in reverse alphabetical order"
            return f"{verb} {self.col(field)} in alphabetical order"
        if field.role == "year":
            down, up = "from latest to earliest", "from earliest to latest"
        else:
            down, up = "from highest to lowest", "from lowest to highest"
        if descending:
            return f"{verb} {self.col(field)} {self.pick('in descending order', down)}"
        return f"{verb} {self.col(field)} {self.pick('in ascending order', up)}"


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter: its SQL, and its words as they follow the noun that they restrict."""

    field: Field
    sql: str
    text: str


class Filters:
    """Draws conditions on one table whose values come from the table's rows."""

    def __init__(self, entity: Entity, values: dict[str, tuple[Value, ...]]) -> None:
        self.entity = entity
        self.values = values
        self.distinct = {name: sorted(set(column), key=str) for name, column in values.items()}
        for field in entity.having("number", "year"):
            self.distinct[field.name] = sorted(set(values[field.name]), key=float)

    def inner(self, field: Field, rng: Random) -> int:
        """Return the place of a value that cuts the column's values in two fair parts."""
        count = len(self.distinct[field.name])
        return count // 6 + rng.randrange(max(1, count - 2 * (count // 6)))

    def compare(self, speaker: Speaker, field: Field, even: bool = True) -> tuple[str, str]:
        """Draw a comparison with a value of a column: its SQL and its words.

        Args:
            speaker: Who says it.
            field: The column.
            even: Whether numbers may also be asked to be equal.
        """
        rng = speaker.rng
        if field.type == "TEXT":
            value: Value = rng.choice(self.values[field.name])
            operator = "!=" if field.role == "word" and speaker.chance(0.2) else "="
            phrases: dict[str, tuple[str, ...]] = _TEXT
        else:
            value = self.distinct[field.name][self.inner(field, rng)]
            phrases = _YEAR if field.role == "year" else _NUMBER
            # Equality finds rows only where a column has few values.
            close = even and field.type == "INTEGER" and field.high - field.low < 120
            operator = rng.choice((">", ">", "<", "<", ">=", "<=", *("=",) * close))
        return f"{operator} {literal(value)}", speaker.pick(*phrases[operator]).format(value)

    def draw(self, speaker: Speaker, field: Field, alias: str = "") -> Condition:
        """Draw a condition that compares a column with a value.

        Args:
            speaker: Who says it.
            field: The column.
            alias: The table's alias with its dot, where the query joins.
        """
        test, phrase = self.compare(speaker, field)
        sql = f"{alias}{field.name} {test}"
        if test.startswith("= ") and field.name in _PLACES and speaker.chance(0.35):
            return Condition(field, sql, _PLACES[field.name].format(test[2:].strip("'")))
        return Condition(field, sql, self._said(speaker, field, phrase))

    def between(self, speaker: Speaker, field: Field) -> Condition:
        """Draw a range, both ends included."""
        values = self.distinct[field.name]
        last = len(values) - 1
        low = speaker.rng.randrange(max(1, 2 * last // 3))
        high = min(last, low + 1 + speaker.rng.randrange(max(1, last // 2)))
        ends = values[low], values[high]
        phrase = speaker.pick(*_BETWEEN).format(*ends)
        sql = f"{field.name} BETWEEN {ends[0]} AND {ends[1]}"
        return Condition(field, sql, self._said(speaker, field, phrase))

    def like(self, speaker: Speaker, field: Field) -> Condition:
        """Draw a pattern made from a whole word, or the first letter, of a value."""
        words = str(speaker.rng.choice(self.values[field.name])).split()
        # A whole value would make the pattern an equality, so single words give a letter.
        pattern = speaker.pick(*_LIKE) if len(words) > 1 else "{}%"
        part = words[-1] if pattern == "%{}" else words[0]
        if pattern == "%{}%":
            part = speaker.pick(*words)
        if pattern == "{}%" and (len(words) == 1 or speaker.chance(0.5)):
            part, phrase = part[0], speaker.pick(*_LIKE[pattern]).format("the letter {}")
        else:
            phrase = speaker.pick(*_LIKE[pattern])
        sql = f"{field.name} LIKE '{pattern.format(part)}'"
        return Condition(field, sql, self._said(speaker, field, phrase.format(part)))

    @staticmethod
    def _said(speaker: Speaker, field: Field, phrase: str) -> str:
        if speaker.chance(0.4):
            return f"with {possessed(speaker.col(field), phrase)}"
        return f"whose {speaker.col(field)} {phrase}"


def possessed(noun: str, phrase: str) -> str:
    """Turn `noun`, `is above 3` into `a noun above 3`."""
    article = "an" if noun[0] in "aeiou" else "a"
    rest = phrase.removeprefix("is ")
    if rest == phrase:
        return f"{article} {noun} that {phrase}"
    if rest[0] in "-0123456789" or rest.startswith(("exactly", "at ", "no more", "no less")):
        return f"{article} {noun} of {rest}"
    for start in ("not ", "anything but "):
        if rest.startswith(start):
            return f"{article} {noun} other than {rest.removeprefix(start)}"
    return f"{'the' if rest[0].isupper() else article} {noun} {rest}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A question before it is checked.

    Attributes:
        text: The question.
        sql: Its query.
        keys: A query for the values that decide the order of the rows, one row past the limit
            where there is one; empty where the query does not sort.
        limit: The query's limit, or 0.
        rivals: Queries that leave a part of it out, and must therefore find something else.
    """

    text: str
    sql: str
    keys: str = ""
    limit: int = 0
    rivals: tuple[str, ...] = ()


def listing(speaker: Speaker, cols: Sequence[Field], of: Entity, tail: str) -> str:
    """Ask for columns of all rows of a table that the tail describes."""
    many, one = speaker.many(of), speaker.one(of)
    name = speaker.cols(cols, many=speaker.chance(0.4))
    return speaker.pick(
        f"What are the {speaker.cols(cols, many=True)} of {many}{tail}?",
        f"Show the {name} of all {many}{tail}.",
        f"List the {name} of every {one}{tail}.",
        f"Find the {name} of each {one}{tail}.",
        f"For all {many}{tail}, give the {speaker.cols(cols)}.",
        f"Return the {name} for {many}{tail}.",
        f"I want to see the {name} of the {many}{tail}.",
        f"Can you tell me the {name} of all {many}{tail}?",
    )
