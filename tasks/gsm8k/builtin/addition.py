"""Stories of the built-in word problems that add and take away."""

from __future__ import annotations

from collections.abc import Mapping

from ...common.words import Story, told

SUMS: Mapping[str, Story] = {
    "gain_then_loss": Story(
        "toys",
        ((11, 70), (4, 40), (3, 40)),
        (
            told(
                "{A} (has|owns|starts with) {a} {things}. {B} (gives|brings|sends) {him} {b} "
                "more, (and on {day}|and later|but then) {she} (loses|drops|sells) {c} of them. "
                "How many {things} (does {A} have now|are left for {A}|does {A} end up with)?",
                "After the gift {A} has [s = a + b] {things}.",
                "Now {she} has [r = s - c] {things}.",
            ),
            told(
                "(There were|{B} saw|{A} kept) {a} {things} in the {box} of {A}. {She} (put "
                "in|added) {b} more on {day} and (took out|removed) {c} on {later}. How many "
                "{things} (are|remain|can be found) in the {box} (now|after that|then)?",
                "On {day} there were [s = a + b] {things} in the {box}.",
                "On {later} there were [r = s - c] {things} left.",
            ),
            told(
                "{A} (found|bought|won) {a} {things} on {day} and {b} (|more |others )on "
                "{later}. {She} (gave|handed|sent) {c} of (them|these|those) to {B}. How many "
                "{things} (did {A} keep|stayed with {A}|does {A} still have)?",
                "{A} got [s = a + b] {things} in all.",
                "{She} kept [r = s - c] {things}.",
            ),
        ),
    ),
    "loss_then_gain": Story(
        "paper",
        ((20, 95), (4, 60), (3, 50)),
        (
            told(
                "A (shop|store|kiosk) had {a} {things}. It sold {b} (of them |)on {day} and "
                "(got|ordered|received) {c} new ones on {later}. How many {things} (does it have "
                "now|are in the shop|are there now)?",
                "After {day} the shop had [s = a - b] {things}.",
                "With the new ones it has [r = s + c] {things}.",
            ),
            told(
                "{A} had {a} {things}(, gave|, lent| and handed) {b} to {B} and (then|later|on "
                "{day}) bought {c}. How many {things} (does {A} have|are with {A} now|does {she} "
                "have in the end)?",
                "After the gift {A} had [s = a - b] {things}.",
                "Now {she} has [r = s + c] {things}.",
            ),
            told(
                "On {day} the (desk|table|shelf) of {A} held {a} {things}. {B} (took {b} of them "
                "away|carried {b} of them off|used {b} of them), and on {later} {A} "
                "(added|brought|bought) {c}. How many {things} are (there then|there now|on it "
                "in the end)?",
                "{B} left [s = a - b] {things}.",
                "Then there were [r = s + c] {things}.",
            ),
        ),
    ),
    "two_losses": Story(
        "fruit",
        ((30, 99), (3, 50), (3, 50)),
        (
            told(
                "{A} (picked|gathered|grew) {a} {things}. {She} sold {b} (of them |)(|on {day} "
                ")and (gave|brought|left) {c} to {B}. How many {things} (are left|remain|are "
                "still there)?",
                "After the sale {A} had [s = a - b] {things}.",
                "After the gift [r = s - c] {things} are left.",
            ),
            told(
                "A (market stall|small shop|cart) opens (on {day} |)with {a} {things}. By noon "
                "{b} (are|have been) sold, and {c} more (go|are bought|are sold) (by the "
                "evening|later on|before it closes). How many {things} (remain|are left)?",
                "At noon there are [s = a - b] {things}.",
                "In the evening [r = s - c] {things} remain.",
            ),
            told(
                "(Out of|From) {a} {things} (in the kitchen|in a {box}|on the table), {A} "
                "(used|ate|cut) {b} on {day} and {B} (used|ate|cooked) {c} on {later}. How many "
                "{things} (were not used|were left|are still there)?",
                "On {day} {A} left [s = a - b] {things}.",
                "On {later} {B} left [r = s - c] {things}.",
            ),
        ),
    ),
    "three_people": Story(
        "toys",
        ((5, 60), (3, 40), (3, 40)),
        (
            told(
                "{A} (has|owns|holds) {a} {things}. {B} has {b} more (than {A}|than that)(, "
                "and|. But|, while) {C} has {c} (fewer|less) than {B}. How many {things} (does "
                "{C} have|are those of {C}|belong to {C})?",
                "{B} has [s = a + b] {things}.",
                "{C} has [r = s - c] {things}.",
            ),
            told(
                "(In a game|At the fair|On {day}) {A} (won|got) {a} {things}. {B} (won|got) {b} "
                "(|{things} )more than {A}(. And| and) {C} {c} less than {B}. How many {things} "
                "(did {C} win|went to {C}|did {C} get)?",
                "{B} got [s = a + b] {things}.",
                "{C} got [r = s - c] {things}.",
            ),
        ),
    ),
    "more_and_together": Story(
        "fruit",
        ((5, 40), (3, 25), (2, 20)),
        (
            told(
                "{A} (picked|bought|found) {a} {things}(| on {day}) and {B} {b} more than {A}. "
                "They (ate|sold|used) {c} of (them all|all these {things}|them together). How "
                "many {things} (are left|do they still have|remain)?",
                "{B} got [s = a + b] {things}.",
                "Together they had [t = a + s] {things}.",
                "There are [r = t - c] {things} left.",
            ),
            told(
                "A (farmer|gardener|neighbour) picked {a} {things} on {day}, and on {later} {b} "
                "more than (on {day}|that). (Of them|In all,) {c} were (bad|rotten|too small). "
                "How many good {things} were (there|picked|left)?",
                "On {later} there were [s = a + b] {things}.",
                "In two days that is [t = a + s] {things}.",
                "There were [r = t - c] good {things}.",
            ),
        ),
    ),
    "half_away": Story(
        "toys",
        ((10, 98), (3, 40), (2, 40)),
        (
            told(
                "{A} had {a} {things} and (gave|sold|lent) half of them to {B}. On {day} {she} "
                "(got|found|made) {b} (new ones|more), and on {later} {she} (lost|broke|dropped) "
                "{c}. How many {things} (does {A} have now|are left|does {she} end up with)?",
                "Then {A} had [s = a / 2] {things}.",
                "On {day} {she} had [t = s + b] {things}.",
                "On {later} {she} had [r = t - c] {things}.",
            ),
            told(
                "Half of the {a} {things} in (a|one|the) {box} were (sold|lost|given away). "
                "(Then|Later|On {day}) {A} put in {b} (|{things} )and {B} took out {c}. How many "
                "{things} (are in the {box}|does the {box} hold|are there now)?",
                "At first there were [s = a / 2] {things} left.",
                "{A} made it [t = s + b] {things}.",
                "{B} left [r = t - c] {things}.",
            ),
        ),
    ),
}
