"""Candidates: greedy first, distinct, the same for the same seed, and nobody's business but the soft prompt's own."""

import pytest
import torch
from transformers import TopPLogitsWarper

from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator import candidates
from soft2hard.translator.candidates import propose, tidy
from soft2hard.translator.model import Translator
from soft2hard.translator.probing import drawn, own_uniforms
from tests import tiny_training

N_CANDIDATES = 16
N_BEAMS = N_CANDIDATES // 4


@pytest.fixture(scope="module")
def translator() -> Translator:
    return tiny_training.fitted()


@pytest.fixture(scope="module")
def soft_prompts() -> list[SoftPrompt]:
    """Some that the translator knows, and some of other lengths."""
    subject = tiny_training.llama_subject()
    known = tiny_training.soft_prompts(tiny_training.corpora(subject)[0])[::4]
    texts = ["cat", "red green", "dog blue dog up down", "bird bird green bird"]
    return known + [SoftPrompt(subject.embed_text(text).clone()) for text in texts]


@torch.no_grad()
def written_greedily(translator: Translator, soft_prompt: SoftPrompt) -> str:
    """By the most likely token again and again, without cache and without `generate`."""
    model = translator.model.eval()
    read = {"inputs_embeds": model.reader(soft_prompt.embeddings[None])}
    ids = [model.config.decoder_start_token_id]
    while len(ids) <= translator.card.instruction_tokens and (len(ids) == 1 or ids[-1] != model.config.eos_token_id):
        ids.append(int(model.seq2seq(**read, decoder_input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return tidy(translator.tokenizer.decode(ids, skip_special_tokens=True))


def test_the_first_candidate_is_the_greedy_one(translator: Translator, soft_prompts: list[SoftPrompt]) -> None:
    expected = [written_greedily(translator, soft_prompt) for soft_prompt in soft_prompts]
    assert len(set(expected)) > 3
    assert [texts[0] for texts in propose(translator, soft_prompts, N_CANDIDATES)] == expected
    assert propose(translator, soft_prompts, 1) == [[text] for text in expected]


def test_candidates_are_distinct_single_lines_and_no_more_than_asked_for(
    translator: Translator, soft_prompts: list[SoftPrompt]
) -> None:
    for n in (2, 7, N_CANDIDATES):
        for texts in propose(translator, soft_prompts, n):
            assert len(texts) == len(set(texts)) <= n
            assert all(text and text == " ".join(text.split()) for text in texts)
    assert max(map(len, propose(translator, soft_prompts, N_CANDIDATES))) > N_BEAMS + 1  # samples are among them


def test_the_same_seed_gives_the_same_candidates_and_another_seed_others(
    translator: Translator, soft_prompts: list[SoftPrompt]
) -> None:
    state = torch.get_rng_state()
    first = propose(translator, soft_prompts, N_CANDIDATES, seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's own random numbers stay as they were
    torch.rand(5)
    assert propose(translator, soft_prompts, N_CANDIDATES, seed=3) == first
    assert propose(translator, soft_prompts, N_CANDIDATES, seed=4) != first


def test_batch_mates_change_nothing_for_greedy_and_beams(
    translator: Translator, soft_prompts: list[SoftPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = propose(translator, soft_prompts, N_CANDIDATES)
    assert len({p.n_tokens for p in soft_prompts}) > 2
    for soft_prompt, texts in zip(soft_prompts, together, strict=True):
        # Beams are distinct sequences, one of which may be the greedy one.
        assert propose(translator, [soft_prompt], N_CANDIDATES)[0][:N_BEAMS] == texts[:N_BEAMS]
    monkeypatch.setattr(candidates, "_ROWS_AT_ONCE", 2 * N_CANDIDATES)
    chunked = propose(translator, soft_prompts, N_CANDIDATES)
    assert [texts[:N_BEAMS] for texts in chunked] == [texts[:N_BEAMS] for texts in together]


def test_candidates_of_a_soft_prompt_depend_on_the_seed_and_itself_alone(
    translator: Translator, soft_prompts: list[SoftPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = propose(translator, soft_prompts, 32, seed=2)
    assert len({tuple(texts) for texts in together}) == len(soft_prompts)
    assert max(map(len, together)) > 32 // 4 + 1  # samples are among them
    assert [propose(translator, [soft_prompt], 32, seed=2)[0] for soft_prompt in soft_prompts] == together
    assert propose(translator, soft_prompts[::-1], 32, seed=2) == together[::-1]
    monkeypatch.setattr(candidates, "_ROWS_AT_ONCE", 3 * 32)
    assert propose(translator, soft_prompts, 32, seed=2) == together
    again = SoftPrompt(soft_prompts[0].embeddings.clone())
    assert propose(translator, [*soft_prompts[3:5], again], 32, seed=2)[2] == together[0]


def test_tokens_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([2.0, -torch.inf, 0.0, 1.0, -3.0, -torch.inf, 1.0, -torch.inf])
    n = 40_000
    uniforms = own_uniforms(n, 1, 0, "some prompt")[:, 0]
    share = torch.bincount(drawn(logits.expand(n, -1), uniforms), minlength=len(logits)) / n
    expected = logits.softmax(-1)
    assert (share - expected).abs().max() < 4 * (0.25 / n) ** 0.5
    assert share[expected == 0].sum() == 0


def test_the_ends_of_the_unit_interval_draw_tokens_that_have_a_probability() -> None:
    logits = torch.full((2, 5000), -torch.inf)
    logits[:, 7:4000] = torch.randn(3993, generator=torch.Generator().manual_seed(0))
    assert drawn(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [7, 3999]


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_samples_begin_as_the_nucleus_of_the_translators_own_distribution_says(
    translator: Translator, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft_prompt = SoftPrompt(tiny_training.llama_subject().embed_text("cat up dog small"))
    model, n = translator.model.eval(), 4000
    with torch.no_grad():
        read = {"inputs_embeds": model.reader(soft_prompt.embeddings[None])}
        start = torch.tensor([[model.config.decoder_start_token_id]])
        expected = (model.seq2seq(**read, decoder_input_ids=start).logits[0, -1]).softmax(-1)
    order = expected.argsort(descending=True)
    kept = order[: int((expected[order].cumsum(0) < top_p).sum()) + 1]  # the fewest that together reach top_p
    nucleus = torch.zeros_like(expected).index_copy(0, kept, expected[kept] / expected[kept].sum())

    monkeypatch.setattr(candidates, "_TOP_P", top_p)
    written = []
    generate = model.seq2seq.generate
    monkeypatch.setattr(model.seq2seq, "generate", lambda **given: written.append(generate(**given)) or written[-1])
    for seed in range(10):
        candidates._Decoding(translator, [soft_prompt], [0]).sample(n // 10, seed)
    samples = torch.cat([ids[:, 1] for ids in written])
    share = torch.bincount(samples, minlength=len(nucleus)) / len(samples)
    assert len(samples) == n
    assert (share - nucleus).abs().max() < 4 * (0.25 / n) ** 0.5
    assert share[nucleus == 0].sum() == 0
    assert (nucleus == 0).any() == (top_p < 1)


def test_no_soft_prompts_have_no_candidates(translator: Translator) -> None:
    assert propose(translator, [], N_CANDIDATES) == []


def test_where_memory_runs_out_smaller_batches_write_the_same(
    translator: Translator, soft_prompts: list[SoftPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = propose(translator, soft_prompts, N_CANDIDATES)
    whole, sizes = candidates._Decoding.candidates, []

    def scarce(self: candidates._Decoding, *settings: object) -> list[list[str]]:
        sizes.append(len(self.soft_prompts))
        if len(self.soft_prompts) > 2:
            raise torch.OutOfMemoryError
        return whole(self, *settings)

    monkeypatch.setattr(candidates._Decoding, "candidates", scarce)
    assert propose(translator, soft_prompts, N_CANDIDATES) == expected
    assert max(sizes) > 2 and sizes[-1] <= 2


@pytest.mark.parametrize("flatness", [0.3, 1.0, 4.0], ids=["wider than what is looked at first", "wide", "narrow"])
def test_the_nucleus_is_the_one_of_transformers(flatness: float) -> None:
    ids = torch.zeros(40, 1, dtype=torch.long)
    scores = flatness * torch.randn(40, 3000, generator=torch.Generator().manual_seed(0))
    expected, found = TopPLogitsWarper(0.98)(ids, scores), candidates.Nucleus(0.98)(ids, scores)
    other = found != expected
    assert other.sum() <= 3  # the sums are rounded, which may decide about the last token of a nucleus
    assert torch.equal(found[~other], scores.masked_fill(expected.isinf(), -torch.inf)[~other])
    n_kept = expected.isfinite().sum(1)
    assert n_kept.min() > 1 and (n_kept.max() > candidates._LIKELIEST) == (flatness < 4)
