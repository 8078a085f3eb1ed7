"""How policies are trained that write prompts."""

from dataclasses import dataclass
from typing import get_args

from soft2hard.errors import UserError
from soft2hard.eval.methods.policy_rewards import Kind
from soft2hard.lm.subject import Subject


@dataclass(frozen=True)
class PolicyOptions:
    """The defaults are those published with RLPrompt (arXiv 2205.12548, section 3.1, appendix A, and its code for
    few-shot classification), but for `reverse`.
    """

    n_tokens: int = 5
    """Tokens of the prompt."""
    steps: int = 12000
    batch: int = 16
    """Prompts sampled a step."""
    examples: int = 32
    """Training examples that a prompt is rewarded on, drawn once for each task: 16 for each of two classes."""
    lr: float = 5e-5
    """Adam's learning rate."""
    clip: float = 5.0
    """The most that a gradient's norm may be."""
    hidden: int = 2048
    """Width of the network's hidden layer."""
    polyak: float = 0.001
    """How far the target network moves towards the network at every step."""
    reverse: float = 0.5
    """Weight of the path-consistency losses with network and target exchanged (Guo et al., arXiv 2106.07704)."""
    reward_scale: float = 5.0
    """What z-scores are multiplied by; the inverse of the entropy's weight."""
    right: float = 200.0
    """Lambda 2: times positive gaps."""
    wrong: float = 180.0
    """Lambda 1: times negative gaps."""
    reward: str = "auto"
    """'labels': the paper's reward by label words; 'outputs': its generalisation to any output; 'auto': by labels
    for tasks with label words that are not scored by exact match."""
    perplexity_weight: float = 0.0
    """Alpha of arXiv 2504.02144: the weight at which the prompt's perplexity is taken off the reward."""
    perplexity_lm: str = "reference"
    """Whose perplexity: the reference LM's (the subject's where there is none), or the 'subject's."""
    policy: Subject | str | None = None
    """The frozen policy LM: None for the subject itself, 'reference', or another model with the subject's vocabulary,
    by name, by folder or loaded."""
    start: str | None = None
    """The text that the policy LM reads first; None: its BOS token, or EOS where it has none."""
    eval_every: int = 10
    """Steps between two looks at the validation examples."""
    slots: int = 32
    """Policies trained at once."""

    def __post_init__(self) -> None:
        for name in ("n_tokens", "steps", "batch", "examples", "hidden", "eval_every", "slots"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be at least 1.")
        for name in ("lr", "clip", "reward_scale", "right", "wrong"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be above 0.")
        for name in ("polyak", "reverse"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}.", "It must be from 0 to 1.")
        if self.perplexity_weight < 0:
            raise UserError(f"perplexity_weight is {self.perplexity_weight}.", "It must not be negative.")
        if self.reward not in get_args(Kind):
            raise UserError(f"reward is '{self.reward}'.", "It must be auto, labels or outputs.")
        if self.perplexity_lm not in ("reference", "subject"):
            raise UserError(f"perplexity_lm is '{self.perplexity_lm}'.", "It must be reference or subject.")
        if self.start == "":
            raise UserError("start is empty.", "Give the policy LM a text to read first, or leave it out.")
