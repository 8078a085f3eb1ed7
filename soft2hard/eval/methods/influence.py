"""Few-shot prompts of the training examples that a soft prompt rests on most, or least.

An open question of arXiv 2504.02144: is what a soft prompt has learned told by a few of its examples? An example's
influence is the product of gradients of Pruthi et al. 2020 (TracIn, arXiv 2002.08484, section 3) at the tuned soft
prompt: how much a step against its own loss would lower the loss of the validation examples.
"""

from collections.abc import Iterator, Sequence
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.slots import SlotLosses, encode_examples
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.eval.methods.options import InfluenceOptions
from soft2hard.eval.methods.reference_points import shown_text
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt


class InfluentialFewShot(InfluenceOptions):
    """Solved examples chosen by their influence on the soft prompt."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """Demonstrations as one text, in an order drawn by the seed; the trace has each one's influence."""
        yield from (self._outcome(case, bench) for case in cases)

    def _outcome(self, case: Case, bench: Bench) -> Outcome:
        task = case.task
        if problem := case.soft_prompt_problem(bench.fast_subject):
            return Outcome(None, failure=problem)
        found = influences(bench.fast_subject, case.soft_prompt, task).tolist()
        order = sorted(range(len(found)), key=found.__getitem__, reverse=self.rank == "most")[: self.k]
        Random(f"influence {bench.seed}/{task.name}").shuffle(order)
        text, n = shown_text(case, bench, [task.train[i] for i in order])
        cost = Cost(model_calls=len(found) + len(task.validation))
        if text is None:
            return Outcome(None, cost, failure="not one example fits the subject's context")
        shown = [{"input": task.train[i].input, "influence": found[i]} for i in order[:n]]
        return Outcome(text, cost, {"k": n, "shown": shown})


def influences(subject: Subject, soft_prompt: SoftPrompt, task: Task) -> Float[Tensor, " n_train"]:
    """For each training example the product of its loss's gradient and that of the validation examples' mean loss, with
    respect to the soft prompt's vectors, in squared nats a token over the square of the embeddings' unit.

    Positive where a step on the example would lower the validation loss. Raises UserError for a task without training
    or validation examples.
    """
    train, validation = (encode_examples(subject, task, part) for part in ("train", "validation"))
    each = [[example] for example in (*train, *validation)]
    vectors = soft_prompt.embeddings.to(subject.device, torch.float32)
    gradients = SlotLosses(subject).gradients(vectors.expand(len(each), -1, -1), each).flatten(1).float().cpu()
    return gradients[: len(train)] @ gradients[len(train) :].mean(0)
