"""Verification: agreement and divergence are what they are defined as, and the most faithful text wins."""

from random import Random

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator import candidates, search, verification
from soft2hard.translator import translate as translate_module
from soft2hard.translator.candidates import Reading, propose, tidy
from soft2hard.translator.model import Translator
from soft2hard.translator.probing import divided
from soft2hard.translator.search import Budget, Effort, Search, near
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import TOO_FEW_INPUTS, Translation, translate
from soft2hard.translator.verdict import lower_bound, verdict_of
from soft2hard.translator.verification import Candidate, Comparison, Probes, Verifier, explained_share, surest
from tests import tiny_models, tiny_training
from tests.markov import CHAIN, EOS, IDS, branching_subject, markov_subject

ARCHITECTURES = ["llama", "gpt2", "bloom", "t5"]
INPUTS = ["cat", "one two three", "up down", "fish", "red", "four small big"]
OWN_TEXT = "cat dog"
WORDS = tiny_models.WORDS
PAIRS = [f"{a} {b}" for a in WORDS[3:9] for b in WORDS[9:]]
CANDIDATES = [*tiny_models.WORDS[3:], "up", OWN_TEXT, "red blue up green left right down", "dog cat"]


def soft(subject: Subject, text: str = OWN_TEXT) -> SoftPrompt:
    """The embeddings of a text, as a soft prompt."""
    return SoftPrompt(subject.embed_text(text).clone(), template=Template())


def probe(verifier: Verifier, soft_prompt: SoftPrompt, inputs: list[str] = INPUTS) -> Probes:
    return verifier.probe([soft_prompt], [inputs])[0]


@pytest.fixture(params=ARCHITECTURES)
def verifier(request: pytest.FixtureRequest) -> Verifier:
    return Verifier(tiny_models.subject(request.param), max_new_tokens=12)


def divergence_by_definition(
    subject: Subject, soft_prompt: SoftPrompt, text: str | None, probes: Probes, cap: float
) -> float:
    """Mean over all output positions of sum p log(p / q), capped, from the subject's own distributions.

    Outputs that were cut have no end.
    """
    pairs = list(zip(probes.inputs, probes.outputs, strict=True))
    p, q = (
        torch.cat(
            [
                logs if ended else logs[:-1]
                for logs, ended in zip(
                    subject.target_distributions([Query(prompt, i, o) for i, o in pairs]), probes.ended, strict=True
                )
            ]
        )
        for prompt in (soft_prompt, text)
    )
    return float(torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(1).clamp(max=cap).mean())


@pytest.fixture
def rounds_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models repeat themselves; what becomes of such outputs has a test of its own."""
    monkeypatch.setattr(verification, "_without_rounds", lambda texts, ended: texts)


def test_outputs_are_what_the_subject_writes_under_the_soft_prompt(verifier: Verifier, rounds_kept: None) -> None:
    soft_prompts = [soft(verifier.subject), soft(verifier.subject, "up green red")]
    both = verifier.probe(soft_prompts, [INPUTS, INPUTS[2:]])
    for soft_prompt, probes in zip(soft_prompts, both, strict=True):
        queries = [Query(soft_prompt, text) for text in probes.inputs]
        assert list(probes.outputs) == verifier.subject.generate(queries, max_new_tokens=12)
    assert [probes.inputs for probes in both] == [tuple(INPUTS), tuple(INPUTS[2:])]


@pytest.mark.parametrize("max_new_tokens", [1, 3, 12])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_soft_prompts_own_tokens_have_no_divergence_and_agree_even_where_outputs_are_cut(
    architecture: str, max_new_tokens: int
) -> None:
    verifier = Verifier(tiny_models.subject(architecture), max_new_tokens)
    candidates = verifier.verify(CANDIDATES, probe(verifier, soft(verifier.subject)))
    own = candidates[CANDIDATES.index(OWN_TEXT)]
    assert own.agreement == 1.0
    assert own.divergence == pytest.approx(0, abs=1e-5)
    assert min(candidates, key=lambda c: c.rank) == own


def test_divergence_is_the_mean_of_capped_kullback_leibler_divergences(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = verifier.subject
    soft_prompt = soft(subject)
    every = probe(verifier, soft_prompt, PAIRS)
    # An output with special tokens in it is not the text it is shown as.
    texts = [tuple(subject.encode_output(text)) for text in every.outputs]
    ids = [own if ended else (*own, subject.endings.eos_id) for own, ended in zip(every.ids, every.ended, strict=True)]
    plain = [text for text, one, other in zip(PAIRS, ids, texts, strict=True) if one == other][:20]
    assert len(plain) >= 5
    probes = probe(verifier, soft_prompt, plain)
    largest = []
    for cap in (verification.MAX_DIVERGENCE, 0.05):
        monkeypatch.setattr(verification, "MAX_DIVERGENCE", cap)
        found = verifier.verify(CANDIDATES, probes)
        expected = [divergence_by_definition(subject, soft_prompt, text, probes, cap) for text in CANDIDATES]
        assert [c.divergence for c in found] == pytest.approx(expected, rel=1e-3, abs=1e-4)
        largest.append(max(expected))
    assert largest[0] > largest[1] > 0.025


@pytest.mark.parametrize("max_new_tokens", [1, 2, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_agreement_is_the_share_of_inputs_for_which_both_prompts_generate_the_same(
    architecture: str, max_new_tokens: int, rounds_kept: None
) -> None:
    subject = tiny_models.subject(architecture)
    soft_prompt = soft(subject)
    rows = subject.generate_ids([Query(soft_prompt, text) for text in PAIRS], max_new_tokens)
    # An output with special tokens in it is not the text it is shown as.
    inputs = [text for text, row in zip(PAIRS, rows, strict=True) if min(row, default=9) > 3][:20]
    assert len(inputs) >= 5
    verifier = Verifier(subject, max_new_tokens)
    probes = probe(verifier, soft_prompt, inputs)
    found = verifier.verify(CANDIDATES, probes)
    for text, candidate in zip(CANDIDATES, found, strict=True):
        written = subject.generate([Query(text, i) for i in inputs], max_new_tokens)
        same = [a == b for a, b in zip(written, probes.outputs, strict=True)]
        assert candidate.agreement == pytest.approx(sum(same) / len(same))
    assert len({c.agreement for c in found}) > 1


@pytest.mark.parametrize("shared", [True, False])
def test_company_and_batch_size_change_no_candidate(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(tiny_models.subject("llama"))
    monkeypatch.setattr(verifier.subject.scorer, "shares_prefixes", shared)
    probes = probe(verifier, soft(verifier.subject))
    together = verifier.verify(CANDIDATES, probes)
    monkeypatch.setattr(verifier.subject, "batch_tokens", 100)
    for found in (verifier.verify(CANDIDATES, probes), [verifier.verify([t], probes)[0] for t in CANDIDATES]):
        assert [c.text for c in found] == CANDIDATES
        assert [c.agreement for c in found] == [c.agreement for c in together]
        assert [c.divergence for c in found] == pytest.approx([c.divergence for c in together], abs=1e-4)


def test_a_candidate_too_long_for_the_context_is_left_out() -> None:
    verifier = Verifier(tiny_models.subject("llama"))
    probes = probe(verifier, soft(verifier.subject))
    texts = ["cat", "cat " * tiny_models.CONTEXT, "dog"]
    assert [c.text for c in verifier.verify(texts, probes)] == ["cat", "dog"]
    assert verifier.verify([], probes) == []


def test_candidates_rank_by_log_probability_less_summed_divergence() -> None:
    likely = Candidate("a", 0.75, divergence=1.0, n_positions=10, log_prob=-2.0)  # -12 in all
    faithful = Candidate("b", 1.0, divergence=0.1, n_positions=10, log_prob=-10.0)  # -11
    neither = Candidate("c", 1.0, divergence=1.0, n_positions=10, log_prob=-10.0)  # -20
    assert sorted([neither, likely, faithful], key=lambda c: c.rank) == [faithful, likely, neither]


def test_the_first_probes_are_those_of_the_first_inputs(verifier: Verifier) -> None:
    soft_prompt = soft(verifier.subject)
    part = verifier.first(probe(verifier, soft_prompt), 4)
    alone = probe(verifier, soft_prompt, INPUTS[:4])
    assert (part.inputs, part.outputs) == (alone.inputs, alone.outputs)
    assert torch.equal(part.likeliest, alone.likeliest)
    assert torch.allclose(part.log_probs, alone.log_probs, atol=1e-4)


# --- translate: propose, verify, refine, choose --------------------------------------------------

QUICK = {"n_candidates": 4, "refine_rounds": 0}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_training.llama_subject()


@pytest.fixture(scope="module")
def translator() -> Translator:
    return tiny_training.trained()


@pytest.fixture
def proposing(monkeypatch: pytest.MonkeyPatch):
    """Has these texts proposed for every soft prompt, the first of them as the greedy one."""

    def propose_these(*texts: str) -> None:
        proposals = lambda translator, soft_prompts, *args, **kwargs: [list(texts) for _ in soft_prompts]  # noqa: E731
        for module in (candidates, translate_module):
            monkeypatch.setattr(module, "propose", proposals)

    return propose_these


def searched(
    translator: Translator,
    verifier: Verifier,
    soft_prompt: SoftPrompt,
    texts: list[str],
    probes: Probes,
    effort: Effort = Effort(0),
) -> list[Candidate]:
    search = Search([Reading(translator, soft_prompt)], verifier, probes, Budget())
    return search.best({"translator": texts}, effort)


def one(translator: Translator, subject: Subject | None, soft_prompt: SoftPrompt, **arguments: object) -> Translation:
    config = TranslateConfig(**QUICK | arguments.pop("config", {}))
    [translation] = translate([soft_prompt], translator, subject, config, **arguments)
    return translation


def test_the_text_that_does_what_the_soft_prompt_does_wins_over_the_greedy_one(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("red blue", "up", OWN_TEXT, "dog")
    found = one(translator, subject, soft(subject), inputs=INPUTS)
    assert (found.text, found.greedy, found.proposer, found.agreement) == (OWN_TEXT, "red blue", "translator", 1.0)
    assert (found.n_probes, found.n_checks, found.probe_source) == (len(INPUTS), 0, "examples")
    assert [c.text for c in found.candidates][0] == OWN_TEXT
    assert sorted(c.text for c in found.candidates) == sorted(["red blue", "up", OWN_TEXT, "dog"])
    assert found.to_json()["candidates"][0]["text"] == OWN_TEXT


def test_the_verdict_is_that_of_the_chosen_text_on_inputs_that_did_not_choose_it(
    translator: Translator, subject: Subject, proposing
) -> None:
    verdicts = set()
    for text in ("red", "cat", "up", "four", "red red"):
        proposing(text)
        found = one(translator, subject, soft(subject, "red"), inputs=PAIRS, config={"n_probes": 8})
        assert (found.n_probes, found.n_checks) == (8, 16)
        n_alike = round(found.agreement * 16)
        assert found.verdict == verdict_of(n_alike, 16)
        assert found.judgement.at_least == lower_bound(n_alike, 16)
        outputs = [subject.generate([Query(p, i) for i in PAIRS[8:24]]) for p in (soft(subject, "red"), text)]
        assert (found.verdict == "faithful") == (outputs[0] == outputs[1]) == (text == "red")
        verdicts.add(found.verdict)
    assert len(verdicts) >= 2


def test_inputs_that_chose_the_text_prove_nothing(translator: Translator, subject: Subject, proposing) -> None:
    proposing(OWN_TEXT)
    few, many = (one(translator, subject, soft(subject), inputs=some) for some in (INPUTS, PAIRS))
    assert (few.agreement, few.n_checks, few.verdict) == (1.0, 0, "doubtful")
    assert (few.judgement.at_least, few.judgement.further) == (None, None)
    assert (many.agreement, many.n_checks, many.verdict) == (1.0, 16, "faithful")


def test_inputs_are_taken_once_each_and_no_more_than_asked_for(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("up")
    found = one(translator, subject, soft(subject), inputs=[*INPUTS, *INPUTS])
    assert found.n_probes == len(INPUTS)
    config = {"n_probes": 5, "n_checks": 0}
    assert one(translator, subject, soft(subject), inputs=INPUTS, config=config).n_probes == 5


@pytest.mark.parametrize(
    ("n", "expected"),
    [(24, (16, 8)), (30, (16, 8)), (18, (10, 8)), (12, (6, 6)), (10, (5, 5)), (8, (4, 4)), (7, (7, 0)), (4, (4, 0))],
)
def test_half_of_the_inputs_are_kept_to_judge_on_and_none_serves_twice(
    translator: Translator, subject: Subject, proposing, monkeypatch: pytest.MonkeyPatch, n: int, expected: object
) -> None:
    proposing("up", OWN_TEXT)
    asked: list[list[list[str]]] = []
    compared: list[tuple[str, ...]] = []
    probe_all, compare = Verifier.probe, Verifier.compare

    def noted(self: Verifier, soft_prompts: list[SoftPrompt], inputs: list[list[str]]) -> list[Probes]:
        asked.append(inputs)
        return probe_all(self, soft_prompts, inputs)

    def seen(self: Verifier, prompts: list[str | None], probes: Probes) -> list[Comparison | None]:
        compared.append(probes.inputs)
        return compare(self, prompts, probes)

    monkeypatch.setattr(Verifier, "probe", noted)
    monkeypatch.setattr(Verifier, "compare", seen)
    found = one(translator, subject, soft(subject), inputs=PAIRS[:n], config={"n_probes": 16, "n_checks": 8})
    assert (found.n_probes, found.n_checks) == expected
    [[given]] = asked  # in random order
    assert len(given) == min(n, 24) and set(given) <= set(PAIRS[:n])
    *chose, judged = compared
    assert {text for inputs in chose for text in inputs} == set(given[: expected[0]])
    assert judged == tuple(given[expected[0] : sum(expected)] or given[: expected[0]])


def test_however_few_inputs_there_are_at_least_half_judge_but_for_the_first_eight() -> None:
    for n_probes, n_checks in ((32, 16), (16, 8), (8, 40), (3, 5)):
        config = TranslateConfig(n_probes=n_probes, n_checks=n_checks)
        for n in range(n_probes + n_checks + 1):
            choosing, judging = divided(n, config)
            assert [*choosing, *judging] == list(range(len(choosing) + len(judging)))  # none twice, in their order
            assert len(choosing) <= n_probes and len(judging) <= n_checks
            if not judging:
                assert len(choosing) == min(n, n_probes) and min(n // 2, n_checks) < 4
            else:
                assert len(judging) >= 4 and len(choosing) + len(judging) == n
                assert len(judging) == n_checks or len(choosing) <= 8
                assert len(judging) == n_checks or len(choosing) in (min(n_probes, 8), (n + 1) // 2)
        assert tuple(map(len, divided(n_probes + n_checks, config))) == (n_probes, n_checks)


def test_candidates_carry_the_translators_log_probability_and_all_output_positions(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("red blue", "up", OWN_TEXT)
    found = one(translator, subject, soft(subject), inputs=INPUTS)
    reading = Reading(translator, soft(subject))
    probes = probe(Verifier(subject), soft(subject))
    for candidate in found.candidates:
        assert candidate.log_prob == pytest.approx(reading.log_probs([candidate.text])[0], abs=1e-4)
        assert candidate.n_positions == len(probes.log_probs)


def test_the_prior_overturns_a_small_difference_in_divergence_and_no_large_one(
    translator: Translator, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = Verifier(subject)
    probes = probe(verifier, soft(subject))
    own, other = verifier.verify([OWN_TEXT, "up"], probes)
    lead = (other.divergence - own.divergence) * other.n_positions
    assert lead > 1
    for prior, winner in ((lead - 0.5, OWN_TEXT), (lead + 0.5, "up")):
        log_probs = {OWN_TEXT: -prior, "up": 0.0}
        monkeypatch.setattr(Reading, "log_probs", lambda self, texts, known=log_probs: [known[t] for t in texts])
        assert searched(translator, verifier, soft(subject), [OWN_TEXT, "up"], probes)[0].text == winner


def test_heats_weigh_the_evidence_of_a_few_inputs_as_that_of_all(
    translator: Translator, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = Verifier(subject)
    probes = probe(verifier, soft(subject), PAIRS[:25])
    own, other = verifier.verify([OWN_TEXT, "up"], verifier.first(probes, 4))
    lead = other.divergence - own.divergence
    assert own.n_positions < len(probes.log_probs)
    effort = Effort(0, heats=((4, 1),))
    for scale, winner in ((own.n_positions + 1, OWN_TEXT), (len(probes.log_probs) + 1, "up")):
        log_probs = {OWN_TEXT: -lead * scale, "up": 0.0}
        monkeypatch.setattr(Reading, "log_probs", lambda self, texts, known=log_probs: [known[t] for t in texts])
        [kept] = searched(translator, verifier, soft(subject), [OWN_TEXT, "up"], probes, effort)
        assert kept.text == winner


def test_each_soft_prompt_is_verified_on_its_own_inputs(translator: Translator, subject: Subject, proposing) -> None:
    proposing("dog", "up", OWN_TEXT, "red")
    prompts = [soft(subject, "red"), soft(subject), soft(subject, "up")]
    lists = [INPUTS, INPUTS[:4], INPUTS[1:]]
    together = translate(prompts, translator, subject, TranslateConfig(**QUICK), inputs=lists)
    assert [t.text for t in together] == ["red", OWN_TEXT, "up"]
    assert [t.n_probes for t in together] == [6, 4, 5]
    for prompt, inputs, translation in zip(prompts, lists, together, strict=True):
        assert one(translator, subject, prompt, inputs=inputs).text == translation.text
    with pytest.raises(UserError, match="2 lists of inputs for 3"):
        translate(prompts, translator, subject, inputs=lists[:2])


@pytest.mark.parametrize("inputs", [INPUTS, None])
def test_a_translation_is_the_same_whatever_else_is_translated(
    translator: Translator, subject: Subject, inputs: list[str] | None
) -> None:
    prompts = [soft(subject, text) for text in ("cat red cat", "up green", OWN_TEXT)]
    config = TranslateConfig(n_candidates=16, n_probes=6, n_checks=4, refine_rounds=1, seed=1)
    together = translate(prompts, translator, subject, config, inputs=inputs)
    alone = [translate([prompt], translator, subject, config, inputs=inputs)[0] for prompt in prompts]
    for one_of_all, on_its_own in zip(together, alone, strict=True):
        assert (one_of_all.text, one_of_all.greedy) == (on_its_own.text, on_its_own.greedy)
        assert (one_of_all.n_probes, one_of_all.n_checks) == (on_its_own.n_probes, on_its_own.n_checks)
        assert [c.text for c in one_of_all.candidates] == [c.text for c in on_its_own.candidates]
        ranks = [[c.rank for c in translation.candidates] for translation in (one_of_all, on_its_own)]
        assert ranks[0] == pytest.approx(ranks[1], abs=1e-3)


def test_with_nothing_to_verify_against_the_greedy_text_comes_unverified(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("red blue", OWN_TEXT)
    silent = tiny_training.llama_subject()
    silent.model.lm_head.weight.data.zero_()[2] = 1.0  # its inputs hardly ever close
    unasked = one(translator, None, soft(subject), inputs=INPUTS, config={"verify": False})
    too_few = (
        one(translator, subject, soft(subject), inputs=[[]]),
        one(translator, subject, soft(subject), inputs=INPUTS[:3]),  # fewer than can tell
        one(translator, silent, soft(subject), config={"n_probes": 8, "n_checks": 0}),
    )
    for found in (unasked, *too_few):
        assert (found.text, found.greedy, found.verdict) == ("red blue", "red blue", "unverified")
        assert (found.agreement, found.divergence, found.n_probes) == (None, None, 0)
        assert found.probe_source == ("none" if found is unasked else TOO_FEW_INPUTS)
        assert found.candidates == ()


def test_a_soft_prompt_without_inputs_does_not_keep_others_from_being_verified(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("red", OWN_TEXT)
    prompts = [soft(subject), soft(subject), soft(subject)]
    found = translate(prompts, translator, subject, TranslateConfig(**QUICK), inputs=[PAIRS, [], PAIRS])
    assert [t.verdict for t in found] == ["faithful", "unverified", "faithful"]


def test_soft_prompts_and_subjects_of_others_are_refused(translator: Translator, subject: Subject) -> None:
    with pytest.raises(UserError, match="9 wide"):
        translate([SoftPrompt(torch.zeros(2, 9))], translator, subject)
    with pytest.raises(UserError, match="another subject"):
        translate([soft(subject)], translator, tiny_training.llama_subject(seed=1), inputs=INPUTS)


@pytest.mark.parametrize("setting", ["n_candidates", "n_probes", "max_new_tokens"])
def test_settings_below_one_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=setting):
        TranslateConfig(**{setting: 0})


# --- refinement ----------------------------------------------------------------------------------


def log_prob_by_definition(translator: Translator, soft_prompt: SoftPrompt, text: str) -> float:
    """Sum over the text's tokens and its end, one forward pass a token, without cache or padding."""
    model = translator.model.eval()
    ids = [model.config.decoder_start_token_id, *translator.tokenizer.encode(text, add_special_tokens=False)]
    total = 0.0
    read = {"inputs_embeds": model.reader(soft_prompt.embeddings[None])}
    for position, target in enumerate([*ids[1:], model.config.eos_token_id]):
        with torch.no_grad():
            logits = model.seq2seq(**read, decoder_input_ids=torch.tensor([ids[: position + 1]])).logits[0, -1]
        total += float(logits.log_softmax(-1)[target])
    return total


def test_log_probabilities_are_sums_over_tokens_whatever_the_company(translator: Translator, subject: Subject) -> None:
    texts = ["red cat up", "dog", OWN_TEXT, "four small big four small big"]
    expected = [log_prob_by_definition(translator, soft(subject), text) for text in texts]
    assert Reading(translator, soft(subject)).log_probs(texts) == pytest.approx(expected, abs=1e-4)


def test_completions_are_greedy_continuations(translator: Translator, subject: Subject) -> None:
    reading = Reading(translator, soft(subject))
    encode = lambda text: translator.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    prefixes = [[], encode("red"), encode("cat dog up"), encode("blue dog")]
    for prefix, completed in zip(prefixes, reading.complete(prefixes), strict=True):
        assert completed[: len(prefix)] == prefix
        for i in range(len(prefix), len(completed)):  # every added word is the likeliest after those before it
            assert int(reading.next_log_probs([completed[: i + 1]])[0][i].argmax()) == completed[i]
    [greedy] = reading.complete([[]])
    written = translator.tokenizer.decode(greedy, skip_special_tokens=True)
    assert tidy(written) == propose(translator, [soft(subject)], 1)[0][0]


def test_texts_near_others_are_new_and_come_likeliest_first(translator: Translator, subject: Subject) -> None:
    texts = ["red cat up", "dog"]
    rows = [translator.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    reading = Reading(translator, soft(subject))
    everything = near(reading, rows, Effort(1, n_texts=1000, n_branches=1000))
    assert len(everything) == len(set(everything)) > 60
    assert not set(everything) & set(texts)
    scores = reading.log_probs(everything)
    assert scores == sorted(scores, reverse=True)
    one_word_off = {" ".join([*texts[0].split()[:i], w, *texts[0].split()[i + 1 :]]) for i in range(3) for w in WORDS}
    assert one_word_off - {texts[0]} <= set(everything)
    few = near(reading, rows, Effort(1, n_texts=40, n_branches=200))
    assert len(few) == 40 and set(few) <= set(everything)
    assert min(reading.log_probs(few)) >= scores[60]


def test_refinement_finds_a_better_text_one_and_two_words_away(
    translator: Translator, subject: Subject, proposing
) -> None:
    for proposed, rounds in (("cat red", 1), ("fish red", 2)):
        proposing(proposed)
        without = one(translator, subject, soft(subject), inputs=INPUTS)
        refined = one(translator, subject, soft(subject), inputs=INPUTS, config={"refine_rounds": rounds})
        assert (without.text, refined.greedy) == (proposed, proposed)
        assert refined.agreement > without.agreement
        assert refined.agreement == 1.0


def test_refinement_ends_where_no_text_is_left_to_try(
    translator: Translator, subject: Subject, proposing, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposing("up")
    monkeypatch.setattr(search, "near", lambda reading, rows, effort: ["up"])
    plain = one(translator, subject, soft(subject), inputs=INPUTS)
    assert one(translator, subject, soft(subject), inputs=INPUTS, config={"refine_rounds": 3}) == plain


def test_refinement_never_makes_a_translation_worse(translator: Translator, subject: Subject, proposing) -> None:
    for text in ("up", "left right", "four small big"):
        proposing(text)
        plain = one(translator, subject, soft(subject), inputs=INPUTS)
        refined = one(translator, subject, soft(subject), inputs=INPUTS, config={"refine_rounds": 3})
        assert refined.candidates[0].rank <= plain.candidates[0].rank


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("yes yes yes yes y", "yes"),
        ("no complaint no complaint no complaint no comp", "no complaint"),
        ("one two three", "one two three"),
        ("yes", "yes"),
    ],
)
def test_an_output_that_goes_round_and_round_counts_once(written: str, kept: str) -> None:
    assert verification._without_rounds([written] * 3, [False] * 3) == [kept] * 3
    assert verification._without_rounds([written] * 3, [True] * 3) == [written] * 3


def test_outputs_are_compared_as_the_tokens_that_were_written(verifier: Verifier, rounds_kept: None) -> None:
    """Not as their text tokenised again, which may be tokens that the soft prompt never writes."""
    subject = verifier.subject
    probes = probe(verifier, soft(subject))
    rows = subject.generate_ids([Query(soft(subject), text) for text in INPUTS], max_new_tokens=12)
    end = subject.endings.eos_id
    shown = [next(row[:n] for n in range(len(row), -1, -1) if subject.output_text(row[:n]) == text)
             for row, text in zip(rows, probes.outputs, strict=True)]  # fmt: skip
    assert list(probes.ids) == [(*row, end) if e else tuple(row) for row, e in zip(shown, probes.ended, strict=True)]
    of_all = torch.tensor([token for row in probes.ids for token in row])
    assert torch.equal(probes.likeliest, of_all)


def test_where_a_soft_prompt_never_ends_its_outputs_no_text_is_blamed_for_ending() -> None:
    subject = tiny_models.subject("llama")
    verifier = Verifier(subject, max_new_tokens=1)
    probes = probe(verifier, soft(subject))
    assert probes.ending == "none" and not any(probes.ended)
    assert len(probes.log_probs) == sum(map(len, probes.ids)) == len(probes.inputs)


# --- how much of an output is compared ------------------------------------------------------------

OTHERS = ["cat", "dog up", "red", "left right", "four", "small big"]


def test_outputs_longer_than_16_tokens_are_compared_to_their_end() -> None:
    """The two prompts differ in the eighteenth word alone."""
    subject = branching_subject()
    birds = soft(subject, "bird bird")
    for max_new_tokens, n_words, fish_alike in ((None, 18, 0.0), (16, 16, 1.0), (64, 18, 0.0)):
        verifier = Verifier(subject, max_new_tokens)
        probes = probe(verifier, birds, OTHERS)
        expected = " ".join([*CHAIN, "bird"][:n_words])
        assert set(probes.outputs) == {expected}
        assert [*map(len, probes.ids)] == [n_words + (n_words == 18)] * len(OTHERS)  # with the end where it was written
        same, other = verifier.verify(["bird bird", "fish"], probes)
        assert (same.agreement, other.agreement) == (1.0, fish_alike)


@pytest.mark.parametrize("n_long", [0, 3, 4])
def test_outputs_are_written_on_to_64_tokens_where_most_do_not_end_within_16(
    n_long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    rows = [[Random(i).randrange(4, 24) for i in range(70)]] * n_long + [[5, 6, 7]] * (6 - n_long)
    subject = branching_subject()

    def written(queries: list[Query], max_new_tokens: int) -> list[list[int]]:
        asked.append(max_new_tokens)
        return [row[:max_new_tokens] for row in rows]

    monkeypatch.setattr(subject, "generate_ids", written)
    probes = probe(Verifier(subject), soft(subject, "up"), OTHERS)
    assert asked == ([16, 64] if n_long == 4 else [16])
    assert [*map(len, probes.ids)] == [asked[-1]] * n_long + [4] * (6 - n_long)
    assert probes.ended == (False,) * n_long + (True,) * (6 - n_long)
    asked.clear()
    assert max(map(len, probe(Verifier(subject, 20), soft(subject, "up"), OTHERS).ids)) in (4, 20)
    assert asked == [20]


def test_long_outputs_leave_the_context_room_for_texts_longer_than_the_soft_prompt() -> None:
    subject = tiny_training.llama_subject()
    soft_prompt, context = soft(subject), tiny_models.CONTEXT
    verifier = Verifier(subject)
    probes = probe(verifier, soft_prompt)
    assert 16 < max(map(len, probes.ids)) < context
    longest = max(len(subject.encode_input(text, "soft").body) for text in INPUTS)
    text = " ".join(WORDS[3 + i % 8] for i in range(24))
    assert verifier.verify([text], probes) != []
    assert verifier.verify([" ".join([text] * 2)], probes) == []
    # As much as there is room for, and no more.
    n_lead = len(subject.lead_embeddings("soft"))
    assert max(map(len, probes.ids)) == context - longest - n_lead - 24
    assert [len(text.split()) > 0 for text in verifier.outputs(text, probes)] == [True] * len(INPUTS)


def test_outputs_under_a_text_that_just_fits_are_written_as_far_as_there_is_room() -> None:
    subject = tiny_training.llama_subject()
    verifier = Verifier(subject, 16)
    probes = probe(verifier, soft(subject))
    n_body = max(len(subject.encode_input(text, "hard").body) for text in INPUTS)
    room = tiny_models.CONTEXT - len(subject.lead_embeddings("hard")) - n_body - 15
    text = " ".join(WORDS[3 + i % 8] for i in range(room))
    [found] = verifier.compare([text], probes)
    assert found is not None
    written = verifier.outputs(text, probes)
    assert written == subject.generate([Query(text, i) for i in INPUTS], 15)


# --- what a text explains -------------------------------------------------------------------------


def test_what_a_text_explains_is_the_divergence_that_it_takes_away() -> None:
    subject = branching_subject()
    verifier, birds = Verifier(subject), soft(subject, "bird bird")
    probes = probe(verifier, birds, OTHERS)
    kl = {p: divergence_by_definition(subject, birds, p, probes, 10.0) for p in ("bird bird", "bird", "cat", None)}
    assert kl["bird bird"] < 1e-5 < kl["bird"] < kl[None]
    found = Search([], verifier, probes, Budget()).best({"translator": ["cat", "bird", "bird bird"]}, Effort(0))
    assert {c.text: c.explained for c in found} == {
        text: pytest.approx(1 - kl[text] / kl[None], abs=1e-3) for text in ("bird bird", "bird", "cat")
    }
    assert found[0].text == "bird bird"


@pytest.mark.parametrize(
    ("divergence", "without", "expected"),
    [(0.0, 2.0, 1.0), (0.5, 2.0, 0.75), (2.0, 2.0, 0.0), (3.0, 2.0, -0.5), (0.1, None, None), (0.0, 9e-4, None)],
)
def test_the_explained_share_is_one_less_the_share_that_is_left(
    divergence: float, without: float | None, expected: float | None
) -> None:
    assert explained_share(divergence, without) == (expected if expected is None else pytest.approx(expected))


def test_of_a_soft_prompt_that_does_nothing_there_is_nothing_to_explain() -> None:
    subject = markov_subject({a: [b] for a, b in zip([":", *CHAIN[:6]], CHAIN, strict=False)})
    subject.model.lm_head.weight.data[EOS, IDS[CHAIN[6]]] = 10.0
    verifier = Verifier(subject)
    probes = probe(verifier, soft(subject), OTHERS)
    [found] = Search([], verifier, probes, Budget()).best({"translator": ["up"]}, Effort(0))
    assert (found.explained, found.agreement) == (None, 1.0)


def test_the_surest_inputs_end_and_have_the_least_random_outputs(verifier: Verifier) -> None:
    probes = probe(verifier, soft(verifier.subject), PAIRS[:20])
    starts = [sum(map(len, probes.ids[:i])) for i in range(21)]
    of = torch.distributions.Categorical(logits=probes.log_probs).entropy()
    means = [float(of[a:b].mean()) for a, b in zip(starts, starts[1:], strict=False)]
    for n in (1, 7, 20, 30):
        kept = surest(probes, n)
        assert kept == sorted(kept) and len(kept) == min(n, 20)
        left = [i for i in range(20) if i not in kept]
        for i in kept:
            assert all((not probes.ended[i], means[i] - 1e-4) <= (not probes.ended[j], means[j]) for j in left)
