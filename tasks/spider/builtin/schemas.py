"""The databases of the built-in text-to-SQL sample, in a compact notation.

A database is a name, then one line for each table:

    table|synonym: key, link>table, name!pool, word=pool, number=low..high/step

The first column is the integer primary key. `>` makes a foreign key to the named table's primary
key, `!` a text column without repeats, `=` a text column with repeats or, for a range, a number
(real when the range is written with a decimal point). `column|synonym` adds the one other word
that questions may use. No two tables of different databases share a word, so a question's text
tells its database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Role = Literal["key", "link", "name", "word", "number", "year"]

NOTATION = """
music_hall
singer|vocalist: singer_id, name!person, country=country, age=19..68
concert|gig: concert_id, singer_id>singer, venue=venue, year=2004..2023, attendance=200..9000/50

school_timetable
teacher|instructor: teacher_id, name!person, subject=subject, salary|wage=28000..64000/500
lesson|class: lesson_id, teacher_id>teacher, weekday|day=weekday, room=room, duration=30..120/5

air_travel
airport|airfield: airport_id, name!airport, country=country, elevation=2..2400
flight: flight_id, airport_id>airport, airline|carrier=airline, distance=150..8900/10,\
 price|fare=39..990

book_market
author|writer: author_id, name!person, country=country, birth_year=1921..1994
book|novel: book_id, title!title, author_id>author, genre=genre, price=6.0..42.0
review|critique: review_id, book_id>book, newspaper=newspaper, rating|score=1..10

football_league
club|team: club_id, name!club, city=city, budget=12..320, founding_year=1878..1975
player|footballer: player_id, name!person, club_id>club, position=position, age=17..38

city_hospital
doctor|physician: doctor_id, name!person, specialty=specialty, salary|wage=61000..148000/500
patient: patient_id, name!person, doctor_id>doctor, city=city, age=4..91

restaurant_guide
restaurant|eatery: restaurant_id, name!restaurant, cuisine=cuisine, city=city, capacity=18..160
dish|meal: dish_id, title!dish, restaurant_id>restaurant, course=course, price|cost=4.5..38.0

film_archive
director|filmmaker: director_id, name!person, country=country, birth_year=1928..1990
film|movie: film_id, title!title, director_id>director, genre=genre, release_year=1965..2023

museum_guide
museum|gallery: museum_id, name!museum, city=city, opening_year=1790..2012
painting|artwork: painting_id, title!title, museum_id>museum, style=style, price|value=15..900

car_trade
manufacturer|carmaker: manufacturer_id, name!company, country=country, revenue|income=4.0..260.0
car|vehicle: car_id, model!model, manufacturer_id>manufacturer, fuel=fuel,\
 price=9000..98000/100

office_staff
department|division: department_id, name!department, city=city, budget=150..2400/10
employee|worker: employee_id, name!person, department_id>department, job=job,\
 salary|wage=24000..99000/500
seminar|workshop: seminar_id, employee_id>employee, topic=topic, duration|length=2..40

hotel_chain
hotel|inn: hotel_id, name!hotel, city=city, rating=2.0..9.9
booking|reservation: booking_id, hotel_id>hotel, guest=person, season=season, price|cost=70..1900

farm_register
farmer|grower: farmer_id, name!person, region=region, age=22..79
field|plot: field_id, farmer_id>farmer, crop=crop, area|size=1.5..60.0, harvest|yield=12..480

pet_register
owner|pet keeper: owner_id, name!person, city=city, age=18..83
pet|animal: pet_id, nickname!pet, owner_id>owner, species=species, age=1..17

library_desk
member|reader: member_id, name!person, city=city, joining_year=1996..2023
loan|borrowing: loan_id, member_id>member, magazine=magazine, month=month, fine|fee=0.5..18.0

online_shop
customer|client: customer_id, name!person, country=country, age=18..77
purchase|transaction: purchase_id, customer_id>customer, payment=payment, month=month,\
 amount|charge=8..640
parcel|package: parcel_id, purchase_id>purchase, courier=courier, weight=0.5..31.0

river_atlas
river|waterway: river_id, name!river, country=country, length=45..3100/5
bridge|crossing: bridge_id, name!bridge, river_id>river, material=material,\
 opening_year=1850..2019

theatre_season
theatre|playhouse: theatre_id, name!theatre, city=city, capacity|size=90..2400/10
drama|stage play: drama_id, title!title, theatre_id>theatre, genre=genre, price|cost=9..120

campus
professor|lecturer: professor_id, name!person, faculty=faculty, age=31..70
course|module: course_id, title!course, professor_id>professor, semester|term=semester,\
 enrolment=8..260
award|prize: award_id, professor_id>professor, sponsor=sponsor, amount=20..880,\
 year=2008..2023

mountain_log
mountain|peak: mountain_id, name!mountain, country=country, height=1200..7900/5
climber|mountaineer: climber_id, name!person, mountain_id>mountain, sponsor=sponsor,\
 age=18..66

taxi_service
driver|chauffeur: driver_id, name!person, district=district, experience=1..34
ride|journey: ride_id, driver_id>driver, weekday|day=weekday, distance=1.5..48.0, fare|price=6..115

savings_bank
branch|bank office: branch_id, name!branch, city=city, opening_year=1901..2018
account|deposit: account_id, branch_id>branch, holder=person, category|type=category,\
 balance=120..48000/10

software_team
programmer|developer: programmer_id, name!person, language=language, salary|wage=38000..126000/500
defect|bug: defect_id, programmer_id>programmer, severity=severity, component=component,\
 delay=1..90

sea_trade
port|harbour: port_id, name!port, country=country, depth=6..31
ship|vessel: ship_id, name!ship, port_id>port, cargo|freight=cargo, length=60..390

weather_service
station|weather post: station_id, name!station, region=region, altitude=3..2900
measurement|record: measurement_id, station_id>station, month=month, temperature=-12..39,\
 rainfall=0.5..180.0

space_programme
agency|space office: agency_id, name!agency, country=country, budget=90..9900/10
mission|expedition: mission_id, name!mission, agency_id>agency, destination=destination,\
 launch_year=1969..2023
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the database declares it; `type` is INTEGER, REAL or TEXT."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A column that holds another table's primary key."""

    column: str
    table: str
    target: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the database declares it."""

    name: str
    columns: tuple[Column, ...]
    primary_key: str
    foreign_keys: tuple[ForeignKey, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A column as the generator sees it.

    Attributes:
        name: The column's name.
        synonym: The other word for it, or an empty string.
        type: INTEGER, REAL or TEXT.
        role: What questions may do with it.
        pool: Where its values come from: a pool's name, or for a link the table.
        low: Smallest number.
        high: Largest number.
        step: Distance between numbers.
    """

    name: str
    synonym: str
    type: str
    role: Role
    pool: str = ""
    low: float = 0
    high: float = 0
    step: int = 1


@dataclass(frozen=True, slots=True)
class Entity:
    """A table as the generator sees it."""

    name: str
    synonym: str
    fields: tuple[Field, ...]

    @property
    def key(self) -> str:
        """The primary key's name."""
        return self.fields[0].name

    @property
    def links(self) -> tuple[Field, ...]:
        """The foreign keys."""
        return tuple(f for f in self.fields if f.role == "link")

    def having(self, *roles: Role) -> tuple[Field, ...]:
        """Return the fields with one of the roles."""
        return tuple(f for f in self.fields if f.role in roles)


_FIELD = re.compile(r"(?P<name>\w+)(?:\|(?P<synonym>[\w ]+))?(?:(?P<mark>[=!>])(?P<spec>.+))?")


def _number(name: str, synonym: str, spec: str) -> Field:
    span, _, step = spec.partition("/")
    low, high = span.split("..")
    kind = "REAL" if "." in low else "INTEGER"
    role: Role = "year" if name.endswith("year") else "number"
    return Field(name, synonym, kind, role, "", float(low), float(high), int(step or 1))


def _field(text: str) -> Field:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot read the column {text!r} of a built-in schema")
    name, synonym, mark = match["name"], match["synonym"] or "", match["mark"]
    if mark is None:
        return Field(name, synonym, "INTEGER", "key")
    if mark == ">":
        return Field(name, synonym, "INTEGER", "link", match["spec"])
    if mark == "!":
        return Field(name, synonym, "TEXT", "name", match["spec"])
    if ".." in match["spec"]:
        return _number(name, synonym, match["spec"])
    return Field(name, synonym, "TEXT", "word", match["spec"])


def _entity(line: str) -> Entity:
    head, _, body = line.partition(": ")
    name, _, synonym = head.partition("|")
    return Entity(name, synonym, tuple(_field(part.strip()) for part in body.split(",")))


@cache
def entities() -> dict[str, tuple[Entity, ...]]:
    """Return each database's tables, parents before children."""
    blocks = (block.splitlines() for block in NOTATION.strip().split("\n\n"))
    return {lines[0]: tuple(_entity(line) for line in lines[1:]) for lines in blocks}


def table(entity: Entity, keys: dict[str, str]) -> Table:
    """Describe an entity as the database declares it.

    Args:
        entity: The entity.
        keys: The primary key of each table of the database.
    """
    return Table(
        entity.name,
        tuple(Column(f.name, f.type) for f in entity.fields),
        entity.key,
        tuple(ForeignKey(f.name, f.pool, keys[f.pool]) for f in entity.links),
    )
