"""How a prompt is searched for among the texts of a CLIP; defaults are those of the sources."""

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from soft2hard.eval.methods.options import PolicyTraining, Share, n_not_ignorable
from soft2hard.settings import settings


@settings
class PezInversion:
    """PEZ by the gradient of the similarity: settings of the image experiments published with arXiv 2302.03668."""

    n_tokens: PositiveInt = 16
    """Tokens of the prompt."""
    steps: PositiveInt = 3000
    lr: PositiveFloat = 0.1
    """AdamW's learning rate."""
    weight_decay: NonNegativeFloat = 0.1
    """AdamW's: a step shrinks the continuous copy by the factor 1 - lr * weight_decay."""
    restarts: PositiveInt = 1
    """Prompts that descend beside each other from other random tokens, of which the best is taken."""
    eval_every: PositiveInt = 100
    """Steps between two points of the curve."""


@settings
class PinInversion(PolicyTraining):
    """PIN by the similarity as reward: settings of arXiv 2407.14733, appendix D.1 (steps and batch: its code)."""

    n_tokens: PositiveInt = 8
    """Tokens of the prompt, of the policy LM's vocabulary."""
    steps: PositiveInt = 20_000
    batch: PositiveInt = 32
    """Prompts sampled a step, for each target."""
    reward_scale: PositiveFloat = 1.0
    """Factor of the z-scores; the inverse of alpha, the entropy's weight."""
    policy: str = "facebook/opt-350m"
    """The frozen policy LM, by name or folder, of any vocabulary that has the letters and digits of the CLIP's."""
    k: PositiveInt = 20_000
    """A token is ignorable where its logit under the frozen policy LM is below the k-th largest; scaled to smaller
    vocabularies, as of the method pin."""
    eval_every: PositiveInt = 100
    """Steps between two points of the curve."""
    mutate: Share = 0.5
    """Share of the prompts of every step after the warm-up that are one of the 8 best so far with another token in one
    place. The published code learns from a replay buffer instead; 0 leaves the policy to itself."""

    def n_allowed(self, vocab_size: int) -> int:
        """Tokens left at each position."""
        return n_not_ignorable(self.k, vocab_size)
