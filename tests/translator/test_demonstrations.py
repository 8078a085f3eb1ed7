"""A text with demonstrations: whose inputs and outputs they are, which are chosen, what both texts are judged on."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from soft2hard.errors import UserError
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.demonstrations import with_demonstrations
from soft2hard.translator.probing import in_random_order
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import Helpers, Translation, translate
from soft2hard.translator.verification import Candidate, Probes, Verifier
from tests import tiny_models, tiny_training

WORDS = tiny_models.WORDS[3:]
PAIRS = [f"{a} {b}" for a in WORDS[:6] for b in WORDS[6:12]]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return tiny_training.llama_subject(max_position_embeddings=256)


def soft(subject: Subject, text: str = "cat dog") -> SoftPrompt:
    return SoftPrompt(subject.embed_text(text).clone(), template=subject.template)


class Saying:
    """A describer that always says the same."""

    def sample(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        return [["cat dog"] * n for _ in texts]


def translated(subject: Subject, k: int, inputs: list[str], **more: object) -> Translation:
    config = TranslateConfig(propose=("describe",), max_new_tokens=4, demonstrations=k, **{"n_probes": 8} | more)
    return translate(soft(subject), None, subject, config, inputs=inputs, helpers=Helpers(Saying()))


def pairs_of(shown: str, instruction: str = "cat dog") -> list[tuple[str, str]]:
    """Inputs and outputs in a text with demonstrations."""
    first, *lines = shown.split("\n")
    assert first == instruction
    inputs = [line.removeprefix("Input: ") for line in lines[::2]]
    return list(zip(inputs, [line.removeprefix("Output: ") for line in lines[1::2]], strict=True))


def probed(subject: Subject, n: int) -> tuple[Verifier, Probes]:
    verifier = Verifier(subject, 4)
    return verifier, verifier.probe([soft(subject)], [PAIRS[:n]])[0]


@pytest.mark.parametrize(
    ("k", "n", "n_shown"), [(1, 8, 1), (3, 8, 3), (4, 8, 4), (6, 8, 6), (20, 8, 6), (3, 4, 2), (3, 1, 0)]
)
def test_pairs_are_inputs_that_chose_with_the_soft_prompts_own_outputs(
    subject: Subject, k: int, n: int, n_shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as there are where more are asked for, but for two inputs on which sets are compared; it is said."""
    verifier, probes = probed(subject, n)
    shown, _ = with_demonstrations("cat dog", k, verifier, probes, 0)
    if n_shown == 0:
        assert shown is None
        return
    assert (f"{n_shown} demonstrations instead of {k}" in capsys.readouterr().err) == (n_shown < k)
    found = pairs_of(shown)
    written = subject.generate([Query(soft(subject), text) for text in PAIRS[:n]], 4)
    assert len(found) == len(set(found)) == n_shown
    assert set(found) <= set(zip(PAIRS[: max(n // 2, n_shown)], written, strict=False))
    assert with_demonstrations("cat dog", k, verifier, probes, 0)[0] == shown


def test_sets_are_compared_on_inputs_that_none_of_them_shows(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, probes = probed(subject, 12)
    tried: list[str] = []
    verify = Verifier.verify

    def noted(self: Verifier, texts: Sequence[str], of: Probes) -> list[Candidate]:
        assert of.inputs == tuple(PAIRS[6:12])
        tried.extend(texts)
        return verify(self, texts, of)

    monkeypatch.setattr(Verifier, "verify", noted)
    shown, left = with_demonstrations("cat dog", 3, verifier, probes, 0)
    assert left.inputs == tuple(PAIRS[6:12])
    assert shown in tried and len(set(tried)) == len(tried) > 12
    assert {input for text in tried for input, _ in pairs_of(text)} == set(PAIRS[:6])
    monkeypatch.undo()
    best = min(verifier.verify(tried, verifier.some(probes, range(6, 12))), key=lambda c: c.divergence)
    assert shown == best.text


def test_where_there_are_few_sets_the_best_of_all_is_found(subject: Subject) -> None:
    verifier, probes = probed(subject, 8)
    shown = pairs_of(with_demonstrations("cat dog", 1, verifier, probes, 0)[0])
    rest = verifier.some(probes, range(4, 8))
    texts = [f"cat dog\nInput: {i}\nOutput: {o}" for i, o in zip(probes.inputs[:4], probes.outputs[:4], strict=True)]
    best = min(verifier.verify(texts, rest), key=lambda c: c.divergence).text
    assert shown == pairs_of(best)


def test_an_input_without_an_output_is_not_shown(subject: Subject) -> None:
    verifier, probes = probed(subject, 8)
    silent = replace(probes, outputs=("", *probes.outputs[1:]))
    for seed in range(4):
        assert PAIRS[0] not in dict(pairs_of(with_demonstrations("cat dog", 3, verifier, silent, seed)[0]))


def test_both_texts_are_judged_on_inputs_that_are_not_shown(subject: Subject) -> None:
    found = translated(subject, 3, PAIRS[:24])
    assert (found.n_probes, found.n_checks, found.text) == (8, 16, "cat dog")
    judged = found.demonstrated
    assert judged is not None and len(pairs_of(judged.text)) == 3
    given = in_random_order(PAIRS[:24], 0)
    assert set(dict(pairs_of(judged.text))) <= set(given[:4])
    assert (judged.n_inputs, found.judgement.n_inputs, found.judgement.verdict) == (16, 16, "faithful")
    outputs = [subject.generate([Query(p, i) for i in given[8:24]], 4) for p in (soft(subject), judged.text)]
    assert judged.n_alike <= sum(a == b for a, b in zip(*outputs, strict=True))
    assert {parting.input for parting in judged.partings} <= set(given[8:24])
    assert judged.at_least is not None


def test_nothing_is_shown_where_nobody_asks(subject: Subject) -> None:
    assert translated(subject, 0, PAIRS[:24]).demonstrated is None


def test_a_context_too_small_for_demonstrations_is_refused_in_one_line() -> None:
    small = tiny_training.llama_subject()  # 64 tokens
    with pytest.raises(UserError, match="no room for 8 demonstrations.*--demonstrations") as refused:
        translated(small, 8, PAIRS, n_probes=20)
    assert "\n" not in str(refused.value)
    assert len(pairs_of(translated(small, 2, PAIRS[:24]).demonstrated.text)) == 2
