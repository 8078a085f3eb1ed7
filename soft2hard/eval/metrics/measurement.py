"""All that the subject says of prompts beside a soft prompt, on a task's test examples: score, loss and faithfulness.

Each distinct prompt of a task is run once, and so is its soft prompt, however many prompts stand beside it: give all
methods' prompts of a task in one `Comparison`. All tasks share batches. One pass scores everything that may be likely
or not: the wanted outputs, the task's other labels where its metric chooses among them, and what the subject writes
under the soft prompt. Only that last, and the answers of tasks scored by ROUGE-L, are generated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.errors import UserError
from soft2hard.eval.metrics.faithfulness import (
    OutputDifferential,
    distance_differential,
    output_agreement,
    output_differential,
)
from soft2hard.eval.metrics.forward import Job, Pair, PairEncoder, target_hidden
from soft2hard.eval.metrics.plans import Comparison, Plan, key_of, make_plans
from soft2hard.eval.metrics.task_score import accuracy, check_metric, likeliest_labels, macro_f1, rouge_l
from soft2hard.lm.shared_prefix import Runner, make_runner
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt

__all__ = ["Comparison", "Measurement", "measure"]

_LOGITS_AT_ONCE = 2**24
_HIDDEN_AT_ONCE = 2**26  # numbers: 256 MB in float32


@dataclass(frozen=True)
class Measurement:
    """One prompt on the test examples of its task; figures against the soft prompt are None where there is none."""

    score: float
    """By the task's metric, 0 to 1."""
    loss: float
    """Negative log-likelihood of the wanted outputs, EOS included, nats a token: their sum by the number of tokens."""
    accuracy: float
    """Share of wanted outputs written exactly under greedy decoding, whatever the task's metric."""
    answers: tuple[str, ...] | None
    """As they came: predicted labels, or generated texts under ROUGE-L; None under exact_match, which needs none."""
    kl: float | None = None
    """Mean KL(soft prompt || prompt) over the positions of the wanted outputs, nats."""
    logit_distance: float | None = None
    """Mean squared difference of the logits there, as the subject gives them."""
    top1_agreement: float | None = None
    """Share of these positions where both find the same token most likely."""
    agreement: float | None = None
    """Share of test inputs for which the subject writes the same as under the soft prompt."""
    embedding_distance: float | None = None
    """Mean squared Euclidean distance of the embeddings, where both have as many positions; likewise the next."""
    embedding_cosine: float | None = None


def measure(
    subject: Subject, comparisons: Sequence[Comparison], runner: Runner | None = None
) -> list[list[Measurement | None]]:
    """Measure every prompt of every comparison, in order.

    None for a prompt that does not fit the subject's context together with the task's longest test example and what
    is written. A soft prompt without room to write counts as none. What else is measured changes nothing beyond
    rounding. `runner` saves finding out which one suits the subject (`make_runner`).

    Raises UserError, before anything is run, for a task without test examples, without what its metric needs or with
    an unknown metric, and for a soft prompt of another subject.
    """
    _check(subject, comparisons)
    encoder = PairEncoder(subject)
    plans = make_plans(subject, comparisons, encoder)
    runner = runner or make_runner(subject)
    found = [_by_prompt(subject, plan, hidden) for plan, hidden in _run(runner, plans, encoder)]
    return [
        [of_plan.get(key_of(prompt)) for prompt in comparison.prompts]
        for comparison, of_plan in zip(comparisons, found, strict=True)
    ]


def _check(subject: Subject, comparisons: Sequence[Comparison]) -> None:
    for comparison in comparisons:
        if not comparison.task.test:
            raise UserError(
                f"The task '{comparison.task.name}' has no test examples.", "Give it some, or leave it out."
            )
        check_metric(comparison.task)
        for prompt in (comparison.soft_prompt, *comparison.prompts):
            if isinstance(prompt, SoftPrompt):
                subject.check(prompt)


def _run(
    runner: Runner, plans: Sequence[Plan], encoder: PairEncoder
) -> Iterator[tuple[Plan, list[Float[Tensor, "_n_targets d_out"]]]]:
    """Each plan with the hidden states of its pairs' targets under each of its prompts."""
    for chunk in _chunks(plans, runner.subject.d_model):
        jobs = [Job(prompt, plan.pairs) for plan in chunk for prompt in plan.prompts]
        hidden = iter(target_hidden(runner, jobs, encoder))
        yield from ((plan, [next(hidden) for _ in plan.prompts]) for plan in chunk)


def _chunks(plans: Sequence[Plan], width: int) -> Iterator[list[Plan]]:
    """Plans whose hidden states are held together."""
    chunk: list[Plan] = []
    held = 0
    for plan in plans:
        size = width * len(plan.prompts) * plan.n_targets
        if chunk and held + size > _HIDDEN_AT_ONCE:
            yield chunk
            chunk, held = [], 0
        chunk.append(plan)
        held += size
    if chunk:
        yield chunk


def _by_prompt(
    subject: Subject, plan: Plan, hidden: list[Float[Tensor, "_n_targets d_out"]]
) -> dict[object, Measurement]:
    if not hidden:
        return {}
    scored = _Scored(subject, plan, torch.stack(hidden))
    return {key_of(prompt): scored.measurement(i) for i, prompt in enumerate(plan.prompts)}


class _Scored:
    """The targets of a plan's pairs, scored under each of its prompts."""

    def __init__(self, subject: Subject, plan: Plan, hidden: Float[Tensor, "n_prompts n_targets d_out"]):
        self.subject, self.plan = subject, plan
        self.sizes = [len(pair.output) for pair in plan.pairs]
        self.n_wanted = sum(self.sizes[: len(plan.wanted)])
        ids = torch.tensor([token for pair in plan.pairs for token in pair.output], device=hidden.device)
        self.differential: OutputDifferential | None = None
        self.log_probs, self.greedy = self._score(hidden, ids)
        self._number = {pair: i for i, pair in enumerate(plan.pairs)}

    @torch.no_grad()
    def _score(
        self, hidden: Float[Tensor, "n_prompts n_targets d_out"], ids: Int[Tensor, " n_targets"]
    ) -> tuple[Float[Tensor, "n_prompts n_targets"], Bool[Tensor, "n_prompts n_targets"]]:
        """Log-probability of each target and whether it is the likeliest; sets the differential of the wanted ones."""
        step = max(1, _LOGITS_AT_ONCE // (len(hidden) * len(self.subject.embedding)))
        logs, greedy, parts = [], [], []
        for start, stop in _spans(self.n_wanted, len(ids), step):
            logits = self.subject.head(hidden[:, start:stop]).float()
            wanted = ids[start:stop].expand(len(hidden), -1)
            logs.append((logits.gather(-1, wanted[..., None])[..., 0] - logits.logsumexp(-1)).cpu())
            greedy.append((logits.argmax(-1) == wanted).cpu())
            if self.plan.soft_prompt is not None and stop <= self.n_wanted:
                parts.append(output_differential(logits[0], logits))
        if parts:
            columns = ([getattr(part, name).cpu() for part in parts] for name in ("squared", "kl", "same_top"))
            self.differential = OutputDifferential(*(torch.cat(column, -1) for column in columns))
        return torch.cat(logs, -1), torch.cat(greedy, -1)

    def measurement(self, i: int) -> Measurement:
        """All figures of prompt i of the plan."""
        n = len(self.plan.wanted)
        exact = [bool(part.all()) for part in self.greedy[i].split(self.sizes)[:n]]
        accuracy_of_i = sum(exact) / n
        score, answers = self._task_score(i, accuracy_of_i)
        loss = -float(self.log_probs[i, : self.n_wanted].double().mean())
        return Measurement(score, loss, accuracy_of_i, answers, **self._against_soft_prompt(i))

    def _task_score(self, i: int, exact: float) -> tuple[float, tuple[str, ...] | None]:
        task = self.plan.task
        references = [example.output for example in task.test]
        if task.metric == "exact_match":
            return exact, None
        if task.metric == "rougeL":
            return rouge_l(self.plan.answers[i], references), self.plan.answers[i]
        predicted = likeliest_labels(self._label_log_likelihoods[i].numpy(), task.labels)
        return (accuracy if task.metric == "label_accuracy" else macro_f1)(predicted, references), predicted

    @cached_property
    def _label_log_likelihoods(self) -> Float[Tensor, "n_prompts n_inputs n_labels"]:
        sums = torch.stack([part.double().sum(-1) for part in self.log_probs.split(self.sizes, dim=-1)], -1)
        return sums[:, torch.tensor(self._numbers(self.plan.labelled))]

    def _numbers(self, labelled: Sequence[Sequence[Pair]]) -> list[list[int]]:
        return [[self._number[pair] for pair in of_input] for of_input in labelled]

    def _against_soft_prompt(self, i: int) -> dict[str, float | None]:
        if self.differential is None:
            return {}
        return {
            "kl": float(self.differential.kl[i].double().mean()),
            "logit_distance": float(self.differential.squared[i].double().mean()),
            "top1_agreement": float(self.differential.same_top[i].double().mean()),
            "agreement": float(self._agreement[i]),
            **self._distance(self.plan.prompts[i]),
        }

    @cached_property
    def _agreement(self) -> Float[Tensor, " n_prompts"]:
        of_pair = self.greedy.split(self.sizes, dim=-1)
        parts = [of_pair[number] for [number] in self._numbers([[pair] for pair in self.plan.written])]
        rows = torch.cat(parts, -1)
        return output_agreement(rows[0], rows, [part.shape[-1] for part in parts])

    def _distance(self, prompt: Prompt) -> dict[str, float | None]:
        vectors = prompt.embeddings if isinstance(prompt, SoftPrompt) else self.subject.embed_text(prompt or "")
        found = distance_differential(self.plan.soft_prompt.embeddings, vectors.cpu())
        if found is None:
            return {}
        return {"embedding_distance": found.mean_squared, "embedding_cosine": found.mean_cosine}


def _spans(n_first: int, n: int, step: int) -> Iterator[tuple[int, int]]:
    """Stretches of at most `step` that cover 0 to n, none across `n_first`."""
    for start, end in ((0, n_first), (n_first, n)):
        yield from ((at, min(at + step, end)) for at in range(start, end, step))
