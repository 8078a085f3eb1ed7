"""A language model is shown what the soft prompt does, and asked for the instruction.

Instruction induction (Honovich et al., arXiv 2205.10782) without labels: the outputs are the soft prompt's own. One in
three requests also shows what the subject does with the same inputs by itself, so that the description says what the
soft prompt adds.
"""

import re
from collections.abc import Sequence

from soft2hard.lm.text_generation import TextGenerator
from soft2hard.translator.proposers.base import Observed, distinct
from soft2hard.translator.settings import META_PROMPT

CONTRAST = (
    "Somebody was given an instruction, somebody else was not. What the first one wrote follows from the instruction, "
    "what the second one wrote does not.\n\n{examples}\n\nThe instruction was"
)
SHORT = "{examples}\n\nThe instruction that turns each input into its output, in one short sentence:"
WORDINGS = (META_PROMPT, SHORT, CONTRAST)
"""Requests, which take turns; `{examples}` stands for the pairs."""
EMBEDDED_WORDINGS = ("{examples}\nTask:",)
"""The request that the embedded world's API-side model was trained on."""
_LEADING = re.compile(
    r"^((the|this|your)\s+)?(instruction|task|answer)\s*(:|(was|is)\b(\s+to\b|\s*:)?)\s*|^to\s+", re.IGNORECASE
)
_SHOWN = 5  # pairs in a request, as in arXiv 2205.10782


class Describe:
    """All requests for all soft prompts go to the describer in one call."""

    name = "describe"

    def __init__(self, describer: TextGenerator, n: int, wordings: Sequence[str] = WORDINGS, n_shown: int = _SHOWN):
        self.describer, self.n, self.wordings, self.n_shown = describer, n, wordings, n_shown

    def propose(self, observed: Sequence[Observed], seed: int) -> list[list[str]]:
        """Up to `n` distinct texts for each soft prompt; none where no input was seen."""
        requests = [self.requests(one, seed) for one in observed]
        written = iter(self.describer.sample([text for of_one in requests for text in of_one], 1, seed))
        return [distinct([bare(next(written)[0]) for _ in of_one]) for of_one in requests]

    def requests(self, observed: Observed, seed: int) -> list[str]:
        """The texts that are sent for a soft prompt, each with other pairs."""
        return [self._request(observed, seed, i) for i in range(self.n)] if observed.inputs else []

    def _request(self, observed: Observed, seed: int, i: int) -> str:
        wording = self.wordings[i % len(self.wordings)]
        places = range(len(observed.inputs))
        shown = observed.random(seed, i).sample(places, min(self.n_shown, len(places)))
        if wording is CONTRAST and observed.plain:
            return request(wording, [_contrast(observed, j) for j in shown])
        return request(wording, [pair(observed.inputs[j], observed.outputs[j]) for j in shown])


def bare(text: str) -> str:
    """An answer without the words that lead to the instruction, which then begins as a sentence."""
    text = text.strip()
    found = _LEADING.sub("", text)
    return text if found == text else found[:1].upper() + found[1:]


def pair(input: str, output: str) -> str:
    """An example as a request shows it."""
    return f"Input: {input}\nOutput: {output}"


def request(wording: str, pairs: Sequence[str]) -> str:
    """A request with its examples."""
    return wording.replace("{examples}", "\n\n".join(pairs))


def _contrast(observed: Observed, j: int) -> str:
    return f"Input: {observed.inputs[j]}\nWith the instruction: {observed.outputs[j]}\nWithout: {observed.plain[j]}"
