"""The lexical world: instructions parse back, splits are fixed, outputs are right, and there is plenty of it."""

import hashlib
import re
from collections import Counter
from random import Random

import pytest

from soft2hard.data_gen.dods.lexical import (
    FAMILIES,
    UNSEEN_FAMILIES,
    LexicalDoD,
    LexicalTask,
    draw_task,
    make_task,
    parse,
    same_task,
)
from soft2hard.data_gen.dods.lexical.grammar import normalise, read, slots
from soft2hard.data_gen.dods.lexical.words import CATEGORIES, CATEGORY_OF, COUNTS, LABELS, ORDINALS, PLURALS, RELATIONS

VARIANTS = [(family, variant) for family, variants in FAMILIES.items() for variant in variants]
VARIANT_NAMES = [f"{family}.{variant.name}" for family, variant in VARIANTS]


def each_variant():
    return pytest.mark.parametrize(("family", "variant"), VARIANTS, ids=VARIANT_NAMES)


def tasks_of(family, variant, n: int) -> list[LexicalTask]:
    rng = Random(f"test/{family}/{variant.name}")
    return [make_task(family, variant, variant.draw(rng)) for _ in range(n)]


def variant_of(name: str):
    return VARIANTS[VARIANT_NAMES.index(name)]


# --- words ------------------------------------------------------------------------------------


def test_there_are_24_categories_of_16_words_and_each_word_is_in_one():
    assert len(CATEGORIES) >= 24
    assert all(len(set(words)) == len(words) >= 16 for words in CATEGORIES.values())
    assert max(Counter(word for words in CATEGORIES.values() for word in words).values()) == 1


def test_no_word_could_be_mistaken_for_a_label_or_a_word_of_an_instruction():
    assert not set(CATEGORY_OF) & {*LABELS, *ORDINALS, *PLURALS, *PLURALS.values(), "none", "yes", "no", "list", "word"}


@pytest.mark.parametrize(
    ("relation", "word", "expected"),
    [
        ("capital", "Kenya", "Nairobi"),
        ("opposite", "quiet", "loud"),
        ("opposite", "loud", "quiet"),
        ("plural", "knife", "knives"),
        ("past tense", "teach", "taught"),
        ("young", "kangaroo", "joey"),
        ("colour", "banana", "yellow"),
        ("successor", "sixteen", "seventeen"),
        ("French name", "fourteen", "quatorze"),
        ("Spanish name", "fifteen", "quince"),
        ("German name", "eleven", "elf"),
    ],
)
def test_relations_state_facts(relation, word, expected):
    assert RELATIONS[relation].pairs[word] == expected


def test_every_relation_is_a_function_of_all_words_of_its_category():
    for relation in RELATIONS.values():
        assert set(relation.pairs) == set(CATEGORIES[relation.domain])


# --- parsing ----------------------------------------------------------------------------------


def all_readings(text: str) -> set[str]:
    """Keys of the tasks that any phrasing of any variant reads in a text."""
    found = set()
    for family, variant in VARIANTS:
        for phrasing in variant.phrasings:
            values = read(phrasing, text)
            if values is not None:
                found.add(make_task(family, variant, values).key)
    return found


@each_variant()
def test_every_phrasing_names_every_parameter_and_there_are_six_or_more(family, variant):
    parameters = set(variant.draw(Random(0)))
    assert len(set(variant.phrasings)) == len(variant.phrasings) >= 6
    assert all(slots(phrasing) == parameters for phrasing in variant.phrasings)


@each_variant()
def test_every_phrasing_parses_back_to_exactly_its_task_and_to_no_other(family, variant):
    rng = Random(1)
    for task in tasks_of(family, variant, 12):
        for phrasing in range(len(variant.phrasings)):
            for text in (task.instruction(phrasing), task.instruction(phrasing, rng)):
                assert parse(text) == task
                assert all_readings(text) == {task.key}


def test_instructions_are_written_as_sentences():
    rng = Random(2)
    for family, variant in VARIANTS:
        for task in tasks_of(family, variant, 3):
            text = task.instruction(rng.randrange(len(variant.phrasings)), rng)
            assert re.fullmatch(r"[A-Z][A-Za-z ,:?.]*[.?]", text) and "  " not in text


def test_spacing_and_capitals_at_the_ends_do_not_matter_to_the_parser():
    task = parse("Reverse the list.")
    assert task is not None and task.key == "order.reverse()"
    assert parse("  reverse   the\nlist ") == task
    assert normalise("say it , then stop") == "Say it, then stop."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello there.",
        "Keep only the animals and spaceships.",
        "Keep only the animals. Reverse the list.",
        "Say alpha for animal and beta for birds.",
        "Is the word an bird? Answer yes or no.",
        "KEEP ONLY THE ANIMALS.",
        "Keep only the animals, birds, fish.",
    ],
)
def test_unfamiliar_text_is_no_task(text):
    assert parse(text) is None


def test_same_task_holds_up_to_order_and_phrasing_and_no_further():
    assert same_task("Keep only the animals and birds.", "Copy the birds and animals and skip everything else.")
    assert same_task("Answer left for an animal and up for a bird.", "Mark birds with up and animals with left.")
    assert not same_task("Answer left for an animal and up for a bird.", "Mark birds with left and animals with up.")
    assert not same_task("Keep only the animals.", "Remove the animals.")
    assert not same_task("Say the first and last word.", "Say the last and first word.")
    assert not same_task("Put the animals before the birds.", "Put the birds before the animals.")
    assert not same_task("Hello there.", "Hello there.")


@each_variant()
def test_no_task_names_the_same_category_or_label_twice(family, variant):
    for task in tasks_of(family, variant, 50):
        words = [w for value in task.values.values() for w in ((value,) if isinstance(value, str) else value)]
        assert len(set(words)) == len(words)


# --- splits -----------------------------------------------------------------------------------


def expected_split(key: str) -> str:
    """A tenth test, a twentieth validation, by the first eight bytes of SHA-256 as a number in [0, 1)."""
    point = int(hashlib.sha256(key.encode("utf-8")).hexdigest()[:16], 16) / 16**16
    return "test" if point < 0.10 else "validation" if point < 0.15 else "train"


@pytest.mark.parametrize(
    ("text", "key", "split"),
    [
        (
            "Answer omega for a country and delta for a fruit.",
            "label.pair(a=country, b=fruit, la=omega, lb=delta)",
            "train",
        ),
        ("Remove the countries.", "filter.drop(s=country)", "train"),
        ("Reverse the list.", "order.reverse()", "train"),
        ("Say whether the word is a bird, a fish or a sport.", "classify.among(s=bird+fish+sport)", "validation"),
        ("Replace the flowers with alpha.", "replace.with_label(la=alpha, s=flower)", "validation"),
        ("Count the birds.", "count.members(s=bird)", "validation"),
        (
            "If the word is a number say down, otherwise say true.",
            "conditional.labels(a=number, la=down, lb=true)",
            "test",
        ),
        ("Say the first and last word.", "position.ordinals(p=first+last)", "test"),
        (
            "Find the word in the list that has a colour and give it, then say sigma.",
            "pick_relation.found_after(la=sigma, r=colour)",
            "test",
        ),
    ],
)
def test_known_tasks_stay_in_their_split_for_ever(text, key, split):
    task = parse(text)
    assert task is not None
    assert (task.key, task.split) == (key, split)
    assert expected_split(key) == split


def test_splits_share_no_task_and_have_their_shares():
    rng = Random(3)
    keys = {draw_task(family, rng).key: None for family in FAMILIES for _ in range(300)}
    drawn = {split: {t.key for t in LexicalDoD().draw(split, 150)} for split in ("train", "validation", "test")}
    for split, found in drawn.items():
        assert len(found) == 150
        assert {expected_split(key) for key in found} == {split}
    shares = Counter(expected_split(key) for key in keys)
    assert shares["test"] / len(keys) == pytest.approx(0.10, abs=0.02)
    assert shares["validation"] / len(keys) == pytest.approx(0.05, abs=0.02)


def test_the_same_seed_draws_the_same_tasks_and_examples_and_another_seed_others():
    dod = LexicalDoD()
    first, again, other = (list(dod.tasks("test", 30, seed)) for seed in (0, 0, 1))
    assert first == again
    assert {t.name for t in first} != {t.name for t in other}


def test_a_longer_draw_begins_with_the_shorter_one():
    dod = LexicalDoD()
    short, long = ([t.key for t in dod.draw("train", n)] for n in (20, 50))
    assert long[:20] == short and len(set(long)) == 50


def test_unseen_families_are_left_out_for_the_translator_alone():
    assert len(FAMILIES) >= 14 and len(UNSEEN_FAMILIES) == 2
    met = {task.family for task in LexicalDoD(for_translator=True).draw("train", 200)}
    assert met == set(FAMILIES) - set(UNSEEN_FAMILIES)
    assert {task.family for task in LexicalDoD().draw("train", 200)} == set(FAMILIES)


def test_a_family_that_runs_out_drops_out_and_the_stream_ends():
    tasks = list(LexicalDoD(("order",)).draw("test"))
    keys = {task.key for task in tasks}
    assert len(keys) == len(tasks)
    reachable = {f"order.group(a={a}, b={b})" for a in CATEGORIES for b in CATEGORIES if a != b}
    reachable |= {f"order.{name}()" for name in ("reverse", "ascending", "descending")}
    expected = {key for key in reachable if expected_split(key) == "test"}
    assert keys <= expected and len(keys) > 0.9 * len(expected)  # found by drawing, so one may be missed


def test_there_are_tens_of_thousands_of_distinct_tasks():
    rng = Random(4)
    draws = {"label": 18_000, "classify": 9_000, "contains": 2_000, "position_classify": 3_000}
    assert len({draw_task(family, rng).key for family, n in draws.items() for _ in range(n)}) > 20_000


# --- examples ---------------------------------------------------------------------------------


@each_variant()
def test_examples_of_a_record_share_no_input_between_splits(family, variant):
    for task in tasks_of(family, variant, 3):
        record = task.record()
        inputs = [{example.input for example in part} for part in (record.train, record.validation, record.test)]
        assert len(set().union(*inputs)) == sum(map(len, inputs))
        assert [len(inputs[1]), len(inputs[2])] == [len(record.validation), len(record.test)]
        assert record.train and record.validation and record.test
        assert len(record.train) >= 2 * len(record.test) >= 2
        assert all(same_task(text, record.instruction) for text in record.paraphrases)
        assert len({record.instruction, *record.paraphrases}) >= 6


@pytest.mark.parametrize("n_train", [64, 256])
@pytest.mark.parametrize("name", ["member.is", "conditional.labels"])
def test_every_part_of_a_record_asks_for_both_answers(name, n_train):
    family, variant = variant_of(name)
    for task in tasks_of(family, variant, 5):
        record = task.record(n_train=n_train)
        for part in (record.train, record.validation, record.test):
            outputs = [example.output for example in part]
            assert all(outputs.count(label) >= len(outputs) / 8 for label in record.labels)


@pytest.mark.parametrize("name", [name for name, (_, v) in zip(VARIANT_NAMES, VARIANTS, strict=True) if v.labels])
def test_label_sets_hold_every_output_and_no_word_that_never_is_one(name):
    family, variant = variant_of(name)
    rng = Random(5)
    for task in tasks_of(family, variant, 3):
        outputs = {task.example(rng).output for _ in range(400)}
        assert outputs <= set(variant.labels(task.values))
        if family != "count":  # a count of five needs a list of five of them, which is rare
            assert outputs == set(variant.labels(task.values))


# An oracle that reads the first phrasing with its own patterns and answers from the tables of words alone.


def names(text: str) -> set[str]:
    """Category names from 'an animal or a bird', 'animals and birds', 'animal, bird or fish'."""
    found = set()
    for part in re.split(r", | and | or ", text):
        word = re.sub(r"^an? ", "", part)
        if word not in CATEGORIES:
            word = {"countries": "country", "cities": "city"}.get(word, word.removesuffix("s"))
        found.add(word)
    assert found <= set(CATEGORIES)
    return found


def kind(word: str) -> str:
    return next(name for name, words in CATEGORIES.items() if word in words)


def nth(words: list[str], ordinal: str) -> str:
    return words[{"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}[ordinal]]


def with_relation(noun: str, words: list[str]) -> str:
    return next(RELATIONS[noun].pairs[w] for w in words if w in RELATIONS[noun].pairs)


def numbers(words: list[str]) -> list[int]:
    return [CATEGORIES["number"].index(w) for w in words]


def spelled(values: list[int]) -> str:
    return " ".join(CATEGORIES["number"][i] for i in values)


ORACLE = {
    "classify.among": (r"Say whether the word is (.+)\.", lambda m, w: kind(w[0])),
    "label.pair": (
        r"Answer (\w+) for (.+) and (\w+) for (.+)\.",
        lambda m, w: m[1] if kind(w[0]) in names(m[2]) else m[3],
    ),
    "member.is": (r"Is the word (.+)\? Answer.*", lambda m, w: "yes" if kind(w[0]) in names(m[1]) else "no"),
    "relation.plain": (r"Give the (.+) of the word\.", lambda m, w: with_relation(m[1], w)),
    "relation.before": (
        r"Say (\w+) and then the (.+) of the word\.",
        lambda m, w: m[1] + " " + with_relation(m[2], w),
    ),
    "relation.after": (
        r"Say the (.+) of the word and then (\w+)\.",
        lambda m, w: with_relation(m[1], w) + " " + m[2],
    ),
    "conditional.labels": (
        r"If the word is (.+) say (\w+), otherwise say (\w+)\.",
        lambda m, w: m[2] if kind(w[0]) in names(m[1]) else m[3],
    ),
    "conditional.else_repeat": (
        r"If the word is (.+) say (\w+), otherwise repeat the word\.",
        lambda m, w: m[2] if kind(w[0]) in names(m[1]) else w[0],
    ),
    "conditional.relation": (
        r"If the word has an? (.+) say it, otherwise say (\w+)\.",
        lambda m, w: RELATIONS[m[1]].pairs.get(w[0], m[2]),
    ),
    "pick.member": (r"Pick the word that is (.+)\.", lambda m, w: [x for x in w if kind(x) in names(m[1])].pop()),
    "filter.keep": (
        r"Keep only the (.+)\.",
        lambda m, w: " ".join(x for x in w if kind(x) in names(m[1])) or "none",
    ),
    "filter.drop": (
        r"Remove the (.+)\.",
        lambda m, w: " ".join(x for x in w if kind(x) not in names(m[1])) or "none",
    ),
    "replace.with_label": (
        r"Replace the (.+) with (\w+)\.",
        lambda m, w: " ".join(m[2] if kind(x) in names(m[1]) else x for x in w),
    ),
    "count.members": (
        r"Count the (.+)\.",
        lambda m, w: ["zero", "one", "two", "three", "four", "five"][len([x for x in w if kind(x) in names(m[1])])],
    ),
    "position.ordinals": (
        r"Say the (.+) word\.",
        lambda m, w: " ".join(nth(w, o) for o in re.split(", | and ", m[1])),
    ),
    "order.reverse": (r"Reverse the list\.", lambda m, w: " ".join(w[::-1])),
    "order.ascending": (r"Sort the numbers from small to large\.", lambda m, w: spelled(sorted(numbers(w)))),
    "order.descending": (r"Sort the numbers from large to small\.", lambda m, w: spelled(sorted(numbers(w))[::-1])),
    "order.group": (
        r"Put the (.+) before the (.+)\.",
        lambda m, w: " ".join([x for x in w if kind(x) in names(m[1])] + [x for x in w if kind(x) in names(m[2])]),
    ),
    "contains.labels": (
        r"If the list contains (.+) say (\w+), otherwise say (\w+)\.",
        lambda m, w: m[2] if any(kind(x) in names(m[1]) for x in w) else m[3],
    ),
    "pick_relation.found": (
        r"Find the word in the list that has an? (.+) and give it\.",
        lambda m, w: with_relation(m[1], w),
    ),
    "pick_relation.found_after": (
        r"Find the word in the list that has an? (.+) and give it, then say (\w+)\.",
        lambda m, w: with_relation(m[1], w) + " " + m[2],
    ),
    "pick_relation.ordinal": (
        r"Give the (.+) of the (\w+) word\.",
        lambda m, w: RELATIONS[m[1]].pairs[nth(w, m[2])],
    ),
    "filter_then.keep_first": (
        r"Keep only the (.+), then say the first word\.",
        lambda m, w: [x for x in w if kind(x) in names(m[1])][0],
    ),
    "filter_then.drop_last": (
        r"Remove the (.+), then say the last word\.",
        lambda m, w: [x for x in w if kind(x) not in names(m[1])][-1],
    ),
    "filter_then.keep_reverse": (
        r"Keep only the (.+), then reverse the list\.",
        lambda m, w: " ".join([x for x in w if kind(x) in names(m[1])][::-1]),
    ),
    "position_classify.among": (r"Say whether the (\w+) word is (.+)\.", lambda m, w: kind(nth(w, m[1]))),
}


@pytest.mark.parametrize("name", ORACLE)
def test_outputs_are_what_an_oracle_answers_from_the_instruction_alone(name):
    pattern, answer = ORACLE[name]
    rng = Random(6)
    for task in tasks_of(*variant_of(name), 20):
        match = re.fullmatch(pattern, task.instruction())
        assert match is not None, task.instruction()
        for _ in range(20):
            example = task.example(rng)
            assert example.output == answer(match, example.input.split()), (task.instruction(), example)


def test_the_oracle_covers_every_family():
    assert {name.split(".")[0] for name in ORACLE} == set(FAMILIES)
    assert COUNTS[0] == "zero"
