"""Translators that read other things than soft prompts: what they are given, what they learn from, who refuses them."""

import json
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from random import Random
from shutil import rmtree

import datasets
import pytest
import torch
from torch import Tensor

from soft2hard.data_gen.dods.lexical import UNSEEN_FAMILIES, LexicalDoD, parse
from soft2hard.data_gen.dods.lexical.families import FAMILIES
from soft2hard.data_gen.dods.operations import KINDS
from soft2hard.data_gen.dods.real_tasks import is_apart
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator import follower, training
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.data import CorpusPairs, ExamplesAlone, View, Views
from soft2hard.translator.demonstrations import acting, views_of
from soft2hard.translator.follower import Row
from soft2hard.translator.material import Untuned
from soft2hard.translator.model import Translator
from soft2hard.translator.network import Memory
from soft2hard.translator.probing import in_random_order, invented_inputs
from soft2hard.translator.settings import Design, Reads, TranslateConfig
from soft2hard.translator.training import needs_subject, train_translator
from soft2hard.translator.translate import Helpers, translate
from soft2hard.translator.verification import Verifier
from tests import tiny_models, tiny_training
from tests.tiny_training import config, corpora, llama_subject

SUBJECT = llama_subject()
WORDS = tiny_models.WORDS[3:]
EXAMPLES = [Example(one, other) for one, other in zip(WORDS[:6], WORDS[6:12], strict=True)]
VECTORS = torch.randn(3, SUBJECT.d_model, generator=torch.Generator().manual_seed(0))


def words_of(rows: Tensor) -> list[str]:
    """The words that these rows are the subject's embeddings of, exactly."""
    distance, at = torch.cdist(rows, SUBJECT.embedding).min(1)
    assert float(distance.max()) < 1e-3
    return SUBJECT.tokenizer.convert_ids_to_tokens(at.tolist())


def shown_in(rows: Tensor) -> list[tuple[str, str]]:
    """Inputs and outputs of a few-shot text of single words, as the subject's template writes it."""
    words = words_of(rows)
    blocks = [words[i : i + 6] for i in range(0, len(words), 6)]
    for block in blocks:
        assert (block[:2], block[3:5]) == (["Input", ":"], ["Output", ":"])
    return [(block[2], block[5]) for block in blocks]


# --- what is given ----------------------------------------------------------------------------------


def test_examples_are_read_as_a_few_shot_text_in_the_subjects_embeddings() -> None:
    shown = shown_in(View(SUBJECT, "examples", 4)(VECTORS, EXAMPLES, Random(0)))
    pairs = [(example.input, example.output) for example in EXAMPLES]
    assert len(set(shown)) == 4 and set(shown) <= set(pairs)
    assert {tuple(shown_in(View(SUBJECT, "examples", 1)(VECTORS, EXAMPLES[:1], Random(i)))) for i in range(3)} == {
        (pairs[0],)
    }
    # Fewer where there are not as many.
    assert sorted(shown_in(View(SUBJECT, "examples", 9)(VECTORS, EXAMPLES, Random(0)))) == sorted(pairs)


def test_both_are_the_vectors_and_then_the_examples() -> None:
    both = View(SUBJECT, "both", 2)(VECTORS, EXAMPLES, Random(3))
    assert torch.equal(both[:3], VECTORS)
    assert torch.equal(both[3:], View(SUBJECT, "examples", 2)(VECTORS, EXAMPLES, Random(3)))
    assert len(both) == 3 + 2 * 6


def test_nothing_is_one_row_of_zeros_and_vectors_are_read_as_they_are() -> None:
    nothing = View(SUBJECT, "nothing")
    for examples in (EXAMPLES, []):
        assert torch.equal(nothing(VECTORS, examples, Random(0)), torch.zeros(1, SUBJECT.d_model))
        assert torch.equal(View(SUBJECT, "vectors")(VECTORS, examples, Random(0)), VECTORS)


def test_behind_an_input_there_is_no_place_for_examples_and_the_vectors_are_read_alone(of_both: Translator) -> None:
    subject = SUBJECT.with_template(Template(input_prefix="", input_first=True))
    prompt = SoftPrompt(VECTORS, template=subject.template)
    assert torch.equal(View(subject, "both", 2)(VECTORS, EXAMPLES, Random(0)), VECTORS)
    assert acting(of_both, subject, [prompt], [WORDS[:4]], 0)[0].embeddings is prompt.embeddings


def test_inputs_without_room_for_an_output_are_not_shown(of_both: Translator) -> None:
    prompt = SoftPrompt(VECTORS, template=SUBJECT.template)
    long = " ".join(WORDS[:5] * 40)
    [read] = acting(of_both, SUBJECT, [prompt], [[WORDS[0], long]], 0, 3)
    shown = words_of(read.embeddings[3:])
    assert shown[:4] == ["Input", ":", WORDS[0], "Output"] and len(shown) < 10
    [alone] = acting(of_both, SUBJECT, [prompt], [[long]], 0, 3)
    assert torch.equal(alone.embeddings, VECTORS)


def test_no_more_examples_are_shown_than_the_translator_can_read() -> None:
    """An example is six tokens."""
    for room, n in ((26, 3), (21, 3), (20, 2), (9, 1), (8, 0)):
        rows = View(SUBJECT, "both", 3, room)(VECTORS, EXAMPLES, Random(0))
        assert len(rows) == 3 + 6 * n and torch.equal(rows[:3], VECTORS)
    for reads, vectors in (("examples", VECTORS), ("both", VECTORS[:0])):
        whole, end = (View(SUBJECT, reads, 1, room)(vectors, EXAMPLES[:1], Random(0)) for room in (6, 4))
        assert torch.equal(end, whole[-4:]), "where there is nothing else, the end of one is shown"
    causal = Translator.for_subject(SUBJECT, Design("causal-lora", instruction_tokens=16, reads="both"))
    fitting = torch.zeros(1, causal.view(SUBJECT).room, SUBJECT.d_model)
    causal.model.encode(fitting, torch.ones(fitting.shape[:2]).long())
    with pytest.raises(UserError, match="these soft prompts need"):
        longer = torch.cat([fitting, fitting[:, :1]], 1)
        causal.model.encode(longer, torch.ones(longer.shape[:2]).long())


def test_in_training_who_reads_both_is_shown_any_number_of_examples_and_none_too() -> None:
    """So it can do with few, and without the subject."""
    view = View(SUBJECT, "both", 3, without=0.25)
    read = [view(VECTORS, EXAMPLES, Random(i)) for i in range(40)]
    assert all(torch.equal(rows[:3], VECTORS) for rows in read)
    assert {len(rows) - 3 for rows in read} == {0, 6, 12, 18}
    assert {len(View(SUBJECT, "both", 3)(VECTORS, EXAMPLES, Random(i))) for i in range(9)} == {3 + 18}


@pytest.mark.parametrize("reads", ["examples", "both"])
def test_labelled_examples_alone_are_read_of_tasks_that_have_no_soft_prompt(reads: Reads) -> None:
    task = Task("a", "tiny", "up", ("down", "on"), (*EXAMPLES, *EXAMPLES), (), ())
    pairs = [ExamplesAlone([task], View(SUBJECT, reads, 3), paraphrase_share=0.5, seed=i)[0] for i in range(40)]
    shown = [shown_in(rows) for rows, _ in pairs]
    assert {len(one) for one in shown} == {1, 2, 3}
    assert all(len(set(one)) == len(one) for one in shown), "no example twice"
    assert {pair for one in shown for pair in one} == {(example.input, example.output) for example in EXAMPLES}
    assert {text for _, text in pairs} == {"up", "down", "on"}


def test_who_reads_nothing_is_given_a_task_without_a_soft_prompt_like_any_other() -> None:
    task = Task("a", "tiny", "up", (), tuple(EXAMPLES), (), ())
    rows, _ = ExamplesAlone([task], View(SUBJECT, "nothing"))[0]
    assert torch.equal(rows, View(SUBJECT, "nothing")(VECTORS, EXAMPLES, Random(0)))


@pytest.mark.parametrize("reads", ["examples", "both"])
def test_an_imitation_which_has_no_examples_is_read_as_it_is(reads: Reads) -> None:
    assert torch.equal(View(SUBJECT, reads)(VECTORS, [], Random(0)), VECTORS)


def test_the_view_of_a_task_depends_on_its_name_and_the_seed_alone_and_stays_of_its_subject() -> None:
    prompt = SoftPrompt(VECTORS, "llama-0", SUBJECT.fingerprint, {"source": "here"}, Template())

    def read(name: str, seed: int) -> Tensor:
        task = Task(name, "tiny", "Say it.", (), tuple(EXAMPLES), tuple(EXAMPLES[:1]), ())
        found = View(SUBJECT, "examples", 2).of(prompt, task, seed)
        assert (found.fingerprint, found.provenance) == (prompt.fingerprint, prompt.provenance)
        return found.embeddings

    assert torch.equal(read("a", 0), read("a", 0))
    seen = {tuple(shown_in(read(name, seed))) for name in "abc" for seed in range(3)}
    assert len(seen) > 5
    assert torch.equal(View(SUBJECT).of(prompt, Task("a", "b", "c", (), (), (), ()), 0).embeddings, VECTORS)


def readable(corpus: datasets.Dataset, word: str = "up") -> datasets.Dataset:
    """With examples that the tiny tokenizer knows every word of."""
    return corpus.map(lambda row: {"inputs": WORDS[4:8], "outputs": [row["task"].split("/")[0]] * 3 + [word]})


def test_pairs_of_a_corpus_give_what_the_view_sees_and_draw_again_each_epoch() -> None:
    corpus = readable(corpora(SUBJECT)[0])
    plain = CorpusPairs(corpus)
    pairs = {reads: CorpusPairs(corpus, view=View(SUBJECT, reads, 2)) for reads in ("examples", "both", "nothing")}
    drawn: list[tuple] = []
    for i, row in enumerate(corpus):
        assert torch.equal(pairs["nothing"][i][0], torch.zeros(1, SUBJECT.d_model))
        for epoch in range(3):
            for of_kind in pairs.values():
                of_kind.set_epoch(epoch)
            both, examples = pairs["both"][i][0], pairs["examples"][i][0]
            assert torch.equal(both, torch.cat([plain[i][0], examples]))
            drawn.append(tuple(shown_in(examples)))
            assert set(drawn[-1]) <= set(zip(row["inputs"], row["outputs"], strict=True))
    assert all(pairs["nothing"][i][1] == plain[i][1] for i in range(len(corpus)))
    assert len(set(drawn)) > len(corpus)  # not the same two of each task


def test_noise_is_on_the_vectors_and_not_on_the_examples() -> None:
    corpus = readable(corpora(SUBJECT)[0])
    noisy, plain = (CorpusPairs(corpus, noise=noise, view=View(SUBJECT, "both", 2)) for noise in (0.5, 0.0))
    n = tiny_training.N_TOKENS
    for i in range(4):
        assert not torch.equal(noisy[i][0][:n], plain[i][0][:n])
        assert len(shown_in(noisy[i][0][n:])) == 2  # words, exactly


# --- training ---------------------------------------------------------------------------------------


def trained(
    folder: Path, reads: Reads, change: Callable[[datasets.Dataset], datasets.Dataset] | None, shown: int = 8
) -> Translator:
    made = untrained(reads, shown)
    both = [readable(corpus) if change is None else change(readable(corpus)) for corpus in corpora(SUBJECT)]
    return train_translator(made, *both, config(epochs=1), folder, subject=SUBJECT)


def untrained(reads: Reads, shown: int = 8) -> Translator:
    torch.manual_seed(0)
    return Translator.for_subject(SUBJECT, Design("encoder-decoder", instruction_tokens=16, reads=reads, shown=shown))


def same_weights(first: Translator, second: Translator) -> bool:
    found = second.model.state_dict()
    return all(torch.equal(tensor, found[name]) for name, tensor in first.model.state_dict().items())


def other_vectors(corpus: datasets.Dataset) -> datasets.Dataset:
    return corpus.map(lambda row: {"embeddings": [[-x for x in vector] for vector in row["embeddings"]]})


def other_examples(corpus: datasets.Dataset) -> datasets.Dataset:
    return readable(corpus, "left").map(lambda row: {"inputs": WORDS[8:12]})


@pytest.mark.parametrize("reads", ["vectors", "examples", "both", "nothing"])
def test_a_translator_learns_from_what_it_reads_and_from_nothing_else(reads: Reads, tmp_path: Path) -> None:
    first = trained(tmp_path / "first", reads, None)
    vectors = same_weights(first, trained(tmp_path / "vectors", reads, other_vectors))
    examples = same_weights(first, trained(tmp_path / "examples", reads, other_examples))
    assert vectors == (reads in ("examples", "nothing"))
    assert examples == (reads in ("vectors", "nothing"))
    assert Translator.from_pretrained(tmp_path / "first" / "translator").card.reads == first.card.reads == reads


def test_as_many_examples_are_learned_from_as_are_to_be_shown(tmp_path: Path) -> None:
    """Each task of the corpus has four."""
    usual, four, one = (trained(tmp_path / str(n), "examples", None, n) for n in (8, 4, 1))
    assert same_weights(usual, four) and not same_weights(four, one)
    assert [made.card.shown for made in (usual, four, one)] == [8, 4, 1]
    assert Translator.from_pretrained(tmp_path / "1" / "translator").card.shown == 1


def test_examples_alone_of_lexical_training_tasks_are_learned_from_first_once_and_of_none_that_is_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[Task]] = []

    class Noted(ExamplesAlone):
        def __init__(self, tasks: list[Task], *more: object, **named: object) -> None:
            read.append(tasks)
            super().__init__(tasks, *more, **named)

    monkeypatch.setattr(training, "ExamplesAlone", Noted)
    known, others = corpora(SUBJECT)
    drawn = [task for task in LexicalDoD(for_translator=True).tasks("train", 60)]
    alike = [task.name for task in drawn if not is_apart(task.name)]
    kept = next(task.name for task in drawn if task.name not in alike)
    held_out = others.select(range(1)).map(lambda row: {"task": kept})

    def run(folder: str, **changes: object) -> Translator:
        how = config(epochs=1, **changes)
        return train_translator(untrained("both"), known, held_out, how, tmp_path / folder, subject=SUBJECT)

    plain, first = run("a"), run("b", pretrain_tasks=40, apart_from_real=True)
    for part in ("translator", "checkpoints"):  # killed after pre-training
        rmtree(tmp_path / "b" / part)
    again = run("b", pretrain_tasks=40, apart_from_real=True)
    [tasks] = read
    names = {task.name for task in tasks}
    assert len(names) == 40 and alike and not {kept, *alike} & names
    assert {parse(task.instruction).split for task in tasks} == {"train"}
    assert not {task.family for task in tasks} & set(UNSEEN_FAMILIES)
    assert same_weights(first, again) and not same_weights(plain, first)
    assert set(first.trained_on) == {*known["instruction"], *(task.instruction for task in tasks)}
    monkeypatch.setattr(training, "hash_of_tasks", lambda tasks: "of other phrasings")
    with pytest.raises(UserError, match="pretrain_tasks"):
        run("b", pretrain_tasks=40, apart_from_real=True)


def test_collections_are_read_first_in_equal_parts_and_small_families_again_with_other_examples() -> None:
    read_first = training._tasks_read_first
    tasks = read_first(config(pretrain_tasks=2400, pretrain_from=("lexical", "operations")), set())
    by_family: dict[str, list[Task]] = {}
    for task in tasks:
        by_family.setdefault(task.family, []).append(task)
    lexical = {family: len(found) for family, found in by_family.items() if family in FAMILIES}
    made = {family: len(found) for family, found in by_family.items() if family in KINDS}
    assert sum(lexical.values()) == sum(made.values()) == 1200
    assert set(lexical) == set(FAMILIES) - set(UNSEEN_FAMILIES) and max(lexical.values()) - min(lexical.values()) <= 1
    assert len(made) > 70 and max(made.values()) - min(made.values()) <= 1
    positions = by_family["position"]
    names = [task.name for task in positions]
    again = [i for i, name in enumerate(names) if name in names[:i]]
    assert again and positions[again[0]].train != positions[names.index(names[again[0]])].train
    assert {task.name for task in read_first(config(pretrain_tasks=40), {names[0]})}.isdisjoint({names[0]})


def test_a_reader_of_nothing_is_pretrained_on_the_texts_of_as_many_tasks(tmp_path: Path) -> None:
    how = config(epochs=1, pretrain_tasks=8)
    made = train_translator(untrained("nothing"), *corpora(SUBJECT), how, tmp_path, subject=SUBJECT)
    assert len(made.trained_on) == 8 + 9


def test_a_reader_of_vectors_has_nothing_to_learn_of_examples_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="This translator reads vectors, .* there are only examples"):
        train_translator(
            untrained("vectors"), *corpora(SUBJECT), config(pretrain_tasks=8), tmp_path / "a", subject=SUBJECT
        )
    assert not (tmp_path / "a").exists()


def test_a_template_without_a_place_for_examples_has_none_for_those_of_pretraining(tmp_path: Path) -> None:
    behind = SUBJECT.with_template(Template(input_prefix="", input_first=True))
    with pytest.raises(UserError, match="no place for solved examples"):
        train_translator(untrained("both"), *corpora(SUBJECT), config(pretrain_tasks=8), tmp_path, subject=behind)
    assert not list(tmp_path.iterdir())


def untuned(word: str, n_beside: int = 0) -> Untuned:
    """Two tasks to learn, one to validate on, and three against forgetting, of single words."""

    def task(name: str, output: str) -> Task:
        examples = tuple(Example(one, output) for one in WORDS[:4])
        return Task(name, "f", f"{name} {output}", (f"one {name}",), examples, (), ())

    names = ("cat", "dog"), ("bird",), ("fish", "red", "green") if n_beside else ()
    return Untuned(*(tuple(task(name, word) for name in of) for of in names), n_beside)


def test_a_follower_is_taught_on_what_the_translator_read_and_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()

    def drawn(subject: Subject, tasks: Sequence[Task], rng: Random, n: int) -> list[Row]:
        read.update(task.name for task in tasks)
        return draw(subject, tasks, rng, 4)

    draw = follower._drawn
    monkeypatch.setattr(follower, "_drawn", drawn)
    corpus, held_out = (readable(one) for one in corpora(SUBJECT))
    how = config(epochs=1, pretrain_tasks=8, follower_steps=2)
    made = train_translator(untrained("both"), corpus, held_out, how, tmp_path, subject=SUBJECT)
    assert read > set(corpus["task"]) and not read & set(held_out["task"]) and len(read) == 8 + len(set(corpus["task"]))
    saved = Translator.from_pretrained(tmp_path / "translator", subject=SUBJECT)
    assert saved.follower is not None and saved.follower_adapters.keys() == made.follower_adapters.keys()
    read_back = train_translator(untrained("both"), corpus, held_out, how, tmp_path, subject=SUBJECT)
    assert read_back.follower_adapters.keys() == made.follower_adapters.keys()
    assert made.card.training["initial_validation_loss"] is None, "nothing was validated before the first epoch"


def test_a_killed_training_waits_as_long_for_a_lower_loss_as_one_that_was_not_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns nothing, so it ends with its patience; what is validated before the first epoch is so once."""
    left: list[int] = []

    def step(self: training.MuonWithAdamW, closure: object = None) -> None:
        if left and left.pop() == 0:
            raise KeyboardInterrupt

    def validated(folder: str) -> list[int]:
        how = config(epochs=9, patience=3)
        train_translator(untrained("both"), None, None, how, tmp_path / folder, subject=SUBJECT, untuned=untuned("red"))
        lines = map(json.loads, (tmp_path / folder / "log.jsonl").read_text().splitlines())
        return [line["step"] for line in lines if "eval_loss" in line]

    monkeypatch.setattr(training.MuonWithAdamW, "step", step)
    whole = validated("whole")
    assert whole[0] == 0 and len(whole) < 9
    left.extend([0, *[1] * whole[1]])  # in the first step of the second epoch
    with pytest.raises(KeyboardInterrupt):
        validated("killed")
    assert validated("killed") == whole


@pytest.mark.parametrize("reads", ["vectors", "nothing"])
def test_a_follower_is_refused_beside_a_translator_that_is_not_shown_what_soft_prompts_do(
    tmp_path: Path, reads: Reads
) -> None:
    with pytest.raises(UserError, match="A follower .* not all translators read that"):
        train_translator(
            untrained(reads), *corpora(SUBJECT), config(follower_steps=2), tmp_path / "run", subject=SUBJECT
        )
    assert not (tmp_path / "run").exists()


def test_tasks_that_no_soft_prompt_is_tuned_for_are_learned_from_their_examples_alone(tmp_path: Path) -> None:
    def learned(folder: str, tasks: Untuned, reads: Reads = "both") -> Translator:
        return train_translator(
            untrained(reads), None, None, config(epochs=2), tmp_path / folder, subject=SUBJECT, untuned=tasks
        )

    plain, same, others = (
        learned(folder, untuned(word)) for folder, word in zip("aab", ("up", "up", "down"), strict=True)
    )
    assert same_weights(plain, same) and not same_weights(plain, others)
    mixed = learned("c", untuned("up", n_beside=2))
    assert not same_weights(plain, mixed)
    about = [made.card.training for made in (plain, mixed)]
    assert [(one["train_pairs"], one["train_tasks"], one["validation_tasks"]) for one in about] == [
        (2, 2, 1),
        (4, 2, 1),
    ]
    assert plain.trained_on == ("cat up", "dog up")
    with pytest.raises(UserError, match="training"):
        learned("a", untuned("down"))
    with pytest.raises(UserError, match="This translator reads vectors"):
        learned("d", untuned("up"), "vectors")
    assert not (tmp_path / "d").exists()


def test_what_is_read_against_forgetting_goes_on_where_the_last_epoch_ended() -> None:
    tasks = untuned("up", 2).beside
    pairs = ExamplesAlone(tasks, View(SUBJECT, "examples"), n=2)
    read = []
    for epoch in range(3):
        pairs.set_epoch(epoch)
        read += [pairs[i][1] for i in range(len(pairs))]
    assert read == [task.instruction for task in (*tasks, *tasks)]


def test_a_translator_that_is_trained_further_knows_all_that_it_was_trained_on(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", "both", None)
    before = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    known = set(first.trained_on)
    second = train_translator(
        first, None, None, config(epochs=1), tmp_path / "second", subject=SUBJECT, untuned=untuned("up")
    )
    assert set(second.trained_on) == known | {"cat up", "dog up"}
    assert any(not torch.equal(tensor, before[name]) for name, tensor in second.model.state_dict().items())


def test_a_folder_of_a_translator_that_reads_something_else_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "examples", None)
    with pytest.raises(UserError, match=r"other settings \(reads\)"):
        trained(tmp_path, "nothing", None)
    with pytest.raises(UserError, match=r"other settings \(shown\)"):
        trained(tmp_path, "examples", None, 4)


def old(corpus: datasets.Dataset) -> datasets.Dataset:
    """With a row that was made before corpora kept examples."""
    return corpus.map(lambda row, i: {"inputs": [], "outputs": []} if i == 2 else {}, with_indices=True)


@pytest.mark.parametrize("reads", ["examples", "both"])
def test_a_corpus_from_before_examples_were_kept_is_refused_before_anything_is_written(
    reads: Reads, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="before corpora kept examples.*Make it again") as refused:
        trained(tmp_path / "out", reads, old)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_whoever_reads_something_else_needs_the_subject_in_training() -> None:
    for reads in ("vectors", "examples", "both", "nothing"):
        made = Translator.for_subject(SUBJECT, Design("encoder-decoder", instruction_tokens=16, reads=reads))
        assert needs_subject(made, config()) == (reads != "vectors")


# --- translating ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_examples(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    return trained(tmp_path_factory.mktemp("of_examples"), "examples", None)


def test_without_the_subject_or_anything_to_read_it_translates_no_soft_prompt(of_examples: Translator) -> None:
    prompt = SoftPrompt(VECTORS, template=SUBJECT.template)
    of_nothing = copy(of_examples)
    of_nothing.card = replace(of_examples.card, reads="nothing")
    for translator, verify in ((of_examples, False), (of_nothing, True)):
        subject = SUBJECT if verify else None
        with pytest.raises(UserError, match=f"was trained to read {translator.card.reads}") as refused:
            translate(prompt, translator, subject, TranslateConfig(verify=verify))
        assert "\n" not in str(refused.value)


def test_of_a_soft_prompt_it_reads_what_that_writes_for_inputs(of_examples: Translator) -> None:
    prompts = [SoftPrompt(SUBJECT.embed_text(text).clone(), template=SUBJECT.template) for text in ("cat dog", "up")]
    how, inputs = TranslateConfig(6, 4, 0, refine_rounds=0, max_new_tokens=3), WORDS[:4]
    found = translate(prompts, of_examples, SUBJECT, how, inputs=inputs)
    read = acting(of_examples, SUBJECT, prompts, [inputs, inputs], 0, 3)
    for prompt, rows, translation in zip(prompts, read, found, strict=True):
        # By its definition: the subject's greedy output under the soft prompt, laid out as a few-shot prompt.
        outputs = SUBJECT.generate([Query(prompt, input) for input in inputs], max_new_tokens=3)
        shown = " ".join(words_of(rows.embeddings))
        assert all(" ".join(f"Input : {i} Output : {o}".split()) in shown for i, o in zip(inputs, outputs, strict=True))
        assert translation.greedy == propose(of_examples, [rows], 6)[0][0]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Inputs on which translators were shown what one soft prompt does."""
    found: list[str] = []

    def noted(
        translator: Translator, subject: Subject, prompts: list[SoftPrompt], inputs: list[list[str]], *how: object
    ) -> list[Views]:
        found.extend(*inputs)
        return views_of(translator, subject, prompts, inputs, *how)

    monkeypatch.setattr("soft2hard.translator.translate.views_of", noted)
    return found


def test_what_judges_a_text_is_not_shown_to_the_translator(of_examples: Translator, shown: list[str]) -> None:
    prompt = SoftPrompt(SUBJECT.embed_text("cat dog").clone(), template=SUBJECT.template)
    inputs = [f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:8]]
    how = TranslateConfig(6, 8, 8, refine_rounds=0, max_new_tokens=3)
    found = translate(prompt, of_examples, SUBJECT, how, inputs=inputs)
    ordered = in_random_order(inputs, how.seed)
    assert found.n_checks == 8 and shown == ordered[:8]  # the other half judges


def test_inputs_of_another_number_of_soft_prompts_are_refused(of_examples: Translator) -> None:
    prompt = SoftPrompt(SUBJECT.embed_text("cat dog").clone(), template=SUBJECT.template)
    with pytest.raises(UserError, match="2 lists of inputs for 1 soft prompts"):
        translate([prompt], of_examples, SUBJECT, TranslateConfig(max_new_tokens=3), inputs=[["cat"], ["dog"]])


def test_where_no_input_can_be_invented_some_must_be_given(of_examples: Translator) -> None:
    prompt = SoftPrompt(SUBJECT.embed_text("cat dog").clone(), template=SUBJECT.template)
    assert invented_inputs(SUBJECT, [[prompt]], 4) == [[]], "this subject never ends an input"
    with pytest.raises(UserError, match="no inputs to show it.*--examples"):
        translate(prompt, of_examples, SUBJECT, TranslateConfig(n_probes=4, n_checks=0, max_new_tokens=3))


@pytest.fixture(scope="module")
def of_both(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    return trained(tmp_path_factory.mktemp("of_both"), "both", None, 2)


def test_who_reads_both_reads_the_vectors_alone_without_subject_or_inputs(of_both: Translator) -> None:
    prompt = SoftPrompt(SUBJECT.embed_text("cat dog").clone(), template=SUBJECT.template)
    of_vectors = propose(of_both, [prompt], 1)[0][0]
    assert translate(prompt, of_both, None, TranslateConfig(verify=False)).text == of_vectors
    silent = TranslateConfig(n_probes=4, n_checks=0, max_new_tokens=3)
    found = translate(prompt, of_both, SUBJECT, silent)
    assert found.greedy == propose(of_both, [prompt], 64)[0][0]
    inputs = WORDS[:4]
    [read] = acting(of_both, SUBJECT, [prompt], [in_random_order(inputs, 0)], 0, 3)
    assert len(read.embeddings) > prompt.n_tokens
    assert translate(prompt, of_both, SUBJECT, silent, inputs=inputs).greedy == propose(of_both, [read], 64)[0][0]


def test_who_reads_both_proposes_under_the_vectors_alone_too_and_weighs_under_both(of_both: Translator) -> None:
    prompt = SoftPrompt(SUBJECT.embed_text("cat dog").clone(), template=SUBJECT.template)
    how = TranslateConfig(8, 4, 0, refine_rounds=0, max_new_tokens=3)
    found = translate(prompt, of_both, SUBJECT, how, inputs=WORDS[:4])
    [views] = views_of(of_both, SUBJECT, [prompt], [in_random_order(WORDS[:4], 0)], 0, 3)
    assert len(views.shown) == 2 and views.alone.embeddings is prompt.embeddings  # it learned to read two examples
    alone, *by_set = (
        set(propose(of_both, [view], n)[0]) for view, n in ((views.alone, 4), (views.shown[0], 2), (views.shown[1], 2))
    )
    texts = {candidate.text for candidate in found.candidates}
    assert texts <= alone.union(*by_set)
    assert texts & (alone - set.union(*by_set)) and all(texts & (some - alone) for some in by_set)
    # By its definition: the logarithm of the mean of both probabilities, that of the sets being their geometric mean.
    for candidate in found.candidates:
        log_probs = [Reading(of_both, view).log_probs([candidate.text])[0] for view in (views.alone, *views.shown)]
        both = torch.tensor([log_probs[0], (log_probs[1] + log_probs[2]) / 2])
        assert candidate.log_prob == pytest.approx((both.exp().mean()).log().item(), abs=1e-3)


@pytest.mark.parametrize(("n", "n_sets"), [(3, 1), (5, 1), (6, 2), (8, 2), (9, 2), (40, 2)])
def test_sets_of_inputs_overlap_as_little_as_can_be(n: int, n_sets: int) -> None:
    inputs, view = [f"input {i}" for i in range(n)], View(SUBJECT, "examples", 4)
    sets = view.sets(inputs, 0)
    assert len(sets) == n_sets and sets[0] == view.chosen(inputs, 0)
    assert all(len(set(one)) == len(one) == min(4, n) for one in sets)
    assert len({input for one in sets for input in one}) == min(n, 4 * n_sets)
    assert view.sets(inputs, 0) == sets and view.sets(inputs, 1) != sets


def test_invented_inputs_that_are_shown_choose_texts_and_do_not_judge_them(shown: list[str]) -> None:
    subject = Subject.from_pretrained("embedded")
    translator = Translator.from_pretrained("embedded")
    translator.card = replace(translator.card, reads="examples", shown=4)
    prompt = SoftPrompt(subject.embed_text("Repeat the word .").clone(), template=subject.template)
    found = translate(prompt, translator, subject, TranslateConfig(6, 8, 8, refine_rounds=0))
    assert found.probe_source.startswith("invented by the subject")
    assert (found.n_probes, found.n_checks, len(shown)) == (8, 8, 8)
    judged_on = {parting.input for parting in found.judgement.partings}
    assert judged_on and not judged_on & set(shown)


def test_given_what_it_reads_it_proposes_and_its_texts_are_verified_beside_the_soft_prompt(
    of_examples: Translator,
) -> None:
    prompt = SoftPrompt(SUBJECT.embed_text("cat dog").clone(), template=SUBJECT.template)
    read = View(SUBJECT, "examples", 4).of(prompt, Task("a", "b", "c", (), tuple(EXAMPLES), (), ()), 0)
    inputs = [f"{a} {b}" for a in WORDS[:3] for b in WORDS[3:6]]
    how = TranslateConfig(6, 8, 0, refine_rounds=0, max_new_tokens=3)
    found = translate(prompt, of_examples, SUBJECT, how, inputs=inputs, helpers=Helpers(read=[read]))
    proposed = propose(of_examples, [read], 6)[0]
    assert found.greedy == proposed[0]
    assert {candidate.text for candidate in found.candidates} <= set(proposed)
    verifier = Verifier(SUBJECT, 3)
    [beside_prompt], [beside_read] = (verifier.probe([p], [in_random_order(inputs, 0)[:8]]) for p in (prompt, read))
    texts = [candidate.text for candidate in found.candidates]
    expected, other = (verifier.verify(texts, probes) for probes in (beside_prompt, beside_read))
    shown = [candidate.divergence for candidate in found.candidates]
    assert shown == pytest.approx([candidate.divergence for candidate in expected], abs=1e-3)
    assert shown != pytest.approx([candidate.divergence for candidate in other], abs=0.05)


# --- places that are padding ------------------------------------------------------------------------


@pytest.mark.parametrize("design", ["encoder-decoder", "causal-lora"])
def test_places_that_are_padding_in_all_chosen_rows_are_dropped_and_change_nothing(design: str) -> None:
    subject = llama_subject(max_position_embeddings=128)
    made = tiny_training.stirred(Translator.for_subject(subject, Design(design, lora_rank=2)))
    generator = torch.Generator().manual_seed(1)
    prompts = [SoftPrompt(torch.randn(n, subject.d_model, generator=generator)) for n in (2, 7, 4, 2)]
    model = made.model
    memory = model.encode(*made.encode_batch(prompts))
    with torch.no_grad():
        read = model.encode(*made.encode_batch(prompts))  # once for all texts, by a causal one
        longest = memory.mask.shape[1]
        for rows, dropped in (([0, 3], 5), ([2, 0], 3), ([0, 0, 2], 3), ([1, 0], 0), ([1], 0)):
            some = memory.select(rows)
            assert some.states.shape[:2] == some.mask.shape == (len(rows), longest - dropped)
            labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100], [9, 9, 2, -100]])[: len(rows)]
            whole = model.logits(Memory(memory.states[rows], memory.mask[rows]), labels)
            real = labels >= 0
            for found in (some, read.select(rows)):
                torch.testing.assert_close(model.logits(found, labels)[real], whole[real], rtol=1e-4, atol=1e-4)
