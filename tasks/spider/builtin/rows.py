"""Contents of the built-in databases: seeded rows made from pools of plain words."""

from __future__ import annotations

import sqlite3
from functools import cache
from itertools import product
from random import Random

from .schemas import Entity, Field, entities, table

Value = int | float | str
Row = tuple[Value, ...]

# Columns with repeats draw from one of these, those without from a pair below.
WORDS = {
    "country": "France Japan Brazil Kenya Canada Norway India Spain",
    "city": "Paris Tokyo Lima Oslo Cairo Boston Delhi Madrid",
    "region": "North South East West Centre Valley",
    "district": "Downtown Riverside Hillside Airport Market",
    "venue": "Arena,Open Stage,Town Hall,Jazz Cellar,Park Theatre",
    "subject": "Mathematics History Biology Music Geography Art",
    "weekday": "Monday Tuesday Wednesday Thursday Friday",
    "room": "Red Room,Blue Room,Green Room,Main Hall,Lab",
    "airline": "Sky Line,Blue Wing,Global Air,Sun Jet,Polar Air",
    "genre": "Comedy Tragedy Romance Mystery Fantasy Thriller",
    "newspaper": "Daily News,Morning Post,City Herald,Weekly Mirror",
    "position": "Goalkeeper Defender Midfielder Striker",
    "specialty": "Surgery Cardiology Neurology Dentistry Oncology",
    "cuisine": "Italian Thai Mexican Greek Indian Korean",
    "course": "Starter,Main Course,Dessert,Snack",
    "style": "Cubism Baroque Realism Modern Abstract",
    "fuel": "Petrol Diesel Electric Hybrid",
    "job": "Clerk Manager Engineer Analyst Designer Guard",
    "topic": "Safety Leadership Accounting Marketing Programming",
    "season": "Spring Summer Autumn Winter",
    "crop": "Wheat Barley Corn Potato Rice Cotton",
    "species": "Dog Cat Rabbit Parrot Hamster",
    "magazine": "Nature World,Art Today,Sport Week,Home Garden,Science Time",
    "month": "January March May July September November",
    "payment": "Card Cash Transfer Voucher",
    "courier": "Fast Post,Red Van,Swift Mail,Green Bike",
    "material": "Stone Steel Wood Concrete",
    "faculty": "Physics Law Medicine Economics Chemistry",
    "semester": "Spring Autumn Summer",
    "sponsor": "Apex Fund,Nova Bank,Terra Trust,Orbit Media,Alpine Gear",
    "category": "Savings Checking Business Student",
    "language": "Python Java Rust Kotlin Ruby",
    "severity": "Minor Major Critical Trivial",
    "component": "Parser Network Storage Display Login",
    "cargo": "Grain Oil Coal Timber Cars Fruit",
    "destination": "Moon Mars Venus Jupiter Saturn Orbit",
}
_FIRST = "Anna Ben Clara David Emma Felix Grace Henry Irene Jack Karen Leo Maria Noah Olga Paul"
_LAST = "Adams Baker Carter Dixon Evans Fisher Green Hughes Irwin Jones King Lopez Moore Nolan"
_PLACE = "Ashford Brook Castle Dover Elm Forest Granite Harbor Island Juniper Kings Lake Maple"
NAMES = {
    "person": (_FIRST, _LAST),
    "title": (
        "Silent Golden Broken Distant Hidden Crimson Frozen Gentle Lonely Wild",
        "River Garden Mirror Winter Journey Shadow Island Letter Dream Storm",
    ),
    "airport": (_PLACE, "Field International Regional"),
    "club": (_PLACE, "United Rovers Athletic"),
    "restaurant": ("Golden Little Happy Spicy Royal Rustic Blue", "Spoon Kitchen Table Lantern"),
    "dish": (
        "Grilled Creamy Fried Baked Spicy Sweet Fresh",
        "Salmon Chicken Noodles Soup Pie Salad Rice",
    ),
    "museum": (_PLACE, "Museum Collection"),
    "company": ("Atlas Comet Delta Falcon Helix Lunar Metro Orion", "Motors Works Group"),
    "model": ("Astra Bolt Cobra Dart Eagle Flash Gala Hawk", "One Sport Plus Max Eco"),
    "department": ("Global Local Central Digital Public", "Sales Finance Research Support Design"),
    "hotel": (_PLACE, "Inn Palace Lodge"),
    "pet": ("Lucky Fluffy Tiny Jolly Sunny Misty Brave", "Max Bella Coco Rocky Daisy Milo"),
    "river": ("Amber Black Clear Deer Eagle Fox Grand Holy Ivory", "Run Creek Water"),
    "bridge": (_PLACE, "Bridge Arch Viaduct Causeway"),
    "theatre": (_PLACE, "Playhouse Stage"),
    "course": (
        "Applied Modern Advanced Basic Practical Formal Creative",
        "Logic Optics Ethics Statistics Anatomy Genetics Finance",
    ),
    "mountain": ("Bear Cloud Dragon Frost Iron Jade Silver Thunder", "Peak Horn Tower"),
    "branch": (_PLACE, "Street Square"),
    "port": (_PLACE, "Bay Dock"),
    "ship": (
        "Ocean Northern Royal Swift Proud Bright Brave",
        "Star Queen Spirit Pearl Voyager Wind",
    ),
    "station": (_PLACE, "Hill Point"),
    "agency": ("Stellar Cosmic Solar Galaxy Polaris Zenith", "Institute Agency Bureau Centre"),
    "mission": (
        "Pioneer Beacon Horizon Quest Ranger Aurora Titan Nomad Summit",
        "Alpha Beta Gamma Delta Omega",
    ),
}


def split(pool: str) -> list[str]:
    """Return a pool's values: words, or phrases separated by commas."""
    return pool.split("," if "," in pool else None)


def _names(pool: str, count: int, rng: Random) -> list[Value]:
    first, last = NAMES[pool]
    every = [f"{a} {b}" for a, b in product(split(first), split(last))]
    return list(rng.sample(every, min(count, len(every))))


def _words(pool: str, count: int, rng: Random) -> list[Value]:
    values = split(WORDS[pool]) if pool in WORDS else [str(v) for v in _names(pool, 9, rng)]
    rng.shuffle(values)
    # The smaller of two draws makes early values common and late ones rare: uneven groups.
    draws = [min(rng.randrange(len(values)), rng.randrange(len(values) + 2)) for _ in range(count)]
    return [values[draw] for draw in draws]


def _numbers(field: Field, count: int, rng: Random) -> list[Value]:
    if field.type == "REAL":
        low, high = round(field.low * 10), round(field.high * 10)
        return [rng.randrange(low, high + 1, 5) / 10 for _ in range(count)]
    low, high = int(field.low), int(field.high)
    return [rng.randrange(low, high + 1, field.step) for _ in range(count)]


def _links(parents: int, count: int, rng: Random) -> list[Value]:
    # A quarter of the parents stay without children, so that NOT IN has something to find.
    keys = rng.sample(range(1, parents + 1), parents - parents // 4)
    return [keys[min(rng.randrange(len(keys)), rng.randrange(len(keys)))] for _ in range(count)]


def _column(field: Field, count: int, sizes: dict[str, int], rng: Random) -> list[Value]:
    if field.role == "key":
        return list(range(1, count + 1))
    if field.role == "link":
        return _links(sizes[field.pool], count, rng)
    if field.role == "name":
        return _names(field.pool, count, rng)
    if field.role == "word":
        return _words(field.pool, count, rng)
    return _numbers(field, count, rng)


@cache
def rows(database: str) -> dict[str, tuple[Row, ...]]:
    """Return the rows of each table of a database."""
    made: dict[str, tuple[Row, ...]] = {}
    sizes: dict[str, int] = {}
    for entity in entities()[database]:
        rng = Random(f"rows of {database}.{entity.name}")
        count = 28 + rng.randrange(13) if entity.links else 16 + rng.randrange(7)
        columns = [_column(field, count, sizes, rng) for field in entity.fields]
        made[entity.name] = tuple(zip(*columns, strict=True))
        sizes[entity.name] = count
    return made


def _declaration(entity: Entity, keys: dict[str, str]) -> str:
    made = table(entity, keys)
    parts = [
        f"{column.name} {column.type}" + " PRIMARY KEY" * (column.name == made.primary_key)
        for column in made.columns
    ]
    parts += [
        f"FOREIGN KEY ({link.column}) REFERENCES {link.table} ({link.target})"
        for link in made.foreign_keys
    ]
    return f"CREATE TABLE {entity.name} ({', '.join(parts)})"


def fill(connection: sqlite3.Connection, database: str) -> None:
    """Create a database's tables and rows over an open connection, and commit."""
    keys = {entity.name: entity.key for entity in entities()[database]}
    for entity in entities()[database]:
        connection.execute(_declaration(entity, keys))
        marks = ", ".join("?" * len(entity.fields))
        insert = f"INSERT INTO {entity.name} VALUES ({marks})"
        connection.executemany(insert, rows(database)[entity.name])
    connection.commit()
