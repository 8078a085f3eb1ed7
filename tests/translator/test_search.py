"""The search for better texts: where gradients point, what heats cost, what is near a text, how texts are weighed."""

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from math import exp, log

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.tasks import Example
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator.search import (
    Budget,
    Density,
    Effort,
    Search,
    _unlike,
    likeliest,
    near,
    set_apart,
    with_consensus,
)
from soft2hard.translator.settings import Evidence
from soft2hard.translator.verification import Candidate, Comparison, Probes, Verifier
from tests import tiny_models

WORDS = tiny_models.WORDS[3:]
INPUTS = [f"{a} {b}" for a in WORDS[:4] for b in WORDS[4:10]]
SPECIAL = [0, 1, 2, 3]


def soft(subject: Subject, text: str) -> SoftPrompt:
    return SoftPrompt(subject.embed_text(text).clone(), template=Template(), scale=subject.embedding_scale)


def probed(subject: Subject, text: str = "cat dog", n: int = 24) -> tuple[Verifier, Probes]:
    verifier = Verifier(subject, 4)
    return verifier, verifier.probe([soft(subject, text)], [INPUTS[:n]])[0]


class Planted:
    """Words are drawn one by one, whatever stands before them, these so much likelier than others; then the end."""

    def __init__(self, **likely: float):
        self.tokenizer, self.eos_id = tiny_models.tokenizer("llama"), 2
        weights = torch.ones(tiny_models.VOCAB_SIZE, dtype=torch.float64)
        weights[SPECIAL] = 0
        for word, times in likely.items():
            weights[self.ids(word)] = times
        self.log_p = (0.5 * weights / weights.sum()).log().float()
        self.log_p[self.eos_id] = log(0.5)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def log_probs(self, texts: Sequence[str]) -> list[float]:
        return self.sequence_log_probs([[*self.ids(text), self.eos_id] for text in texts])

    def sequence_log_probs(self, rows: Sequence[Sequence[int]]) -> list[float]:
        return [float(self.log_p[list(row)].sum()) for row in rows]

    def next_log_probs(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "_n_ids vocab"]]:
        words = self.log_p.clone()
        words[SPECIAL] = -torch.inf
        return [words.repeat(len(row), 1) for row in rows]

    def complete(self, prefixes: Sequence[Sequence[int]]) -> list[list[int]]:
        return [list(prefix) for prefix in prefixes]


def neighbours(of: str, density: Planted, effort: Effort, *changes: Tensor) -> list[str]:
    return near(density, [density.ids(of)], effort, changes)


# --- gradients --------------------------------------------------------------------------------------


def cross_entropy(subject: Subject, model: torch.nn.Module, words: Tensor, probes: Probes) -> Tensor:
    """Of the text whose embeddings these are, summed over output positions; one input after another, in float64."""
    of_soft, total = iter(probes.log_probs.double().exp()), torch.zeros((), dtype=torch.float64)
    lead = subject.lead_embeddings("hard").double()
    for text, ids in zip(probes.inputs, probes.ids, strict=True):
        body = subject.embed_ids(torch.tensor(subject.encode_input(text, "hard").body)).double()
        if subject.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            read = torch.cat([lead, words, body])[None]
            logits = model(inputs_embeds=read, decoder_input_ids=torch.tensor([[start, *ids[:-1]]])).logits[0]
        else:
            after = subject.embed_ids(torch.tensor(ids[:-1], dtype=torch.long)).double()
            logits = model(inputs_embeds=torch.cat([lead, words, body, after])[None]).logits[0, -len(ids) :]
        log_p = subject.endings.merged(logits).log_softmax(-1)
        total = total - sum(next(of_soft) @ row for row in log_p)
    return total


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "t5", "gemma2", "opt"])
def test_swaps_are_the_change_of_the_divergence_to_first_order(architecture: str) -> None:
    subject = tiny_models.subject(architecture)
    verifier, probes = probed(subject, n=4)
    model = deepcopy(subject.model).double()
    texts = ["up red", "four cat left"]

    def slope(words: Tensor, at: int, step: Tensor) -> float:
        if architecture == "t5":  # its norms compute in float32, so that tiny steps drown in rounding
            leaf = words.clone().requires_grad_()
            return float(torch.autograd.grad(cross_entropy(subject, model, leaf, probes), leaf)[0][at] @ step)
        ends = []
        for size in (1e-3, -1e-3):
            moved = words.clone()
            moved[at] += size * step
            ends.append(float(cross_entropy(subject, model, moved, probes)))
        return (ends[0] - ends[1]) / 2e-3

    for text, found in zip(texts, verifier.swaps(texts, probes), strict=True):
        words = subject.embed_text(text).double()
        assert found.shape == (len(words), tiny_models.VOCAB_SIZE)
        largest = float(found.abs().max())
        for at in range(len(words)):
            assert abs(float(found[at, subject.tokenizer.encode(text, add_special_tokens=False)[at]])) < 1e-3 * largest
            for token in (7, 12, 20):
                step = subject.embed_ids(torch.tensor([token])).double()[0] - words[at]
                assert float(found[at, token]) == pytest.approx(slope(words, at, step), rel=0.01, abs=2e-3 * largest)


def test_company_changes_no_swap() -> None:
    subject = tiny_models.subject("llama")
    verifier, probes = probed(subject, n=6)
    texts = ["up red", "four cat left", "big"]
    for text, found in zip(texts, verifier.swaps(texts, probes), strict=True):
        torch.testing.assert_close(found, verifier.swaps([text], probes)[0], atol=1e-3, rtol=1e-3)


# --- heats --------------------------------------------------------------------------------------------


def test_heats_run_nothing_twice_and_who_is_left_has_run_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    verifier, probes = probed(subject)
    texts = [*WORDS, "cat dog", "dog cat", "red up"]
    search = Search([Planted()], verifier, probes, Budget())
    run: Counter[tuple[str, str]] = Counter()
    compare = Verifier.compare

    def counted(self: Verifier, prompts: Sequence[str | None], of: Probes) -> list[Comparison | None]:
        run.update((prompt, input) for prompt in prompts for input in of.inputs)
        return compare(self, prompts, of)

    monkeypatch.setattr(Verifier, "compare", counted)
    found = search.best({"describe": texts}, Effort(0, heats=((3, 12), (8, 5))))
    monkeypatch.undo()
    assert set(run.values()) == {1}
    n_run = Counter(text for text, _ in run)
    assert sorted(n_run.values()) == [3] * (len(texts) - 12) + [8] * 7 + [24] * 5
    assert [c.text for c in found] and {c.text for c in found} == {text for text, n in n_run.items() if n == 24}
    by_text = {c.text: c for c in verifier.verify(texts, probes)}
    for candidate in found:
        assert candidate.agreement == pytest.approx(by_text[candidate.text].agreement)
        assert candidate.divergence == pytest.approx(by_text[candidate.text].divergence, abs=1e-4)
        assert candidate.n_positions == by_text[candidate.text].n_positions == len(probes.log_probs)
    assert found[0].text == "cat dog" and found[0].proposer == "describe"
    # Who is left after a heat is better there than who is not.
    first = {c.text: c.divergence for c in verifier.verify(texts, verifier.first(probes, 3))}
    out = [text for text, n in n_run.items() if n == 3]
    length = {text: -Planted().log_probs([text])[0] for text in texts}
    rank = {text: first[text] * len(probes.log_probs) + length[text] for text in texts}
    assert max(rank[text] for text in texts if text not in out) <= min(rank[text] for text in out) + 1e-3


def test_a_heat_that_would_cut_none_or_has_half_of_the_inputs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny_models.subject("llama")
    verifier, probes = probed(subject, n=8)
    search = Search([], verifier, probes, Budget())
    sizes: list[int] = []
    compare = Verifier.compare

    def noted(self: Verifier, prompts: Sequence[str | None], of: Probes) -> list[Comparison | None]:
        sizes.append(len(of.inputs))
        return compare(self, prompts, of)

    monkeypatch.setattr(Verifier, "compare", noted)
    for heats, expected in ((((3, 2),), [3, 5]), (((4, 2),), [8]), (((3, 4),), [8]), ((), [8])):
        sizes.clear()
        search._tried.clear()
        search.best({"translator": ["cat", "dog", "up", "red"]}, Effort(0, heats=heats))
        assert sizes == expected


# --- how texts are weighed ------------------------------------------------------------------------------


@torch.no_grad()
def summed_divergence(subject: Subject, prompt: SoftPrompt, text: str, probes: Probes) -> float:
    """By definition, from the subject's own distributions behind the tokens that were written."""
    total, rows = 0.0, iter(probes.log_probs)
    for input, ids in zip(probes.inputs, probes.ids, strict=True):
        read = [*subject.leading_ids, *subject.tokenizer.encode(text, add_special_tokens=False)]
        read += [*subject.encode_input(input, "hard").body, *ids[:-1]]
        log_q = subject.endings.merged(subject.model(torch.tensor([read])).logits[0, -len(ids) :]).log_softmax(-1)
        for q in log_q:
            p = next(rows)
            total += float((p.exp() * (p - q)).sum().clamp(0, 10))
    return total


def test_the_rank_is_minus_the_log_posterior() -> None:
    subject = tiny_models.subject("llama")
    verifier, probes = probed(subject, n=6)
    prior = Planted(red=50.0)
    found = Search([prior], verifier, probes, Budget()).best({"translator": ["red", "up", "cat dog"]}, Effort(0))
    for candidate in found:
        divergence = summed_divergence(subject, soft(subject, "cat dog"), candidate.text, probes)
        expected = divergence - prior.log_probs([candidate.text])[0]
        assert candidate.rank == pytest.approx(expected, abs=0.01)
    assert [c.rank for c in found] == sorted(c.rank for c in found)


def test_the_weight_of_the_evidence_multiplies_the_divergence_alone() -> None:
    verifier, probes = probed(tiny_models.subject("llama"), n=6)
    prior, texts = Planted(red=50.0, up=5.0), ["cat dog", "up", "red"]
    found = {
        weight: Search([prior], verifier, probes, Budget(), Evidence(weight)).best({"translator": texts}, Effort(0))
        for weight in (0.0, 0.01, 1.0)
    }
    divergence = {c.text: c.divergence * c.n_positions for c in found[1.0]}
    for weight, ranked in found.items():
        expected = {text: weight * divergence[text] - prior.log_probs([text])[0] for text in texts}
        assert {c.text: c.rank for c in ranked} == pytest.approx(expected, abs=1e-3)
        assert [c.text for c in ranked] == sorted(texts, key=expected.__getitem__)
    # Unbelieved, the subject decides nothing; believed, it finds the soft prompt's own words.
    assert [c.text for c in found[0.0]] == ["red", "up", "cat dog"]
    assert found[1.0][0].text == "cat dog"


# --- demonstrations beside every text -----------------------------------------------------------------


def unanswered(probes: Probes, *numbers: int) -> Probes:
    """As if nothing was written for these inputs."""
    return replace(probes, outputs=tuple("" if i in numbers else text for i, text in enumerate(probes.outputs)))


def test_a_large_consensus_chooses_the_text_of_the_least_expected_risk_and_a_small_one_the_likeliest() -> None:
    """Two that share three of four words outweigh one that is a little likelier than each of them."""
    texts = ("Count the fruits now", "Say the first word", "Say the last word")
    found = [Candidate(text, 0.0, 0.0, 4, log(p)) for text, p in zip(texts, (0.4, 0.3, 0.3), strict=True)]
    expected = (0.4 * 1.0 + 0.6 * 0.25, 0.4 * 0.25 + 0.3 * 1.0 + 0.3 * 0.75, 0.4 * 0.25 + 0.3 * 0.75 + 0.3 * 1.0)
    credited = with_consensus(found, 10.0)
    assert [one.consensus for one in credited] == pytest.approx([10 * e for e in expected])
    assert min(credited, key=lambda one: one.rank).text == texts[1]
    assert min(with_consensus(found, 0.1), key=lambda one: one.rank).text == texts[0]
    assert with_consensus(credited, 10.0) == credited, "what it has already does not count twice"


def test_the_first_answered_inputs_become_demonstrations_and_the_others_stay() -> None:
    verifier, probes = probed(tiny_models.subject("llama"), n=9)
    answered = unanswered(probes, 0, 2)
    taken = [i for i in range(9) if answered.outputs[i]][:3]
    assert taken[0] == 1
    shown, rest = set_apart(answered, 3, verifier)
    assert shown == [Example(probes.inputs[i], probes.outputs[i]) for i in taken]
    left = [i for i in range(9) if i not in taken]
    assert rest.inputs == tuple(probes.inputs[i] for i in left) and rest.ids == tuple(probes.ids[i] for i in left)
    assert torch.equal(rest.log_probs, verifier.some(probes, left).log_probs)
    assert len(rest.log_probs) == sum(map(len, rest.ids))


@pytest.mark.parametrize(("n_inputs", "n", "silent"), [(8, 3, ()), (9, 3, range(7)), (9, 0, ())])
def test_none_are_taken_where_too_few_inputs_would_be_left_or_are_answered(
    n_inputs: int, n: int, silent: Sequence[int]
) -> None:
    verifier, probes = probed(tiny_models.subject("llama"), n=n_inputs)
    probes = unanswered(probes, *silent)
    assert set_apart(probes, n, verifier) == ([], probes)


def test_texts_are_compared_beside_the_same_demonstrations_on_the_inputs_that_lent_none() -> None:
    subject = tiny_models.subject("llama")
    verifier, probes = probed(subject, n=9)
    search = Search([], verifier, probes, Budget(), Evidence(shots=2))
    texts = ["up red", "cat dog", "four"]
    found = {c.text: c for c in search.best({"translator": texts}, Effort(0))}
    assert all(probes.outputs)  # so that the first two are shown
    blocks = [f"Input: {probes.inputs[i]}\nOutput: {probes.outputs[i]}" for i in (0, 1)]
    rest = verifier.some(probes, range(2, 9))
    prompt = soft(subject, "cat dog")
    without = summed_divergence(subject, prompt, "\n".join(blocks), rest)
    for text in texts:
        divergence = summed_divergence(subject, prompt, "\n".join([text, *blocks]), rest)
        assert found[text].divergence * found[text].n_positions == pytest.approx(divergence, abs=0.01)
        assert found[text].explained == pytest.approx(1 - divergence / without, abs=0.01)
        assert found[text].n_positions == len(rest.log_probs)


def test_of_two_densities_the_probability_is_the_mean_of_both() -> None:
    verifier, probes = probed(tiny_models.subject("llama"), n=4)
    one, other = Planted(red=80.0), Planted(up=500.0)
    texts = ["red", "up", "red red red", "cat"]
    search = Search([one, other], verifier, probes, Budget())
    for text, found in zip(texts, search._log_probs(texts), strict=True):
        p, q = (exp(density.log_probs([text])[0]) for density in (one, other))
        assert found == pytest.approx(log((p + q) / 2), abs=1e-5)
    assert {c.text: c.log_prob for c in search.best({"search": texts}, Effort(0))} == {
        text: pytest.approx(found, abs=1e-5) for text, found in zip(texts, search._log_probs(texts), strict=True)
    }
    assert Search([], verifier, probes, Budget())._log_probs(texts) == [0.0] * 4


def test_a_text_is_run_once_and_is_credited_to_whom_it_came_from_first(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, probes = probed(tiny_models.subject("llama"), n=4)
    search = Search([], verifier, probes, Budget())
    found = search.best({"describe": ["up", "cat dog"], "elicit": ["cat dog", "red", "up", ""]}, Effort(0))
    assert {c.text: c.proposer for c in found} == {"up": "describe", "cat dog": "describe", "red": "elicit"}


def test_where_demonstrations_leave_no_room_texts_are_compared_without_them() -> None:
    short = tiny_models.model("llama", max_position_embeddings=40)
    subject = Subject(short, tiny_models.tokenizer("llama"), name="short")
    verifier, probes = probed(subject, n=12)
    assert len(subject.embed_text(subject.template.few_shot_text(set_apart(probes, 4, verifier)[0]))) > 32
    plain, shown = (
        Search([], verifier, probes, Budget(), Evidence(shots=shots)).best({"translator": ["up red", "cat"]}, Effort(0))
        for shots in (0, 4)
    )
    assert len(plain) == 2 and shown == plain


# --- texts near others ------------------------------------------------------------------------------------

EVERYTHING = Effort(1, n_texts=10_000, n_branches=10_000)
FREELY = Effort(1, n_texts=10_000, n_branches=10_000, free=True)


def swapped(words: list[str]) -> set[str]:
    return {" ".join([*words[:i], w, *words[i + 1 :]]) for i in range(len(words)) for w in tiny_models.WORDS}


def test_a_free_search_swaps_puts_in_and_leaves_out() -> None:
    text = "cat red up"
    words = text.split()
    found = set(neighbours(text, Planted(), FREELY))
    put_in = {" ".join([*words[:i], w, *words[i:]]) for i in range(3) for w in tiny_models.WORDS if w != words[i]}
    left_out = {"red up", "cat up", "cat red"}
    # Written again behind the new word, here with nothing.
    starts = {" ".join([*words[:i], w]) for i in range(3) for w in tiny_models.WORDS if w != words[i]}
    assert found == (swapped(words) | put_in | left_out | starts) - {text}
    assert set(neighbours(text, Planted(), EVERYTHING)) == (swapped(words) | starts) - {text}
    others = set(tiny_models.WORDS) - {"cat"}
    assert set(neighbours("cat", Planted(), FREELY)) == others | {f"{w} cat" for w in others}


def test_texts_near_come_most_promising_first_and_as_many_as_asked_for() -> None:
    density = Planted(dog=300.0, blue=50.0)
    found = neighbours("cat red up", density, Effort(1, n_texts=12, n_branches=10))
    assert len(found) == len(set(found)) == 12
    scores = density.log_probs(found)
    assert scores == sorted(scores, reverse=True)
    assert {"dog red up", "cat dog up", "cat red dog"} <= set(found)


def test_what_gradients_promise_is_tried_though_it_is_unlikely() -> None:
    density = Planted(dog=30.0, blue=5.0)
    change = torch.zeros(3, tiny_models.VOCAB_SIZE)
    change[1, density.ids("fish")] = -15.0
    few = Effort(1, n_texts=8, n_branches=4, free=True)
    assert "cat fish up" not in neighbours("cat red up", density, few)
    assert neighbours("cat red up", density, few, change)[0] == "cat fish up"
    change[1, density.ids("fish")] = -1000.0  # no more is believed than 20 nats
    other = change.clone()
    other[2, density.ids("blue")] = -19.0
    assert neighbours("cat red up", density, few, other)[0] == "cat red blue"


def test_a_density_that_knows_the_right_word_finds_it_in_one_round() -> None:
    subject = tiny_models.subject("llama")
    verifier = Verifier(subject, 4)
    probes = verifier.probe([soft(subject, "cat dog red")], [INPUTS[:8]])[0]
    for start in ("cat up red", "cat red", "cat dog dog red"):  # to swap, to put in, to leave out
        density = Planted(dog=100.0)
        assert isinstance(density, Density)
        effort = Effort(1, n_best=2, n_texts=40, n_branches=8, free=True)
        search = Search([density], verifier, probes, Budget())
        [before] = search.best({"describe": [start]}, Effort(0))
        found = Search([density], verifier, probes, Budget()).best({"describe": [start]}, effort)
        assert (found[0].text, found[0].proposer) == ("cat dog red", "search")
        assert found[0].agreement == 1.0 and found[0].divergence < before.divergence


def test_likeliest_substitutions_are_the_best_scores_but_for_the_words_that_stand_there() -> None:
    scores = torch.tensor([[5.0, 1.0, 4.0], [0.0, 9.0, -torch.inf]])
    assert likeliest(scores, [0, 1], 2) == [(0, 2), (0, 1)]
    assert likeliest(scores, [2, 0], 10) == [(1, 1), (0, 0), (0, 1)]


# --- rounds -------------------------------------------------------------------------------------------------


def ranked(*texts: str) -> list[Candidate]:
    return [Candidate(text, 1.0, float(i), 1) for i, text in enumerate(texts)]


def test_several_ideas_are_kept_to_search_around() -> None:
    crowd = ranked(*(f"Is the word {w}" for w in WORDS[:9]), "Name it", "Is a word", "Count the cats", "Count the dogs")
    kept = [c.text for c in _unlike(crowd, Effort(1, n_best=7, free=True))]
    assert kept == [*(f"Is the word {w}" for w in WORDS[:4]), "Name it", "Is a word", "Count the cats"]
    assert _unlike(crowd, Effort(1, n_best=3)) == crowd[:3]
    assert _unlike([], Effort(1, free=True)) == []


def test_a_search_ends_when_none_of_the_best_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, probes = probed(tiny_models.subject("llama"), n=4)
    asked: list[list[str]] = []

    def near_by(self: Search, texts: Sequence[str], effort: Effort) -> list[str]:
        asked.append(list(texts))
        return ["cat dog"] if len(asked) == 1 else ["left right"]

    monkeypatch.setattr(Search, "_near", near_by)
    effort = Effort(9, n_best=1, free=True)
    found = Search([], verifier, probes, Budget()).best({"describe": ["up"]}, effort)
    assert asked == [["up"], ["cat dog"]] and found[0].text == "cat dog"


def test_no_round_tries_what_was_tried_and_ranks_never_get_worse() -> None:
    subject = tiny_models.subject("llama")
    verifier, probes = probed(subject, n=8)
    best = []
    for rounds in range(4):
        search = Search([Planted(dog=5.0)], verifier, probes, Budget())
        found = search.best({"describe": ["up", "red blue"]}, Effort(rounds, 3, 30, 8, free=True))
        assert len({c.text for c in found}) == len(found)
        best.append(found[0].rank)
    assert best == sorted(best, reverse=True) and best[-1] < best[0]


def test_agreement_of_what_was_found_is_that_of_its_outputs() -> None:
    subject = tiny_models.subject("llama")
    verifier, probes = probed(subject)
    rows = subject.generate_ids([Query(soft(subject, "cat dog"), i) for i in INPUTS], 4)
    plain = [i for i, row in enumerate(rows) if min(row, default=9) > 3 and len(set(row)) > 1]
    probes = verifier.some(probes, plain)
    found = Search([], verifier, probes, Budget()).best({"describe": ["cat", "up", "dog cat"]}, Effort(0))
    for candidate in found:
        written = subject.generate([Query(candidate.text, i) for i in probes.inputs], 4)
        same = sum(a == b for a, b in zip(written, probes.outputs, strict=True))
        assert candidate.agreement == pytest.approx(same / len(plain))
