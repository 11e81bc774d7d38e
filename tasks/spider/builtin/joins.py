"""Questions about two tables, one of which refers to the other, and nested queries.

In every join T1 is the parent table and T2 the child, whose rows refer to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .schemas import Entity, Field
from .single_table import Scene, asked, functions, names, number, said, start, tested
from .wording import Draft, Filters, Speaker, listing


@dataclass(frozen=True, slots=True)
class _Pair:
    """A child table with the parent that it refers to."""

    speaker: Speaker
    parent: Entity
    child: Entity
    above: Filters
    below: Filters

    @property
    def rng(self) -> Random:
        return self.speaker.rng

    @property
    def join(self) -> str:
        key = self.parent.key
        return f"FROM {self.parent.name} AS T1 JOIN {self.child.name} AS T2 ON T1.{key} = T2.{key}"

    def parent_where(self) -> tuple[str, str]:
        """Draw a condition on the parent: its SQL and its words."""
        everything = said if self.speaker.chance(0.5) else tested
        field = self.rng.choice(everything(self.parent))
        condition = self.above.draw(self.speaker, field, "T1.")
        return condition.sql, condition.text

    def child_where(self) -> tuple[str, str]:
        """Draw a condition on the child: its SQL and its words."""
        field = self.rng.choice(tested(self.child))
        condition = self.below.draw(self.speaker, field, "T2.")
        return condition.sql, condition.text


def _pair(scene: Scene, rng: Random) -> _Pair:
    child = rng.choice([entity for entity in scene.entities if entity.links])
    parent = next(e for e in scene.entities if e.name == rng.choice(child.links).pool)
    filters = scene.filters
    return _Pair(Speaker(rng), parent, child, filters[parent.name], filters[child.name])


def _label(parent: Entity, rng: Random) -> Field:
    """Choose how a parent is shown, most often by its name."""
    own = parent.having("name")
    return own[0] if own and rng.random() < 0.7 else rng.choice(said(parent))


def join(scene: Scene, rng: Random) -> Draft:
    """Columns or an aggregate of joined rows under a comparison."""
    pair = _pair(scene, rng)
    draw = rng.random()
    if draw < 0.4:
        return _both_sides(pair)
    return _children(pair) if draw < 0.8 else _join_aggregate(pair)


def _both_sides(pair: _Pair) -> Draft:
    """Columns of a child, if any, then of its parent, under a comparison on the child."""
    speaker = pair.speaker
    sql, words = pair.child_where()
    shown = _label(pair.parent, pair.rng)
    own = [pair.rng.choice(said(pair.child))] if speaker.chance(0.6) else []
    columns = [f"T2.{f.name}" for f in own] + [f"T1.{shown.name}"]
    one = speaker.one(pair.parent)
    name = f"the {speaker.cols([shown])} of its {one}"
    if own:
        name = f"its {speaker.cols(own)} and {name}"
    child = f"{speaker.one(pair.child)} {words}"
    text = speaker.pick(
        f"For each {child}, show {name}.",
        f"For every {child}, give {name}.",
        f"Take each {child} and return {name}.",
    )
    return Draft(text, f"SELECT {', '.join(columns)} {pair.join} WHERE {sql}")


def _children(pair: _Pair) -> Draft:
    """Columns of children under a comparison on their parent, perhaps one on themselves too."""
    speaker = pair.speaker
    sql, words = pair.parent_where()
    columns = asked(speaker, pair.child)[:2]
    select = f"SELECT {', '.join(f'T2.{f.name}' for f in columns)} {pair.join} WHERE {sql}"
    many, parents = speaker.many(pair.child), f"{speaker.many(pair.parent)} {words}"
    if speaker.chance(0.65):
        tail = speaker.pick(" of", " that belong to", " linked to")
        plain = speaker.pick("Show", "List", "Return", "Find")
        name = speaker.cols(columns, many=speaker.chance(0.4))
        return Draft(f"{plain} the {name} of all {many}{tail} {parents}.", select)
    also, more = pair.child_where()
    text = speaker.pick(
        f"Among the {many} of {parents}, show the {speaker.cols(columns)} of those {more}.",
        f"Of all {many} of {parents}, list the {speaker.cols(columns)} of those {more}.",
    )
    return Draft(text, f"{select} AND {also}", rivals=(select,))


def _join_aggregate(pair: _Pair) -> Draft:
    speaker = pair.speaker
    sql, words = pair.parent_where()
    many, parents = speaker.many(pair.child), f"{speaker.many(pair.parent)} {words}"
    if speaker.chance(0.35):
        text = speaker.pick(
            f"How many {many} belong to {parents}?", f"Count the {many} of {parents}."
        )
        select = f"SELECT COUNT(*) {pair.join}"
        return Draft(text, f"{select} WHERE {sql}", rivals=(select,))
    measure = number(pair.rng, pair.child)
    function = pair.rng.choice(functions(measure))
    phrase = speaker.aggregate(function, measure)
    text = speaker.pick(
        f"What is the {phrase} of {many} that belong to {parents}?",
        f"Find the {phrase} of the {many} of {parents}.",
    )
    select = f"SELECT {function}(T2.{measure.name}) {pair.join}"
    return Draft(text, f"{select} WHERE {sql}", rivals=(select,))


def join_group(scene: Scene, rng: Random) -> Draft:
    """Counts or aggregates of the children of each parent, with a bound, an order or a limit."""
    pair = _pair(scene, rng)
    draw = rng.random()
    if draw < 0.4:
        return _leader(pair)
    return _bounded(pair) if draw < 0.65 else _by_parent(pair)


def _filtered(pair: _Pair) -> tuple[str, str]:
    """Draw a WHERE clause on the child and its words, or nothing."""
    if pair.speaker.chance(0.6):
        return "", ""
    sql, words = pair.child_where()
    return f" WHERE {sql}", f" {words}"


def _leader(pair: _Pair) -> Draft:
    """The parents with the most children, or with the greatest aggregate of them."""
    speaker, rng = pair.speaker, pair.rng
    clause, words = _filtered(pair)
    shown, limit = _label(pair.parent, rng), rng.choice((1, 1, 2, 3))
    many, one = f"{speaker.many(pair.child)}{words}", speaker.one(pair.parent)
    if speaker.chance(0.5):
        value, end, down = "COUNT(*)", f"the most {many}", True
    else:
        measure, down = number(rng, pair.child, years=False), speaker.chance(0.6)
        function = "AVG" if measure.role == "year" else rng.choice(("SUM", "AVG"))
        value = f"{function}(T2.{measure.name})"
        word = speaker.pick("highest", "largest") if down else speaker.pick("lowest", "smallest")
        end = f"the {word} {speaker.aggregate(function, measure)} of {many}"
    order = f"{value} DESC" if down else f"{value} ASC"
    source = f"{pair.join}{clause} GROUP BY T1.{pair.parent.key} ORDER BY {order}"
    who = one if limit == 1 else f"{limit} {speaker.many(pair.parent)}"
    name = speaker.cols([shown], many=limit > 1)
    text = speaker.pick(
        f"Show the {name} of the {who} with {end}.",
        f"Which {who} {'has' if limit == 1 else 'have'} {end}? Give the {name}.",
        f"Find the {name} of the {who} that {'has' if limit == 1 else 'have'} {end}.",
    )
    sql = f"SELECT T1.{shown.name} {source} LIMIT {limit}"
    rivals = (sql.replace(clause, "", 1),) if clause else ()
    return Draft(text, sql, f"SELECT {value} {source} LIMIT {limit + 1}", limit, rivals)


def _bounded(pair: _Pair) -> Draft:
    """The parents with so many children, at least one."""
    speaker = pair.speaker
    clause, words = _filtered(pair)
    value = 1 + pair.rng.randrange(3)
    operator = pair.rng.choice((">", ">=", "=")) if value > 1 else ">"
    phrases = {">": "more than {}", ">=": "at least {}", "=": "exactly {}"}
    phrase = phrases[operator].format(value)
    columns = asked(speaker, pair.parent)[:2]
    child = pair.child if value > 1 else None
    many = speaker.many(pair.child) if child else speaker.one(pair.child)
    select = f"SELECT {', '.join(f'T1.{f.name}' for f in columns)} {pair.join}{clause}"
    sql = f"{select} GROUP BY T1.{pair.parent.key} HAVING COUNT(*) {operator} {value}"
    return Draft(listing(speaker, columns, pair.parent, f" with {phrase} {many}{words}"), sql)


def _by_parent(pair: _Pair) -> Draft:
    """A count or aggregate of children for each parent, or each value of a parent's column."""
    speaker, rng = pair.speaker, pair.rng
    clause, words = _filtered(pair)
    groups = pair.parent.having("word")
    many, one = speaker.many(pair.child), speaker.one(pair.parent)
    if speaker.chance(0.4):
        value, phrase = "COUNT(*)", f"the number of {{}}{many}"
    else:
        measure = number(rng, pair.child, years=False)
        function = rng.choice(functions(measure))
        value = f"{function}(T2.{measure.name})"
        phrase = f"the {speaker.aggregate(function, measure)} of {{}}{many}"
    if groups and speaker.chance(0.5):
        shown = rng.choice(groups)
        key, unit = f"T1.{shown.name}", f"{one} {speaker.col(shown)}"
        told = phrase.format("") + words
        text = speaker.pick(
            f"For each {unit}, show the {speaker.col(shown)} and {told}.",
            f"Group by {unit} and give the {speaker.col(shown)} and {told}.",
        )
    else:
        shown = (pair.parent.having("name") or said(pair.parent))[0]
        key, child = f"T1.{pair.parent.key}", f"{speaker.one(pair.child)}{words}"
        told = f"the {speaker.col(shown)} and {phrase.format('these ')}"
        text = speaker.pick(
            f"For each {one} with at least one {child}, show {told}.",
            f"For every {one} that has any {child}, give {told}.",
        )
    return Draft(text, f"SELECT T1.{shown.name}, {value} {pair.join}{clause} GROUP BY {key}")


def nested(scene: Scene, rng: Random) -> Draft:
    """Membership in a subquery, or a comparison with an aggregate from one."""
    if rng.random() < 0.4:
        return _against_aggregate(scene, rng)
    pair = _pair(scene, rng)
    speaker, key = pair.speaker, pair.parent.key
    columns = asked(speaker, pair.parent)
    none = speaker.chance(0.4)
    inner, words = "", ""
    if not none or speaker.chance(0.6):
        sql, text = pair.child_where()
        inner, words = f" WHERE {sql.removeprefix('T2.')}", f" {text}"
    one = speaker.one(pair.child)
    if none:
        tail = speaker.pick(f"without any {one}{words}", f"with no {one}{words}")
    else:
        tail = (
            f"with {speaker.pick(f'some {one}', f'one or more {speaker.many(pair.child)}')}{words}"
        )
    test = f"{key} {'NOT IN' if none else 'IN'} (SELECT {key} FROM {pair.child.name}{inner})"
    sql = f"SELECT {names(columns)} FROM {pair.parent.name} WHERE {test}"
    return Draft(listing(speaker, columns, pair.parent, f" {tail}"), sql)


def _against_aggregate(scene: Scene, rng: Random) -> Draft:
    speaker, entity, filters = start(scene, rng)
    measure = number(rng, entity, years=False)
    columns = asked(speaker, entity, measure)
    operator, function = rng.choice((("<", "AVG"), (">", "AVG"), ("=", "MIN"), ("=", "MAX")))
    inner, words = "", ""
    if speaker.chance(0.6):
        condition = filters.draw(speaker, rng.choice(tested(entity, measure)))
        inner, words = f" WHERE {condition.sql}", f" {condition.text}"
    compared = {"<": ("below", "less than"), ">": ("above", "greater than"), "=": ("equal to",)}
    value = f"the {speaker.aggregate(function, measure)} of all {speaker.many(entity)}{words}"
    tail = f" whose {speaker.col(measure)} is {speaker.pick(*compared[operator])} {value}"
    query = f"(SELECT {function}({measure.name}) FROM {entity.name}{inner})"
    sql = f"SELECT {names(columns)} FROM {entity.name} WHERE {measure.name} {operator} {query}"
    rivals = (sql.replace(inner, "", 1),) if inner else ()
    return Draft(listing(speaker, columns, entity, tail), sql, rivals=rivals)
