"""Few-shot prompts of the training examples with the most, or the least, influence on a soft prompt.

An open question of arXiv 2504.02144: is what a soft prompt has learned told by a few of its examples? An example's
influence is a product of gradients as in TracIn (Pruthi et al. 2020, arXiv 2002.08484, section 3), at the tuned soft
prompt alone instead of summed over the steps of tuning: how much a step against its own loss would lower the loss of
the validation examples. Examples with a large loss have large gradients, and so much influence.
"""

import time
from collections.abc import Iterator, Sequence
from random import Random

from jaxtyping import Float
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.slots import SlotLosses, encode_examples
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome
from soft2hard.eval.methods.options import InfluenceOptions
from soft2hard.eval.methods.reference_points import ShowsExamples, shown_text
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt


class InfluentialFewShot(ShowsExamples, InfluenceOptions):
    """Solved examples chosen by their influence on the soft prompt."""

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """Demonstrations as one text, in an order drawn by the seed; the trace has each one's influence."""
        yield from (self._outcome(case, bench) for case in cases)

    def _outcome(self, case: Case, bench: Bench) -> Outcome:
        task, begun = case.task, time.monotonic()
        if problem := case.soft_prompt_problem(bench.fast_subject):
            return Outcome(None, failure=problem)
        with metering.listening() as heard:
            found = influences(bench.fast_subject, case.soft_prompt, task).tolist()
        first = {"most": lambda i: -found[i], "least": lambda i: abs(found[i]), "opposed": lambda i: found[i]}
        # Of the same example, which has the same influence, one is shown.
        distinct = {(e.input, e.output): i for i, e in reversed(list(enumerate(task.train)))}.values()
        order = sorted(distinct, key=lambda i: (first[self.rank](i), i))[: self.k]
        Random(f"influence {bench.seed}/{task.name}").shuffle(order)
        text, n = shown_text(case, bench, [task.train[i] for i in order])
        cost = Cost(time.monotonic() - begun, heard.total.sequences, heard.total.tokens)
        if text is None:
            return Outcome(None, cost, failure="not one example fits the subject's context")
        shown = [{"input": task.train[i].input, "influence": found[i]} for i in order[:n]]
        return Outcome(text, cost, {"k": n, "shown": shown})


def influences(subject: Subject, soft_prompt: SoftPrompt, task: Task) -> Float[Tensor, " n_train"]:
    """For each training example the product of its loss's gradient and that of the validation examples' mean loss, with
    respect to the soft prompt's vectors, in squared nats a token over the square of the embeddings' unit.

    Positive where a step on the example would lower the validation loss. Raises UserError for a task without training
    or validation examples, and for a soft prompt of another subject.
    """
    train, validation = (encode_examples(subject, task, part) for part in ("train", "validation"))
    each = [[example] for example in (*train, *validation)]
    vectors = subject.prompt_embeddings(soft_prompt)[-soft_prompt.n_tokens :].float()
    gradients = SlotLosses(subject).gradients(vectors.expand(len(each), -1, -1), each).flatten(1).float().cpu()
    return gradients[: len(train)] @ gradients[len(train) :].mean(0)
