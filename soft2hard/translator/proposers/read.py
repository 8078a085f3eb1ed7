"""A translator of another subject reads what a soft prompt does, as text, and writes the instruction.

Vectors mean something to one model only. Inputs with what the soft prompt makes of them mean the same to every reader,
so that a translator which was trained to read them serves the soft prompts of any model.
"""

from collections.abc import Sequence

from soft2hard.data_gen.tasks import Example
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import propose
from soft2hard.translator.model import Translator
from soft2hard.translator.proposers.base import Observed


class ReadActs:
    """Texts of a translator that is abroad (`Translator.abroad`), all soft prompts in shared batches."""

    name = "translator"

    def __init__(self, translator: Translator, n: int):
        """`n`: texts for each soft prompt."""
        self.translator, self.n = translator, n

    def propose(self, observed: Sequence[Observed], seed: int) -> list[list[str]]:
        """Up to `n` distinct texts for each soft prompt, the greedy one first."""
        seen, numbers = [self.seen(one, seed) for one in observed], [one.number for one in observed]
        return propose(self.translator, seen, self.n, seed=seed, numbers=numbers)

    def seen(self, observed: Observed, seed: int) -> SoftPrompt:
        """What the translator is given: some of the inputs, each with the soft prompt's output, and no vector of it."""
        view = self.translator.view(self.translator.home)
        outputs = dict(zip(observed.inputs, observed.outputs, strict=True))
        chosen = view.chosen(observed.inputs, seed)
        return view.of_pairs(observed.soft_prompt, [Example(one, outputs[one]) for one in chosen])
