"""Stories of the built-in word problems that multiply and divide."""

from __future__ import annotations

from collections.abc import Mapping

from ...common.words import Story, told

PRODUCTS: Mapping[str, Story] = {
    "boxes_and_loss": Story(
        "paper",
        ((2, 12), (2, 9), (2, 40)),
        (
            told(
                "{A} (has|owns|buys) {a} {boxes} with {b} {things} in each. {She} "
                "(gives|sends|lends) {c} (|{things} |of them )to {B}. How many {things} (does "
                "{A} have left|are left for {A}|does {she} keep)?",
                "The {boxes} held [s = a * b] {things}.",
                "{A} has [r = s - c] {things} left.",
            ),
            told(
                "A (school|club|library) (gets|orders|buys) {a} {boxes} of {things}. "
                "(Each|Every) {box} holds {b}(| {things}|, all new). (The pupils|Visitors|The "
                "children) use {c} of them. How many {things} (remain|are left|stay unused)?",
                "All {boxes} hold [s = a * b] {things}.",
                "There remain [r = s - c] {things}.",
            ),
            told(
                "On {day} {A} (filled|packed|made) {a} {boxes} with {b} {things} (each|in "
                "each|in every one). On {later} {she} sold {c} of (the {things}|these|them all). "
                "How many {things} (were not sold|does {A} keep|are still there)?",
                "On {day} {A} packed [s = a * b] {things}.",
                "Of these [r = s - c] {things} were not sold.",
            ),
        ),
    ),
    "boxes_and_gain": Story(
        "baking",
        ((2, 12), (2, 9), (3, 40)),
        (
            told(
                "{A} (baked|made|bought) {a} {boxes} of {b} {things}(| each)(, and|. Then|. On "
                "{day}) {B} brought {c} {things} more. How many {things} (are there|do they "
                "have|is that)(| now| in all)?",
                "{A} brought [s = a * b] {things}.",
                "With those of {B} there are [r = s + c] {things}.",
            ),
            told(
                "A (bakery|cafe|shop) sold {a} {boxes} of {things} on {day}, with {b} in "
                "(every|each) {box}. It (also sold {c} single {things}|sold {c} more of "
                "them|sold {c} others too). How many {things} (did it sell|were sold|is that "
                "together)?",
                "In the {boxes} there were [s = a * b] {things}.",
                "In all it sold [r = s + c] {things}.",
            ),
        ),
    ),
    "times_as_many": Story(
        "toys",
        ((3, 12), (2, 5), (2, 30)),
        (
            told(
                "{A} (has|owns|found) {a} {things}(. {B} has| and {B}|, but {B} has) {b} times "
                "as many. They (give {c} of them away|sell {c} of all these|lose {c} of them). "
                "How many {things} (do they keep|are left|do they still have)?",
                "{B} has [s = a * b] {things}.",
                "Together they have [t = a + s] {things}.",
                "They keep [r = t - c] {things}.",
            ),
            told(
                "{A} (made|got|bought) {a} {things} on {day} and {b} times as many on {later}. "
                "{She} (sold|lost|gave {B}) {c} of (them|these|them all). How many {things} "
                "(does {A} still have|are left|does {she} keep)?",
                "On {later} {A} got [s = a * b] {things}.",
                "In all {she} got [t = a + s] {things}.",
                "{She} still has [r = t - c] {things}.",
            ),
        ),
    ),
    "two_prices": Story(
        "paper",
        ((2, 12), (2, 9), (2, 12), (2, 9)),
        (
            told(
                "{A} (buys|orders|takes) {a} {things} (at|for) ${b} each and {c} {others} "
                "(at|for) ${d} each. How (many dollars|much money) (does {A} pay|does {she} "
                "need|is that in all)?",
                "The {things} cost [s = a * b] dollars.",
                "The {others} cost [t = c * d] dollars.",
                "{A} pays [r = s + t] dollars.",
            ),
            told(
                "A (shop|store|stall) sold {a} {things} (for|at) ${b} each on {day}, and {c} "
                "{others} (for|at) ${d} each on {later}. How (many dollars|much money) (did it "
                "take|is that together|did it make)?",
                "On {day} it took [s = a * b] dollars.",
                "On {later} it took [t = c * d] dollars.",
                "In all it took [r = s + t] dollars.",
            ),
        ),
    ),
    "who_has_more": Story(
        "baking",
        ((2, 12), (2, 9), (2, 12), (2, 9)),
        (
            told(
                "{A} (has|owns|brought) {a} {boxes} of {b} {things}(, and|, but|, while) {B} has "
                "{c} {boxes} of {d}(| {things}). How many more {things} (are those of {A}|has "
                "{A} than {B}|are with {A})?",
                "{A} has [s = a * b] {things}.",
                "{B} has [t = c * d] {things}.",
                "{A} has [r = s - t] more.",
            ),
            told(
                "{A} (baked|made|filled) {a} {things} an hour for {b} hours(. {B} made|, and "
                "{B}|, but {B} only) {c} an hour for {d} hours. (By how many {things} did {A} "
                "beat {B}|How many more did {A} make|How far is {A} ahead)?",
                "{A} made [s = a * b] {things}.",
                "{B} made [t = c * d] {things}.",
                "{A} made [r = s - t] more.",
            ),
        ),
    ),
    "change": Story(
        "fruit",
        ((2, 12), (2, 9), (10, 99)),
        (
            told(
                "{A} (buys|takes|orders) {a} {things} (at|for) ${b} each and pays with ${c}. How "
                "(many dollars|much money) (does {she} get back|is the change|comes back to {A})?",
                "The {things} cost [s = a * b] dollars.",
                "{A} gets back [r = c - s] dollars.",
            ),
            told(
                "(On {day} |At the market |Today ){B} gave {A} ${c} to (buy|get) {a} {boxes} of "
                "{things} (for|at) ${b} each. How (many dollars are|much money is) (left|not "
                "spent)?",
                "The {boxes} cost [s = a * b] dollars.",
                "There are [r = c - s] dollars left.",
            ),
        ),
    ),
    "reading": Story(
        "paper",
        ((2, 12), (2, 9), (20, 99)),
        (
            told(
                "{A} (reads|copies|prints) {a} pages a day for {b} days. The (book|story|report) "
                "of {B} has {c} pages. How many (pages |)are (left|missing|still to be done)?",
                "{A} has done [s = a * b] pages.",
                "There are [r = c - s] pages left.",
            ),
            told(
                "{A} (must|has to|wants to) write {c} (letters|cards|notes) for {B}(. {She}|, "
                "and|, so {she}) (writes|finishes) {a} an hour and works for {b} hours (on "
                "{day}|with {C}|today). How many are (left|missing|still to be written)?",
                "{A} writes [s = a * b] of them.",
                "There are [r = c - s] left.",
            ),
        ),
    ),
    "wages": Story(
        "paper",
        ((2, 8), (2, 8), (2, 9)),
        (
            told(
                "{A} (worked|helped {B}|cleaned) {a} hours on {day} and {b} hours on {later} for "
                "${c} an hour. How (many dollars|much money) (did {she} earn|did {A} get|is "
                "that)?",
                "{A} worked [s = a + b] hours.",
                "{She} earned [r = s * c] dollars.",
            ),
            told(
                "{A} (has|brings|finds) {a} {things} and {B} (has|brings|finds) {b}. They sell "
                "(all of them|everything|them all) (at|for) ${c} each. How (many dollars|much "
                "money) do they (get|make|earn)?",
                "They have [s = a + b] {things}.",
                "They get [r = s * c] dollars.",
            ),
        ),
    ),
    "saving": Story(
        "toys",
        ((2, 12), (2, 9), (3, 40), (3, 60)),
        (
            told(
                "{A} (saves|earns|gets) ${a} a week for {b} weeks. {She} already had ${c}(, and "
                "now|. Now {she}|. Then {she}) (buys|pays for|orders) a {box} of {things} for "
                "${d}. How (many dollars are|much money is) left?",
                "{A} gets [s = a * b] dollars.",
                "With the old money there are [t = s + c] dollars.",
                "After buying there are [r = t - d] dollars left.",
            ),
            told(
                "{A} (collects|makes|finds) {a} {things} a day for {b} days. {B} "
                "(adds|brings|gives) {c}(| {things}| more)(, and|. Then|, but) on {day} they "
                "(sell|lose|spend) {d}. How many {things} (do they have|are left|remain)?",
                "{A} gets [s = a * b] {things}.",
                "With those of {B} there are [t = s + c] {things}.",
                "After {day} they have [r = t - d] {things}.",
            ),
        ),
    ),
    "share": Story(
        "baking",
        ((3, 70), (3, 50), (2, 9)),
        (
            told(
                "{A} (has|bought|made) {a} {things} and {B} (has|bought|made) {b}. They share "
                "(all of them|everything|them all) equally among {c} (children|friends|guests). "
                "How many {things} (does each get|are for each|does each of them get)?",
                "Together they have [s = a + b] {things}.",
                "Each gets [r = s / c] {things}.",
            ),
            told(
                "{A} (baked|made|bought) {a} {things} on {day} and {b} on {later}(, and put|. "
                "{She} put|. {B} put) them on {c} (plates|shelves|tables), the same number on "
                "each. How many {things} (are on each|does each hold|is that for each)?",
                "{A} had [s = a + b] {things}.",
                "On each there are [r = s / c] {things}.",
            ),
        ),
    ),
    "pack_the_rest": Story(
        "fruit",
        ((12, 99), (2, 40), (2, 9)),
        (
            told(
                "{A} (picked|bought|got) {a} {things} on {day}, but {b} (were bad|were "
                "rotten|got lost). {She} (packs|puts|sorts) the (others|rest) into {boxes} of "
                "{c}. How many {boxes} (does {she} fill|are filled|is that)?",
                "There were [s = a - b] good {things}.",
                "{A} fills [r = s / c] {boxes}.",
            ),
            told(
                "(Of|Out of|From) {a} {things} {A} (ate|used|sold) {b}(| on {day}). {B} "
                "(puts|packs|sorts) the (rest|others) into {c} {boxes}, the same number in each. "
                "How many {things} (are in a {box}|does each {box} hold|are there in each)?",
                "{A} left [s = a - b] {things}.",
                "In a {box} there are [r = s / c] {things}.",
            ),
        ),
    ),
    "boxes_shared": Story(
        "paper",
        ((2, 12), (2, 9), (2, 9)),
        (
            told(
                "{A} (opens|brings|buys) {a} {boxes} of {b} {things} and (shares|splits|divides) "
                "them equally among {c} (friends|children|pupils). How many {things} (does each "
                "get|are for each|does each of them get)?",
                "In the {boxes} there are [s = a * b] {things}.",
                "Each gets [r = s / c] {things}.",
            ),
            told(
                "A (class|school|club) has {a} {boxes} with {b} {things} (each|in each). {c} "
                "(groups|teams|teachers) (take|get|use) the same number of (them|{things}). How "
                "many (are for each|does each of them take|is that for each)?",
                "There are [s = a * b] {things}.",
                "Each takes [r = s / c] {things}.",
            ),
        ),
    ),
}
