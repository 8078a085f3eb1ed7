"""A translator of another subject reads what a soft prompt does, as text, and writes the instruction.

Vectors mean something to one model only. Inputs with what the soft prompt makes of them mean the same to every reader,
so that a translator which was trained to read them serves the soft prompts of any model.
"""

from collections.abc import Sequence

from soft2hard.data_gen.tasks import Example
from soft2hard.translator.candidates import proposed_under
from soft2hard.translator.data import Views, in_sets
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
        views, numbers = [self.views(one, seed) for one in observed], [one.number for one in observed]
        return proposed_under(self.translator, views, self.n, seed=seed, numbers=numbers)

    def views(self, observed: Observed, seed: int) -> Views:
        """What the translator is given: sets of the inputs, each with the soft prompt's outputs, and no vector of
        it."""
        view = self.translator.view(self.translator.home)
        pairs = list(map(Example, observed.inputs, observed.outputs))
        sets = view.sets(observed.inputs, seed)
        return Views(tuple(view.of_sets(observed.soft_prompt, sets, pairs)), pairs=in_sets(pairs, sets))
