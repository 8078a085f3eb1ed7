"""Verification: agreement and divergence are what they are defined as, and the most faithful text wins."""

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator import candidates as search
from soft2hard.translator import translate as translate_module
from soft2hard.translator import verification
from soft2hard.translator.candidates import Reading, neighbours
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import Translation, translate
from soft2hard.translator.verification import Candidate, Probes, Verifier, verdict_of
from tests import tiny_models, tiny_training

ARCHITECTURES = ["llama", "gpt2", "bloom", "t5"]
INPUTS = ["cat", "one two three", "up down", "fish", "red", "four small big"]
OWN_TEXT = "cat dog"
WORDS = tiny_models.WORDS
CANDIDATES = [*tiny_models.WORDS[3:], "up", OWN_TEXT, "red blue up green left right down", "dog cat"]


def soft(subject: Subject, text: str = OWN_TEXT) -> SoftPrompt:
    """The embeddings of a text, as a soft prompt."""
    return SoftPrompt(subject.embed_text(text).clone(), template=Template())


def probe(verifier: Verifier, soft_prompt: SoftPrompt, inputs: list[str] = INPUTS) -> Probes:
    return verifier.probe([soft_prompt], [inputs])[0]


@pytest.fixture(params=ARCHITECTURES)
def verifier(request: pytest.FixtureRequest) -> Verifier:
    return Verifier(tiny_models.subject(request.param), max_new_tokens=12)


def divergence_by_definition(subject: Subject, soft_prompt: SoftPrompt, text: str, probes: Probes, cap: float) -> float:
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
    pool = [f"{a} {b}" for a in tiny_models.WORDS[3:9] for b in tiny_models.WORDS[9:]]
    every = probe(verifier, soft_prompt, pool)
    # An output with special tokens in it is not the text it is shown as.
    texts = [tuple(subject.encode_output(text)) for text in every.outputs]
    ids = [own if ended else (*own, subject.endings.eos_id) for own, ended in zip(every.ids, every.ended, strict=True)]
    plain = [text for text, one, other in zip(pool, ids, texts, strict=True) if one == other][:20]
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
    pool = [f"{a} {b}" for a in tiny_models.WORDS[3:9] for b in tiny_models.WORDS[9:]]
    rows = subject.generate_ids([Query(soft_prompt, text) for text in pool], max_new_tokens)
    # An output with special tokens in it is not the text it is shown as.
    inputs = [text for text, row in zip(pool, rows, strict=True) if min(row, default=9) > 3][:20]
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
    for candidates in (verifier.verify(CANDIDATES, probes), [verifier.verify([t], probes)[0] for t in CANDIDATES]):
        assert [c.text for c in candidates] == CANDIDATES
        assert [c.agreement for c in candidates] == [c.agreement for c in together]
        assert [c.divergence for c in candidates] == pytest.approx([c.divergence for c in together], abs=1e-4)


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


def test_verdicts_follow_the_thresholds() -> None:
    verdicts = {1.0: "faithful", 0.9: "faithful", 0.89: "doubtful", 0.5: "doubtful", 0.49: "failed", 0.0: "failed"}
    assert {agreement: verdict_of(agreement) for agreement in verdicts} == verdicts


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
        monkeypatch.setattr(translate_module, "propose", proposals)

    return propose_these


def one(translator: Translator, subject: Subject | None, soft_prompt: SoftPrompt, **arguments: object) -> Translation:
    config = TranslateConfig(**QUICK | arguments.pop("config", {}))
    [translation] = translate([soft_prompt], translator, subject, config, **arguments)
    return translation


def test_the_text_that_does_what_the_soft_prompt_does_wins_over_the_greedy_one(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("red blue", "up", OWN_TEXT, "dog")
    found = one(translator, subject, soft(subject), inputs=INPUTS)
    assert (found.text, found.greedy, found.verdict, found.agreement) == (OWN_TEXT, "red blue", "faithful", 1.0)
    assert (found.n_probes, found.probe_source) == (len(INPUTS), "examples")
    assert [c.text for c in found.candidates][0] == OWN_TEXT
    assert sorted(c.text for c in found.candidates) == sorted(["red blue", "up", OWN_TEXT, "dog"])
    assert found.to_json()["candidates"][0]["text"] == OWN_TEXT


def test_the_verdict_is_that_of_the_chosen_text(translator: Translator, subject: Subject, proposing) -> None:
    verdicts = set()
    for text in tiny_models.WORDS:
        proposing(text)
        found = one(translator, subject, soft(subject), inputs=tiny_models.WORDS, config={"n_probes": 24})
        assert found.verdict == verdict_of(found.agreement)
        verdicts.add(found.verdict)
    assert "failed" in verdicts or "doubtful" in verdicts


def test_inputs_are_taken_once_each_and_no_more_than_asked_for(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("up")
    found = one(translator, subject, soft(subject), inputs=[*INPUTS, *INPUTS])
    assert found.n_probes == len(INPUTS)
    assert one(translator, subject, soft(subject), inputs=INPUTS, config={"n_probes": 5}).n_probes == 5


def test_a_share_of_the_inputs_is_kept_to_judge_on_and_none_serves_twice(
    translator: Translator, subject: Subject, proposing, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposing("up")
    asked: list[list[list[str]]] = []
    probe_all = Verifier.probe

    def noted(self: Verifier, soft_prompts: list[SoftPrompt], inputs: list[list[str]]) -> list[Probes]:
        asked.append(inputs)
        return probe_all(self, soft_prompts, inputs)

    monkeypatch.setattr(Verifier, "probe", noted)
    inputs = [f"{a} {b}" for a in WORDS[:5] for b in WORDS[5:10]]
    for n, expected in ((24, (16, 8)), (18, (12, 6)), (10, (10, 0)), (4, (4, 0))):
        asked.clear()
        found = one(translator, subject, soft(subject), inputs=inputs[:n], config={"n_probes": 16, "n_checks": 8})
        assert (found.n_probes, found.n_checks) == expected
        used = [text for lists in asked for of_prompt in lists for text in of_prompt]
        assert sorted(used) == sorted(inputs[: sum(expected)])


def test_heats_let_the_best_candidate_through(
    translator: Translator, subject: Subject, proposing, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposing(*CANDIDATES)
    inputs = [f"{a} {b}" for a in WORDS[:5] for b in WORDS[5:10]]
    everything = one(translator, subject, soft(subject), inputs=inputs, config={"n_probes": 20, "n_checks": 0})
    for name, value in (("_HEAT_PROBES", 4), ("_FINALISTS", 5)):
        monkeypatch.setattr(search, name, value)
    with_heat = one(translator, subject, soft(subject), inputs=inputs, config={"n_probes": 20, "n_checks": 0})
    assert len(everything.candidates) == 10 and len(with_heat.candidates) == 5
    assert with_heat.candidates[0] == everything.candidates[0]


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
        assert (
            search.choose(translator, verifier, soft(subject), [OWN_TEXT, "up"], probes, search.Search(0))[0].text
            == winner
        )


def test_heats_weigh_the_evidence_of_a_few_inputs_as_that_of_all(
    translator: Translator, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_HEAT_PROBES", 4)
    monkeypatch.setattr(search, "_FINALISTS", 1)
    inputs = [f"{a} {b}" for a in WORDS[:5] for b in WORDS[5:10]]
    verifier = Verifier(subject)
    probes = probe(verifier, soft(subject), inputs)
    own, other = verifier.verify([OWN_TEXT, "up"], verifier.first(probes, 4))
    lead = other.divergence - own.divergence
    assert own.n_positions < len(probes.log_probs)
    for scale, winner in ((own.n_positions + 1, OWN_TEXT), (len(probes.log_probs) + 1, "up")):
        log_probs = {OWN_TEXT: -lead * scale, "up": 0.0}
        monkeypatch.setattr(Reading, "log_probs", lambda self, texts, known=log_probs: [known[t] for t in texts])
        [kept] = search.choose(translator, verifier, soft(subject), [OWN_TEXT, "up"], probes, search.Search(0))
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
    for found in (
        one(translator, None, soft(subject), inputs=INPUTS, config={"verify": False}),
        one(translator, subject, soft(subject), inputs=[[]]),
        one(translator, subject, soft(subject), inputs=INPUTS[:3]),  # fewer than can tell
        one(translator, silent, soft(subject), config={"n_probes": 8, "n_checks": 0}),
    ):
        assert (found.text, found.greedy, found.verdict) == ("red blue", "red blue", "unverified")
        assert (found.agreement, found.divergence, found.n_probes, found.probe_source) == (None, None, 0, "none")
        assert found.candidates == ()


def test_a_soft_prompt_without_inputs_does_not_keep_others_from_being_verified(
    translator: Translator, subject: Subject, proposing
) -> None:
    proposing("red", OWN_TEXT)
    prompts = [soft(subject), soft(subject), soft(subject)]
    found = translate(prompts, translator, subject, TranslateConfig(**QUICK), inputs=[INPUTS, [], INPUTS])
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
            assert int(reading.next_log_probs(completed[: i + 1])[i].argmax()) == completed[i]
    [greedy] = reading.complete([[]])
    written = translator.tokenizer.decode(greedy, skip_special_tokens=True)
    assert search.tidy(written) == translate_module.propose(translator, [soft(subject)], 1)[0][0]


def test_neighbours_are_new_texts_likeliest_first(translator: Translator, subject: Subject) -> None:
    texts = ["red cat up", "dog"]
    reading = Reading(translator, soft(subject))
    found = neighbours(reading, texts, n=40, n_branches=200)
    assert len(found) == len(set(found)) == 40
    assert not set(found) & set(texts)
    scores = reading.log_probs(found)
    assert scores == sorted(scores, reverse=True)
    everything = neighbours(reading, texts, n=1000, n_branches=1000)
    one_word_off = {" ".join([*texts[0].split()[:i], w, *texts[0].split()[i + 1 :]]) for i in range(3) for w in WORDS}
    assert one_word_off - {texts[0]} <= set(everything)
    assert found == everything[:40]


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
    monkeypatch.setattr(search, "neighbours", lambda reading, texts, n, n_branches: list(texts))
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
