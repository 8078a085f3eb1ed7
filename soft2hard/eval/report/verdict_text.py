"""What the verdict on a translation says, in words: one line for the terminal, and the parts that its card shares."""

from soft2hard.translator.settings import MIN_PROBES
from soft2hard.translator.translate import TOO_FEW_INPUTS, Translation
from soft2hard.translator.verdict import FAITHFUL_FROM, WORDS_ALIKE, Judgement, RestsOn, upper_bound

_SHOWN_PARTINGS, _PARTING_WIDTH = 3, 60  # partings that are printed; characters of each of their texts
SOURCES = {"examples": "from --examples"}
"""Where the inputs come from, where the command line has another name for it."""
_ALIKE: dict[RestsOn, str] = {
    "exact": "alike",
    "words": f"alike in {WORDS_ALIKE:.0%} of their words",
    "meaning": "alike in meaning",
}


def verdict_text(translation: Translation) -> str:
    """The verdict on one line: what was seen, what follows for other inputs and how surely, what is explained."""
    if translation.judgement is None:
        return f"unverified: {why_unverified(translation)}"
    line = judgement_text(translation.judgement, translation.probe_source)
    possible = translation.explained_by_gold
    if translation.judgement.explained is not None and possible is not None:
        line += f" (on this subject, a task's own instruction explains {explained_share_text(possible)}, by the median)"
    return f"{line}; if the text around its inputs is the assumed one" if translation.template_is_assumed else line


def judgement_text(judgement: Judgement, source: str) -> str:
    """The same of one judgement, on inputs from this source."""
    seen = f"{_ALIKE[judgement.rests_on]} on {judgement.n_alike} of {judgement.n_inputs}"
    source = SOURCES.get(source, source)
    if judgement.at_least is None:
        claim = f"{seen} inputs ({source}), which also chose the text, so that nothing is claimed of others"
    else:
        claim = f"{seen} other inputs ({source}), so on {share_text(judgement)} of such inputs ({sureness(judgement)})"
    parts = [claim, _silence(judgement) or _unsettled(judgement), _explained(judgement.explained), _sameness(judgement)]
    return f"{judgement.verdict}: " + "; ".join(filter(None, parts))


def partings_text(judgement: Judgement) -> list[str]:
    """A line for each of the few inputs on which the outputs differ most."""
    return [
        f'on "{_short(one.input)}" the soft prompt gives "{_short(one.soft)}", the text "{_short(one.text)}"'
        for one in judgement.partings[:_SHOWN_PARTINGS]
    ]


def unnamed_text(translation: Translation) -> str:
    """What the soft prompt also writes; empty where the text names all, or none."""
    if not translation.unnamed:
        return ""
    *others, last = translation.unnamed
    named = f"{', '.join(others)} and {last}" if others else last
    return f"the soft prompt also writes {named}, which the text does not name"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _PARTING_WIDTH else f"{text[: _PARTING_WIDTH - 1]}…"


def why_unverified(translation: Translation) -> str:
    """Why there is no judgement."""
    if translation.n_probes:
        return "beside the inputs, the text does not fit the subject's context"
    if translation.probe_source == TOO_FEW_INPUTS:
        return (
            f"there were fewer than {MIN_PROBES} inputs to run it on, given or invented by the subject: give "
            f"{MIN_PROBES} or more with --examples"
        )
    if translation.probe_source != "none":
        return "no candidate could be run beside the soft prompt"
    return "not run beside the soft prompt: leave out --no-verify"


def share_text(judgement: Judgement) -> str:
    """The share of all such inputs on which the outputs are alike, as far as those that were seen bound it."""
    most = _percent(upper_bound(judgement.n_alike, judgement.n_inputs))
    if judgement.verdict == "failed":
        return f"at most {most}"  # that some few are alike is nothing that anybody asks of such a text
    least = _percent(judgement.at_least or 0.0)
    return f"{least} to {most}" if _is_bounded_twice(judgement) else f"at least {least}"


def sureness(judgement: Judgement) -> str:
    """How sure `share_text` is."""
    return "95% confidence each way" if _is_bounded_twice(judgement) else "95% confidence"


def _is_bounded_twice(judgement: Judgement) -> bool:
    """Whether a text is as surely not faithful as it is not wholly wrong."""
    return judgement.verdict == "doubtful" and judgement.further == 0


def settled_by(judgement: Judgement) -> str:
    """What would settle whether the text is faithful; empty where that is settled."""
    if judgement.further is None:
        return "at this rate, 10,000 more inputs would not decide"
    if not judgement.further:
        return ""
    found = "faithful" if judgement.n_alike >= FAITHFUL_FROM * judgement.n_inputs else "not faithful"
    inputs = "input" if judgement.further == 1 else "inputs"
    return f"at this rate, {judgement.further:,} more {inputs} would show that it is {found}"


def _silence(judgement: Judgement) -> str:
    if 2 * judgement.n_silent <= judgement.n_inputs:
        return ""
    return (
        f"the soft prompt writes nothing on {judgement.n_silent} of {judgement.n_inputs}, as under another template "
        "than it was tuned under (--template), or where the subject does not know the words"
    )


def _sameness(judgement: Judgement) -> str:
    """A soft prompt that learned nothing, or is read under another template, often writes one thing again and again."""
    if judgement.n_outputs != 1 or judgement.n_inputs < MIN_PROBES or judgement.n_silent:
        return ""
    return "the soft prompt writes the same on all of them"


def _unsettled(judgement: Judgement) -> str:
    if judgement.at_least is None:
        return ""
    more = settled_by(judgement)
    return f"to be called faithful a text must reach {FAITHFUL_FROM:.0%}; {more}" if more else ""


def _explained(explained: float | None) -> str:
    if explained is None:
        return ""
    return f"explains {explained_share_text(explained)} of what the soft prompt does"


def explained_share_text(explained: float) -> str:
    """An explained share; it is not called whole where it is not."""
    if explained < 0.005:
        return "nothing"
    return "over 99%" if 0.995 <= explained < 1 else f"{explained:.0%}"


def _percent(share: float) -> str:
    """A share of inputs, rounded, but never across the share from which texts are faithful."""
    percent, line = round(100 * share), round(100 * FAITHFUL_FROM)
    if share < FAITHFUL_FROM <= percent / 100:
        return f"{line - 1}%"
    return f"{percent}%"
