"""How texts are weighed is what makes the best ones say most of what tasks' own instructions say."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import datasets
import numpy as np
import pytest
import torch

from soft2hard.eval import calibration
from soft2hard.eval.calibration import (
    ALONE,
    CONSENSUS,
    FOLLOWER,
    WEIGHTS,
    Tried,
    best_evidence,
    calibrate,
    calibrate_saved,
)
from soft2hard.eval.metrics.text import rouge
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import Mixture, Reading
from soft2hard.translator.data import Views
from soft2hard.translator.demonstrations import views_of
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design, Evidence, TranslateConfig
from soft2hard.translator.translate import translate
from soft2hard.translator.verification import Verifier
from tests import tiny_models, tiny_training

WORDS = tiny_models.WORDS[3:]


def tried(*candidates: tuple[float, float, float], gold: float | None = None) -> Tried:
    """Of log p, divergence and likeness of each candidate."""
    log_probs, divergences, likeness = torch.tensor(candidates).T
    return Tried(log_probs[None], divergences, likeness, gold)


def best_weight(found: Sequence[Tried]) -> tuple[float, float]:
    """Of candidates that are read in one way, so that nothing else is chosen."""
    best, likeness = best_evidence(found)
    assert best == Evidence(best.weight)
    return best.weight, likeness


# --- planted cases ----------------------------------------------------------------------------------


def test_divergences_that_contradict_a_translator_that_is_right_get_no_weight() -> None:
    noise = [tried((-1.0, 10_000.0 + i, 1.0), (-3.0, 0.0, 0.1), (-4.0, 50.0, 0.2)) for i in range(4)]
    assert best_weight(noise) == (0.0, 1.0)


def test_divergences_that_point_to_the_right_text_get_full_weight() -> None:
    right = [tried((-9.0, 1.0, 1.0), (-1.0, 50_000.0 + i, 0.1)) for i in range(4)]
    assert best_weight(right) == (1.0, 1.0)


def test_a_weight_between_is_found_where_only_such_is_right_for_all_tasks() -> None:
    needs_a_hundredth = tried((-2.0, 0.0, 1.0), (-1.0, 150.0, 0.0))  # right from w = 1 / 150 on
    bears_a_tenth = tried((-1.0, 30.0, 1.0), (-3.0, 0.0, 0.0))  # right up to w = 2 / 30
    weight, likeness = best_weight([needs_a_hundredth, bears_a_tenth])
    assert 1 / 150 < weight < 2 / 30 and likeness == 1.0


def test_where_the_weight_changes_nothing_the_subject_is_believed() -> None:
    assert best_weight([tried((-1.0, 3.0, 0.7), (-2.0, 5.0, 0.1))]) == (1.0, pytest.approx(0.7))
    assert best_weight([tried((-1.0, 3.0, 0.4))]) == (1.0, pytest.approx(0.4))


def test_a_weight_that_is_better_than_its_neighbours_by_little_is_chance() -> None:
    """The second candidate is best between w = 0.005 and 0.0065 alone, where one of the weights is."""
    inside = [w for w in WEIGHTS if 0.005 < w < 0.0065]
    assert len(inside) == 1

    def spiked(height: float) -> Tried:
        return tried((0.0, 1000.0, 0.6), (-3.0, 400.0, 0.6 + height), (-5.6, 0.0, 0.6))

    assert [spiked(0.3).best_by(Evidence(w)) > 0.61 for w in WEIGHTS] == [w in inside for w in WEIGHTS]
    assert best_weight([spiked(0.04)]) == (1.0, pytest.approx(0.6))
    assert best_weight([spiked(0.3)])[0] < 0.1


def in_two_ways(*candidates: tuple[float, float, float]) -> Tried:
    """Of log p by the vectors alone and by both readings, and likeness, of each candidate; the divergence is none."""
    alone, seen, likeness = torch.tensor(candidates).T
    return Tried(torch.stack([alone, seen]), torch.zeros(len(likeness)), likeness)


def test_vectors_that_mislead_have_little_to_say_beside_what_the_soft_prompt_does() -> None:
    misled = in_two_ways((-1.0, -20.0, 0.1), (-9.0, -2.0, 1.0))
    assert [misled.best_by(Evidence(alone=alone)) for alone in (0.5, 0.2)] == [
        pytest.approx(0.1),
        1.0,
    ]  # p = 0.18 and 0.07, 0.11
    both, likeness = best_evidence([misled])
    assert (both, likeness) == (Evidence(1.0, alone=ALONE[1]), 1.0)


def test_a_gain_of_next_to_nothing_leaves_the_vectors_their_half() -> None:
    """A mean gain of 0.01, then one of 0.2."""
    better, worse = (
        in_two_ways((-1.0, -20.0, 0.0), (-9.0, -2.0, 1.0)),
        in_two_ways((-1.0, -20.0, 1.0), (-9.0, -2.0, 0.0)),
    )
    assert best_evidence([better] * 101 + [worse] * 99)[0].alone == 0.5
    assert best_evidence([better] * 3 + [worse] * 2)[0].alone == ALONE[1]


def test_weight_and_vectors_are_chosen_together() -> None:
    """With the vectors' half, one weight is as good as another; with less, much is gained where the weight is small."""
    one = Tried(torch.tensor([[-1.0, -9.0], [-20.0, -2.0]]), torch.tensor([0.0, 40.0]), torch.tensor([0.5, 1.0]))
    best, likeness = best_evidence([one])
    assert best.alone == ALONE[1] and 0 < best.weight < 0.03 and likeness == 1.0  # at 0.03 they are even


def test_what_misleads_as_much_as_the_vectors_is_believed_as_they_are() -> None:
    misled = in_two_ways((-1.0, -20.0, 1.0), (-9.0, -2.0, 0.1))
    assert best_evidence([misled, in_two_ways((-1.0, -20.0, 0.1), (-9.0, -2.0, 1.0))])[0] == Evidence(1.0, alone=0.5)
    assert best_evidence([misled])[0].alone == 0.5


def alike(likeness: float) -> Tried:
    """The likeliest text is alone; the second is like the third, and like the right one by `likeness`."""
    shared = torch.eye(3, dtype=torch.float64)
    shared[1, 2] = shared[2, 1] = 0.9
    log_probs = torch.tensor([[-2.0, -2.2, -2.4]], dtype=torch.float64)
    return Tried(log_probs, torch.zeros(3), torch.tensor([0.2, 0.2 + likeness, 0.2]), shared=shared)


def test_what_likely_texts_share_counts_where_the_right_text_has_more_of_it_and_not_for_next_to_nothing() -> None:
    best, likeness = best_evidence([alike(0.5)])
    assert best.consensus in CONSENSUS and likeness == pytest.approx(0.7)
    assert best_evidence([alike(0.005)]) == (Evidence(), pytest.approx(0.2))
    assert best_evidence([alike(-0.1)])[0] == Evidence()


def test_a_follower_that_knows_better_is_believed_and_one_that_gains_next_to_nothing_is_not() -> None:
    def followed(gain: float) -> Tried:
        one = tried((-1.0, 0.0, 0.2), (-4.0, 0.0, 0.2 + gain))
        return replace(one, followed=torch.tensor([-30.0, -10.0], dtype=torch.float64))

    best, likeness = best_evidence([followed(0.5)])
    assert best.follower in FOLLOWER and best.follower > 3 / 20 and likeness == pytest.approx(0.7)
    assert best_evidence([followed(0.005)])[0] == best_evidence([followed(-0.1)])[0] == Evidence()


def test_a_gain_on_some_tasks_that_is_lost_on_as_many_others_is_chance() -> None:
    """A mean gain of 0.05, of 0.4 on five tasks of eight and -0.53 on three: its standard error is 0.17."""
    of_each = [0.4] * 5 + [-8 / 15] * 3
    tasks = [
        replace(tried((-1.0, 0.0, 0.55), (-4.0, 0.0, 0.55 + gain)), followed=torch.tensor([-90.0, 0.0]))
        for gain in of_each
    ]
    assert best_evidence(tasks)[0].follower == 0
    assert best_evidence([replace(one, likeness=torch.tensor([0.55, 0.6])) for one in tasks])[0].follower > 0


def planted(monkeypatch: pytest.MonkeyPatch, plain: Sequence[Tried], shown: Sequence[Tried]) -> Evidence:
    """What `calibrate` makes of these candidates, without and with demonstrations."""
    monkeypatch.setattr(calibration, "_tried", lambda *given: iter(shown if given[-1] else plain))
    subject = tiny_training.llama_subject()
    return calibrate(tiny_training.fitted(), subject, readable(tiny_training.corpora(subject)[0]), 3)


@pytest.mark.parametrize(("gain", "shots"), [(0.005, 0), (0.03, 4), (-0.2, 0)])
def test_demonstrations_are_shown_where_they_clearly_help(
    gain: float, shots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [tried((-1.0, 1.0, 0.5), gold=share) for share in (0.1, 0.9, 0.3)]
    shown = [tried((-1.0, 1e5, 0.5 + gain), (-2.0, 0.0, 0.0), gold=0.99)] * 3
    found = planted(monkeypatch, plain, shown)
    assert (found.shots, found.weight) == (shots, 0.0 if shots else 1.0)
    # The verdict speaks of texts alone, with or without demonstrations.
    assert (found.explained_by_gold, found.n_tasks) == (pytest.approx(0.3), 3)


def test_a_share_that_could_not_be_measured_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [tried((-1.0, 1.0, 0.5), gold=share) for share in (None, 0.4, None)]
    assert planted(monkeypatch, plain, plain).explained_by_gold == pytest.approx(0.4)
    monkeypatch.undo()
    assert planted(monkeypatch, [tried((-1.0, 1.0, 0.5))], [tried((-1.0, 1.0, 0.5))]).explained_by_gold is None


# --- a tiny subject ---------------------------------------------------------------------------------


def readable(corpus: datasets.Dataset) -> datasets.Dataset:
    """With inputs that the tiny tokenizer knows every word of, as many as a corpus keeps."""
    inputs = [f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:8]]
    return corpus.map(lambda row: {"inputs": inputs, "outputs": ["up"] * 16})


def test_with_an_encoder_half_of_the_likeness_is_of_meaning_and_each_half_has_its_own_nearest_phrasing() -> None:
    angles = {"up": 0.0, "red cat": 60.0, "cat": 90.0, "down": 180.0}

    def encoder(texts: Sequence[str]) -> np.ndarray:
        """Directions whose cosines are known; their lengths are nothing to the point."""
        return np.array([[3 * np.cos(np.radians(angles[t])), 3 * np.sin(np.radians(angles[t]))] for t in texts])

    found = calibration._like(["up", "down", "cat"], ["red cat", "up"], encoder)
    # ROUGE-L 1, 0 and 2/3; cosines with the nearest 1, cos 120 and cos 30.
    assert found == pytest.approx([1.0, (0 - 0.5) / 2, (2 / 3 + 3**0.5 / 2) / 2])


@pytest.fixture(scope="module")
def subject() -> Subject:
    """With room for demonstrations."""
    return tiny_training.llama_subject(max_position_embeddings=512)


@pytest.fixture(scope="module")
def corpus(subject: Subject) -> datasets.Dataset:
    return readable(tiny_training.corpora(subject)[0])


def test_candidates_are_run_as_they_are_and_the_gold_text_beside_them_is_none(
    subject: Subject, corpus: datasets.Dataset
) -> None:
    translator, verifier = tiny_training.fitted(), Verifier(subject)
    rows = corpus.select([0, 2])
    prompts = [SoftPrompt(torch.tensor(row["embeddings"]), template=subject.template) for row in rows]
    probes = verifier.probe(prompts, rows["inputs"])
    texts, own = [["red cat", "up", "blue dog"], ["green cat", "four"]], [["red cat", "cat red"], ["left", "green cat"]]
    readings = [Mixture(translator, Views((prompt,))) for prompt in prompts]
    said = [calibration._Said.of(*one, None) for one in zip(readings, texts, own, strict=True)]
    found = list(calibration._tried(verifier, said, probes, [golds[0] for golds in own], 0))
    for one, of_prompt, candidates, golds, reading in zip(found, probes, texts, own, readings, strict=True):
        verified = verifier.verify(candidates, of_prompt)
        summed = [c.divergence * c.n_positions for c in verified]
        [log_probs] = one.log_probs
        assert log_probs.tolist() == pytest.approx(reading.log_probs(candidates), abs=1e-3)
        assert one.divergences.tolist() == pytest.approx(summed, abs=1e-2, rel=1e-3)
        assert one.likeness.tolist() == pytest.approx([rouge(text, golds).rougeL for text in candidates])
        [gold], [none] = verifier.compare([golds[0]], of_prompt), verifier.compare([None], of_prompt)
        share = 1 - gold.divergence.sum().item() / none.divergence.sum().item()
        assert one.explained_by_gold == pytest.approx(share, abs=1e-3)


def test_texts_of_a_translator_of_both_are_weighed_under_both_readings_as_in_translation(
    subject: Subject, corpus: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = Design("encoder-decoder", instruction_tokens=8, reads="both", shown=2)
    translator = tiny_training.stirred(Translator.for_subject(subject, design))
    asked, original = [], Mixture.log_probs_by_reading
    monkeypatch.setattr(
        Mixture, "log_probs_by_reading", lambda self, texts: asked.append(self) or original(self, texts)
    )
    calibrate(translator, subject, corpus, 1)
    row = corpus.with_format("numpy")[0]
    prompt, inputs = SoftPrompt(torch.tensor(row["embeddings"]), template=subject.template), list(row["inputs"])
    [views] = views_of(translator, subject, [prompt], [inputs[: calibration._N_PROBES]], 0)
    assert all(seen.n_tokens > views.alone.n_tokens for seen in views.shown) and asked
    for mixture in asked:
        found = original(mixture, ["red cat", "up"])
        alone, *seen = (Reading(translator, one).log_probs(["red cat", "up"]) for one in (views.alone, *views.shown))
        assert np.allclose(found, [alone, np.mean(seen, 0)], atol=1e-3) and not np.allclose(*found, atol=1e-2)


def noted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tasks of the soft prompts that are probed from now on."""
    seen: list[list[str]] = []
    probe = Verifier.probe

    def noting(self: Verifier, prompts: Sequence[SoftPrompt], inputs: Sequence[Sequence[str]]) -> list:
        seen.append([prompt.provenance["task"] for prompt in prompts])
        return probe(self, prompts, inputs)

    monkeypatch.setattr(Verifier, "probe", noting)
    return seen


def test_the_first_tasks_with_examples_are_calibrated_on_by_their_best_prompts(
    subject: Subject, corpus: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = noted(monkeypatch)
    without = corpus.map(lambda row, i: {"inputs": [], "outputs": []} if i == 0 else {}, with_indices=True)
    found = calibrate(tiny_training.fitted(), subject, without, 2)
    tasks = [row["task"] for row in corpus if row["is_best"]]
    assert seen == [tasks[1:3]] and found.n_tasks == 2
    assert calibrate(tiny_training.fitted(), subject, corpus.select([0, 1, 2]), 99).n_tasks == 2


def test_where_texts_do_not_fit_the_context_beside_demonstrations_none_are_shown(
    corpus: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tiny_training.llama_subject()  # reads 64 tokens
    assert calibrate(tiny_training.fitted(), short, corpus, 2).shots == 0
    well, badly = tried((-1.0, 1.0, 0.9)), tried((-1.0, 1.0, 0.2))
    # Nor where they would help some tasks, but leave no room for another.
    assert planted(monkeypatch, [badly] * 3, [well] * 2).shots == 0
    assert planted(monkeypatch, [], []) == Evidence()


def test_a_corpus_without_examples_calibrates_nothing(subject: Subject, corpus: datasets.Dataset) -> None:
    old = corpus.map(lambda row: {"inputs": [], "outputs": []})
    assert calibrate(tiny_training.fitted(), subject, old) == Evidence()


# --- what is kept, and used -------------------------------------------------------------------------


def test_a_saved_translator_is_calibrated_once_and_says_so_in_its_card(
    subject: Subject, corpus: datasets.Dataset, tmp_path: Path
) -> None:
    own = tiny_training.llama_subject()
    loaded: list[Subject] = []

    def load() -> Subject:
        loaded.append(own)
        return own

    folder = tmp_path / "translator"
    tiny_training.fitted().save_pretrained(folder)
    before = json.loads((folder / "soft2hard.json").read_text())
    assert calibrate_saved(folder, load, corpus, 0) is None and not loaded
    found = calibrate_saved(folder, load, corpus, 2)
    assert found is not None and found.n_tasks == 2
    translator = Translator.from_pretrained(folder)
    assert translator.card.evidence == found
    after = json.loads((folder / "soft2hard.json").read_text())
    assert {key for key in after if after[key] != before[key]} == {"evidence"}
    assert calibrate_saved(folder, load, corpus, 3) is None and len(loaded) == 1
    assert Translator.from_pretrained(folder).card.evidence == found


def test_one_that_reads_something_else_and_a_card_without_evidence_are_left_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "translator"
    translator = tiny_training.translator(tiny_training.llama_subject())
    translator.card = replace(translator.card, reads="nothing")
    translator.save_pretrained(folder)
    card = (folder / "soft2hard.json").read_bytes()
    assert (
        calibrate_saved(
            folder, lambda: pytest.fail("it needs no subject"), tiny_training.corpora(tiny_training.llama_subject())[0]
        )
        is None
    )
    assert (folder / "soft2hard.json").read_bytes() == card
    old = json.loads(card)
    del old["evidence"], old["reads"]
    (folder / "soft2hard.json").write_text(json.dumps(old))
    found = Translator.from_pretrained(folder).card
    assert (found.evidence, found.reads) == (Evidence(), "vectors")


@pytest.fixture
def believing() -> Iterator[Translator]:
    """A translator whose evidence a test may set."""
    translator = tiny_training.fitted()
    card = translator.card
    yield translator
    translator.card = card


def test_translating_weighs_the_evidence_and_tells_what_gold_texts_explain(believing: Translator) -> None:
    subject = tiny_training.llama_subject()
    prompt = SoftPrompt(subject.embed_text("up red").clone(), template=subject.template)
    inputs = [f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:8]]
    how = TranslateConfig(12, 8, 4, refine_rounds=0, max_new_tokens=3)
    for weight in (0.0, 0.02, 1.0):
        believing.card = replace(believing.card, evidence=Evidence(weight, 0, 0.25, 8))
        found = translate(prompt, believing, subject, how, inputs=inputs)
        ranks = [weight * c.divergence * c.n_positions - c.log_prob for c in found.candidates]
        assert len(ranks) > 3 and ranks == pytest.approx(sorted(ranks), abs=1e-4)
        assert found.text == found.candidates[0].text and found.explained_by_gold == 0.25
        if weight == 0:
            assert found.candidates[0].log_prob == max(c.log_prob for c in found.candidates)
    assert median(c.weight for c in found.candidates) == 1.0
