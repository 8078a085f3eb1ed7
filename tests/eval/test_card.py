"""The card of a translation, and the line that the terminal has of its verdict."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import soft2hard
from soft2hard import SoftPrompt, Subject, TranslateConfig, Translation, UserError
from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.taskfiles import read_inputs
from soft2hard.eval.report.card import PROPOSERS, translation_card
from soft2hard.eval.report.html import render_page
from soft2hard.eval.report.verdict_text import judgement_text, partings_text, verdict_text
from soft2hard.translator.translate import TOO_FEW_INPUTS
from soft2hard.translator.verdict import Judgement, Parting
from tests.made_translations import judged, translated
from tests.report_runs import HOSTILE

NAME = "07-replace"
QUICK = TranslateConfig(n_candidates=4, n_probes=6, n_checks=6, refine_rounds=0)
SEEN = "16 of 16 other inputs (from --examples), so on at least 83% of such inputs (95% confidence)"
EXPLAINS = "explains 93% of what the soft prompt does"
ALL = judged(16, 16)
CASES: dict[str, tuple[Judgement, str, str]] = {
    "faithful": (
        ALL,
        f"faithful: alike on {SEEN}; {EXPLAINS}",
        "Acts like the soft prompt on at least 83% of such inputs (95% confidence): 16 of 16 other inputs alike.",
    ),
    "doubtful for want of inputs": (
        judged(8, 8),
        "doubtful: alike on 8 of 8 other inputs (from --examples), so on at least 69% of such inputs (95% confidence); "
        "to be called faithful a text must reach 80%; at this rate, 6 more inputs would show that it is faithful; "
        f"{EXPLAINS}",
        "Acts like the soft prompt on at least 69% of such inputs (95% confidence): 8 of 8 other inputs alike.",
    ),
    "doubtful at a rate that is too low": (
        judged(11, 16),
        "doubtful: alike on 11 of 16 other inputs (from --examples), so on at least 45% of such inputs (95% "
        "confidence); to be called faithful a text must reach 80%; at this rate, 24 more inputs would show that it is "
        f"not faithful; {EXPLAINS}",
        "Acts like the soft prompt on at least 45% of such inputs (95% confidence): 11 of 16 other inputs alike.",
    ),
    "doubtful for good": (
        judged(40, 64),
        "doubtful: alike on 40 of 64 other inputs (from --examples), so on 51% to 73% of such inputs (95% confidence "
        f"each way); {EXPLAINS}",
        "Acts like the soft prompt on 51% to 73% of such inputs (95% confidence each way): "
        "40 of 64 other inputs alike.",
    ),
    "failed": (
        judged(2, 16, explained=-0.4),
        "failed: alike on 2 of 16 other inputs (from --examples), so on at most 34% of such inputs (95% confidence); "
        "explains nothing of what the soft prompt does",
        "Acts like the soft prompt on at most 34% of such inputs (95% confidence): 2 of 16 other inputs alike.",
    ),
    "never settled": (
        judged(4, 5, explained=None),
        "doubtful: alike on 4 of 5 other inputs (from --examples), so on at least 34% of such inputs (95% confidence); "
        "to be called faithful a text must reach 80%; at this rate, 10,000 more inputs would not decide",
        "Acts like the soft prompt on at least 34% of such inputs (95% confidence): 4 of 5 other inputs alike.",
    ),
    "judged by what chose it": (
        judged(5, 5, chose=True),
        "doubtful: alike on 5 of 5 inputs (from --examples), which also chose the text, so that nothing is claimed of "
        f"others; {EXPLAINS}",
        "Alike on 5 of 5 inputs, which also chose the text and so flatter it: nothing is claimed of others.",
    ),
    "open answers": (
        judged(16, 16, rests_on="words", explained=0.998),
        f"faithful: alike in 90% of their words on {SEEN}; explains over 99% of what the soft prompt does",
        "Acts like the soft prompt on at least 83% of such inputs (95% confidence): 16 of 16 other inputs alike.",
    ),
    "open answers with an encoder": (
        judged(16, 16, rests_on="meaning"),
        f"faithful: alike in meaning on {SEEN}; {EXPLAINS}",
        "Acts like the soft prompt on at least 83% of such inputs (95% confidence): 16 of 16 other inputs alike.",
    ),
}
"""A judgement, its line in the terminal, and its statement on the card."""


class Words(HTMLParser):
    """The words and the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    @classmethod
    def of(cls, page: str) -> "Words":
        found = cls()
        found.feed(re.sub("<style>.*</style>", "", page, flags=re.DOTALL))
        return found

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.from_pretrained("embedded")


@pytest.fixture(scope="module")
def prompt() -> SoftPrompt:
    return SoftPrompt.from_pretrained(embedded_path("soft_prompts") / f"{NAME}.safetensors")


@pytest.fixture(scope="module")
def real(prompt: SoftPrompt, subject: Subject) -> Translation:
    inputs = read_inputs(embedded_path("soft_prompts") / f"{NAME}.jsonl")
    return soft2hard.translate(prompt, subject=subject, config=QUICK, inputs=inputs)


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_said_on_a_line_and_as_a_statement(case: str, prompt: SoftPrompt, subject: Subject) -> None:
    judgement, line, statement = CASES[case]
    translation = translated(judgement)
    assert verdict_text(translation) == judgement_text(judgement, "examples") == line
    words = Words.of(translation_card(translation, prompt, subject)).text
    assert f"{judgement.verdict} {statement}" in words


def test_at_most_three_partings_are_told_each_on_a_line_of_bounded_length() -> None:
    long = Parting("word " * 40, "a\nb", "", 1.0)
    told = partings_text(replace(judged(0, 4), partings=(long, *4 * [Parting("cat", "yes", "no", 0.5)])))
    assert told[1:] == 2 * ['on "cat" the soft prompt gives "yes", the text "no"']
    assert told[0].startswith('on "word word') and told[0].endswith('…" the soft prompt gives "a b", the text ""')
    assert len(told[0]) < 120
    [unbroken] = partings_text(replace(judged(0, 1), partings=(Parting("x" * 100, "a", "b", 1.0),)))
    assert unbroken.startswith('on "' + "x" * 59 + '…"')
    assert partings_text(replace(judged(4, 4), partings=())) == []


def test_a_share_is_never_rounded_across_the_line() -> None:
    short = replace(judged(14, 15), at_least=0.798)
    assert "at least 79% of such inputs" in judgement_text(short, "examples")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"chosen_on": (), "probe_source": "none"}, "not run beside the soft prompt: leave out --no-verify"),
        (
            {"chosen_on": (), "probe_source": TOO_FEW_INPUTS},
            "there were fewer than 4 inputs to run it on, given or invented by the subject: give 4 or more with "
            "--examples",
        ),
        ({"chosen_on": ()}, "no candidate could be run beside the soft prompt"),
        ({}, "beside the inputs, the text does not fit the subject's context"),
    ],
)
def test_nothing_is_claimed_of_what_was_not_run(
    fields: dict, reason: str, prompt: SoftPrompt, subject: Subject
) -> None:
    translation = translated(None, **fields | {"candidates": (), "by_proposer": {}, "ending": None})
    assert verdict_text(translation) == f"unverified: {reason}"
    words = Words.of(translation_card(translation, prompt, subject)).text
    assert f"unverified Nothing is claimed of this text: {reason}." in words
    assert "Where they part" not in words and "Candidates" not in words and "Alike means" not in words


@pytest.mark.parametrize(
    ("judgement", "sentence"),
    [
        (ALL, "Settled Yes, no further inputs are needed (a text is faithful from 80% of inputs)."),
        (
            judged(8, 8),
            "Settled No: at this rate, 6 more inputs would show that it is faithful (a text is faithful from 80% of "
            "inputs).",
        ),
        (
            judged(5, 5, chose=True),
            "beside those that choose; 14 on which all is alike are the fewest that make a text",
        ),
        (ALL, "The text takes away 93% of the divergence from the soft prompt that no prompt leaves. 0.0441 nats"),
        (
            judged(16, 16, explained=-0.4),
            "Nothing: the text leads further away from the soft prompt than no prompt does.",
        ),
        (
            judged(16, 16, explained=None),
            "Not known: without a prompt the subject does the same, or has nothing to read.",
        ),
        (ALL, "The subject writes the same text under both."),
        (judged(16, 16, rests_on="words"), "At least 90% of the words are the same"),
        (judged(16, 16, rests_on="meaning"), "Answers have a like meaning"),
        (ALL, "Inputs 8 chose the text, 16 others judged it; from --examples."),
        (judged(5, 5, chose=True), "Inputs 8, from --examples, chose the text and judged it."),
        (ALL, "Outputs end Yes, most end"),
        (ALL, "Nowhere: the outputs are alike on all 16 inputs"),
    ],
)
def test_the_card_says_what_the_verdict_rests_on(
    judgement: Judgement, sentence: str, prompt: SoftPrompt, subject: Subject
) -> None:
    assert sentence in Words.of(translation_card(translated(judgement), prompt, subject)).text


def test_endless_outputs_and_invented_inputs_are_named(prompt: SoftPrompt, subject: Subject) -> None:
    translation = translated(ALL, ending="none", probe_source="invented by the subject")
    words = Words.of(translation_card(translation, prompt, subject)).text
    assert "Outputs end No, most do not end under the soft prompt" in words
    assert "16 others judged it; invented by the subject." in words and "--examples" not in words


def test_demonstrations_have_a_verdict_of_their_own(prompt: SoftPrompt, subject: Subject) -> None:
    shown = replace(ALL, text="Name the colour.\nInput: sky\nOutput: blue")
    page = translation_card(translated(judged(2, 16), demonstrated=shown), prompt, subject)
    words = Words.of(page).text
    assert (
        words.index("at most 34%") < words.index("The text with demonstrations The same") < words.index("at least 83%")
    )
    assert "Input: sky\nOutput: blue</div>" in page
    assert "The text with demonstrations" not in translation_card(translated(ALL), prompt, subject)


def test_partings_are_shown_with_both_outputs_and_how_many_there_are(prompt: SoftPrompt, subject: Subject) -> None:
    partings = [Parting("sky at night", "black", "", 2.5)]
    words = Words.of(translation_card(translated(judged(13, 16, partings=partings)), prompt, subject)).text
    assert "The outputs differ on 3 of 16 inputs; these differ most." in words
    assert "sky at night black (nothing) 2.50" in words


def test_candidates_stand_by_proposer_and_by_rank(prompt: SoftPrompt, subject: Subject) -> None:
    translation = translated(ALL)
    words = Words.of(translation_card(translation, prompt, subject)).text
    best = "Name the colour. translator 100% 97% 0.020 −3.50 4.30"
    second = "Say a colour. search 50% – 0.600 −9.25 33.25"
    assert words.count(f"{best} {second}") == 2
    assert all(PROPOSERS[name] in words for name in ("translator", "search"))
    [first, _] = translation.candidates
    alone = replace(translation, candidates=(replace(first, log_prob=0.0),), by_proposer={"translator": first})
    words = Words.of(translation_card(alone, prompt, subject)).text
    assert "The best of each proposer" not in words and "0.020 – 0.80" in words


@pytest.mark.parametrize("proposer", PROPOSERS)
def test_where_the_text_comes_from_is_said_in_words(proposer: str, prompt: SoftPrompt, subject: Subject) -> None:
    words = Words.of(translation_card(translated(ALL, proposer=proposer), prompt, subject)).text
    assert f"Text from {PROPOSERS[proposer]}" in words


def test_nearest_tokens_of_every_virtual_token_are_shown(subject: Subject) -> None:
    [one, *_] = subject.tokenizer("alpha", add_special_tokens=False)["input_ids"]
    table = subject.embedding.float().cpu()
    prompt = SoftPrompt(torch.stack([2 * table[one], -table[one]]), "embedded")
    words = Words.of(translation_card(translated(ALL), prompt, subject, n_neighbours=2)).text
    assert "2 virtual tokens of width" in words and "1 alpha 1.00" in words and "seldom the meaning" in words
    every = translation_card(translated(ALL), prompt, subject, n_neighbours=10**6)
    assert every.count("<td><bdi>") >= 2 * len(table)


def test_another_subjects_soft_prompt_is_refused(subject: Subject) -> None:
    with pytest.raises(UserError, match="wide"):
        translation_card(translated(ALL), SoftPrompt(torch.ones(1, subject.d_model + 1)), subject)


def test_a_real_translation_makes_a_small_page(real: Translation, prompt: SoftPrompt, subject: Subject) -> None:
    page = translation_card(real, prompt, subject, seed=QUICK.seed)
    assert len(page.encode()) < 200_000
    found = Words.of(page)
    assert real.text in found.text and f"{real.verdict} Acts like" in found.text
    assert verdict_text(real).startswith(f"{real.verdict}: alike on {real.judgement.n_alike} of ")
    assert f"soft2hard {soft2hard.__version__} Seed 0 Subject embedded , fingerprint" in found.text
    assert subject.fingerprint in found.words
    assert "soft2hard translate 'soft prompt 1' --subject embedded --seed 0 --examples INPUTS" in found.text
    assert real.translator == "embedded" and "Translator embedded" in found.text
    for use, examples in (("choose the text", real.chosen_on), ("judge it", real.judged_on)):
        assert examples and found.text.count(use) == len(examples)
        assert all(f"{one.input} {one.output} {use}" in found.text for one in examples)
    assert "task (of the soft prompt) replace.with_label(la=alpha, s=vegetable)" in found.text


def test_the_page_runs_nothing_and_asks_for_nothing(real: Translation, prompt: SoftPrompt, subject: Subject) -> None:
    page = translation_card(real, prompt, subject)
    [policy] = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'none'; style-src 'unsafe-inline'; img-src data: blob:;")
    found = Words.of(page)
    assert not {"script", "img", "link", "iframe"} & set(found.tags)
    assert not re.search(r"https?:|url\(|@import", page)


def test_headings_follow_on_each_other_and_tables_have_headers(prompt: SoftPrompt, subject: Subject) -> None:
    page = translation_card(translated(judged(13, 16, partings=[Parting("a", "b", "c", 1.0)])), prompt, subject)
    levels = [int(tag[1]) for tag in Words.of(page).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert page.count("<table>") == 5 and not re.search(r"<th(?! scope=|ead)", page)
    assert all(f'id="{anchor}"' in page for anchor in re.findall('href="#([^"]*)"', page))


def test_hostile_texts_are_inert(subject: Subject, prompt: SoftPrompt) -> None:
    hostile = f"</title></style>{HOSTILE}\" onload='x' {{{{ 7 * 7 }}}} \u202eevil\u2066 \x00 \ud800"
    parting = Parting(hostile, hostile, hostile, 1.0)
    of = judged(13, 16, partings=[parting])
    made = replace(
        translated(of, hostile, demonstrated=replace(of, text=hostile), probe_source=hostile), soft_prompt=hostile
    )
    named = replace(prompt, provenance={hostile: hostile})
    page = translation_card(made, named, subject)
    plain = translation_card(translated(of, demonstrated=of), replace(prompt, provenance={"a": "b"}), subject)
    assert set(Words.of(page).tags) == set(Words.of(plain).tags) | {"p"}
    assert not re.search("<(script|img)|</title></style>|\ud800", page) and "{{ 7 * 7 }}" in page
    # The text alone, to copy, has them as they are: kept to itself, and with a warning.
    assert page.count("\u202e") == 2 and page.count("It holds characters that nobody sees") == 2
    assert "&lt;U+202E&gt;evil&lt;U+2066&gt;" in page and "unicode-bidi: isolate" in page
    page.encode("utf-8")


def test_a_chart_on_a_page_without_charts_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("{{ head }}{{ figure|chart }}{{ scripts }}")
    with pytest.raises(Exception, match="chart"):
        render_page(tmp_path / "page.html", {"figure": None}, charts=False)
    (tmp_path / "page.html").write_text("{{ head }}{{ scripts }}")
    page = render_page(tmp_path / "page.html", {}, "let own = 1", charts=False)
    assert "let own = 1" in page and "Plotly" not in page and "script-src 'sha256-" in page
