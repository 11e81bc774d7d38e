"""Conversations of the built-in sample that rewrite, play, extract and turn sentences."""

from __future__ import annotations

import json
from random import Random

from ...common.words import DAYS
from .words import CITIES, DEEDS, EVENTS, GOODS, HOURS, PEOPLE, PLACES, TOPICS, FollowUp, Talk

_PRICES = (2, 15)  # so that six things make 90 coins at most


def writing(rng: Random) -> Talk:
    """Write a note; then change it."""
    sender, reader = rng.sample(PEOPLE, 2)
    event, hour, place = rng.choice(EVENTS), rng.choice(HOURS), rng.choice(PLACES)
    day, other = rng.sample(DAYS, 2)
    when = f"at {hour} in the {place}"
    turn = rng.choice(
        (
            f"Write a short note from {sender} to {reader}: the {event} is on {day} {when}.",
            f"{sender} wants {reader} to come to the {event} on {day} {when}. Write a note.",
            f"The {event} is on {day} {when}. Tell {reader} so in a note signed by {sender}.",
        )
    )

    def note(which: str) -> str:
        return f"Dear {reader},\nthe {event} is {which} {when}. Please come!\nYours, {sender}"

    then = rng.choice(
        (
            FollowUp(f"It was moved to {other}. Change the note.", note(f"now on {other}")),
            FollowUp(f"Write it again, with {other} as the day.", note(f"on {other}")),
            FollowUp(
                "Make it more formal.",
                f"Dear {reader},\nI am glad to invite you to the {event}, which takes place on "
                f"{day} {when}.\nWith kind regards, {sender}",
            ),
            FollowUp("Put it into one line.", f"{reader}: {event} on {day} {when}. {sender}"),
            FollowUp(
                f"What could {reader} answer?",
                f"Dear {sender},\nthank you for your note. I will be in the {place} on {day} at "
                f"{hour}.\nYours, {reader}",
            ),
        )
    )
    facts = (event, day, hour, place)
    return Talk(facts, (turn, then.turn), (note(f"on {day}"), then.reply))


def roleplay(rng: Random) -> Talk:
    """Keep a shop; then serve a customer."""
    name = rng.choice(PEOPLE)
    first, second, third = rng.sample(GOODS, 3)
    price, dear = rng.sample(range(_PRICES[0], _PRICES[1] + 1), 2)
    number = rng.randint(2, 6)
    turn = rng.choice(
        (
            f"You are {name} and sell {first} for {price} coins and {second} for {dear} coins. "
            "Greet me.",
            f"Play {name}, in whose shop {first} are {price} coins each and {second} {dear}. I "
            "come in.",
            f"Be a shopkeeper called {name}. Your {first} cost {price} coins, your {second} "
            f"{dear}. What do you say to me?",
        )
    )
    greeting = (
        f"Welcome! I am {name}. My {first} cost {price} coins and my {second} {dear} coins each. "
        "What would you like?"
    )
    wanted, each = rng.choice(((first, price), (second, dear)))
    cheap = min((price, first), (dear, second))[1]
    then = rng.choice(
        (
            FollowUp(
                f"I take {number} {wanted}.",
                f"{number} {wanted} make {number} * {each} = {number * each} coins. Thank you, and "
                "come back soon!",
            ),
            FollowUp(
                "Which of them costs less?",
                f"The {cheap} cost less: {min(price, dear)} coins and not {max(price, dear)}.",
            ),
            FollowUp(
                f"Do you have {third} too?",
                f"I am sorry, I have no {third}. May I show you my {first} or my {second}?",
            ),
        )
    )
    return Talk((first, price, second, dear), (turn, then.turn), (greeting, then.reply))


def extraction(rng: Random) -> Talk:
    """Find who, when and where; then write it in another form."""
    one, two = rng.sample(PEOPLE, 2)
    day, city, topic = rng.choice(DAYS), rng.choice(CITIES), rng.choice(TOPICS)
    sentence = rng.choice(
        (
            f"On {day} {one} met {two} in {city} to talk about {topic}.",
            f"{one} and {two} talked about {topic} when they were in {city} on {day}.",
            f"In {city} there was a talk about {topic} between {one} and {two}, on {day}.",
        )
    )
    turn = rng.choice(
        (
            f"Who, when and where? {sentence}",
            f"{sentence} Tell me who, when and where.",
            f"Find people, day and place: {sentence}",
        )
    )
    reply = f"who: {one}, {two}\nwhen: {day}\nwhere: {city}"
    found = {"who": [one, two], "when": day, "where": city}
    then = rng.choice(
        (
            FollowUp("Give it as JSON.", json.dumps(found)),
            FollowUp(
                "What was it about?", f"{one} and {two} talked about {topic} in {city} on {day}."
            ),
            FollowUp(
                "Write it in one line, the place first.",
                f"{city}, {day}: {one} and {two} about {topic}",
            ),
            FollowUp(
                "Add the topic to your list.",
                f"{reply}\nwhat: {topic}",
            ),
        )
    )
    return Talk((day, city, topic), (turn, then.turn), (reply, then.reply))


def humanities(rng: Random) -> Talk:
    """Put a sentence into another tense; then again."""
    name, other = rng.sample(PEOPLE, 2)
    deeds = rng.sample(DEEDS, 2)
    objects = [rng.choice(deed.objects) for deed in deeds]

    def clauses(form: str) -> list[str]:
        pairs = zip(deeds, objects, strict=True)
        return [f"{getattr(deed, form)} {what}" for deed, what in pairs]

    def sentence(who: str, form: str, between: str = " and ") -> str:
        return f"{who} {between.join(clauses(form))}."

    now = sentence(name, "third")
    turn = rng.choice(
        (
            f"Put this into the past: {now}",
            f"{now} Say that it happened yesterday.",
            f"In the past tense, please: {now}",
        )
    )
    then = rng.choice(
        (
            FollowUp("And in the future?", sentence(f"{name} will", "base")),
            FollowUp(f"Now say it of {other}.", sentence(other, "past")),
            FollowUp(f"Say that {other} helped.", sentence(f"{name} and {other}", "past")),
            FollowUp(
                "Say that this never happened.",
                sentence(f"{name} never", "past", " and never "),
            ),
        )
    )
    return Talk(
        tuple(sorted(clauses("base"))), (turn, then.turn), (sentence(name, "past"), then.reply)
    )
