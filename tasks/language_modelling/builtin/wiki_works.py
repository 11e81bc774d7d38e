"""Articles of the built-in text about things that people made: ships and bridges."""

from __future__ import annotations

from .grammar import Part, Topic

SHIP = Topic(
    "SS {name}",
    {
        "name": "place",
        "yard": "place",
        "port": "place",
        "other": "place",
        "load": "cargo",
        "captain": "person",
    },
    (
        Part(
            None,
            (
                "The {name} was a (steamer|sailing ship|schooner|ferry|barque) built in {yard} in "
                "{year} to carry {load}.",
                "The {name} was a ship of the {office} of {port}, (launched|built) in {year}.",
            ),
            (
                "She (sailed|ran) between {port} and {other} for {count} years.",
                "She was {hundreds} feet long and had a (crew|company) of {count}.",
                "Her hull was (built|made) of {material}, her (masts|decks) of {tree}.",
                "She was (lost|sunk|broken up|sold) in {year} after {event}.",
            ),
            (2, 3),
        ),
        Part(
            "Construction",
            (
                "The {office} ordered the ship from a yard in {yard} for {thousands} pounds.",
                "(She|The ship) was designed by {person} and built in {count} months.",
            ),
            (
                "The (engine|boiler|rudder) came from {place} and (gave|caused) trouble from the "
                "beginning.",
                "There was room for {hundreds} tons of {load} and {count} (passengers|cabins).",
                "In {year} she was given a new (engine|deck|mast|boiler) of {material}.",
                "She was painted {colour} and {colour}, the colours of the {office}.",
            ),
            (1, 2),
        ),
        Part(
            "Service",
            (
                "{captain} (commanded|took command of) the {name} (in|until|from) {year}.",
                "On her first (voyage|journey) in {month} {year} she carried {load} to {other}.",
            ),
            (
                "In {weather} off {place} she (lost|broke) a (mast|boat|propeller|rudder).",
                "{captain} brought {count} people (ashore|to safety) at {place}.",
                "From {year} she carried {cargo} and {cargo} instead of {load}.",
                "She ran (aground|onto a rock) near {place} in {weather} and was (repaired|towed) "
                "to {port}.",
                "During {event} of {year} she lay at {other} for {count} weeks.",
                "The (bell|wheel|anchor) of the {name} is in the {building} of {port}.",
            ),
            (2, 4),
        ),
    ),
)

BRIDGE = Topic(
    "{name} Bridge",
    {
        "name": "place",
        "stream": "river",
        "stuff": "material",
        "maker": "person",
        "owner": "office",
        "far": "place",
    },
    (
        Part(
            None,
            (
                "{name} Bridge is a (road|railway|foot|toll) bridge of {stuff} over the {stream} "
                "(between|that joins) {name} and {far}.",
                "{name} Bridge (crosses|spans) the {stream} {count} miles {direction} of {far}.",
            ),
            (
                "It was (designed|built) by {maker} and opened in {month} {year}.",
                "It has {count} arches and is {hundreds} feet long.",
                "The {owner} (owns|keeps|has looked after) it since {year}.",
                "It is a (listed|protected) (building|monument) and a home of {animal}.",
            ),
            (2, 3),
        ),
        Part(
            "History",
            (
                "An older bridge of {material} was (destroyed|carried away) by {event} in {year}.",
                "(Until|Before) {year} a ferry took {cargo} across the {stream}.",
            ),
            (
                "The {owner} asked {maker} for a (plan|design|bridge) of {stuff}.",
                "Work began in {month} {year}, and {count} men (were employed|died).",
                "The {stuff} (came|was brought) from {place} by (boat|cart|rail).",
                "It cost {thousands} pounds, (half|a third|most) of it paid by the {office}.",
                "In {year} {event} (damaged|closed) the {side} of the bridge.",
                "(Tolls|Fees) on {cargo} and {goods} were (taken|paid) until {year}.",
            ),
            (2, 4),
        ),
        Part(
            "Today",
            (
                "(Since|In) {recent} the bridge (carries|has carried|carried) {thousands} (cars|"
                "people) a (day|week).",
                "The {stuff} was (cleaned|replaced|repaired) in {recent}.",
            ),
            (
                "A (museum|sign|stone) in the {building} (tells of|shows) {maker} and the work.",
                "The {owner} (plans|has planned) a second bridge at {place}.",
                "In {season} the (path|road) is often closed by {weather}.",
                "(Painters|Visitors) (like|come for) the view of {landscape} and the {building}.",
            ),
            (1, 2),
        ),
    ),
)
