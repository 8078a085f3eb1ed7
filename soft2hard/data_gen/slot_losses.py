"""Losses of many prompts being tuned, each on its own examples, and their gradients, within the memory there is."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.compute.memory import Halving, affordable
from soft2hard.lm.batching import batches_by_length
from soft2hard.lm.checkpointing import checkpointing
from soft2hard.lm.shared_prefix import EncodedExample, Runner

MOST_SLOTS = 512
"""More prompts at once make none of them cheaper."""
_REMEDY = (
    "Tune with --gradient-checkpointing, --dtype bfloat16, --quantization 4bit, fewer examples a step (--batch-size) "
    "or shorter ones."
)


class SlotLosses:
    """Runs prompts through a subject, each with examples of its own; what one has does not depend on the others."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.subject = runner, runner.subject
        self._bos = self.subject.prompt_embeddings(None)
        self._halving = Halving(_REMEDY)

    @torch.no_grad()
    def losses(
        self, prompts: Float[Tensor, "slots n d"], examples: Sequence[Sequence[EncodedExample]]
    ) -> Float[Tensor, "slots"]:
        """Mean loss over output tokens for each slot, nats a token."""
        return self._in_batches(prompts, examples, self._mean_losses)

    def gradients(
        self, prompts: Float[Tensor, "slots n d"], examples: Sequence[Sequence[EncodedExample]]
    ) -> Float[Tensor, "slots n d"]:
        """The gradient of each slot's mean loss."""
        return self._in_batches(prompts, examples, self._gradients)

    def affordable_slots(
        self, n_tokens: int, training: Sequence[EncodedExample], validation: Sequence[EncodedExample]
    ) -> int:
        """How many prompts of `n_tokens`, with these examples a step and these a look, the memory has room for."""

        def step_and_look(n: int) -> None:
            prompts = torch.zeros(n, n_tokens, self.subject.d_model, device=self.subject.device)
            self._gradients(prompts, [training] * n)
            with torch.no_grad():
                self._mean_losses(prompts, [validation] * n)

        return affordable(step_and_look, self.subject.device, at_most=MOST_SLOTS)

    def _in_batches(
        self,
        prompts: Float[Tensor, "slots *rest"],
        examples: Sequence[Sequence[EncodedExample]],
        work: Callable[[Tensor, list[Sequence[EncodedExample]]], Tensor],
    ) -> Float[Tensor, "slots *result"]:
        lengths = [sum(example.n_read for example in of_slot) for of_slot in examples]
        batches = batches_by_length([prompts.shape[1] + len(self._bos) + length for length in lengths])
        found = self._halving.run(batches, lambda some: work(prompts[list(some)], [examples[i] for i in some]))
        order, results = zip(*found, strict=True)
        slots = torch.tensor([slot for some in order for slot in some], device=prompts.device)
        return torch.cat(results)[slots.argsort()]

    def _gradients(self, prompts: Tensor, examples: Sequence[Sequence[EncodedExample]]) -> Tensor:
        prompts = prompts.detach().requires_grad_()
        with checkpointing(self.subject.model, self.subject.loading.gradient_checkpointing):
            losses = self._mean_losses(prompts, examples)
            # A sum, so that a slot's gradient is that of its own mean loss whatever the other slots hold.
            (gradient,) = torch.autograd.grad(losses.sum(), prompts)
        return gradient

    def _mean_losses(self, prompts: Tensor, examples: Sequence[Sequence[EncodedExample]]) -> Float[Tensor, "slots"]:
        dtype = self.subject.embedding.dtype
        prefixes = torch.cat([self._bos.to(dtype).expand(len(prompts), -1, -1), prompts.to(dtype)], 1)
        targets = self.runner.run(list(prefixes), examples)
        losses = F.cross_entropy(self.subject.head(targets.hidden).float(), targets.ids, reduction="none")
        return _mean_by(losses, targets.prompt, len(prompts))


def _mean_by(values: Float[Tensor, "n"], group: Int[Tensor, "n"], n_groups: int) -> Float[Tensor, "groups"]:
    total = torch.zeros(n_groups, device=values.device).index_add(0, group, values)
    return total / torch.bincount(group, minlength=n_groups).clamp(min=1)
