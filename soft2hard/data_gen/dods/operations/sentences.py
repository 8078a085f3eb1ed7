"""Kinds of task on sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from soft2hard.data_gen.dods.lexical.words import CATEGORIES
from soft2hard.data_gen.dods.operations.kinds import (
    DAYS,
    LABELS,
    SMALL,
    THINGS,
    Kinds,
    Values,
    first_name,
    place_of,
    yes_or_no,
)

KINDS = Kinds()


@dataclass(frozen=True)
class _Scene:
    """A sentence, and what stands in it by kind."""

    text: str
    found: Mapping[str, str]


_SCENES = (
    "{person} works in {city} as a {job}.",
    "{person}, a {job} from {city}, fed the {animal} {number} times.",
    "In {city} {person} bought the {colour} {thing} of a {job}.",
    "Yesterday {person} saw the {animal} {number} times near {city}.",
    "The {job} gave {person} the {colour} {thing} in {city}.",
    "{person} drove to {city} with the {job} and the {animal}.",
    "Every {day} {person} plays {sport} with a {job}.",
    "On {day} the {job} from {city} will teach {person} {sport}.",
    "{person} likes {sport}, {drink} and the {animal} of the {job}.",
    "The {colour} {animal} followed {person} home from {city} on {day}.",
)
_ASKED = {
    "person": "the name of the person",
    "city": "the city",
    "job": "the job",
    "sport": "the sport",
    "day": "the day of the week",
    "number": "the number",
}


def _scene(rng: Random, holds: str | None = None) -> _Scene:
    """One in which a `holds` stands, if asked for."""
    template = rng.choice([one for one in _SCENES if holds is None or f"{{{holds}}}" in one])
    found = {
        "person": first_name(rng)[0],
        "thing": rng.choice(THINGS),
        "day": rng.choice(DAYS),
        "number": rng.choice(SMALL),
    } | {name: rng.choice(CATEGORIES[name]) for name in ("city", "job", "animal", "colour", "sport", "drink")}
    return _Scene(template.format(**found), {name: word for name, word in found.items() if f"{{{name}}}" in template})


@KINDS.of(what=tuple(_ASKED.items()))
def _extracted(rng: Random, v: Values) -> tuple[str, str]:
    scene = _scene(rng, v["what"][0])
    return scene.text, scene.found[v["what"][0]]


@KINDS.of()
def _count_words(rng: Random, v: Values) -> tuple[str, str]:
    text = _scene(rng).text
    return text, str(len(text.split()))


@KINDS.of(which=("first", "second", "last"))
def _word_of_sentence(rng: Random, v: Values) -> tuple[str, str]:
    words = _scene(rng).text.rstrip(".").replace(",", "").split()
    return " ".join(words) + ".", words[place_of(words, v["which"])]


@KINDS.of(mark=("!", "?", "...", ";"))
def _end_mark(rng: Random, v: Values) -> tuple[str, str]:
    text = _scene(rng).text
    return text, text[:-1] + v["mark"]


@KINDS.of(place=("start", "end"), text=("Listen:", "In short,", "Amen.", "Over.", "Note:"))
def _with_words(rng: Random, v: Values) -> tuple[str, str]:
    text = _scene(rng).text
    return text, f"{v['text']} {text}" if v["place"] == "start" else f"{text} {v['text']}"


@KINDS.of()
def _pronoun(rng: Random, v: Values) -> tuple[str, str]:
    name, pronoun = first_name(rng)
    rest = f"{rng.choice(('likes', 'plays', 'needs', 'sees'))} the {rng.choice(THINGS)}."
    return f"{name} {rest}", f"{pronoun.capitalize()} {rest}"


@KINDS.of()
def _to_question(rng: Random, v: Values) -> tuple[str, str]:
    name, verb, thing = first_name(rng)[0], rng.choice(("like", "need", "want", "see")), rng.choice(THINGS)
    return f"{name} {verb}s the {thing}.", f"Does {name} {verb} the {thing}?"


@KINDS.of()
def _first_person(rng: Random, v: Values) -> tuple[str, str]:
    verb, thing = rng.choice(("like", "need", "want", "see", "sell", "buy")), rng.choice(THINGS)
    name, pronoun = first_name(rng)
    return f"{name} {verb}s the {thing}.", f"I {verb} the {thing}."


@KINDS.of(labels=(("question", "statement"), ("asks", "tells"), *LABELS[:3]))
def _is_question(rng: Random, v: Values) -> tuple[str, str]:
    name, verb, thing, asked = (
        first_name(rng)[0],
        rng.choice(("like", "need", "want")),
        rng.choice(THINGS),
        rng.random() < 0.5,
    )
    return f"does {name} {verb} the {thing}" if asked else f"{name} {verb}s the {thing}", yes_or_no(v, asked)


@KINDS.of(
    names=(
        ("past", "present", "future"),
        ("before", "now", "later"),
        ("yesterday", "today", "tomorrow"),
        ("P", "N", "F"),
    )
)
def _tense(rng: Random, v: Values) -> tuple[str, str]:
    name, place, when = first_name(rng)[0], rng.choice(CATEGORIES["building"]), rng.randrange(3)
    verbs = rng.choice(
        (("walked", "walks", "will walk"), ("went", "goes", "will go"), ("drove", "drives", "will drive"))
    )
    return f"{name} {verbs[when]} to the {place}.", v["names"][when]


@KINDS.of(which=(("taller", "tall"), ("older", "old"), ("faster", "fast"), ("richer", "rich"), ("louder", "loud")))
def _compared(rng: Random, v: Values) -> tuple[str, str]:
    a, b = (first_name(rng)[0] for _ in range(2))
    while a == b:
        b = first_name(rng)[0]
    more, plain = v["which"]
    return rng.choice((f"{a} is {more} than {b}.", f"{b} is not as {plain} as {a}.")), a


_ABOUT = {
    "food": (
        "{p} cooked soup with {t}.",
        "The restaurant in {c} serves fresh bread.",
        "{p} baked a cake for dinner.",
        "{p} ate too much at lunch.",
        "The recipe of {p} needs salt and butter.",
    ),
    "travel": (
        "{p} missed the train to {c}.",
        "The flight to {c} takes three hours.",
        "{p} booked a hotel in {c}.",
        "{p} packed a suitcase for the holiday.",
        "{p} lost the passport at the border.",
    ),
    "music": (
        "{p} sings in a choir in {c}.",
        "The band played the new song for {p}.",
        "{p} practises the violin every day.",
        "The concert in {c} was sold out.",
        "{p} wrote the melody of the opera.",
    ),
    "gardening": (
        "{p} planted roses behind the house.",
        "The {t} in the bed of {p} needs water.",
        "{p} cut the hedge and raked the leaves.",
        "Snails ate the young plants in {c}.",
        "{p} sows the seeds in early spring.",
    ),
    "family": (
        "The sister of {p} is getting married.",
        "{p} visited grandmother in {c}.",
        "{p} and the twins look like their father.",
        "The uncle of {p} has four children.",
        "{p} was named after an aunt from {c}.",
    ),
    "weather": (
        "It rained all day in {c}.",
        "A storm is coming, says {p}.",
        "{p} waited for the snow to melt.",
        "The sun burned hot over {c}.",
        "Thick fog covered the streets of {c}.",
    ),
    "health": (
        "{p} has a fever and a cough.",
        "The doctor in {c} gave {p} pills.",
        "{p} broke a leg and went to hospital.",
        "A vaccine arrived in {c}.",
        "{p} feels dizzy since the operation.",
    ),
    "school": (
        "{p} failed the exam in maths.",
        "The pupils of {p} wrote an essay.",
        "{p} teaches a class in {c}.",
        "The university of {c} opens in autumn.",
        "{p} forgot the homework again.",
    ),
}
_TOPICS = tuple(tuple(sorted(Random(f"topics/{i}").sample(sorted(_ABOUT), 2 + i % 3))) for i in range(60))


def _sentence_about(rng: Random, topic: str) -> str:
    values = {"p": first_name(rng)[0], "c": rng.choice(CATEGORIES["city"]), "t": rng.choice(CATEGORIES["vegetable"])}
    return rng.choice(_ABOUT[topic]).format(**values)


@KINDS.of(topics=tuple(dict.fromkeys(_TOPICS)))
def _topic(rng: Random, v: Values) -> tuple[str, str]:
    topic = rng.choice(v["topics"])
    return _sentence_about(rng, topic), topic


@KINDS.of(topic=tuple(_ABOUT), labels=LABELS)
def _is_about(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    topic = v["topic"] if wanted else rng.choice([one for one in _ABOUT if one != v["topic"]])
    return _sentence_about(rng, topic), yes_or_no(v, wanted)


_MEANT = {
    "request": (
        "Could you bring me the {t}, {p}?",
        "Please send {p} the {t}.",
        "Can I have the {t} by {d}?",
        "Would you help {p} on {d}?",
    ),
    "complaint": (
        "The {t} that {p} sold me is broken.",
        "I have waited for {p} since {d}.",
        "This {t} is much too small, {p}.",
        "Nobody answers when {p} calls on {d}.",
    ),
    "offer": (
        "I can lend {p} my {t}.",
        "Take the {t} for free, {p}.",
        "Shall I drive {p} home on {d}?",
        "We would gladly repair the {t} for {p}.",
    ),
    "thanks": (
        "Many thanks for the {t}, {p}.",
        "How kind of {p} to help on {d}!",
        "{p} made my {d}, thank you.",
        "I am grateful for the {t}.",
    ),
    "apology": (
        "Sorry that I broke the {t}, {p}.",
        "Forgive me for {d}, {p}.",
        "I regret that the {t} came late.",
        "My fault, {p}, it will not happen again on {d}.",
    ),
    "invitation": (
        "Come to my party on {d}, {p}!",
        "{p}, join us for dinner on {d}.",
        "You are welcome to stay with {p} on {d}.",
        "We would love to see {p} on {d}.",
    ),
}
_INTENTS = tuple(tuple(sorted(Random(f"intents/{i}").sample(sorted(_MEANT), 2 + i % 3))) for i in range(40))


@KINDS.of(intents=tuple(dict.fromkeys(_INTENTS)))
def _intent(rng: Random, v: Values) -> tuple[str, str]:
    intent = rng.choice(v["intents"])
    values = {"p": first_name(rng)[0], "t": rng.choice(THINGS), "d": rng.choice(DAYS)}
    return rng.choice(_MEANT[intent]).format(**values), intent
