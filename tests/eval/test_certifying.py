"""Certifying: what is read in the place of soft prompts is what it is called, and readings are as they are defined."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from soft2hard.data_gen.dods.real_tasks import group_of
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError
from soft2hard.eval import certifying
from soft2hard.eval.certificate import (
    ACTS_ALONE,
    LABELS_ALONE,
    LABELS_BESIDE,
    MATCHED,
    NOISE,
    OTHER,
    PARTS,
    RIVALS,
    SAME_FAMILY,
    SHUFFLED,
    VECTORS_ALONE,
    VERIFIED,
    CertificateSettings,
    TaskReading,
)
from soft2hard.eval.certifying import Certifier, nlls, spoiled
from soft2hard.eval.methods.base import Case
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.eval.metrics.text import rouge
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.data import View
from soft2hard.translator.demonstrations import acting
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from tests import tiny_models, tiny_training
from tests.tiny_training import llama_subject

SUBJECT = llama_subject()
WORDS = tiny_models.WORDS[3:]
PAIRS = [f"{a} {b}" for a in WORDS[:5] for b in WORDS[5:9]]


def task(name: str, family: str, instruction: str, *paraphrases: str) -> Task:
    """Of two labels."""
    examples = [Example(text, WORDS[i % 2]) for i, text in enumerate(PAIRS)]
    parts = (tuple(examples[:8]), tuple(examples[8:12]), tuple(examples[12:]))
    return Task(name, family, instruction, paraphrases, *parts, tuple(WORDS[:2]), "label_accuracy")


def case(of: Task, n_tokens: int = 3) -> Case:
    """Its soft prompt is random, and another one for every task."""
    generator = torch.Generator().manual_seed(sum(of.name.encode()))
    rows = torch.randn(n_tokens, SUBJECT.d_model, generator=generator)
    return Case(of, SoftPrompt(rows, "llama-0", SUBJECT.fingerprint, {"task": of.name}, SUBJECT.template))


CASES = [
    case(task("relations/adj_antonym", "words", "red cat", "cat red")),
    case(task("function-vectors/antonym", "words", "up", "down", "up up")),
    case(task("relations/company_ceo", "facts", "blue dog")),
    case(task("relations/company_hq", "facts", "blue dog", "dog")),
    case(task("relations/person_mother", "facts", "four fish left", "left")),
    case(task("relations/verb_past_tense", "words", "small bird")),
    case(task("relations/star_constellation", "stars", "right")),
]
"""Two of one group, two that are asked for in the same words, one whose family has no other."""


# --- what is read -----------------------------------------------------------------------------------


def owner(prompt: SoftPrompt | None, cases: Sequence[Case]) -> Task | None:
    """The task that a soft prompt belongs to."""
    return next((c.task for c in cases if prompt is not None and c.soft_prompt is prompt), None)


def test_another_tasks_soft_prompt_is_of_a_task_that_is_not_alike() -> None:
    given = set()
    for seed in range(40):
        for own, prompt in zip(CASES, spoiled(CASES, seed)[OTHER], strict=True):
            other = owner(prompt, CASES)
            assert other.instruction != own.task.instruction
            assert group_of(other.name) != group_of(own.task.name)
            given.add((own.task.name, other.name))
    # Any other may be it: of 7 * 6 pairs, the two that are alike either way are left out.
    assert len(given) == 7 * 6 - 4


def test_one_of_its_family_is_of_its_family_or_none() -> None:
    for seed in range(20):
        for own, prompt in zip(CASES, spoiled(CASES, seed)[SAME_FAMILY], strict=True):
            other = owner(prompt, CASES)
            if own.task.family == "stars":
                assert prompt is None
            else:
                assert other.family == own.task.family and other.instruction != own.task.instruction
                assert group_of(other.name) != group_of(own.task.name)


def test_where_no_task_is_unlike_there_is_none_to_read() -> None:
    for alike in (CASES[:1], CASES[:2], CASES[2:4]):
        found = spoiled(alike, 0)
        assert found[OTHER] == found[SAME_FAMILY] == [None] * len(alike)


def test_shuffled_positions_are_a_permutation_and_never_as_they_were() -> None:
    orders = set()
    for seed in range(30):
        for own, prompt in zip(CASES, spoiled(CASES, seed)[SHUFFLED], strict=True):
            distance = torch.cdist(prompt.embeddings, own.soft_prompt.embeddings)
            order = distance.argmin(1).tolist()
            assert sorted(order) == [0, 1, 2] != order
            assert torch.equal(prompt.embeddings, own.soft_prompt.embeddings[order])
            orders.add(tuple(order))
    assert len(orders) == 5  # all but one of six


def test_noise_has_the_norms_of_the_vectors_and_nothing_of_their_directions() -> None:
    cosines = []
    for seed in range(30):
        for own, prompt in zip(CASES, spoiled(CASES, seed)[NOISE], strict=True):
            rows = own.soft_prompt.embeddings
            torch.testing.assert_close(prompt.embeddings.norm(dim=1), rows.norm(dim=1))
            cosines += torch.cosine_similarity(prompt.embeddings, rows, dim=1).tolist()
    assert abs(fmean(cosines)) < 0.05  # 630 of them, each of a standard deviation of a quarter
    assert max(map(abs, cosines)) < 0.999


def test_what_is_read_depends_on_the_seed_alone_and_stays_a_soft_prompt_of_the_subject() -> None:
    one, again, other = (spoiled(CASES, seed) for seed in (3, 3, 4))
    for read, prompts in one.items():
        for prompt, same in zip(prompts, again[read], strict=True):
            assert (prompt is None) == (same is None)
            assert prompt is None or torch.equal(prompt.embeddings, same.embeddings)
            assert prompt is None or prompt.fingerprint == SUBJECT.fingerprint
    assert any(
        not torch.equal(prompt.embeddings, changed.embeddings)
        for prompt, changed in zip(one[NOISE], other[NOISE], strict=True)
    )


# --- how likely the gold texts are --------------------------------------------------------------------


@pytest.mark.parametrize("design", ["encoder-decoder", "causal-lora"])
def test_the_nll_is_the_mean_over_texts_of_that_of_each_by_itself(design: str) -> None:
    subject = llama_subject(max_position_embeddings=128)
    translator = tiny_training.stirred(Translator.for_subject(subject, Design(design, lora_rank=2)))
    generator = torch.Generator().manual_seed(1)
    prompts = [SoftPrompt(torch.randn(2 + i % 4, 16, generator=generator)) for i in range(19)]
    texts = [[" ".join(WORDS[i % 9 : i % 9 + 1 + (i + j) % 5]) for j in range(1 + i % 3)] for i in range(19)]
    for found, prompt, of_one in zip(nlls(translator, prompts, texts), prompts, texts, strict=True):
        summed = Reading(translator, prompt).log_probs(of_one)
        n_tokens = [len(text.split()) + 1 for text in of_one]  # the end is one too
        assert found == pytest.approx(fmean(-s / n for s, n in zip(summed, n_tokens, strict=True)), abs=1e-4)
    assert nlls(translator, [], []) == []


# --- readings ---------------------------------------------------------------------------------------

FEW = CASES[3:6]
ASKED = CertificateSettings(candidates=5, probes=4)


@pytest.fixture(scope="module")
def translator() -> Translator:
    return tiny_training.fitted()


def by_read(readings: Sequence[TaskReading]) -> dict[str, dict[str, TaskReading]]:
    found: dict[str, dict[str, TaskReading]] = {}
    for one in readings:
        found.setdefault(one.read, {})[one.task] = one
    return found


@pytest.fixture(scope="module")
def readings(translator: Translator) -> dict[str, dict[str, TaskReading]]:
    return by_read(Certifier(translator, SUBJECT, asked=ASKED).readings(FEW, 2))


def score(subject: Subject, of: Task, prompt: str | SoftPrompt | None) -> float:
    [[found]] = measure(subject, [Comparison(of, (prompt,))])
    return found.score


def test_each_reading_is_what_the_translator_makes_of_what_it_is_given(
    translator: Translator, readings: dict[str, dict[str, TaskReading]]
) -> None:
    given = {MATCHED: [c.soft_prompt for c in FEW]} | spoiled(FEW, 2)
    assert readings.keys() == given.keys() == {MATCHED, OTHER, SAME_FAMILY, SHUFFLED, NOISE}
    for read, prompts in given.items():
        there = [(c.task, prompt) for c, prompt in zip(FEW, prompts, strict=True) if prompt is not None]
        assert list(readings[read]) == [of.name for of, _ in there]
        written = propose(translator, [prompt for _, prompt in there], 1)
        for (of, prompt), texts in zip(there, written, strict=True):
            one, golds = readings[read][of.name], [of.instruction, *of.paraphrases]
            assert one.seed == 2
            assert one.text == texts[0]
            assert one.rougeL == pytest.approx(rouge(one.text, golds).rougeL)
            assert one.nll == pytest.approx(nlls(translator, [prompt], [golds])[0], abs=1e-4)
            assert one.score == score(SUBJECT, of, one.text)
    assert len(readings[SAME_FAMILY]) == 2  # the words have no other


def test_texts_are_chosen_among_those_of_what_is_read_where_they_are_chosen_at_all(
    translator: Translator, readings: dict[str, dict[str, TaskReading]]
) -> None:
    chosen = {MATCHED: [c.soft_prompt for c in FEW], OTHER: spoiled(FEW, 2)[OTHER]}
    for read, of_read in readings.items():
        if read not in chosen:
            assert {(one.verified_text, one.verified_rougeL, one.verified_score) for one in of_read.values()} == {
                (None, None, None)
            }
            continue
        for c, texts in zip(FEW, propose(translator, chosen[read], ASKED.candidates, seed=2), strict=True):
            one, golds = of_read[c.task.name], [c.task.instruction, *c.task.paraphrases]
            assert one.verified_text in texts
            assert one.verified_rougeL == pytest.approx(rouge(one.verified_text, golds).rougeL)
            assert one.verified_score == score(SUBJECT, c.task, one.verified_text)
    assert chosen.keys() == {*VERIFIED} & readings.keys()


def test_verification_may_be_left_out(translator: Translator) -> None:
    found = Certifier(translator, SUBJECT, asked=replace(ASKED, verify=False)).readings(FEW[:1], 0)
    assert {one.verified_text for one in found} == {None}


def test_without_scores_likelihoods_and_texts_are_the_same_and_the_subject_does_nothing(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Certifier(translator, SUBJECT, asked=replace(ASKED, verify=False)).readings(FEW[:2], 0)
    monkeypatch.setattr(certifying, "measure", lambda *given: pytest.fail("nothing is to be scored"))
    quick = Certifier(translator, SUBJECT, asked=replace(ASKED, verify=False, score=False))
    assert quick.readings(FEW[:2], 0) == [replace(one, score=None) for one in whole]
    assert quick.soft_scores(FEW[:2], 0) == {}


def test_scores_of_the_soft_prompts_are_those_on_the_test_examples(translator: Translator) -> None:
    found = Certifier(translator, SUBJECT).soft_scores(FEW, 2)
    assert found == {f"2/{c.task.name}": score(SUBJECT, c.task, c.soft_prompt) for c in FEW}


def rival(reads: str) -> Translator:
    design = Design("encoder-decoder", instruction_tokens=16, reads=reads, shown=3)
    return tiny_training.stirred(Translator.for_subject(SUBJECT, design))


def test_a_rival_reads_the_view_that_it_was_trained_on(translator: Translator) -> None:
    rivals = [rival("examples"), rival("nothing")]
    found = by_read(Certifier(translator, SUBJECT, rivals, replace(ASKED, verify=False)).readings(FEW, 0))
    for one in rivals:
        view = View(SUBJECT, one.card.reads, 3)
        for c in FEW:
            read = view.of(c.soft_prompt, c.task, 0)
            golds = [c.task.instruction, *c.task.paraphrases]
            reading = found[RIVALS[one.card.reads]][c.task.name]
            assert reading.nll == pytest.approx(nlls(one, [read], [golds])[0], abs=1e-4)
            assert reading.nll != pytest.approx(nlls(one, [c.soft_prompt], [golds])[0], abs=1e-3)
    assert RIVALS["both"] not in found


def test_a_translator_of_vectors_and_acts_is_given_what_each_thing_in_their_place_does() -> None:
    both = rival("both")
    found = by_read(Certifier(both, SUBJECT, asked=replace(ASKED, verify=False)).readings(FEW, 0))
    assert list(found) == [MATCHED, OTHER, SAME_FAMILY, SHUFFLED, NOISE, *PARTS]
    noises = spoiled(FEW, 0)[NOISE]
    for c, noise in zip(FEW, noises, strict=True):
        golds, inputs = [c.task.instruction, *c.task.paraphrases], [example.input for example in c.task.train]
        own, of_noise = acting(both, SUBJECT, [c.soft_prompt, noise], [inputs, inputs], 0)
        mixed = torch.cat([noise.embeddings, own.embeddings[noise.n_tokens :]])
        labelled = View(SUBJECT, "both", 3).of(c.soft_prompt, c.task, 0)
        assert torch.equal(labelled.embeddings[: c.soft_prompt.n_tokens], c.soft_prompt.embeddings)
        expected = {
            MATCHED: own,
            NOISE: of_noise,
            VECTORS_ALONE: c.soft_prompt,
            ACTS_ALONE: replace(own, embeddings=mixed),
            LABELS_BESIDE: labelled,
            LABELS_ALONE: View(SUBJECT, "examples", 3).of(c.soft_prompt, c.task, 0),
        }
        for read, prompt in expected.items():
            nll = nlls(both, [prompt], [golds])[0]
            assert found[read][c.task.name].nll == pytest.approx(nll, abs=1e-4), read


def test_a_rival_that_reads_soft_prompts_and_a_translator_that_does_not_are_refused_in_one_line(
    translator: Translator,
) -> None:
    with pytest.raises(UserError, match="reads vectors, as the one that is certified") as refused:
        Certifier(translator, SUBJECT, [rival("examples"), rival("vectors")])
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="was trained to read nothing.*--rival") as refused:
        Certifier(rival("nothing"), SUBJECT)
    assert "\n" not in str(refused.value)


def test_readings_are_kept_and_what_is_kept_is_not_read_again(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("kept").mkdir()
    asked, said = replace(ASKED, verify=False), []
    certifier = Certifier(translator, SUBJECT, asked=asked, folder=tmp_path / "kept", log=said.append)
    first = certifier.readings(FEW, 0)
    assert len(list((tmp_path / "kept").iterdir())) == len(said) == 5
    read: list[tuple[str, int]] = []
    plainly = Certifier._read

    def noted(self: Certifier, what: str, *given: object) -> list[TaskReading]:
        read.append((what, given[-1]))
        return plainly(self, what, *given)

    monkeypatch.setattr(Certifier, "_read", noted)
    assert certifier.readings(FEW, 0) == first and read == []
    assert Certifier(translator, SUBJECT, asked=asked, folder=tmp_path / "kept").readings(FEW, 0) == first
    assert read == []
    (tmp_path / "kept" / next(p.name for p in (tmp_path / "kept").iterdir() if "shuffled" in p.name)).unlink()
    assert certifier.readings(FEW, 0) == first and read == [(SHUFFLED, 0)]
    certifier.readings(FEW[:1], 1)  # another seed
    assert {seed for _, seed in read[1:]} == {1}
    read.clear()
    other = tiny_training.translator(SUBJECT, seed=5)
    assert Certifier(other, SUBJECT, asked=asked, folder=tmp_path / "kept").readings(FEW, 0) != first and len(read) == 5


def test_the_subject_does_not_act_again_for_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("kept").mkdir()
    certifier = Certifier(rival("both"), SUBJECT, asked=replace(ASKED, verify=False), folder=tmp_path / "kept")
    first = certifier.readings(FEW, 0)
    acted: list[int] = []

    def noted(*given: object) -> list[SoftPrompt]:
        acted.append(len(given[2]))
        return acting(*given)

    monkeypatch.setattr(certifying, "acting", noted)
    assert certifier.readings(FEW, 0) == first and acted == []
    next((tmp_path / "kept").glob("0-noise--with-what*")).unlink()
    assert certifier.readings(FEW, 0) == first and acted == [len(FEW)]  # under the soft prompts themselves alone


# --- wayward prompts ----------------------------------------------------------------------------------

HOW = Tuning(n_tokens=3, init="vocabulary", steps=2, batch_size=4, eval_every=1, lr=1e-4)


def test_wayward_prompts_start_from_another_tasks_instruction_and_are_told_apart_by_their_text(
    translator: Translator,
) -> None:
    certifier = Certifier(translator, SUBJECT, asked=CertificateSettings(pull=5.0))
    found = certifier.wayward(FEW, HOW, 1)
    tasks = {c.task.name: c.task for c in FEW}
    assert [one.task for one in found] == list(tasks)
    assert all(group_of(one.towards) != group_of(one.task) for one in found) and {one.towards for one in found} <= set(
        tasks
    )
    for one in found:
        own, other = tasks[one.task], tasks[one.towards]
        assert one.task != one.towards and one.pull == 5.0
        assert one.nearest == 1.0  # so small a rate moves no vector to another token
        words = (other.instruction.split() * 3)[:3]
        start = SoftPrompt(SUBJECT.embed_text(" ".join(words)).clone(), template=SUBJECT.template)
        for nll, of in ((one.nll_own, own), (one.nll_other, other)):
            assert nll == pytest.approx(nlls(translator, [start], [[of.instruction, *of.paraphrases]])[0], abs=0.02)
        assert one.score == score(SUBJECT, own, start)
        likeness = [rouge(one.text, [of.instruction, *of.paraphrases]).rougeL for of in (own, other)]
        assert one.is_own == (likeness[0] > likeness[1])
    assert certifier.wayward([], HOW, 1) == []


def test_vectors_that_are_nearest_to_the_other_instruction_are_counted(translator: Translator) -> None:
    certifier = Certifier(translator, SUBJECT)
    rows = SUBJECT.embed_text("red cat up").clone()
    prompts = [SoftPrompt(rows), SoftPrompt(SUBJECT.embed_text("red red red").clone())]
    assert list(certifier._still_near(prompts, ["red cat down", "red"])) == [pytest.approx(2 / 3), 1.0]
