"""What is claimed of a text, and how surely: bounds, verdicts, what makes outputs alike, and where they part."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import binom, binomtest

from soft2hard.eval.report.verdict_text import judgement_text
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.translator import verification
from soft2hard.translator.verdict import (
    Judge,
    Judgement,
    alike,
    further_inputs,
    lower_bound,
    rests_on,
    upper_bound,
    verdict_of,
)
from soft2hard.translator.verification import Comparison, Probes, Verifier
from tests import tiny_models
from tests.markov import branching_subject

PAIRS = [f"{a} {b}" for a in tiny_models.WORDS[3:9] for b in tiny_models.WORDS[9:15]]


def exact_bound(n_alike: int, n: int, alternative: str) -> float:
    """SciPy's own interval by Clopper and Pearson."""
    interval = binomtest(n_alike, n, alternative=alternative).proportion_ci(0.95, method="exact")
    return interval.low if alternative == "greater" else interval.high


def soft(subject: Subject, text: str) -> SoftPrompt:
    return SoftPrompt(subject.embed_text(text).clone(), template=Template())


# --- bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4, 13, 14, 16, 100])
def test_of_inputs_that_are_all_alike_the_bound_is_a_root_of_five_in_a_hundred(n: int) -> None:
    assert lower_bound(n, n) == pytest.approx(0.05 ** (1 / n))
    assert upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n))
    assert (lower_bound(0, n), upper_bound(n, n)) == (0.0, 1.0)


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    for n in (1, 5, 16, 33):
        for k in range(n + 1):
            assert lower_bound(k, n) == pytest.approx(exact_bound(k, n, "greater"), abs=1e-9)
            assert upper_bound(k, n) == pytest.approx(exact_bound(k, n, "less"), abs=1e-9)


@pytest.mark.parametrize("n", [14, 16, 50])
def test_the_bound_lies_above_the_truth_in_no_more_than_one_of_twenty_samples(n: int) -> None:
    bounds = np.array([lower_bound(k, n) for k in range(n + 1)])
    rng = np.random.default_rng(0)
    for truth in np.linspace(0.05, 0.95, 19):
        wrong = bounds > truth
        assert binom.pmf(np.arange(n + 1), n, truth)[wrong].sum() <= 0.05 + 1e-12
        seen = rng.binomial(n, truth, 4000)
        assert wrong[seen].mean() <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4000)


def test_a_text_alike_on_fewer_than_four_of_five_inputs_is_seldom_called_faithful() -> None:
    for n in (14, 16, 24, 50):
        said = np.array([verdict_of(k, n) == "faithful" for k in range(n + 1)])
        for truth in (0.5, 0.7, 0.799):
            assert binom.pmf(np.arange(n + 1), n, truth)[said].sum() <= 0.05


# --- verdicts ------------------------------------------------------------------------------------


def test_verdicts_follow_the_bound_and_the_half() -> None:
    assert [verdict_of(n, n) for n in (1, 4, 13, 14, 16)] == ["doubtful"] * 3 + ["faithful"] * 2
    assert [verdict_of(n - 1, n) for n in (16, 21, 22)] == ["doubtful", "doubtful", "faithful"]
    assert [verdict_of(k, 16) for k in (0, 7, 8, 15)] == ["failed", "failed", "doubtful", "doubtful"]
    for n in range(1, 41):
        for k in range(n + 1):
            is_faithful = exact_bound(k, n, "greater") >= 0.8
            expected = "faithful" if is_faithful else "doubtful" if 2 * k >= n else "failed"
            assert verdict_of(k, n) == expected
            assert verdict_of(k, n, proves_nothing=True) == ("doubtful" if is_faithful else expected)


@pytest.mark.parametrize(("k", "n"), [(16, 16), (4, 4), (13, 13), (15, 16), (14, 16), (9, 16), (3, 4), (0, 16), (2, 5)])
def test_further_inputs_are_the_fewest_that_settle_it(k: int, n: int) -> None:
    """Of ever more inputs that go as these did, the first number after which either bound is past 80 %."""
    more = 0
    while True:
        seen = k + round(k / n * more)
        if exact_bound(seen, n + more, "greater") >= 0.8 or exact_bound(seen, n + more, "less") < 0.8:
            break
        more += 1
    assert further_inputs(k, n) == more
    assert (more == 0) == (verdict_of(k, n) == "faithful" or (k, n) in {(9, 16), (0, 16)})


def test_no_number_of_inputs_settles_a_text_that_is_alike_on_just_four_of_five() -> None:
    assert further_inputs(4, 5) is None
    assert further_inputs(1, 1) == 13


# --- what is alike -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "has_encoder", "expected"),
    [
        ([2, 2, 3], True, "exact"),
        ([8, 8, 60], True, "exact"),
        ([9, 9, 2], True, "meaning"),
        ([9, 9, 2], False, "words"),
        ([8, 9], False, "words"),  # the middle is 8.5
        ([7, 9], True, "exact"),
        ([], True, "exact"),
    ],
)
def test_short_answers_must_be_the_same_and_open_ones_alike(
    lengths: list[int], has_encoder: bool, expected: str
) -> None:
    assert rests_on(lengths, has_encoder) == expected


def test_short_answers_are_the_same_in_other_tokens_but_not_where_nothing_is_written() -> None:
    """A word with the space before it is another token than one without."""
    found = Comparison(torch.tensor([False, True, False, False]), torch.zeros(4), 4)
    outputs = (("Lisbon", "on", "", "up"), ("Lisbon", "on", "", "down"))
    assert alike(found, "exact", outputs, None) == [True, True, False, False]


class Agreeing(Verifier):
    """A verifier under which every text does what the soft prompt does."""

    def __init__(self):
        pass

    def compare(self, prompts: list, probes: Probes) -> list[Comparison | None]:
        n = len(probes.inputs)
        return [Comparison(torch.ones(n, dtype=torch.bool), torch.zeros(n), n), None]

    def outputs(self, prompt: str, probes: Probes) -> list[str]:
        return list(probes.outputs)


def judged(written: Sequence[str]) -> Judgement:
    """A text that does what a soft prompt with these outputs does."""
    n = len(written)
    ids = ((1,),) * n
    probes = Probes(
        tuple(map(str, range(n))), tuple(written), ids, (True,) * n, torch.zeros(n, 3), torch.zeros(n).long()
    )
    return Judge(Agreeing(), probes, probes, None)("a text")


def test_it_is_said_where_the_soft_prompt_writes_the_same_whatever_the_input() -> None:
    said = "the soft prompt writes the same on all of them"
    same, other = judged(["up"] * 20), judged(["up"] * 19 + ["down"])
    assert said in judgement_text(same, "examples") and said not in judgement_text(other, "examples")
    assert said not in judgement_text(judged(["up"] * 3), "examples")


@pytest.mark.parametrize(
    ("n_silent", "verdict"), [(0, "faithful"), (10, "faithful"), (11, "doubtful"), (20, "doubtful")]
)
def test_a_text_is_not_faithful_where_the_soft_prompt_writes_nothing(n_silent: int, verdict: str) -> None:
    found = judged([" " if i < n_silent else ("up", "down")[i % 2] for i in range(20)])
    assert (found.verdict, found.n_silent, found.n_alike) == (verdict, n_silent, 20)
    said = f"the soft prompt writes nothing on {n_silent} of 20, as under another template"
    assert (said in judgement_text(found, "examples")) == (verdict == "doubtful")


VECTORS = {"a": (1.0, 0.0), "near": (0.81, (1 - 0.81**2) ** 0.5), "far": (0.79, (1 - 0.79**2) ** 0.5), "": (0.0, 0.0)}


def encoder(texts: Sequence[str]) -> np.ndarray:
    """By a table; lengths do not matter."""
    return np.array([VECTORS[text] for text in texts]) * 3


def test_outputs_are_alike_by_the_text_by_nearly_all_words_or_by_their_meaning() -> None:
    found = Comparison(torch.tensor([True, False, False, False]), torch.zeros(4), 4)
    outputs = (["a", "a", "a", ""], ["a", "near", "far", ""])
    assert alike(found, "exact", outputs, encoder) == [True, False, False, False]
    ten = "one two three four five six seven eight nine ten"
    one_other, two_other = ten.replace("five", "a"), ten.replace("five", "a").replace("six", "b")
    answers = ([ten] * 4, [ten, one_other, two_other, ten.upper()])
    assert alike(found, "words", answers, None) == [True, True, False, False]
    # Two empty outputs are the same, whatever an encoder makes of them.
    assert alike(found, "meaning", outputs, encoder) == [True, True, False, True]


# --- a judgement -------------------------------------------------------------------------------------


def judge(subject: Subject, prompt: SoftPrompt, n_chose: int, n_judge: int, **more: object) -> Judge:
    verifier = Verifier(subject, more.pop("max_new_tokens", 4))
    inputs = PAIRS[: n_chose + n_judge]
    [probes] = verifier.probe([prompt], [inputs])
    checks = verifier.some(probes, range(n_chose, len(inputs))) if n_judge else None
    return Judge(verifier, verifier.first(probes, n_chose), checks, more.get("encoder"))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "t5"])
def test_partings_are_the_inputs_on_which_outputs_differ_those_that_differ_most_first(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_without_rounds", lambda texts, ended: texts)
    subject = tiny_models.subject(architecture)
    prompt = soft(subject, "cat dog")
    rows = subject.generate_ids([Query(prompt, i) for i in PAIRS], 4)
    # An output with special tokens in it is not the text it is shown as.
    inputs = [i for i, row in zip(PAIRS, rows, strict=True) if min(row, default=9) > 3][:16]
    verifier = Verifier(subject, 4)
    [probes] = verifier.probe([prompt], [inputs])
    n_parted = set()
    for text in ("cat", "dog cat", "up", "cat dog", "red cat dog"):
        found = Judge(verifier, probes, probes, None)(text)
        of_soft, of_text = (subject.generate([Query(p, i) for i in inputs], 4) for p in (prompt, text))
        different = {i for i, a, b in zip(inputs, of_soft, of_text, strict=True) if a != b}
        shown = [parting.input for parting in found.partings]
        assert len(inputs) - found.n_alike == len(different)
        assert set(shown) <= different and len(shown) == len(set(shown)) == min(5, len(different))
        divergences = [parting.divergence for parting in found.partings]
        assert divergences == sorted(divergences, reverse=True) and all(d > 0 for d in divergences)
        for parting in found.partings:
            at = inputs.index(parting.input)
            assert (parting.soft, parting.text) == (of_soft[at], of_text[at])
        n_parted.add(len(different))
    assert 0 in n_parted and max(n_parted) > 5


def test_a_judgement_says_what_was_seen_and_what_follows() -> None:
    subject = tiny_models.subject("llama")
    prompt = soft(subject, "cat dog")
    own = judge(subject, prompt, 8, 16)("cat dog")
    assert (own.verdict, own.n_alike, own.n_inputs, own.further, own.partings) == ("faithful", 16, 16, 0, ())
    assert own.agreement == 1.0 and own.at_least == pytest.approx(0.05 ** (1 / 16))
    assert own.divergence == pytest.approx(0, abs=1e-5) and own.explained == pytest.approx(1, abs=1e-4)
    chose = judge(subject, prompt, 16, 0)("cat dog")
    assert (chose.verdict, chose.at_least, chose.further, chose.n_inputs) == ("doubtful", None, None, 16)


def test_a_text_that_does_not_fit_beside_these_inputs_is_not_judged() -> None:
    subject = tiny_models.subject("llama")
    assert judge(subject, soft(subject, "cat dog"), 8, 8)("cat " * tiny_models.CONTEXT) is None


def test_open_answers_that_differ_in_one_word_of_eighteen_are_alike_by_words_or_as_an_encoder_has_it() -> None:
    subject = branching_subject()
    inputs = [pair for pair in PAIRS if "bird" not in pair and "fish" not in pair][:12]
    verifier = Verifier(subject)
    [probes] = verifier.probe([soft(subject, "bird bird")], [inputs])
    checks = verifier.some(probes, range(4, 12))
    by_tokens = Judge(verifier, verifier.first(probes, 4), checks, None)("fish")
    assert (by_tokens.rests_on, by_tokens.n_alike) == ("words", 8)
    for likeness, n_alike in ((1.0, 8), (0.0, 0)):

        def last_words(texts: Sequence[str], likeness: float = likeness) -> np.ndarray:
            return np.array([[1.0, 0.0] if "bird" in text else [likeness, 1 - likeness] for text in texts])

        found = Judge(verifier, verifier.first(probes, 4), checks, last_words)("fish")
        assert (found.rests_on, found.n_alike) == ("meaning", n_alike)
        assert [parting.text.split()[-1] for parting in found.partings] == ["fish"] * min(5, 8 - n_alike)
        assert {parting.soft.split()[-1] for parting in found.partings} <= {"bird"}
