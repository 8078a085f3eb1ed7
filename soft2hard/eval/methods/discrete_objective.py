"""What a discrete prompt is searched by: the loss on a task's outputs, or the distance from a soft prompt's outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from soft2hard.eval.methods.base import Case
from soft2hard.lm.sequences import Query
from soft2hard.lm.shared_prefix import EncodedExample, Runner, Targets, encode_example
from soft2hard.lm.subject import Subject


@dataclass(frozen=True)
class Trial:
    """A prompt with the examples to run under it."""

    prompt: Float[Tensor, "n d_model"]
    """Embeddings, BOS included; gradients flow to them."""
    examples: Sequence[EncodedExample]
    soft: Float[Tensor, "n_soft d_model"] | None = None
    """The soft prompt to match, BOS included; None where the outputs themselves are the target."""

    @property
    def n_tokens(self) -> int:
        return len(self.prompt) + sum(example.n_read for example in self.examples)


def losses(runner: Runner, trials: Sequence[Trial]) -> Float[Tensor, "trials"]:
    """The loss of each trial, mean over its output positions, nats a token.

    Cross-entropy of the outputs, or where there are soft prompts KL(soft || prompt) between next-token distributions
    (the output differential of arXiv 2504.02144, section 4, on distributions). Each trial's value is its own.
    """
    examples = [trial.examples for trial in trials]
    targets = runner.run([trial.prompt for trial in trials], examples)
    log_probs = _log_probs(runner, targets)
    if any(trial.soft is None for trial in trials):
        values = F.nll_loss(log_probs, targets.ids, reduction="none")
    else:
        with torch.no_grad():
            wanted = _log_probs(runner, runner.run([trial.soft for trial in trials], examples))
        values = F.kl_div(log_probs, wanted, log_target=True, reduction="none").sum(-1)
    total = torch.zeros(len(trials), device=values.device).index_add(0, targets.prompt, values)
    return total / torch.bincount(targets.prompt, minlength=len(trials))


def outputs_under(
    subject: Subject, cases: Sequence[Case], part: str, max_new_tokens: int
) -> list[list[EncodedExample]]:
    """The inputs of each task's part with what the subject writes for them under the case's soft prompt."""
    inputs = [[example.input for example in getattr(case.task, part)] for case in cases]
    queries = [Query(case.soft_prompt, x) for case, of_case in zip(cases, inputs, strict=True) for x in of_case]
    written = iter(subject.generate(queries, max_new_tokens=max_new_tokens))
    return [[encode_example(subject, x, next(written)) for x in of_case] for of_case in inputs]


def _log_probs(runner: Runner, targets: Targets) -> Float[Tensor, "n_targets vocab"]:
    return runner.subject.head(targets.hidden).float().log_softmax(-1)
