"""Questions about groups of rows of one table, and about two sets of its rows."""

from __future__ import annotations

from random import Random

from .schemas import Field
from .single_table import Scene, functions, number, sample, start, tested, where
from .wording import Draft, Speaker, listed, plural, possessed


def group_by(scene: Scene, rng: Random) -> Draft:
    """Counts or aggregates for each value of a column, or the value that leads."""
    speaker, entity, filters = start(scene, rng)
    group, measure = rng.choice(entity.having("word")), number(rng, entity, years=False)
    clause, words = where(speaker, filters, group)
    many, name = speaker.many(entity), speaker.col(group)
    source = f"FROM {entity.name}{clause} GROUP BY {group.name}"
    if speaker.chance(0.25):
        return _leading(speaker, group, f"{many}{words}", source)
    parts, phrases = [group.name], [f"the {name}"]
    for field in sample(rng, (measure, group), 1 + speaker.chance(0.3)):
        if field is group:
            parts.append("COUNT(*)")
            phrases.append(f"the number of {many}")
        else:
            function = rng.choice(functions(measure))
            parts.append(f"{function}({measure.name})")
            phrases.append(f"the {speaker.aggregate(function, measure)}")
    text = speaker.pick(
        f"For each {name} of {many}{words}, show {listed(phrases)}.",
        f"Group the {many}{words} by {name} and give {listed(phrases)}.",
        f"For every {name} among {many}{words}, return {listed(phrases)}.",
    )
    return Draft(text, f"SELECT {', '.join(parts)} {source}")


def _leading(speaker: Speaker, group: Field, rows: str, source: str) -> Draft:
    down = speaker.chance(0.6)
    most = speaker.pick("most common", "most frequent") if down else "least common"
    order = f"{source} ORDER BY COUNT(*) {'DESC' if down else 'ASC'}"
    text = speaker.pick(
        f"What is the {most} {speaker.col(group)} of {rows}?",
        f"Find the {most} {speaker.col(group)} among {rows}.",
    )
    sql = f"SELECT {group.name} {order} LIMIT 1"
    return Draft(text, sql, f"SELECT COUNT(*) {order} LIMIT 2", 1)


_BOUNDS = {
    ">": ("more than {}", "over {}"),
    ">=": ("at least {}", "no fewer than {}"),
    "<": ("fewer than {}", "under {}"),
    "<=": ("at most {}", "no more than {}"),
    "=": ("exactly {}",),
}


def count_bound(speaker: Speaker, most: int) -> tuple[str, str]:
    """Draw a bound, from 2 to `most`, on a count: its SQL and its words."""
    operator = speaker.rng.choice((">", ">", ">=", ">=", "<", "<=", "="))
    value = 2 + speaker.rng.randrange(most - 1)
    return f"{operator} {value}", speaker.pick(*_BOUNDS[operator]).format(value)


def having(scene: Scene, rng: Random) -> Draft:
    """Values whose group is large or small, or has a high or low aggregate."""
    speaker, entity, filters = start(scene, rng)
    group = rng.choice(entity.having("word"))
    clause, words = where(speaker, filters, group)
    many, name = speaker.many(entity), plural(speaker.col(group))
    counted = speaker.chance(0.3)
    also = f", with the number of {many}" if counted else ""
    if speaker.chance(0.55):
        bound, phrase = count_bound(speaker, 7)
        test = f"COUNT(*) {bound}"
        text = speaker.pick(
            f"Which {name} are shared by {phrase} {many}{words}{also}?",
            f"Show the {name} that occur for {phrase} {many}{words}{also}.",
            f"List the {name} that have {phrase} {many}{words}{also}.",
        )
    else:
        measure = number(rng, entity, years=False)
        function = rng.choice(functions(measure))
        bound, phrase = filters.compare(speaker, measure, even=False)
        test = f"{function}({measure.name}) {bound}"
        value = possessed(speaker.aggregate(function, measure), phrase)
        text = speaker.pick(
            f"Which {name} of {many}{words} have {value}{also}?",
            f"Show the {name} of {many}{words} for groups with {value}{also}.",
            f"Among {many}{words}, list the {name} that have {value}{also}.",
        )
    columns = f"{group.name}, COUNT(*)" if counted else group.name
    select = f"SELECT {columns} FROM {entity.name}{clause} GROUP BY {group.name}"
    return Draft(text, f"{select} HAVING {test}", rivals=(select,))


def set_operation(scene: Scene, rng: Random) -> Draft:
    """Values found among both, either, or only the first of two sets of rows."""
    speaker, entity, filters = start(scene, rng)
    column = rng.choice(entity.having("word"))
    fields = sample(rng, tested(entity, column), 2)
    # Twice the same column asks for its two ends, as in `before 1990` and `after 2010`.
    first = filters.draw(speaker, fields[0])
    second = filters.draw(speaker, fields[0] if speaker.chance(0.4) else fields[-1])
    many, names = speaker.many(entity), plural(speaker.col(column))
    operator = rng.choice(("INTERSECT", "UNION", "EXCEPT"))
    one, two = f"{many} {first.text}", f"{many} {second.text}"
    if operator == "INTERSECT":
        text = speaker.pick(
            f"Which {names} occur both for {one} and for {two}?",
            f"Show the {names} shared by {one} and by {two}.",
        )
    elif operator == "UNION":
        text = speaker.pick(
            f"Show the {names} that occur for {one} or for {two}, each once.",
            f"Which {names} occur either for {one} or for {two}, without repeats?",
        )
    else:
        text = speaker.pick(
            f"Which {names} occur for {one} but not for {two}?",
            f"Show the {names} of {one} except those of {two}.",
        )
    select = f"SELECT {column.name} FROM {entity.name} WHERE"
    sides = f"{select} {first.sql}", f"{select} {second.sql}"
    # Each side must matter, even where repeats are left out of it.
    rivals = tuple(side.replace("SELECT", "SELECT DISTINCT") for side in sides)
    return Draft(text, f" {operator} ".join(sides), rivals=rivals)
