"""Kinds of task on words and lists of words."""

from random import Random

from soft2hard.data_gen.dods.lexical.words import article
from soft2hard.data_gen.dods.operations.kinds import (
    LABELS,
    LETTERS,
    ORDINALS,
    SIGNS,
    THINGS,
    WORDS,
    Kinds,
    Values,
    any_word,
    commas,
    number_of,
    place_of,
    some_words,
    yes_or_no,
)

KINDS = Kinds()


# --- spelling ---------------------------------------------------------------------------------------


@KINDS.of()
def _capital_letters(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, word.upper()


@KINDS.of()
def _backwards(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, word[::-1]


@KINDS.of(n=("two", "three", "four"))
def _last_letters(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, word[-number_of(v["n"]) :]


@KINDS.of(end=("first", "last"))
def _without_end(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, word[1:] if v["end"] == "first" else word[:-1]


@KINDS.of()
def _without_vowels(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, "".join(c for c in word if c not in "aeiouAEIOU")


@KINDS.of()
def _count_vowels(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, str(sum(c in "aeiou" for c in word))


@KINDS.of(n=("two", "three"), sign=("spaces", "hyphens", "commas"))
def _repeat(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, ({"spaces": " "} | SIGNS)[v["sign"]].join([word] * number_of(v["n"]))


@KINDS.of(
    mark=(
        ("round brackets", "(", ")"),
        ("square brackets", "[", "]"),
        ("quotation marks", '"', '"'),
        ("stars", "*", "*"),
    )
)
def _wrapped(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, f"{v['mark'][1]}{word}{v['mark'][2]}"


@KINDS.of(part=("ing", "ness", "less", "ful", "man", "ish"))
def _ending_added(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, word + v["part"]


@KINDS.of(part=("the", "my", "old", "no", "very", "our", "some"))
def _word_before(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, f"{v['part']} {word}"


@KINDS.of(letter=LETTERS, labels=LABELS)
def _has_letter(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    word = next(w for w in iter(lambda: any_word(rng), None) if (v["letter"] in w.lower()) == wanted)
    return word, yes_or_no(v, wanted)


@KINDS.of(letter=LETTERS)
def _count_letter(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, str(word.lower().count(v["letter"]))


@KINDS.of(labels=LABELS)
def _starts_with_vowel(rng: Random, v: Values) -> tuple[str, str]:
    wanted = rng.random() < 0.5
    word = next(w for w in iter(lambda: any_word(rng), None) if (w[0].lower() in "aeiou") == wanted)
    return word, yes_or_no(v, wanted)


@KINDS.of(n=("four", "five", "six"), labels=LABELS)
def _longer_word(rng: Random, v: Values) -> tuple[str, str]:
    word = any_word(rng)
    return word, yes_or_no(v, len(word) > number_of(v["n"]))


@KINDS.of(old=tuple("aeio"), new=("u", "x", "*", "-"))
def _letter_replaced(rng: Random, v: Values) -> tuple[str, str]:
    word = next(w for w in iter(lambda: any_word(rng), None) if v["old"] in w)
    return word, word.replace(v["old"], v["new"])


@KINDS.of()
def _with_article(rng: Random, v: Values) -> tuple[str, str]:
    word = rng.choice(THINGS)
    return word, article(word)


# --- lists ------------------------------------------------------------------------------------------


@KINDS.of(end=("shortest", "longest"))
def _by_length(rng: Random, v: Values) -> tuple[str, str]:
    words = list({len(w): w for w in rng.sample(WORDS, 8)}.values())[:4]
    return commas(words), commas(sorted(words, key=len, reverse=v["end"] == "longest"))


@KINDS.of(which=("shortest", "longest"))
def _extreme_word(rng: Random, v: Values) -> tuple[str, str]:
    words = list({len(w): w for w in rng.sample(WORDS, 8)}.values())[:4]
    return commas(words), min(words, key=len) if v["which"] == "shortest" else max(words, key=len)


@KINDS.of()
def _count_items(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng, 2, 8)
    return commas(words), str(len(words))


@KINDS.of(sign=tuple(SIGNS))
def _joined(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    return " ".join(words), SIGNS[v["sign"]].join(words)


@KINDS.of(word=("and", "or", "then", "not"))
def _sentence_list(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    return commas(words), f"{commas(words[:-1])} {v['word']} {words[-1]}"


@KINDS.of()
def _repeated_item(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    twice = rng.choice(words)
    words.insert(rng.randint(0, len(words)), twice)
    return commas(words), twice


@KINDS.of()
def _without_repeats(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    words.insert(rng.randint(0, len(words)), rng.choice(words))
    return commas(words), commas(dict.fromkeys(words))


@KINDS.of(place=ORDINALS[:3] + ("last",))
def _item_dropped(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    place = place_of(words, v["place"])
    return commas(words), commas([*words[:place], *words[place + 1 :]])


@KINDS.of()
def _ends_swapped(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    return commas(words), commas([words[-1], *words[1:-1], words[0]])


@KINDS.of(word=("home", "end", "stop", "other"), place=("start", "end"))
def _item_added(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    return commas(words), commas([v["word"], *words] if v["place"] == "start" else [*words, v["word"]])


@KINDS.of()
def _numbered(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    return commas(words), " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


@KINDS.of(place=ORDINALS[:3] + ("last",))
def _item_in_capitals(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng)
    place = place_of(words, v["place"])
    return " ".join(words), " ".join(w.upper() if i == place else w for i, w in enumerate(words))


@KINDS.of(separator=((";", "semicolons"), ("|", "bars"), ("/", "slashes")), place=ORDINALS[:4])
def _field(rng: Random, v: Values) -> tuple[str, str]:
    words = some_words(rng, 4, 5)
    return v["separator"][0].join(words), words[place_of(words, v["place"])]
