"""Questions about one table that need neither groups nor a second query."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .schemas import Entity, Field
from .wording import Condition, Draft, Filters, Speaker, listing


@dataclass(frozen=True, slots=True)
class Scene:
    """A database as the generator sees it.

    Attributes:
        entities: Its tables, parents before children.
        filters: What draws conditions on each table, by the table's name.
    """

    entities: tuple[Entity, ...]
    filters: dict[str, Filters]


def sample(rng: Random, fields: tuple[Field, ...], count: int) -> list[Field]:
    """Choose up to so many fields, in random order."""
    return rng.sample(fields, min(count, len(fields)))


def said(entity: Entity, *but: Field) -> tuple[Field, ...]:
    """Return the fields that questions may ask for, without those given."""
    return tuple(f for f in entity.having("name", "word", "number", "year") if f not in but)


def tested(entity: Entity, *but: Field) -> tuple[Field, ...]:
    """Return the fields worth a condition on many rows: without names, which select one."""
    fields = entity.having("word", "number", "year")
    return tuple(f for f in fields if f not in but) or fields


def asked(speaker: Speaker, entity: Entity, *but: Field) -> list[Field]:
    """Choose the columns that a question asks for."""
    draw = speaker.rng.random()
    choice = said(entity, *but) or said(entity)
    return sample(speaker.rng, choice, 1 if draw < 0.35 else 2 if draw < 0.85 else 3)


def names(fields: list[Field]) -> str:
    """Write fields as an SQL column list."""
    return ", ".join(f.name for f in fields)


def start(scene: Scene, rng: Random) -> tuple[Speaker, Entity, Filters]:
    """Choose a table."""
    entity = rng.choice(scene.entities)
    return Speaker(rng), entity, scene.filters[entity.name]


def where(speaker: Speaker, filters: Filters, *but: Field) -> tuple[str, str]:
    """Draw a WHERE clause and its words, or sometimes nothing."""
    fields = [field for field in tested(filters.entity) if field not in but]
    if not fields or speaker.chance(0.4):
        return "", ""
    condition = filters.draw(speaker, speaker.rng.choice(fields))
    return f" WHERE {condition.sql}", f" {condition.text}"


def plain_filter(scene: Scene, rng: Random) -> Draft:
    """One comparison."""
    speaker, entity, filters = start(scene, rng)
    condition = filters.draw(speaker, rng.choice(said(entity)))
    return _select(speaker, entity, condition)


def _select(speaker: Speaker, entity: Entity, condition: Condition) -> Draft:
    columns = asked(speaker, entity, condition.field)
    sql = f"SELECT {names(columns)} FROM {entity.name} WHERE {condition.sql}"
    return Draft(listing(speaker, columns, entity, f" {condition.text}"), sql)


def two_conditions(scene: Scene, rng: Random) -> Draft:
    """Two comparisons joined by AND or OR."""
    speaker, entity, filters = start(scene, rng)
    first, second = (filters.draw(speaker, f) for f in sample(rng, tested(entity), 2))
    both = speaker.chance(0.6)
    word = speaker.pick("and", "and also") if both else speaker.pick("or", "or else")
    columns = asked(speaker, entity, *(c.field for c in (first, second) if " = " in c.sql))
    operator = "AND" if both else "OR"
    select = f"SELECT {names(columns)} FROM {entity.name} WHERE"
    text = listing(speaker, columns, entity, f" {first.text} {word} {second.text}")
    rivals = f"{select} {first.sql}", f"{select} {second.sql}"
    return Draft(text, f"{select} {first.sql} {operator} {second.sql}", rivals=rivals)


def between(scene: Scene, rng: Random) -> Draft:
    """A range, both ends included."""
    speaker, entity, filters = start(scene, rng)
    return _select(speaker, entity, filters.between(speaker, number(rng, entity)))


def like(scene: Scene, rng: Random) -> Draft:
    """A text pattern."""
    speaker, entity, filters = start(scene, rng)
    # Names, of several words each, give the richer patterns.
    fields = entity.having("name") if speaker.chance(0.7) else ()
    field = rng.choice(fields or entity.having("name", "word"))
    condition = filters.like(speaker, field)
    columns = asked(speaker, entity) if field.role == "name" else asked(speaker, entity, field)
    sql = f"SELECT {names(columns)} FROM {entity.name} WHERE {condition.sql}"
    return Draft(listing(speaker, columns, entity, f" {condition.text}"), sql)


def number(rng: Random, entity: Entity, years: bool = True) -> Field:
    """Choose a column with numbers, years only where there is nothing else or they are wanted."""
    numbers = entity.having("number", "year") if years else entity.having("number")
    return rng.choice(numbers or entity.having("number", "year"))


def functions(field: Field) -> tuple[str, ...]:
    """Return the aggregates that make sense for a column."""
    return ("MIN", "MAX") if field.role == "year" else ("SUM", "AVG", "MIN", "MAX")


def aggregate(scene: Scene, rng: Random) -> Draft:
    """A count, or one or two aggregates of a column, under one or two comparisons."""
    speaker, entity, filters = start(scene, rng)
    measure = number(rng, entity)
    drawn = sample(rng, tested(entity, measure), 1 + speaker.chance(0.35))
    conditions = [filters.draw(speaker, field) for field in drawn]
    tail = " " + " and ".join(condition.text for condition in conditions)
    clause = f" WHERE {' AND '.join(condition.sql for condition in conditions)}"
    many, draw = speaker.many(entity), rng.random()
    if draw < 0.25:
        text = speaker.pick(
            f"How many {many} are there{tail}?",
            f"Count the {many}{tail}.",
            f"What is the number of {many}{tail}?",
        )
        return _over(f"SELECT COUNT(*) FROM {entity.name}", clause, text)
    words = [f for f in entity.having("word") if f not in drawn]
    if draw < 0.4 and words:
        field = rng.choice(words)
        text = speaker.pick(
            f"How many different {speaker.cols([field], many=True)} do {many}{tail} have?",
            f"Count the distinct {speaker.cols([field], many=True)} of {many}{tail}.",
        )
        return _over(f"SELECT COUNT(DISTINCT {field.name}) FROM {entity.name}", clause, text)
    used = rng.sample(functions(measure), 1 + speaker.chance(0.45))
    phrase = " and the ".join(speaker.aggregate(name, measure) for name in used)
    text = speaker.pick(
        f"What {'is' if len(used) == 1 else 'are'} the {phrase} of {many}{tail}?",
        f"Find the {phrase} of all {many}{tail}.",
        f"Compute the {phrase} for {many}{tail}.",
    )
    values = ", ".join(f"{function}({measure.name})" for function in used)
    return _over(f"SELECT {values} FROM {entity.name}", clause, text)


def _over(select: str, clause: str, text: str) -> Draft:
    """Make a draft whose condition must matter."""
    return Draft(text, select + clause, rivals=(select,))


def distinct(scene: Scene, rng: Random) -> Draft:
    """Values or pairs of values without repeats."""
    speaker, entity, filters = start(scene, rng)
    columns = sample(rng, entity.having("word"), 1 + speaker.chance(0.4))
    condition = filters.draw(speaker, rng.choice(tested(entity, *columns)))
    name = speaker.cols(columns, many=len(columns) == 1)
    if len(columns) > 1:
        name = f"pairs of {name}"
    word, many = speaker.pick("different", "distinct", "unique"), speaker.many(entity)
    text = speaker.pick(
        f"What are the {word} {name} of {many} {condition.text}?",
        f"Show the {word} {name} among {many} {condition.text}.",
        f"List all {word} {name} of {many} {condition.text}.",
        f"Give the {word} {name} for {many} {condition.text}.",
    )
    select = f"SELECT DISTINCT {names(columns)} FROM {entity.name}"
    return _over(select, f" WHERE {condition.sql}", text)


def order_limit(scene: Scene, rng: Random) -> Draft:
    """All rows sorted, or the first few of them."""
    speaker, entity, filters = start(scene, rng)
    key, down = number(rng, entity), speaker.chance(0.5)
    limit = rng.choice((0, 1, 2, 3, 4, 5))
    if limit == 0 and entity.having("name") and speaker.chance(0.4):
        key = entity.having("name")[0]
    columns = asked(speaker, entity, *([key] if speaker.chance(0.7) else []))
    clause, words = where(speaker, filters, key, *columns)
    order = f"{key.name} DESC" if down else f"{key.name} ASC"
    source = f"FROM {entity.name}{clause} ORDER BY {order}"
    keys = f"SELECT {key.name} {source}" + f" LIMIT {limit + 1}" * (limit > 0)
    sql = f"SELECT {names(columns)} {source}" + f" LIMIT {limit}" * (limit > 0)
    rivals = (sql.replace(clause, "", 1),) if clause else ()
    if limit == 0:
        text = listing(speaker, columns, entity, f"{words}, {speaker.direction(key, down)}")
        return Draft(text, sql, keys, 0, rivals)
    text = _top(speaker, columns, entity, (key, down, limit), words)
    return Draft(text, sql, keys, limit, rivals)


def _top(
    speaker: Speaker, columns: list[Field], of: Entity, order: tuple[Field, bool, int], words: str
) -> str:
    key, down, limit = order
    name, end = speaker.cols(columns), speaker.extreme(key, down)
    among = speaker.pick(f"Among {speaker.many(of)}{words}", f"Of all {speaker.many(of)}{words}")
    if limit == 1:
        one = speaker.one(of)
        if words:
            return f"{among}, {speaker.pick('show', 'give')} the {name} of the one with the {end}."
        return speaker.pick(
            f"What {'is' if len(columns) == 1 else 'are'} the {name} of the {one} with the {end}?",
            f"Show the {name} of the {one} with the {end}.",
            f"Which {one} has the {end}? Give the {name}.",
        )
    if words:
        verb = speaker.pick("show", "give")
        return f"{among}, {verb} the {name} of the {limit} with the {end}."
    name = speaker.cols(columns, many=True)
    return speaker.pick(
        f"What are the {name} of the {limit} {speaker.many(of)} with the {end}?",
        f"List the {name} of the {limit} {speaker.many(of)} with the {end}.",
        f"Which {limit} {speaker.many(of)} have the {end}? Give the {name}.",
    )
