"""Texts from elsewhere than a translator: the prior of instructions, a describer, the subject itself, and a search."""

from collections.abc import Sequence
from itertools import product
from math import log

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from soft2hard.compute import metering
from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.probing import in_random_order
from soft2hard.translator.proposers.base import Observed, Proposer, distinct
from soft2hard.translator.proposers.describe import CONTRAST, SHORT, Describe, bare
from soft2hard.translator.proposers.elicit import (
    BUILT_IN,
    PLACEHOLDER,
    QUESTION,
    Elicit,
    description,
    encode_target,
    few_shot_target,
    spread,
)
from soft2hard.translator.proposers.prior import FIRST_WORDS, LONGEST, SHOWN, InstructionPrior
from soft2hard.translator.search import Budget, Search
from soft2hard.translator.settings import META_PROMPT, TranslateConfig
from soft2hard.translator.translate import Helpers, Translation, _Translating, translate
from tests import tiny_models, tiny_tokenizers, tiny_training

WORDS = tiny_models.WORDS[3:]
PAIRS = [f"{a} {b}" for a in WORDS[:6] for b in WORDS[6:12]]
ANIMALS = (
    "lion apple tiger chair wolf sing bear cherry horse green rabbit seven dog iron cow walk sheep table goat red "
    "duck big monkey car zebra happy pig Paris"
).split()
"""Animals and others in turn."""
FRESH = "cat plum fox lamp deer six donkey glass mouse cold".split()


@pytest.fixture(scope="module")
def embedded() -> Subject:
    return Subject.from_pretrained("embedded")


@pytest.fixture(scope="module")
def llama() -> Subject:
    return tiny_training.llama_subject()


def soft(subject: Subject, text: str) -> SoftPrompt:
    return SoftPrompt(subject.embed_text(text).clone(), template=subject.template, fingerprint=subject.fingerprint)


def knowing(architecture: str) -> Subject:
    """Tiny, of a vocabulary in which all can be said, and with room for what a prior shows."""
    tokenizer = tiny_tokenizers.tokenizer("gpt2", [*SHOWN, *BUILT_IN["classes_after"], "a b", " x"])
    model = tiny_models.model(architecture, vocab_size=len(tokenizer), max_position_embeddings=512)
    return Subject(model, tokenizer, name=f"knowing-{architecture}")


class Scripted:
    """A describer that gives these answers in turn, and keeps what it was asked."""

    def __init__(self, *answers: str):
        self.answers, self.asked = answers or ("up",), []

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        start = len(self.asked)
        self.asked += texts
        return [[self.answers[(start + i) % len(self.answers)]] * n for i in range(len(texts))]


@pytest.fixture(autouse=True)
def nothing_read_off(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The vectors of a planted prompt are a sentence's own, which is found only where it is not read off them."""
    if "read_off" not in request.function.__name__:
        monkeypatch.setattr(_Translating, "_read_off", property(lambda self: [[] for _ in self.prompts]))


def test_nearest_tokens_are_read_off_as_a_candidate(llama: Subject) -> None:
    found = translated(llama, soft(llama, "left up"), "search", n_samples=4, search_rounds=0)
    assert (found.text, found.proposer) == ("left up", "search")


def translated(subject: Subject, prompt: SoftPrompt, *propose: str, **more: object) -> Translation:
    """On the inputs of `PAIRS`, with few tokens an output."""
    inputs, helpers = more.pop("inputs", PAIRS[:28]), more.pop("helpers", Helpers())
    config = TranslateConfig(propose=propose, **{"n_probes": 12, "max_new_tokens": 4} | more)
    return translate(prompt, None, subject, config, inputs=inputs, helpers=helpers)


# --- the whole, on the embedded subject -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inputs", "fresh"),
    [
        ("Is the word an animal? Answer yes or no.", ANIMALS, FRESH),
        ("Give the past tense of the word.", None, "sing run walk play speak drink buy cook".split()),
    ],
)
def test_a_soft_prompt_that_is_a_sentence_comes_back_read_off_or_as_one_that_acts_the_same(
    embedded: Subject, text: str, inputs: list[str] | None, fresh: list[str]
) -> None:
    prompt = soft(embedded, text)
    config = TranslateConfig(propose=("describe", "search"), n_probes=12, n_checks=16)
    found = translate(prompt, None, embedded, config, inputs=inputs)
    assert found.verdict == "faithful" and found.n_checks == 16
    assert set(found.by_proposer) <= {"describe", "search"} and found.proposer in found.by_proposer
    soft_says, text_says = (embedded.generate([Query(of, word) for word in fresh]) for of in (prompt, found.text))
    assert len(set(soft_says)) > 1
    assert sum(map(str.__eq__, soft_says, text_says)) >= 0.75 * len(soft_says)


def test_much_of_what_a_sentence_does_is_found_by_searching_alone(embedded: Subject) -> None:
    """A good part of it, whatever path the search takes under the rounding of a machine."""
    prompt = soft(embedded, "Is the word an animal? Answer yes or no.")
    config = TranslateConfig(propose=("search",), n_probes=12, n_samples=512)
    assert translate(prompt, None, embedded, config, inputs=ANIMALS).judgement.explained > 0.25


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_never_faithful(embedded: Subject, seed: int) -> None:
    vectors = torch.randn(8, embedded.d_model, generator=torch.Generator().manual_seed(seed))
    prompt = SoftPrompt(vectors * float(embedded.embedding.std()), template=embedded.template)
    few = {"n_descriptions": 8, "n_samples": 64, "search_texts": 48, "search_rounds": 2}
    found = translate(
        prompt, None, embedded, TranslateConfig(propose=("describe", "search"), n_probes=8, n_checks=16, **few)
    )
    assert found.verdict in ("doubtful", "failed", "unverified")


def test_the_same_seed_finds_the_same_text(embedded: Subject) -> None:
    few = {"n_descriptions": 6, "n_samples": 32, "search_texts": 24, "search_rounds": 2}
    config = TranslateConfig(propose=("describe", "search"), n_probes=4, n_checks=4, **few)
    first, second = (translate(soft(embedded, "Count the fruits."), None, embedded, config) for _ in range(2))
    assert first == second
    assert first.text and first.n_probes == 4


def test_a_translation_by_others_is_the_same_whatever_else_is_translated(llama: Subject) -> None:
    prompts = [soft(llama, text) for text in ("cat dog", "red", "up left right")]
    lists = [PAIRS[:10], ["cat", "red", "up", "four"], [f"{pair} up down left" for pair in PAIRS[:8]]]
    few = {"n_descriptions": 6, "n_samples": 8, "search_rounds": 1, "search_texts": 12}
    config = TranslateConfig(propose=("describe", "search"), n_probes=6, n_checks=4, **few)
    together, alone = Scripted("up"), Scripted("up")
    found = translate(prompts, None, llama, config, inputs=lists, helpers=Helpers(together))
    for one, prompt, inputs in zip(found, prompts, lists, strict=True):
        by_itself = translate(prompt, None, llama, config, inputs=inputs, helpers=Helpers(alone))
        assert (one.text, one.verdict, one.n_probes) == (by_itself.text, by_itself.verdict, by_itself.n_probes)
        assert [c.text for c in one.candidates] == [c.text for c in by_itself.candidates]
    assert together.asked == alone.asked


# --- the prior: how likely texts are ----------------------------------------------------------------


@torch.no_grad()
def log_prob_by_definition(prior: InstructionPrior, before: list[int], ids: list[int], from_: int = 0) -> list[float]:
    """log p of each token from one on and of the end, one pass over all that is read, no cache, no padding."""
    log_p = prior.lm.model(torch.tensor([[*before, *ids]])).logits[0].float().log_softmax(-1)
    tokens = [float(log_p[len(before) + i - 1, ids[i]]) for i in range(from_, len(ids))]
    return [*tokens, float(log_p[-1, prior.lm.endings.ids].logsumexp(-1))]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_log_probabilities_are_the_models_own_behind_what_it_is_shown(architecture: str) -> None:
    subject = knowing(architecture)
    prior = InstructionPrior(subject)
    shown = subject.tokenizer.encode("".join(f"{line}\n" for line in SHOWN), add_special_tokens=False)
    texts = ["Write the last word.", "a b", "Is it?"]
    for text, found in zip(texts, prior.log_probs(texts), strict=True):
        ids = subject.tokenizer.encode(text, add_special_tokens=False)
        expected = sum(log_prob_by_definition(prior, [*subject.leading_ids, *shown], ids))
        assert found == pytest.approx(expected, abs=1e-3)
    # All line breaks, and what a template would go on with, end a text.
    ends = {subject.tokenizer.decode([i]) for i in prior.lm.endings.ids[1:]}
    assert "\n" in ends and all(end.startswith(("\n", "Input:", "Output:")) for end in ends)


def test_in_a_short_context_nothing_is_shown_before_a_text() -> None:
    known = knowing("gpt2")
    model = tiny_models.model("gpt2", vocab_size=len(known.tokenizer), max_position_embeddings=64)
    subject = Subject(model, known.tokenizer, name="short")
    prior = InstructionPrior(subject)
    assert InstructionPrior(known).shows and not prior.shows
    assert prior.log_probs(["Write the last word."])[0] < 0
    assert len(prior.sample(4)) == 4


def test_where_little_is_known_first_words_are_uniform_and_half_of_what_closes_a_sentence_ends(
    embedded: Subject,
) -> None:
    prior = InstructionPrior(embedded)
    encode = lambda text: embedded.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    firsts = [encode(word)[0] for word in FIRST_WORDS if embedded.tokenizer.unk_token_id not in encode(word)]
    assert len(set(firsts)) == len(firsts) > 10
    n_words = len(embedded.embedding)
    for text in ("Count the fruits.", "Word the fruits", "Is it an animal? Answer yes or no."):
        ids = encode(text)
        expected = [log(0.1 / n_words + (0.9 / len(firsts) if ids[0] in firsts else 0))]
        own = log_prob_by_definition(prior, embedded.leading_ids, ids, from_=1)
        for i, log_p in enumerate(own, 1):
            closed, is_end = embedded.tokenizer.decode(ids[i - 1]).strip() in (".", "?", "!"), i == len(ids)
            p = torch.tensor(log_p, dtype=torch.float64).exp()
            expected.append(float((p / 2 + is_end / 2 if closed else p).log()))
        assert prior.log_probs([text])[0] == pytest.approx(sum(expected), abs=0.02)
    assert prior.log_probs(["Count the fruits."]) > prior.log_probs(["Word the fruits."])


@pytest.mark.parametrize("name", ["embedded", "llama", "gpt2"])
def test_probabilities_of_next_tokens_are_those_of_longer_texts(name: str, embedded: Subject) -> None:
    """log p(next | before) = log p(before, next) - log p(before)."""
    prior = InstructionPrior(embedded if name == "embedded" else knowing(name))
    texts = ["Is it? Write the word.", "Answer with", "Say", "Answer yes or no. Give the word."]
    rows = [prior.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    special = [i for i in (*prior.tokenizer.all_special_ids, *prior.lm.endings.ids) if i < len(prior.lm.embedding)]
    for row, found in zip(rows, prior.next_log_probs(rows), strict=True):
        assert found.shape == (len(row), len(prior.lm.embedding))
        assert bool((found[:, special] == -torch.inf).all())
        for i in range(2, len(row)):
            others = [row[i], row[0], rows[0][-1]]
            before, *longer = prior.sequence_log_probs([row[:i], *([*row[:i], token] for token in others)])
            assert found[i, others].tolist() == pytest.approx([of - before for of in longer], abs=0.02)
        if len(row) > 1:
            [both] = prior.sequence_log_probs([row[:2]])
            assert float(found[0, row[0]] + found[1, row[1]]) == pytest.approx(both, abs=0.02)


@pytest.mark.parametrize("name", ["embedded", "llama", "gpt2"])
def test_company_changes_no_log_probability(name: str, embedded: Subject) -> None:
    subject = embedded if name == "embedded" else knowing(name)
    texts = ["Is it? Write the word.", "Answer", "Say yes or no.", "Name the word.", "Answer"]
    alone = [InstructionPrior(subject).log_probs([text])[0] for text in texts]
    prior = InstructionPrior(subject)
    for _ in range(2):
        assert prior.log_probs(texts) == pytest.approx(alone, abs=0.02)
    assert prior.log_probs([]) == []


# --- the prior: what it writes ----------------------------------------------------------------------


@torch.no_grad()
def completed_slowly(prior: InstructionPrior, prefix: list[int]) -> list[int]:
    """The likeliest token again and again, all read anew for each."""
    subject, tokenizer = prior.lm, prior.tokenizer
    text = "".join(f"{line}\n" for line in SHOWN)
    before = subject.leading_ids + (tokenizer.encode(text, add_special_tokens=False) if prior.shows else [])
    ends = subject.endings.ids
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    never = [i for i in special if i < len(subject.embedding) and i not in ends]
    ids = list(prefix)
    while len(ids) < LONGEST:
        p = subject.model(torch.tensor([[*before, *ids]])).logits[0, -1].double().softmax(-1)
        end = float(p[ends].sum())
        p[[*ends, *never]] = 0
        if not prior.shows and tokenizer.decode(ids[-1:]).strip() in (".", "?", "!"):
            p, end = p / 2, end / 2 + float(p.sum() + end) / 2
        if end >= float(p.max()):
            break
        ids.append(int(p.argmax()))
    return ids


@pytest.mark.parametrize("name", ["embedded", "llama", "gpt2", "bloom"])
def test_completions_are_greedy_and_prefixes_of_other_lengths_change_nothing(name: str, embedded: Subject) -> None:
    prior = InstructionPrior(embedded if name == "embedded" else knowing(name))
    texts = ["Is", "Write the", "Say whether the word is", "Answer with the last letter of the name. Write"]
    prefixes = [prior.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    prefixes.append((prefixes[3] * 4)[: LONGEST + 6])
    expected = [completed_slowly(prior, prefix[:LONGEST]) for prefix in prefixes]
    assert prior.complete(prefixes) == expected
    assert [prior.complete([prefix])[0] for prefix in prefixes] == expected
    assert all(len(row) <= LONGEST for row in expected) and len({tuple(row) for row in expected}) == 5


def test_what_is_drawn_begins_as_instructions_do_and_ends_with_its_sentence(embedded: Subject) -> None:
    prior = InstructionPrior(embedded)
    texts = prior.sample(48)
    assert len(texts) == 48 and len(set(texts)) > 24
    assert all(text.split()[0] in FIRST_WORDS for text in texts)
    assert sum(text[-1] in ".?!" for text in texts) > 0.6 * len(texts)
    assert len({text.split()[0] for text in texts}) > 8
    assert not any(word in text for text in texts for word in embedded.template.words)
    assert prior.sample(48) == texts == InstructionPrior(embedded).sample(48)
    assert prior.sample(48, seed=1) != texts


def test_texts_are_drawn_as_often_as_they_are_likely() -> None:
    """Of a model whose texts are a first word, alone or with one more."""
    subject = worded("say cat dog")
    prior = InstructionPrior(subject)
    texts = prior.sample(4000, seed=3)
    first = [text.split()[0] for text in texts]
    for word in ("say", "cat", "dog"):
        assert first.count(word) / len(first) == pytest.approx(1 / 3, abs=0.03)


def worded(words: str) -> Subject:
    """Of a vocabulary of these words alone."""
    vocabulary = {word: i for i, word in enumerate([*tiny_models.SPECIAL, *words.split()])}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    return Subject(tiny_models.model("llama", vocab_size=len(vocabulary)), tokenizer, name="worded")


def test_a_model_that_knows_no_word_of_instructions_begins_with_any() -> None:
    subject = worded("say cat dog red")
    prior = InstructionPrior(subject)
    assert not prior.shows and prior.first_ids == [4, 5, 6, 7]
    assert {text.split()[0] for text in prior.sample(64)} == {"say", "cat", "dog", "red"}
    found = translated(subject, soft(subject, "cat dog"), "search", inputs=["cat", "dog", "red", "say"], n_samples=16)
    assert found.text and found.candidates


# --- describe ---------------------------------------------------------------------------------------


def test_requests_show_what_the_soft_prompt_writes_and_what_the_subject_writes_by_itself(llama: Subject) -> None:
    prompt, describer = soft(llama, "cat dog"), Scripted()
    found = translated(llama, prompt, "describe", helpers=Helpers(describer), n_descriptions=9)
    assert (found.n_probes, found.n_checks) == (12, 16)
    outputs, plain = (
        dict(zip(PAIRS, llama.generate([Query(of, i) for i in PAIRS], 4), strict=True)) for of in (prompt, None)
    )
    choosing = in_random_order(PAIRS[:28], 0)[:12]
    assert sum(outputs[i] != plain[i] for i in choosing) > 6
    assert len(describer.asked) == len(set(describer.asked)) == 9
    for number, request in enumerate(describer.asked):
        shown = [i for i in PAIRS if f"Input: {i}\n" in request]
        assert len(shown) == 5 and set(shown) <= set(choosing)  # none of those that judge
        blocks = {f"Input: {i}\nOutput: {outputs[i]}" for i in shown}
        if number % 3 == 2:
            blocks = {f"Input: {i}\nWith the instruction: {outputs[i]}\nWithout: {plain[i]}" for i in shown}
        before, after = (META_PROMPT, SHORT, CONTRAST)[number % 3].split("{examples}")
        assert request.startswith(before) and request.endswith(after)
        assert set(request[len(before) : len(request) - len(after)].split("\n\n")) == blocks


def test_no_label_is_ever_shown(llama: Subject) -> None:
    """Requests say nothing of a soft prompt but what it writes: two that write the same are described alike."""
    silent = Observed(soft(llama, "cat"), ("one", "two"), ("red", "red"), ("up", "down"))
    describer = Describe(Scripted(), 3)
    for request in describer.requests(silent, 0):
        words = set(request.replace(":", " ").split()) & set(tiny_models.WORDS[3:])
        assert words <= {"one", "two", "red", "up", "down", *"given".split()} | {"one"}
    assert describer.propose([Observed(soft(llama, "cat"))], 0) == [[]]


def test_the_right_answer_of_a_describer_is_chosen(llama: Subject) -> None:
    describer = Scripted("up", ' "cat  dog" ', "red blue", "", "Input: cat")
    found = translated(llama, soft(llama, "cat dog"), "describe", helpers=Helpers(describer), n_descriptions=10)
    assert (found.text, found.proposer, found.verdict) == ("cat dog", "describe", "faithful")
    assert sorted(c.text for c in found.candidates) == ["cat dog", "red blue", "up"]
    assert list(found.by_proposer) == ["describe"] and found.by_proposer["describe"].text == "cat dog"
    prior = InstructionPrior(llama)
    for candidate in found.candidates:
        assert candidate.log_prob == pytest.approx(prior.log_probs([candidate.text])[0], abs=1e-3)


def test_an_encoder_decoder_is_described(llama: Subject) -> None:
    subject = tiny_models.subject("t5")
    helpers = Helpers(Scripted("up", "cat dog", "red"))
    found = translated(subject, soft(subject, "cat dog"), "describe", helpers=helpers)
    assert (found.text, found.proposer, found.verdict) == ("cat dog", "describe", "faithful")
    assert {c.log_prob for c in found.candidates} == {0.0}


def test_texts_that_hold_words_of_the_template_are_never_candidates(llama: Subject) -> None:
    answers = ["Input: cat", "cat dog Output: red", "Output: red", "dog"]
    found = translated(llama, soft(llama, "cat dog"), "describe", helpers=Helpers(Scripted(*answers)))
    assert [c.text for c in found.candidates] == ["dog"]
    found = translated(llama, soft(llama, "cat dog"), "describe", helpers=Helpers(Scripted(*answers[:3])))
    assert (found.verdict, found.candidates) == ("unverified", ())
    drawn = translated(llama, soft(llama, "cat dog"), "search", n_samples=32, search_rounds=2)
    assert drawn.candidates and not any(w in c.text for c in drawn.candidates for w in llama.template.words)


@pytest.mark.parametrize(
    ("answer", "instruction"),
    [
        ("The instruction was to say yes.", "Say yes."),
        ("Instruction: say yes.", "Say yes."),
        (" the task is: Say yes.", "Say yes."),
        ("To say yes.", "Say yes."),
        ("Answer: Say yes.", "Say yes."),
        ("Your task is to answer yes or no.", "Answer yes or no."),
        ("Answer yes or no.", "Answer yes or no."),
        ("Answer with the task of the word.", "Answer with the task of the word."),
        ("Tasks are sorted.", "Tasks are sorted."),
        ("Total the numbers.", "Total the numbers."),
        ("cat dog", "cat dog"),
        ("", ""),
    ],
)
def test_words_that_lead_to_an_instruction_are_none_of_it(answer: str, instruction: str) -> None:
    assert bare(answer) == instruction


def test_texts_come_on_one_line_without_quotes_and_once() -> None:
    texts = ['"Say yes."', "Say   yes.", " 'Say yes.'", ": Say no.", "", '""', "Say\nno."]
    assert distinct(texts) == ["Say yes.", "Say no."]


# --- elicit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_pair_of_layers_is_asked_and_batches_change_nothing(architecture: str) -> None:
    subject = knowing(architecture)
    elicit = Elicit(subject, 6)
    assert isinstance(elicit, Proposer)
    assert sorted(elicit.pairs) == list(product(range(2), range(2)))  # the model has two blocks
    prompts = [soft(subject, text) for text in ("a b", "Answer yes or no.", "a", "Is it?")]
    found = elicit.propose([Observed(prompt) for prompt in prompts], 0)
    assert found == [elicit.propose([Observed(prompt)], 0)[0] for prompt in prompts]
    for prompt, texts in zip(prompts, found, strict=True):
        expected = []
        for target in (few_shot_target(BUILT_IN["classes_after"][:3], "$"), QUESTION):
            made = encode_target(subject, prompt, target, PLACEHOLDER)
            for pair in elicit.pairs:
                [[ids]] = elicit.patcher.write([made], [pair])
                expected.append(description(subject, ids))
        assert texts == distinct(expected)
    assert sum(map(len, found)) > 4


def test_layers_are_spread_over_the_model() -> None:
    assert spread(32, 6) == [0, 6, 12, 19, 25, 31]
    assert spread(2, 6) == [0, 1] and spread(1, 6) == [0] and spread(12, 1) == [0]
    for n, most in product(range(1, 41), range(2, 9)):
        found = spread(n, most)
        assert len(found) == min(n, most) and found[0] == 0 and found[-1] == n - 1
        gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_what_the_subject_says_itself_becomes_a_candidate() -> None:
    subject = knowing("llama")
    prompt = soft(subject, "a b")
    inputs = [f"{a} {b}" for a in ("word", "name", "last", "yes") for b in ("the", "is")]
    found = translated(subject, prompt, "elicit", inputs=inputs)
    said = Elicit(subject, 6).propose([Observed(prompt)], 0)[0]
    assert found.proposer == "elicit" and found.text in said
    assert {c.text for c in found.candidates} <= set(said)


# --- refusals -----------------------------------------------------------------------------------------


def assert_refused(problem: str, *arguments: object, **more: object) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        translate(*arguments, **more)
    assert "\n" not in str(refused.value)


def test_an_encoder_decoder_can_neither_be_searched_with_nor_asked() -> None:
    subject = tiny_models.subject("t5")
    prompt = SoftPrompt(torch.zeros(2, subject.d_model), template=subject.template)
    assert_refused(
        "is an encoder-decoder, which writes no texts.*--describer.*give a translator", prompt, None, subject
    )
    for propose, problem in (("search", "continues no text"), ("elicit", "decoder-only"), ("describe", "generator")):
        assert_refused(problem, prompt, None, subject, TranslateConfig(propose=(propose,)))


def test_a_search_needs_verification_and_a_subject(llama: Subject) -> None:
    prompt = soft(llama, "cat")
    assert_refused("without verification", prompt, subject=llama, config=TranslateConfig(verify=False))
    assert_refused("does not say which subject", prompt)


def test_a_translator_that_is_asked_for_must_be_there(llama: Subject) -> None:
    for propose in (("translator",), ("translator", "search")):
        config = TranslateConfig(propose=propose)
        assert_refused("none was given or fits", soft(llama, "cat"), None, llama, config, inputs=PAIRS)


def test_a_prior_of_another_vocabulary_is_refused(llama: Subject) -> None:
    other = knowing("gpt2")
    config = TranslateConfig(propose=("search",))
    assert_refused("another vocabulary", soft(llama, "cat"), None, llama, config, helpers=Helpers(prior=other))
    kin = tiny_models.subject("gpt2")
    kin = Subject(kin.model, llama.tokenizer, name="kin")
    found = translated(llama, soft(llama, "cat"), "search", helpers=Helpers(prior=kin), n_samples=8, search_rounds=0)
    for candidate in found.candidates:
        assert candidate.log_prob == pytest.approx(InstructionPrior(kin).log_probs([candidate.text])[0], abs=1e-3)


def test_a_subject_that_does_not_know_the_placeholder_is_not_asked(llama: Subject) -> None:
    assert_refused("placeholder", soft(llama, "cat"), None, llama, TranslateConfig(propose=("elicit",)))


# --- budgets ------------------------------------------------------------------------------------------

SEARCH = {"n_samples": 24, "search_texts": 24, "search_rounds": 6}


def test_no_round_begins_once_as_many_sequences_have_run(llama: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    near = Search._near

    def noted(self: Search, *arguments: object) -> list[str]:
        begun.append(self.budget._heard.total.sequences)
        return near(self, *arguments)

    monkeypatch.setattr(Search, "_near", noted)
    used = {}
    for max_calls in (None, 500, 1):
        begun.clear()
        with metering.listening() as heard:
            found = translated(llama, soft(llama, "cat dog"), "search", max_calls=max_calls, **SEARCH)
        assert found.text and found.judgement is not None and found.candidates
        used[max_calls] = heard.total.sequences
        if max_calls is None:
            assert len(begun) > 1 and begun[-1] > 500 > begun[0]
        else:
            assert all(n < max_calls for n in begun)
            assert bool(begun) == (max_calls > 1)
    assert used[1] < used[500] < used[None]


def test_each_soft_prompt_has_the_sequences_to_itself(llama: Subject) -> None:
    prompts = [soft(llama, text) for text in ("cat dog", "red up", "left")]
    config = TranslateConfig(propose=("search",), n_probes=12, max_new_tokens=4, max_calls=500, **SEARCH)
    together = translate(prompts, None, llama, config, inputs=PAIRS[:28])
    for prompt, found in zip(prompts, together, strict=True):
        assert translate(prompt, None, llama, config, inputs=PAIRS[:28]).text == found.text


def test_when_time_is_up_the_best_so_far_comes_back(llama: Subject) -> None:
    helpers = Helpers(Scripted("up", "cat", "cat dog", "red"))
    found = translated(llama, soft(llama, "cat dog"), "describe", "search", helpers=helpers, max_seconds=1e-6, **SEARCH)
    assert found.text and found.stopped and list(found.by_proposer) == ["search"]  # which costs next to nothing


def test_a_budget_is_spent_when_its_time_or_its_sequences_are() -> None:
    assert not Budget().is_spent and not Budget(60.0).is_spent and Budget(0.0).is_spent
    budget = Budget(max_calls=3)
    metering.count(5, 5)
    assert not budget.is_spent
    with budget.of_one():
        metering.count(2, 9)
        assert not budget.is_spent
        metering.count(1, 9)
        assert budget.is_spent
    with budget.of_one():
        assert not budget.is_spent
