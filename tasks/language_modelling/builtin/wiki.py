"""The subjects of the built-in text in the style of an encyclopaedia."""

from __future__ import annotations

from .grammar import Part, Topic
from .wiki_works import BRIDGE, SHIP

_VILLAGE = Topic(
    "{name}",
    {
        "name": "place",
        "stream": "river",
        "shire": "county",
        "near": "place",
        "trade": "craft",
        "ware": "goods",
        "house": "building",
    },
    (
        Part(
            None,
            (
                "{name} is a (small |large |quiet |)(village|town|market town|parish) on the "
                "{stream} in the {direction} of {shire}.",
                "{name} is a (village|town|settlement) in {shire}, {count} miles {direction} of "
                "{near}.",
            ),
            (
                "It lies (between|among|at the foot of|below) {landscape} and {landscape}.",
                "(In|At the census of) {recent} it had {thousands} inhabitants.",
                "It is (known|noted) for its {ware}, its {house} and its {trade}.",
                "The (nearest|next) (town|station|large town) is {near}, {count} miles to the "
                "{direction}.",
                "The name {name} (means|comes from an old word for) a (ford|farm|clearing|hill) "
                "by the (river|{tree} wood|marsh|old road).",
            ),
            (2, 3),
        ),
        Part(
            "History",
            (
                "The (place|settlement|village) was first (mentioned|recorded) in {year}, when "
                "the {office} (sold|gave|granted) it to the {office} of {near}.",
                "(People have lived|There have been houses) on the {side} of the {stream} since "
                "{year}.",
            ),
            (
                "In {year} {event} destroyed (most of|half of|a part of) the (old |){house}.",
                "The {house} was built of {material} in {year} (by|for) the {office}.",
                "(Until|From) {year} most (families|people) lived (by|from) {trade} and {craft}.",
                "{ware} and {goods} were (sold|shipped|carried) to {near} (by road|by boat|on "
                "market days).",
                "After {event} in {year} many (families|workers|people) (left|moved) for {near}.",
                "The railway from {near} (reached {name}|was opened) in {year} and closed in "
                "{recent}.",
                "{person} owned the {building} until {year}, when it became a {building}.",
            ),
            (2, 3),
        ),
        Part(
            "Economy",
            (
                "{trade} is (still |)the (main|most important|oldest) (trade|industry) of {name}.",
                "(Today|Since {recent}) the village lives (mainly|mostly) (on|from) {trade} and "
                "{craft}.",
            ),
            (
                "A (factory|works|company) on the {side} of the {stream} (makes|sells) {ware} and "
                "{goods}.",
                "The (old |){house} is now used as a {building}, and {hundreds} people (visit|see) "
                "it every {season}.",
                "A (market|fair) for {ware} is held in {month}.",
                "There (is|has been) a (bus|ferry|train) to {near} (every hour|twice a day|since "
                "{recent}).",
                "{count} (farms|shops|workshops) (remained|were left) in {recent}.",
            ),
            (1, 2),
        ),
    ),
)

_RIVER = Topic(
    "River {name}",
    {
        "name": "river",
        "main": "river",
        "source": "place",
        "mouth": "place",
        "shire": "county",
        "catch": "fish",
    },
    (
        Part(
            None,
            (
                "The {name} is a (river|stream|chalk stream) in {shire}, and a tributary of the "
                "{main}.",
                "The {name} (rises|has its source) near {source} and flows {direction} through "
                "{shire} to the {main}.",
            ),
            (
                "It is {count} miles long and drains (an area|a basin) of {hundreds} square miles.",
                "It joins the {main} at {mouth}, (below|above|close to) an old {building}.",
                "The (upper|lower) valley is (known for|full of) {landscape} and {tree} woods.",
                "{catch} and {fish} live in (it|its upper course|the deeper pools).",
            ),
            (2, 3),
        ),
        Part(
            "Course",
            (
                "From {source} the (river|water) runs {direction} (through|past) {landscape}.",
                "(Its|The) source is a spring {hundreds} feet above the sea, on the {side} of "
                "{source}.",
            ),
            (
                "It (passes|flows past|goes by) {place} and {place} before it (turns|bends) "
                "{direction}.",
                "At {place} it is crossed by a bridge of {material}, built in {year}.",
                "Below {place} the valley (widens|narrows), and {landscape} (give way|lead) to "
                "{landscape}.",
                "The last {count} miles to {mouth} are (tidal|slow|straight|protected).",
                "A (canal|weir|mill) at {place} (has taken|takes) (some|most) of its water since "
                "{year}.",
            ),
            (2, 3),
        ),
        Part(
            "Wildlife",
            (
                "(Its|The) banks are a home of {animal} and {animal}.",
                "{catch} (returned|came back) to the {name} in {recent}.",
            ),
            (
                "The {colour} {bird} (breeds|nests|can be seen) here from {month} to {month}.",
                "After {event} in {year} the {catch} (disappeared|became rare).",
                "{tree} and {tree} grow (along|beside) the (lower|upper) course.",
                "The {office} (has cleaned|cleans|looks after) the river (every {season}|since "
                "{recent}).",
                "(In dry years|During {event} of {year}) the upper {name} (fell dry|froze).",
            ),
            (1, 2),
        ),
    ),
)

_BIRD = Topic(
    "{hue}-{part} {kind}",
    {"hue": "colour", "part": "body", "kind": "bird", "home": "habitat", "meal": "food"},
    (
        Part(
            None,
            (
                "The {hue}-{part} {kind} is a (small|large|shy|common|rare) bird of {home} (and|or)"
                " {habitat}.",
                "The {hue}-{part} {kind} is (one|the largest|the smallest) of {count} (species|"
                "kinds) of {kind} that live in {home}.",
            ),
            (
                "It was (first |)described in {year} by {person}.",
                "It eats {meal} and {food}, and in {season} also {food}.",
                "Its (call|song) is a (short|long|low|thin|loud) (whistle|trill|note), (heard|"
                "repeated) at (dawn|dusk|night) in {season}.",
                "About {thousands} (pairs|birds) were counted in {recent}.",
            ),
            (2, 3),
        ),
        Part(
            "Description",
            (
                "The (male|adult) has a {hue} {part} and a {colour} {body}.",
                "(Both sexes|Adults) are {colour} (above|below), with a {hue} {part}.",
            ),
            (
                "The (female|young bird) is (smaller|duller|paler), with {colour} (spots|bars) on "
                "the {body}.",
                "It is {count} centimetres long and weighs {hundreds} grams.",
                "In {season} the {body} turns {colour}.",
                "It can be told from (the|a) {colour}-{body} {kind} by its {body}.",
                "The bill is {colour} and (short|long|curved|strong), (fit|made) for {meal}.",
            ),
            (2, 3),
        ),
        Part(
            "Behaviour",
            (
                "The {kind} (looks|searches) for {meal} in {home} (by day|at night|at low water).",
                "(Pairs|Groups of up to {count}) (stay|keep) together from {month} to {month}.",
            ),
            (
                "The nest is built of (grass|moss|twigs|mud) in a {tree} or in {habitat}.",
                "The female lays {count} {colour} eggs in {month}, and (both|the male) (guard|"
                "feed|feeds) the young.",
                "{animal} and {animal} (take|eat) many of the eggs.",
                "In {season} it (moves|flies) {direction} to {habitat}.",
                "(After|Because of) {event} it (left|has left) {habitat} for {home}.",
            ),
            (2, 3),
        ),
    ),
)

_PAINTER = Topic(
    "{name}",
    {
        "name": "person",
        "born": "place",
        "town": "place",
        "theme": "subject",
        "means": "medium",
        "pupil": "person",
    },
    (
        Part(
            None,
            (
                "{name} was (a painter|an artist|a sculptor|a draughtsman) (from|born in) {born}, "
                "(known|remembered) for {theme} in {means}.",
                "{name} of {born} was an artist who worked (mainly|mostly) in {means} and "
                "(painted|drew|showed) {theme} and {subject}.",
            ),
            (
                "The artist (lived|worked) in {town} for {count} years.",
                "(Some|About) {hundreds} works (survive|are known), most of them in {means}.",
                "The museum of {town} (has|owns|shows) {count} of the (pictures|works).",
                "Critics (praise|praised|admired) the {quality} and the {quality} of the work.",
            ),
            (2, 3),
        ),
        Part(
            "Life",
            (
                "{name} was born in {born} in {year}, the (son|daughter|child) of a (baker|smith|"
                "teacher|sailor|doctor|farmer).",
                "The family (came|moved) from {born} to {town} in {year}.",
            ),
            (
                "At the age of {count} {name} (studied|learned) with {person} in {place}.",
                "In {year} {event} (ended|interrupted) the studies in {town}.",
                "{pupil} was a (friend|pupil|neighbour) and wrote (about|of) these years.",
                "The (first|last) exhibition was held in the {building} of {place} in {year}.",
                "A journey to {place} in {year} (led|turned the artist) to {subject}.",
                "From {year} the {office} of {town} paid for a (studio|house) near the {building}.",
            ),
            (2, 3),
        ),
        Part(
            "Work",
            (
                "The early (pictures|works) show {theme}, (often|mostly) in {colour} and {colour}.",
                "{theme} (remained|were) the (main|favourite) subject (all|throughout) the "
                "artist's life.",
            ),
            (
                "Later works in {medium} show {subject} and have (more|less) {quality}.",
                "{pupil} (owned|bought|kept) a (picture|series) of {subject}, now in {place}.",
                "A (large |small |)(picture|work) of {year} shows {subject} (by|near) the {river}.",
                "The {quality} of the {means} (works|pictures) was (new|unusual) at the time.",
                "In {recent} a (picture|drawing) of {subject} was sold for {thousands} pounds.",
            ),
            (2, 3),
        ),
    ),
)

WIKI = (_VILLAGE, _RIVER, _BIRD, _PAINTER, SHIP, BRIDGE)
