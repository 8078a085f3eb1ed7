"""Real tasks: what is held out stays held out whatever lies in the folder; every task is asked for in several ways."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import yaml

from soft2hard.data_gen.dods import real_tasks
from soft2hard.data_gen.dods.drawing_examples import Sizes
from soft2hard.data_gen.dods.lexical import FAMILIES, LexicalDoD, make_task
from soft2hard.data_gen.dods.lexical.words import CATEGORIES, ORDINALS, RELATIONS
from soft2hard.data_gen.dods.published import SETS, PersonaStatements, Relations, read_wordings
from soft2hard.data_gen.dods.real_tasks import RealTasks, group_of, is_apart, split_of
from soft2hard.data_gen.dods.registry import read_for_corpus
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError
from tests.paths import SHARED

SPLITS = get_args(Split)
Published = dict[str, list[Task]]
SIMPLE = [("pick", "member"), ("filter", "keep"), ("filter", "drop"), ("member", "is"), ("count", "members")]
"""Families and variants that ask for categories alone."""
FOLDERS = {
    "instruction-induction": "instruction_induction",
    "few-shot-classification": "few_shot_classification",
    "function-vectors": "function_vectors",
    "relations": "relations",
    "persona-statements": "persona_statements",
}
"""Collections, and the folder of each in that of all."""
GROUPS: list[list[str]] = yaml.safe_load(Path(real_tasks.__file__).with_name("same_tasks.yaml").read_text())
HELD_OUT = ("instruction-induction/", "few-shot-classification/")
needs_data = pytest.mark.skipif(
    not all((SHARED / name).is_dir() for name in FOLDERS.values()), reason="the published files are not on this machine"
)


def some(rows: list, n: int = 12) -> list:
    """About so many of them, from all over."""
    return rows[:: -(-len(rows) // n)]


def cut(source: Path, target: Path) -> None:
    """A published file with fewer examples: reading all of them takes long where all types are checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_bytes().decode(errors="replace")
    if source.suffix != ".json":
        first, *rest = text.splitlines(keepends=True)
        target.write_text("".join([first, *(rest if source.stem in ("train", "dev") else some(rest))]))
        return
    content = json.loads(text)
    if isinstance(content, list):
        content = some(content)
    elif "examples" in content:
        content["examples"] = dict(some(list(content["examples"].items())))
    elif "samples" in content:
        content["samples"] = some(content["samples"])
    target.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the published collections, with fewer examples each."""
    target = tmp_path_factory.mktemp("published")
    for path in (path for name in FOLDERS.values() for path in (SHARED / name).rglob("*.*")):
        if path.suffix in (".json", ".jsonl", ".tsv") and path.parent.name != "16-13":
            cut(path, target / path.relative_to(SHARED))
    return target


@pytest.fixture(scope="module")
def published(folder: Path) -> Published:
    """All tasks by split."""
    return {split: list(RealTasks(folder).tasks(split)) for split in SPLITS}


def every_task(of: Published) -> list[Task]:
    return [task for of_split in of.values() for task in of_split]


def names(of: Published, *splits: str) -> set[str]:
    return {task.name for split in splits or SPLITS for task in of[split]}


@cache
def lexical_tasks() -> frozenset[str]:
    """All that ask for one relation, category or place and nothing else, and some others."""
    made = {
        **{(f, v): [{"s": (c,)} for c in CATEGORIES] for f, v in SIMPLE},
        **{("relation", v): [{"r": r, "la": "alpha"} for r in RELATIONS] for v in ("before", "after")},
        ("relation", "plain"): [{"r": r} for r in RELATIONS],
        ("conditional", "relation"): [{"r": r, "la": "up"} for r in RELATIONS],
        ("pick_relation", "found"): [{"r": r} for r in RELATIONS],
        ("pick_relation", "found_after"): [{"r": r, "la": "up"} for r in RELATIONS],
        ("pick_relation", "ordinal"): [{"r": r, "o": "last"} for r in RELATIONS],
        ("position", "ordinals"): [{"p": (o,)} for o in ORDINALS],
    }
    found = {task.key for task in LexicalDoD().draw("train", 300, 0)}
    for (family, name), many in made.items():
        [variant] = [one for one in FAMILIES[family] if one.name == name]
        found |= {make_task(family, variant, values).key for values in many}
    return frozenset(found)


def phrasings(task: Task) -> list[str]:
    return [task.instruction, *task.paraphrases]


def our_wordings() -> Iterator[tuple[str, list[str]]]:
    """Of every task whose instructions are ours, as 'collection/task'."""
    for collection in ("function-vectors", "relations", "persona-statements"):
        for name, one in read_wordings(collection.replace("-", "_")).items():
            yield f"{collection}/{name}", [one["instruction"], *one["paraphrases"]]
    for name, one in SETS.items():
        yield f"few-shot-classification/{name}", [one.instruction, *one.paraphrases]


def plainly(text: str) -> str:
    """Words alone, in small letters."""
    return " ".join(re.findall(r"\w+", text.lower()))


# --- splits ---------------------------------------------------------------------------------------


@needs_data
def test_nothing_of_the_held_out_collections_and_nothing_alike_is_trained_or_validated_on(published: Published) -> None:
    shown = names(published, "train", "validation")
    assert not [name for name in shown if name.startswith(HELD_OUT)]
    like_held_out = [one for group in GROUPS for one in group if any(other.startswith(HELD_OUT) for other in group)]
    assert len(like_held_out) > 20
    assert not [name for name in shown if any(fnmatchcase(name, pattern) for pattern in like_held_out)]
    assert {name.partition("/")[0] for name in names(published, "test")} == FOLDERS.keys()


@needs_data
def test_a_group_lies_in_one_split_and_every_task_in_exactly_one(published: Published) -> None:
    found = [task.name for task in every_task(published)]
    assert len(found) == len(set(found)) == 194
    for group in GROUPS:
        in_split = {s for s in SPLITS for name in names(published, s) if any(fnmatchcase(name, p) for p in group)}
        assert len(in_split) == 1, group
    assert all(len(published[split]) > 15 for split in SPLITS)


@needs_data
@pytest.mark.parametrize("collection", FOLDERS)
def test_the_tasks_of_a_split_do_not_depend_on_the_other_collections(
    collection: str, folder: Path, published: Published, tmp_path: Path
) -> None:
    (tmp_path / FOLDERS[collection]).symlink_to(folder / FOLDERS[collection])
    for split in SPLITS:
        assert list(RealTasks(tmp_path).tasks(split)) == [t for t in published[split] if t.family == collection]


def test_a_fifth_of_what_is_in_no_group_is_tested_on_and_a_tenth_validated_on() -> None:
    n = 4000  # so that a share is off by 0.03 in less than one of 10,000 such sets of names
    found = [split_of(f"relations/made up {i}") for i in range(n)]
    assert found.count("test") / n == pytest.approx(0.2, abs=0.03)
    assert found.count("validation") / n == pytest.approx(0.1, abs=0.03)


@needs_data
def test_examples_depend_on_the_seed_and_splits_do_not(folder: Path, published: Published) -> None:
    others = list(RealTasks(folder).tasks("train", 5, seed=1))
    assert [task.name for task in others] == [task.name for task in published["train"][:5]]
    assert all(other.train != first.train for other, first in zip(others, published["train"], strict=False))


@needs_data
def test_the_first_tasks_of_a_split_are_a_mixture_of_collections(folder: Path, published: Published) -> None:
    found, _ = read_for_corpus("real-tasks", folder, "train", 30)
    assert list(found.read) == published["train"][:30]
    assert {task.family for task in found.read} == {"relations", "function-vectors", "persona-statements"}


# --- tasks that are alike -------------------------------------------------------------------------


def test_no_task_is_in_two_groups() -> None:
    listed = [one for group in GROUPS for one in group]
    assert len(listed) == len(set(listed))
    for name in [*(one for one in listed if "*" not in one), *(f"lexical/{key}" for key in lexical_tasks())]:
        assert sum(any(fnmatchcase(name, pattern) for pattern in group) for group in GROUPS) <= 1, name


@needs_data
def test_every_name_in_the_groups_is_that_of_a_task(published: Published) -> None:
    absent = "few-shot-classification/yelp-2"  # its large test file is not on this machine
    real = names(published) | {absent}
    for name in (one for group in GROUPS for one in group if not one.startswith("lexical/")):
        assert name in real, name


def test_every_lexical_pattern_matches_a_lexical_task() -> None:
    for pattern in (one for group in GROUPS for one in group if one.startswith("lexical/")):
        assert any(fnmatchcase(f"lexical/{key}", pattern) for key in lexical_tasks()), pattern


def test_a_task_in_no_group_is_like_itself_alone() -> None:
    assert group_of("relations/company_ceo") == ("relations/company_ceo",)
    assert "function-vectors/antonym" in group_of("relations/adj_antonym") == group_of("function-vectors/antonym")


def test_lexical_tasks_that_are_like_a_held_out_one_are_not_apart() -> None:
    for alike in (
        "relation.plain(r=opposite)",
        "relation.before(la=alpha, r=opposite)",
        "pick_relation.ordinal(o=last, r=German name)",
        "conditional.relation(la=left, r=plural)",
        "filter.keep(s=animal)",
        "pick.member(s=animal)",
    ):
        assert not is_apart(alike), alike
    for apart in (
        "classify.among(s=animal+fruit+sport)",
        "relation.plain(r=young)",
        "filter.drop(s=animal)",
        "filter.keep(s=animal+fruit)",
        "position.ordinals(p=first+last)",
        "order.reverse()",
    ):
        assert is_apart(apart), apart


@needs_data
def test_exactly_what_is_like_no_validation_or_test_task_is_apart(published: Published) -> None:
    held_out = names(published, "test", "validation")
    assert all(is_apart(name) for name in names(published, "train")) and not any(is_apart(name) for name in held_out)
    assert all(is_apart(name, ("test",)) != (name in names(published, "test")) for name in names(published))
    alike: dict[str, bool] = {}
    for key in lexical_tasks():
        of_task = [group for group in GROUPS if any(fnmatchcase(f"lexical/{key}", p) for p in group)]
        alike[key] = any(one in held_out for group in of_task for one in group)
        assert is_apart(key) != alike[key], key
    assert 50 < sum(alike.values()) < len(alike) / 2


# --- how they are asked for -----------------------------------------------------------------------


def test_every_task_that_we_word_is_asked_for_in_at_least_five_distinct_ways() -> None:
    worded = dict(our_wordings())
    assert len(worded) == 56 + 40 + 67 + len(SETS)
    for name, texts in worded.items():
        assert len({plainly(text) for text in texts}) == len(texts) >= 5, name
        assert all(text == text.strip() and text[-1] in ".?" and "\n" not in text for text in texts), name


@needs_data
def test_tasks_come_with_these_phrasings_and_those_of_instruction_induction_with_its_own(
    published: Published,
) -> None:
    worded = dict(our_wordings())
    for task in every_task(published):
        kind, _, name = task.name.partition("/")
        if kind == "instruction-induction":
            path = SHARED / "instruction_induction" / "annotations" / f"{name}.json"
            assert phrasings(task) == json.loads(path.read_text())["annotations"]
        else:
            assert phrasings(task) == worded[task.name]
    assert all(len(phrasings(task)) >= 5 for split in ("train", "validation") for task in published[split])


@needs_data
def test_no_phrasing_is_that_of_two_tasks_that_are_not_alike(published: Published) -> None:
    said: dict[str, set[str]] = defaultdict(set)
    for name, texts in [*our_wordings(), *((task.name, phrasings(task)) for task in every_task(published))]:
        for text in texts:
            said[plainly(text)].add(name)
    assert len(said) > 1000
    for text, tasks in said.items():
        assert len({group_of(task) for task in tasks}) == 1, (text, tasks)


def test_every_phrasing_of_a_classification_names_its_labels() -> None:
    for name, texts in read_wordings("persona_statements").items():
        for text in (texts["instruction"], *texts["paraphrases"]):
            assert {"yes", "no"} <= set(plainly(text).split()), (name, text)
    for name, one in SETS.items():
        for text in (one.instruction, *one.paraphrases):
            assert set(one.labels) <= set(re.findall(r"\w+", text)), (name, text)


@needs_data
@pytest.mark.parametrize("name", ["substance_phase", "word_sentiment"])
def test_the_reference_instruction_of_a_relation_with_few_answers_by_nature_names_them(name: str) -> None:
    samples = json.loads((SHARED / "relations" / f"{name}.json").read_text())["samples"]
    answers = {sample["object"] for sample in samples}
    assert len(answers) == 3 and answers <= set(plainly(read_wordings("relations")[name]["instruction"]).split())


# --- reading --------------------------------------------------------------------------------------

SUBJECTS = [f"word {i}" for i in range(12)]


def write_relation(folder: Path, name: str, content: object) -> None:
    (folder / "relations").mkdir(parents=True, exist_ok=True)
    (folder / "relations" / f"{name}.json").write_text(json.dumps(content))


def write_statements(folder: Path, name: str, text: str) -> None:
    (folder / "persona_statements").mkdir(parents=True, exist_ok=True)
    (folder / "persona_statements" / f"{name}.jsonl").write_text(text)


def relation(*subjects: str) -> dict[str, object]:
    samples = [{"subject": f" {one}", "object": f"{one} turned"} for one in subjects]
    return {"name": "made up", "prompt_templates": ["{} is"], "samples": samples}


def statements(n: int) -> str:
    lines = [{"statement": f"I think {i}", "matches": "no" if i % 2 else "yes"} for i in range(n)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def examples_of(task: Task) -> list[Example]:
    return [*task.train, *task.validation, *task.test]


def test_subjects_and_statements_become_inputs_and_objects_and_matches_outputs(tmp_path: Path) -> None:
    write_relation(tmp_path, "adj_antonym", relation(*SUBJECTS))
    write_statements(tmp_path, "openness", statements(40))
    dod = RealTasks(tmp_path, Sizes(20, 10, 10))
    [antonyms], [openness] = dod.tasks("test"), dod.tasks("validation")
    assert set(examples_of(antonyms)) == {Example(one, f"{one} turned") for one in SUBJECTS}
    assert (antonyms.name, antonyms.family, antonyms.labels) == ("relations/adj_antonym", "relations", None)
    wanted = {Example(f"I think {i}", "no" if i % 2 else "yes") for i in range(40)}
    assert set(examples_of(openness)) == wanted and len(examples_of(openness)) == 40
    assert (openness.family, openness.labels, openness.metric) == (
        "persona-statements",
        ("no", "yes"),
        "label_accuracy",
    )
    assert antonyms.instruction == read_wordings("relations")["adj_antonym"]["instruction"]
    assert list(dod.tasks("train")) == [] and not dod.dropped


def test_a_collection_alone_has_test_tasks_only_and_counts_files_that_are_none_of_its(tmp_path: Path) -> None:
    write_relation(tmp_path, "company_ceo", relation(*SUBJECTS))
    write_relation(tmp_path, "mine", relation(*SUBJECTS))
    dod = Relations(tmp_path / "relations")
    assert [task.name for task in dod.tasks("test")] == ["company_ceo"]
    assert dod.dropped == {"files that are none of the 40 tasks": 1}
    assert list(dod.tasks("train")) == list(dod.tasks("validation")) == []
    assert [task.name for task in RealTasks(tmp_path).tasks("train")] == ["relations/company_ceo"]
    write_statements(tmp_path, "openness", statements(40))
    [task] = PersonaStatements(tmp_path / "persona_statements").tasks("test")
    assert (task.name, task.labels) == ("openness", ("no", "yes"))


def test_long_and_contradictory_examples_are_left_out_and_counted(tmp_path: Path) -> None:
    content = relation(*SUBJECTS, "word " * 9)
    content["samples"].append({"subject": SUBJECTS[0], "object": "another"})
    write_relation(tmp_path, "company_ceo", content)
    dod = RealTasks(tmp_path, max_words=8)
    [task] = dod.tasks("train")
    assert {example.input for example in examples_of(task)} == set(SUBJECTS[1:])
    assert dod.dropped == {"examples that are too long": 1, "inputs with several outputs": 1}


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        list(RealTasks(folder).tasks("test"))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_folder_of_other_things_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "has none of the folders instruction_induction" in refusal(tmp_path)
    (tmp_path / "relations").mkdir()
    (tmp_path / "relations" / "mine.json").write_text("{}")
    assert "has no task of relations" in refusal(tmp_path)
    with pytest.raises(UserError, match="is read from files"):
        read_for_corpus("real-tasks", None, "train", 1)


@pytest.mark.parametrize(
    "content", [[], None, {"samples": 3}, {"samples": [3]}, {"samples": [{"subject": "a"}]}, {"name": "a"}]
)
def test_a_file_that_holds_no_relation_is_refused_in_one_line(content: object, tmp_path: Path) -> None:
    write_relation(tmp_path, "company_ceo", content)
    assert "company_ceo.json has records of another kind" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "openness.jsonl, line 1: not JSON"),
        ('{"statement": "a", "matches": "no"}\n3\n', "openness.jsonl, line 2"),
        ('{"statement": "a"}\n', "openness.jsonl has records of another kind"),
        ("", "too few for a task"),
    ],
)
def test_a_file_that_holds_no_statements_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    write_statements(tmp_path, "openness", text)
    assert said in refusal(tmp_path)
