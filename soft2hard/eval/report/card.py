"""The card of a translation: one offline page about one soft prompt, its text, and how far to trust it."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log
from pathlib import Path

import soft2hard
from soft2hard.eval.analysis.nearest_tokens import nearest_tokens
from soft2hard.eval.report.html import render_page
from soft2hard.eval.report.verdict_text import (
    SOURCES,
    explained_share_text,
    settled_by,
    share_text,
    sureness,
    why_unverified,
)
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.names import name_of
from soft2hard.translator.settings import MIN_PROBES, ProposerName
from soft2hard.translator.translate import Translation
from soft2hard.translator.verdict import (
    CONFIDENCE,
    FAITHFUL_FROM,
    MEANING_ALIKE,
    WORDS_ALIKE,
    Judgement,
    RestsOn,
    Verdict,
)
from soft2hard.translator.verification import Candidate, Ending

PROPOSERS: dict[ProposerName, str] = {
    "translator": "the translator, which read the soft prompt",
    "describe": "a language model that was shown what the soft prompt does",
    "elicit": "the subject itself, asked by patching the soft prompt into it",
    "search": "a search among texts that are likely as instructions",
}
"""Where texts come from, in words."""
_ALIKE: dict[RestsOn, str] = {
    "exact": "The subject writes the same text under both.",
    "words": f"At least {WORDS_ALIKE:.0%} of the words are the same; answers here are open, and two good ones "
    "seldom agree to the letter.",
    "meaning": f"Answers have a like meaning: their sentence embeddings have a cosine of at least {MEANING_ALIKE}.",
}
_ENDS: dict[Ending, str] = {
    "learned": "Yes, most end under the soft prompt.",
    "none": "No, most do not end under the soft prompt; how the text ends them is not held against it.",
}
_CANDIDATES = 10
_FEWEST_FAITHFUL = ceil(log(1 - CONFIDENCE) / log(FAITHFUL_FROM))
"""Inputs, alike on all, below which no text is faithful."""
_UNSEEN = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that change the order of others, that nobody sees, or that control a machine. Those that join letters
belong to the spelling of some languages."""


@dataclass(frozen=True)
class _Judged:
    """A text with what is claimed of it, in sentences."""

    text: str
    verdict: Verdict
    statement: str
    facts: Mapping[str, str]
    """What the statement rests on, by its title."""


def translation_card(
    translation: Translation,
    soft_prompt: SoftPrompt,
    subject: Subject,
    *,
    n_neighbours: int = 5,
    seed: int | None = None,
    template: str | None = None,
) -> str:
    """An HTML page that needs no network and runs nothing.

    Args:
        translation: Of the soft prompt, on the subject.
        soft_prompt: Its nearest tokens are shown.
        subject: Whose tokens these are.
        n_neighbours: Nearest tokens of each virtual token; all tokens, where the subject has fewer.
        seed: That of the translation, where it is known.
        template: That under which it was made, as `--template` takes it, where it is known.

    Raises:
        UserError: the soft prompt is not the subject's.
    """
    shown, judgement = translation.demonstrated, translation.judgement
    context = {
        "translation": translation,
        "soft_prompt": soft_prompt,
        "subject": subject,
        "subject_name": name_of(subject.name),
        "main": _Judged(translation.text, translation.verdict, _statement(translation), _facts(translation)),
        "demonstrated": shown and _Judged(shown.text, shown.verdict, _claim(shown), _measured(shown)),
        "n_apart": judgement.n_inputs - judgement.n_alike if judgement else 0,
        "proposers": PROPOSERS,
        "candidates": translation.candidates[:_CANDIDATES],
        "best": _best_of_each(translation),
        "weighed": any(candidate.log_prob for candidate in translation.candidates),
        "neighbours": _neighbours(soft_prompt, subject, n_neighbours),
        "command": _command(translation, subject, seed, template),
        "seed": seed,
        "template": template,
        "version": soft2hard.__version__,
    }
    filters = {"visible": visible, "hides": _UNSEEN.search, "share": _share, "number": _number}
    page = render_page(Path(__file__).with_name("card.html"), context, filters=filters, charts=False)
    return page.encode("utf-8", "replace").decode("utf-8")  # inputs may hold half a surrogate pair, which no file can


def visible(text: str) -> str:
    """A text whose hidden and reordering characters are shown by their code points, such as <U+202E>."""
    return _UNSEEN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def _statement(translation: Translation) -> str:
    if translation.judgement is None:
        return f"Nothing is claimed of this text: {why_unverified(translation)}."
    claim = _claim(translation.judgement)
    if translation.template_is_assumed:
        claim += " The text that stood around its inputs when it was tuned is assumed."
    return claim


def _claim(judgement: Judgement) -> str:
    seen = f"{judgement.n_alike} of {judgement.n_inputs}"
    if judgement.at_least is None:
        return f"Alike on {seen} inputs, which also chose the text and so flatter it: nothing is claimed of others."
    share = share_text(judgement)
    return f"Acts like the soft prompt on {share} of such inputs ({sureness(judgement)}): {seen} other inputs alike."


def _facts(translation: Translation) -> dict[str, str]:
    """What the verdict rests on, a sentence each."""
    if translation.judgement is None:
        return {}
    found = {"Alike means": _ALIKE[translation.judgement.rests_on], **_measured(translation.judgement)}
    found["Inputs"] = _inputs(translation)
    return found | ({"Outputs end": _ENDS[translation.ending]} if translation.ending else {})


def _measured(judgement: Judgement) -> dict[str, str]:
    """The part of it that is another for another text on the same inputs."""
    return {"Settled": _settled(judgement), "Explained": _explained(judgement)}


def _settled(judgement: Judgement) -> str:
    fewest = f"{_FEWEST_FAITHFUL} on which all is alike are the fewest that make a text faithful"
    if judgement.at_least is None:
        return f"No. Give further inputs, at least {MIN_PROBES} beside those that choose; {fewest}."
    sentence = settled_by(judgement)
    line = f"a text is faithful from {FAITHFUL_FROM:.0%} of inputs"
    return f"No: {sentence} ({line})." if sentence else f"Yes, no further inputs are needed ({line})."


def _explained(judgement: Judgement) -> str:
    left = f"{judgement.divergence:.3g} nats a token are left."
    if judgement.explained is None:
        return f"Not known: without a prompt the subject does the same, or has nothing to read. {left}"
    if judgement.explained < 0:
        return f"Nothing: the text leads further away from the soft prompt than no prompt does. {left}"
    share = explained_share_text(judgement.explained)
    return f"The text takes away {share} of the divergence from the soft prompt that no prompt leaves. {left}"


def _inputs(translation: Translation) -> str:
    source = SOURCES.get(translation.probe_source, translation.probe_source)
    if not translation.n_checks:
        return f"{translation.n_probes}, {source}, chose the text and judged it."
    return f"{translation.n_probes} chose the text, {translation.n_checks} others judged it; {source}."


def _best_of_each(translation: Translation) -> list[Candidate]:
    """The best of each proposer, best first."""
    return sorted(translation.by_proposer.values(), key=lambda candidate: candidate.rank)


def _neighbours(soft_prompt: SoftPrompt, subject: Subject, k: int) -> list[list[tuple[str, float]]]:
    """For each virtual token its nearest tokens with their cosines, nearest first."""
    found = nearest_tokens(subject, [soft_prompt], min(k, len(subject.embedding)), [None])
    positions = found.groupby("position", sort=True)
    return [list(zip(own["token"], own["cosine"], strict=True)) for _, own in positions]


def _command(translation: Translation, subject: Subject, seed: int | None, template: str | None) -> str:
    words = ["soft2hard", "translate", translation.soft_prompt, "--subject", name_of(subject.name)]
    words += ["--seed", str(seed)] if seed is not None else []
    words += ["--template", template] if template not in (None, "plain") else []
    words += ["--examples", "INPUTS"] if translation.probe_source == "examples" else []
    words += ["--no-verify"] if translation.probe_source == "none" and not translation.n_probes else []
    return shlex.join(words)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
