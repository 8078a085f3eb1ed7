"""What RLPrompt and PIN have in common: a policy for each case, many trained at once."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Need, Outcome
from soft2hard.eval.methods.discrete_budget import grouped
from soft2hard.eval.methods.discrete_vocabulary import Vocabulary
from soft2hard.eval.methods.policy_losses import Regulariser
from soft2hard.eval.methods.policy_model import PolicyLM
from soft2hard.eval.methods.policy_options import PolicyOptions
from soft2hard.eval.methods.policy_rewards import Rewards
from soft2hard.eval.methods.policy_search import PolicySearch
from soft2hard.lm.shared_prefix import make_runner
from soft2hard.lm.subject import Subject


@dataclass(frozen=True)
class PolicyMethod(PolicyOptions, ABC):
    """A frozen policy LM with a small trained network before its output layer writes prompts and learns from rewards.

    Of the greedy prompts and the best sampled ones, the text with the highest reward on the task's validation
    examples is returned.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"train", "validation"})
    """On an instance, with label words where `reward` asks for them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward == "labels":
            object.__setattr__(self, "needs", self.needs | {"labels"})

    @abstractmethod
    def entropy(self) -> Regulariser:
        """The regulariser of Q-learning."""

    @abstractmethod
    def n_allowed(self, vocab_size: int) -> int | None:
        """How many tokens the filter leaves at each position; None where there is no filter."""

    def check(self, bench: Bench) -> None:
        """Raise UserError where the policy LM cannot serve: none, another vocabulary, an encoder-decoder model."""
        self._policy_lm(Vocabulary(bench.fast_subject), bench)

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One text a case; the trace holds rewards by step, with the greedy prompt, and every improvement.

        Raises UserError as `check` does, before anything runs.
        """
        vocabulary = Vocabulary(bench.fast_subject)
        return self._run(cases, bench, vocabulary, self._policy_lm(vocabulary, bench))

    def _run(self, cases: Sequence[Case], bench: Bench, vocabulary: Vocabulary, lm: PolicyLM) -> Iterator[Outcome]:
        reference = bench.reference if self.perplexity_lm == "reference" else None
        runner = make_runner(bench.fast_subject)
        rewards = Rewards(runner, reference or bench.subject, self.right, self.wrong, self.perplexity_weight)
        n_allowed = self.n_allowed(len(vocabulary.subject.embedding))
        for group, clock in grouped(cases, self.slots, bench):
            search = PolicySearch(self, self.entropy(), n_allowed, group, bench, lm, rewards, vocabulary, clock)
            yield from search.run()

    def _policy_lm(self, vocabulary: Vocabulary, bench: Bench) -> PolicyLM:
        policy = self.policy
        if policy is None:
            policy = bench.subject
        elif policy == "reference":
            if bench.reference is None:
                raise UserError("The policy LM is to be the reference LM, but there is none.", "Name a reference LM.")
            policy = bench.reference
        elif not isinstance(policy, Subject):
            policy = Subject.from_pretrained(policy)
        return PolicyLM(vocabulary, policy, self.start)
