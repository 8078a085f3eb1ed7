"""Kinds of task on names, addresses, files and records."""

import json
from random import Random

from soft2hard.data_gen.dods.lexical.words import CATEGORIES
from soft2hard.data_gen.dods.operations.kinds import (
    DOMAINS,
    LAST_NAMES,
    THINGS,
    Kinds,
    Values,
    any_word,
    first_name,
    full_name,
    number_of,
    some_words,
)

KINDS = Kinds()


@KINDS.of(which=("first", "last"))
def _name_part(rng: Random, v: Values) -> tuple[str, str]:
    name = full_name(rng)
    return " ".join(name), name[0 if v["which"] == "first" else 1]


@KINDS.of()
def _initials(rng: Random, v: Values) -> tuple[str, str]:
    first, last = full_name(rng)
    return f"{first} {last}", f"{first[0]}. {last[0]}."


@KINDS.of()
def _last_name_first(rng: Random, v: Values) -> tuple[str, str]:
    first, last = full_name(rng)
    return f"{first} {last}", f"{last}, {first}"


@KINDS.of(greeting=("Dear", "Hello", "Good morning", "Thank you", "Goodbye"))
def _greeted(rng: Random, v: Values) -> tuple[str, str]:
    first, last = full_name(rng)
    return f"{first} {last}", f"{v['greeting']} {first}!"


@KINDS.of(title=("Dr", "Professor", "Captain", "Judge"))
def _titled(rng: Random, v: Values) -> tuple[str, str]:
    first, last = full_name(rng)
    return f"{first} {last}", f"{v['title']} {last}"


@KINDS.of(domain=DOMAINS)
def _address_made(rng: Random, v: Values) -> tuple[str, str]:
    first, last = full_name(rng)
    return f"{first} {last}", f"{first}.{last}@{v['domain']}".lower()


@KINDS.of(part=("name before the at sign", "domain after the at sign"))
def _part_of_address(rng: Random, v: Values) -> tuple[str, str]:
    first, last = full_name(rng)
    user, domain = f"{first}.{last}".lower(), rng.choice(DOMAINS)
    return f"{user}@{domain}", user if v["part"].startswith("name") else domain


@KINDS.of(part=("extension", "name without the extension"))
def _part_of_file(rng: Random, v: Values) -> tuple[str, str]:
    stem, ending = (
        f"{any_word(rng)}_{rng.randint(1, 99)}",
        rng.choice(("txt", "pdf", "jpg", "csv", "doc", "mp3", "zip")),
    )
    return f"{stem}.{ending}", ending if v["part"] == "extension" else stem


@KINDS.of(ending=("txt", "pdf", "jpg", "csv", "html"))
def _file_renamed(rng: Random, v: Values) -> tuple[str, str]:
    stem = f"{any_word(rng)}_{rng.randint(1, 99)}"
    return f"{stem}.{rng.choice(('doc', 'mp3', 'zip', 'png'))}", f"{stem}.{v['ending']}"


@KINDS.of(n=("three", "four"))
def _end_of_phone_number(rng: Random, v: Values) -> tuple[str, str]:
    number = f"{rng.randint(200, 999)}-{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"
    return number, number[-number_of(v["n"]) :]


@KINDS.of(part=("thing", "price", "shop"))
def _part_of_purchase(rng: Random, v: Values) -> tuple[str, str]:
    thing, price, shop = rng.choice(THINGS), f"${rng.randint(1, 90)}", f"{rng.choice(LAST_NAMES)}'s"
    input = rng.choice(("{0}, {1}, from {2}", "At {2}: {0} for {1}", "{1} for {0} at {2}")).format(thing, price, shop)
    return input, {"thing": thing, "price": price, "shop": shop}[v["part"]]


@KINDS.of(key=("name", "age", "city"))
def _value_in_json(rng: Random, v: Values) -> tuple[str, str]:
    record = {"name": first_name(rng)[0], "age": rng.randint(5, 90), "city": rng.choice(CATEGORIES["city"])}
    shuffled = dict(rng.sample(list(record.items()), 3))
    return json.dumps(shuffled), str(record[v["key"]])


@KINDS.of(key=("word", "text", "item", "name"))
def _as_json(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, json.dumps({v["key"]: word})


@KINDS.of(style=(("snake case", "_"), ("kebab case", "-"), ("camel case", "")))
def _as_identifier(rng: Random, v: Values) -> tuple[str, str]:
    words = [w.lower() for w in some_words(rng, 2, 3)]
    if v["style"][1]:
        return " ".join(words), v["style"][1].join(words)
    return " ".join(words), words[0] + "".join(map(str.capitalize, words[1:]))


@KINDS.of(tag=("b", "i", "p", "h1", "li"))
def _in_tags(rng: Random, v: Values) -> tuple[str, str]:
    words = " ".join(some_words(rng, 1, 3))
    return words, f"<{v['tag']}>{words}</{v['tag']}>"


@KINDS.of()
def _without_tags(rng: Random, v: Values) -> tuple[str, str]:
    words, tag = " ".join(some_words(rng, 1, 3)), rng.choice(("b", "i", "p", "h1", "li"))
    return f"<{tag}>{words}</{tag}>", words
