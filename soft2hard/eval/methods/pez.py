"""PEZ: gradient descent on a prompt that is projected to tokens before every forward pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from soft2hard.eval.methods.base import Bench, Case, Need, Outcome
from soft2hard.eval.methods.discrete_budget import grouped
from soft2hard.eval.methods.discrete_fluency import StraightThroughFluency
from soft2hard.eval.methods.discrete_pez_options import PezOptions
from soft2hard.eval.methods.discrete_pez_search import PezSearch
from soft2hard.eval.methods.discrete_vocabulary import Vocabulary
from soft2hard.lm.shared_prefix import make_runner


@dataclass(frozen=True)
class Pez(PezOptions):
    """Hard Prompts Made Easy, with a weight on log-perplexity if wanted.

    The continuous copy of a prompt is projected to writable tokens, the objective's gradient is taken there, and
    AdamW applies it to the copy. Projection is by cosine, as in the published code. The text with the best objective
    on the task's validation examples is returned; it is judged as the subject reads it, tokenised anew.
    """

    name: ClassVar[str] = "pez"
    source: ClassVar[str] = "PEZ (arXiv 2302.03668, algorithm 1); perplexity term: arXiv 2504.02144"
    needs: ClassVar[frozenset[Need]] = frozenset({"train", "validation"})
    """On an instance, with the soft prompt where the options ask for one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "match" or self.init == "soft_prompt":
            object.__setattr__(self, "needs", self.needs | {"soft_prompt"})

    def check(self, bench: Bench) -> None:
        """Raise UserError where the reference LM cannot serve: another vocabulary, or an encoder-decoder model."""
        self._fluency(Vocabulary(bench.fast_subject), bench)

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One text a case; the trace holds loss (and log-perplexity) by step and every improvement.

        Raises UserError as `check` does, before anything runs.
        """
        self.check(bench)
        return self._run(cases, bench)

    def _run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        vocabulary = Vocabulary(bench.fast_subject)
        runner = make_runner(bench.fast_subject)
        fluency = self._fluency(vocabulary, bench)
        for group, clock in grouped(cases, self.slots, bench):
            yield from PezSearch(self, group, bench, runner, vocabulary, fluency, clock).run()

    def _fluency(self, vocabulary: Vocabulary, bench: Bench) -> StraightThroughFluency | None:
        if not self.perplexity_weight:
            return None
        other = bench.reference if self.perplexity_lm == "reference" else None
        return StraightThroughFluency(vocabulary, other or bench.fast_subject)
