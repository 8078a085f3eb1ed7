"""All figures of prompts beside a soft prompt, on a task's test examples: score, loss and faithfulness.

Each distinct prompt of a task is run once, and so is its soft prompt, however many prompts stand beside it: give all
methods' prompts of a task in one `Comparison`. All tasks share batches. One pass scores everything that may be likely
or not: the wanted outputs, the task's other labels where its metric chooses among them, and the outputs that the
subject writes under the soft prompt. Generated are these last, the answers of tasks scored by ROUGE-L, and answers that
begin as the wanted one but for its tokens: whether they are the same is a matter of their text.

Faithfulness is measured by the differentials of arXiv 2504.02144, section 4: the distance of two prompts' embeddings,
that of the subject's outputs under them, and that of its losses. The explained share sets the divergence of outputs
against what the soft prompt does at all: no prompt is therefore run beside every soft prompt, once a task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from more_itertools import constrained_batches
from torch import Tensor

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.task_score import (
    BY_LABEL,
    WRITTEN,
    accuracy,
    check_metric,
    grade,
    likeliest_labels,
    macro_f1,
    may_become,
    rouge_l,
    same_answer,
)
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.sequences import Query, kind_of
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.translator.verification import explained_share

MAX_NEW_TOKENS = 16
"""Tokens generated for an answer; more where the longest wanted output of the task has more."""
_LOGITS_AT_ONCE = 2**24
_HIDDEN_AT_ONCE = 2**26  # numbers: 256 MB in float32


@dataclass(frozen=True)
class Comparison:
    """Prompts for one task, and the soft prompt they are measured against."""

    task: Task
    prompts: tuple[Prompt, ...]
    soft_prompt: SoftPrompt | None = None
    """None: scores and losses alone."""


@dataclass(frozen=True)
class Measurement:
    """One prompt on the test examples of its task; figures against the soft prompt are None where there is none."""

    score: float
    """By the task's metric, 0 to 1."""
    loss: float
    """Negative log-likelihood of the wanted outputs, EOS included, nats a token: their sum by the number of tokens."""
    accuracy: float
    """Share of wanted outputs written exactly under greedy decoding, token for token, whatever the task's metric."""
    answers: tuple[str, ...]
    """As they came: predicted labels, or written texts. Under exact_match an answer that cannot become the wanted one
    any more ends in '...' where it parts from it."""
    kl: float | None = None
    """Mean KL(soft prompt || prompt) over the positions of the wanted outputs, nats."""
    performance_differential: float | None = None
    """|L - L'| of `loss` under the soft prompt and under the prompt, nats a token (arXiv 2504.02144)."""
    explained_share: float | None = None
    """1 - `kl` / KL(soft prompt || no prompt), on the same positions: how much of what the soft prompt makes of the
    subject the prompt makes of it too. At most 1, which the soft prompt itself has; no prompt has 0, and a prompt that
    leads further away than none a negative value, without bound. None also where the subject has nothing to read, or
    no room, without a prompt, and where KL under no prompt is below `verification.LEAST_EFFECT`."""
    logit_distance: float | None = None
    """Mean squared difference of the logits there, as the subject gives them."""
    top1_agreement: float | None = None
    """Share of these positions where both find the same token most likely."""
    agreement: float | None = None
    """Share of test inputs for which the subject writes the same answer as under the soft prompt."""
    embedding_distance: float | None = None
    """Mean squared Euclidean distance of the embeddings, where both have as many positions; likewise the next."""
    embedding_cosine: float | None = None


def measure(subject: Subject, comparisons: Sequence[Comparison]) -> list[list[Measurement | None]]:
    """Measure every prompt of every comparison, in order.

    None for a prompt that does not fit the subject's context together with the task's longest test example and what
    is written. A soft prompt without room to write counts as none. What else is measured changes nothing beyond
    rounding.

    Raises UserError, before anything is run, for a task without test examples, without what its metric needs or with
    an unknown metric, and for a soft prompt of another subject.
    """
    _check(subject, comparisons)
    encoder = PairEncoder(subject)
    plans = [_Plan(encoder, comparison) for comparison in comparisons]
    _write(subject, [(plan, plan.soft_prompt) for plan in plans if plan.soft_prompt is not None])
    _write(
        subject,
        [
            (p, prompt)
            for p in plans
            if p.generates
            for prompt in p.usable
            if prompt is None or prompt is not p.soft_prompt
        ],
    )
    scored: list[_Scored | None] = []
    size = lambda plan: subject.d_model * len(plan.runs) * sum(len(pair.output) for pair in plan.pairs)  # noqa: E731
    for chunk in constrained_batches(plans, _HIDDEN_AT_ONCE, get_len=size, strict=False):
        jobs = [Job(prompt, plan.pairs) for plan in chunk for prompt in plan.runs]
        prompts = [subject.prompt_embeddings(job.prompt) for job in jobs]
        of_job = dict(subject.scorer.hidden_states(prompts, [encoder.examples(job) for job in jobs]))
        hidden = (of_job[number] for number in range(len(jobs)))
        for plan in chunk:
            scored.append(_Scored(subject, plan, [next(hidden) for _ in plan.runs]) if plan.runs else None)
    _finish(subject, [one for one in scored if one is not None])
    found = [{_key(p): one.measurement(i) for i, p in enumerate(one.plan.usable)} if one else {} for one in scored]
    return [
        [of_plan.get(_key(prompt)) for prompt in comparison.prompts]
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


class Pair(NamedTuple):
    """An input and an output to be scored after it."""

    input: str
    output: tuple[int, ...]
    """Token ids, EOS included unless the output was cut before it."""


class Job(NamedTuple):
    """Pairs to run under one prompt."""

    prompt: Prompt
    pairs: tuple[Pair, ...]


class PairEncoder:
    """Token ids of pairs as they stand after a prompt; a body that several jobs share is tokenised once."""

    def __init__(self, subject: Subject):
        self.subject, self._input = subject, cache(subject.encode_input)

    def output(self, text: str) -> tuple[int, ...]:
        """An output's tokens, EOS included."""
        return tuple(self.subject.encode_output(text))

    def examples(self, job: Job) -> list[EncodedExample]:
        """The pairs of a job as tokens."""
        kind = kind_of(job.prompt)
        return [replace(self._input(pair.input, kind), output=list(pair.output)) for pair in job.pairs]

    def reads(self, job: Job) -> bool:
        """True if the subject reads a token at least before each output of a job."""
        before = len(self.subject.prompt_embeddings(job.prompt))
        return all(before + example.n_input for example in self.examples(job))

    def fits(self, job: Job, n_new: int = 0) -> bool:
        """True if the context has room for the longest pair of a job, and for `n_new` tokens written to its input."""
        limit, together = self.subject.context_length, max if self.subject.is_encoder_decoder else sum
        n_new = 1 if self.subject.is_masked else n_new
        before = len(self.subject.prompt_embeddings(job.prompt))
        read = ((before + e.n_input, max(len(e.output), n_new)) for e in self.examples(job))
        return limit is None or max(map(together, read)) <= limit


# --- plans ----------------------------------------------------------------------------------------


def _key(prompt: Prompt) -> object:
    """The identity of a prompt; None and the empty text are one."""
    return id(prompt) if isinstance(prompt, SoftPrompt) else prompt or None


class _Plan:
    """One comparison as it is run: the prompts, the pairs of input and output, and what is written before."""

    def __init__(self, encoder: PairEncoder, comparison: Comparison):
        self.task, self.encoder, self.prompts = comparison.task, encoder, comparison.prompts
        self.generates = self.task.metric == "rougeL"
        self.wanted = tuple(Pair(e.input, encoder.output(e.output)) for e in self.task.test)
        """The test examples."""
        self.limit = max(MAX_NEW_TOKENS, *(len(pair.output) for pair in self.wanted))
        labels = (self.task.labels or ()) if self.task.metric in BY_LABEL else ()
        outputs = [encoder.output(label) for label in labels]
        self.labelled = tuple(Pair(e.input, output) for e in self.task.test for output in outputs)
        """For each test input a pair for each label, where the task's metric chooses among them."""
        soft = comparison.soft_prompt
        self.soft_prompt = soft if soft is not None and self._fits(soft, self.limit) else None
        """None where there is none, or the context has no room for it."""
        self.written: tuple[Pair, ...] = ()
        """For each test input the output that the subject writes under the soft prompt."""
        self.answers: dict[object, tuple[str, ...]] = {}
        """The texts written under a prompt, by its `_key`."""

    def _fits(self, prompt: Prompt, n_new: int) -> bool:
        return self.encoder.fits(Job(prompt, (*self.wanted, *self.labelled)), n_new)

    @cached_property
    def usable(self) -> tuple[Prompt, ...]:
        """Distinct prompts with room for all that is run under them, after the soft prompt if there is one."""
        soft = () if self.soft_prompt is None else (self.soft_prompt,)
        distinct = {_key(prompt): prompt for prompt in (*soft, *self.prompts)}
        return tuple(prompt for prompt in distinct.values() if self._has_room(prompt))

    def _has_room(self, prompt: Prompt) -> bool:
        n_new = self.limit if self.generates else max((len(pair.output) for pair in self.written), default=0)
        return self._fits(prompt, n_new)

    @cached_property
    def has_baseline(self) -> bool:
        """True if there is a soft prompt, and its effect can be measured from the subject without a prompt."""
        return self.soft_prompt is not None and self.encoder.reads(Job(None, self.pairs)) and self._has_room(None)

    @cached_property
    def runs(self) -> tuple[Prompt, ...]:
        """The usable prompts, and last no prompt where it is there for the others' explained share alone."""
        is_extra = self.has_baseline and _key(None) not in map(_key, self.usable)
        return (*self.usable, None) if is_extra else self.usable

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The wanted pairs, each as often as the task has it, then all others once."""
        wanted, others = set(self.wanted), dict.fromkeys((*self.written, *self.labelled))
        return (*self.wanted, *(pair for pair in others if pair not in wanted))

    def take(self, rows: list[list[int]], prompt: Prompt) -> None:
        """Keep what was written under a prompt; an output under the soft prompt that was not cut ends in EOS."""
        subject = self.encoder.subject
        self.answers[_key(prompt)] = tuple(map(subject.output_text, rows))
        if prompt is self.soft_prompt:
            outputs = (tuple(subject.closed(row) if len(row) < self.limit else row) for row in rows)
            self.written = tuple(Pair(e.input, output) for e, output in zip(self.task.test, outputs, strict=True))


def _write(subject: Subject, jobs: Sequence[tuple[_Plan, Prompt]]) -> None:
    """Write to each plan's test inputs under the prompt beside it; those with one limit share batches."""
    for limit in {plan.limit for plan, _ in jobs}:
        chosen = [(plan, prompt) for plan, prompt in jobs if plan.limit == limit]
        queries = [Query(prompt, example.input) for plan, prompt in chosen for example in plan.task.test]
        rows = iter(subject.generate_ids(queries, limit))
        for plan, prompt in chosen:
            plan.take([next(rows) for _ in plan.task.test], prompt)


# --- figures --------------------------------------------------------------------------------------


class _Scored:
    """The targets of a plan's pairs, scored under each of its prompts."""

    @torch.no_grad()
    def __init__(self, subject: Subject, plan: _Plan, of_prompts: list[Float[Tensor, "n_targets d_out"]]):
        self.subject, self.plan, hidden = subject, plan, torch.stack(of_prompts)
        self.sizes = [len(pair.output) for pair in plan.pairs]
        self.n_wanted = sum(self.sizes[: len(plan.wanted)])
        self._number = {pair: i for i, pair in enumerate(plan.pairs)}
        self.generated: dict[tuple[int, int], str] = {}
        """Answers by prompt and test input, where they had to be generated."""
        ids = torch.tensor([token for pair in plan.pairs for token in pair.output], device=hidden.device)
        step = max(1, _LOGITS_AT_ONCE // (len(hidden) * len(subject.embedding)))
        logs, likeliest, parts = [], [], []
        for start, stop in _spans(self.n_wanted, len(ids), step):
            logits = subject.head(hidden[:, start:stop]).float()
            log_probs, best = subject.endings.merged(logits).log_softmax(-1), subject.endings.likeliest(logits)
            logs.append(self._wanted_log_probs(logits, log_probs, ids[start:stop]).cpu())
            likeliest.append(best.cpu())
            if plan.soft_prompt is not None and stop <= self.n_wanted:
                parts.append(output_differential(logits, log_probs, best))
        self.log_probs, self.likeliest = torch.cat(logs, -1), torch.cat(likeliest, -1)
        self.greedy = self.likeliest == ids.cpu()
        self.differential = (
            OutputDifferential(*(torch.cat(c, -1).cpu() for c in zip(*parts, strict=True))) if parts else None
        )

    def _wanted_log_probs(
        self,
        logits: Float[Tensor, "n_prompts n vocab"],
        log_probs: Float[Tensor, "n_prompts n vocab"],
        ids: Int[Tensor, " n"],
    ) -> Float[Tensor, "n_prompts n"]:
        """Of each wanted token; one that elsewhere ends an output (a line break within a label) has its own."""
        found = log_probs.gather(-1, ids.expand(len(logits), -1)[..., None])[..., 0]
        others = torch.isin(ids, torch.tensor(self.subject.endings.ids[1:], device=ids.device))
        if others.any():
            some, wanted = logits[:, others], ids[others].repeat(len(logits))
            found[:, others] = self.subject.endings.log_likelihoods(some.flatten(0, 1), wanted).view(len(logits), -1)
        return found

    def measurement(self, i: int) -> Measurement:
        """All figures of prompt i of the plan."""
        n = len(self.plan.wanted)
        exact = [bool(part.all()) for part in self.greedy[i].split(self.sizes)[:n]]
        score, answers = self._task_score(i)
        return Measurement(score, self._loss(i), sum(exact) / n, answers, **self._against_soft_prompt(i))

    def _loss(self, i: int) -> float:
        return -float(self.log_probs[i, : self.n_wanted].double().mean())

    def unfinished(self) -> Iterator[tuple[int, int]]:
        """Prompts and test inputs, by number, whose answers may yet become the wanted one, or the soft prompt's."""
        for i in range(len(self.plan.usable)):
            for e in range(len(self.plan.wanted)):
                text, is_whole = self._begun(i, e)
                if not is_whole and any(may_become(text, self._text(pair)) for pair in self._compared(e)):
                    yield i, e

    def answer(self, i: int, e: int) -> str:
        """The answer under prompt i to test input e; it ends in '...' where it parts from all it is compared with."""
        text, is_whole = self._begun(i, e)
        return text if is_whole else f"{text} ..."

    def _begun(self, i: int, e: int) -> tuple[str, bool]:
        """The answer as far as it is known, and whether that is all of it."""
        if (i, e) in self.generated:
            return self.generated[i, e], True
        if written := self.plan.answers.get(_key(self.plan.usable[i])):
            return written[e], True
        found = [self._along(i, pair) for pair in self._compared(e)]
        return max(found, key=lambda one: (one[1], len(one[0])))

    def _compared(self, e: int) -> list[Pair]:
        """The outputs that answers to a test input are compared with."""
        return [self.plan.wanted[e], *self.plan.written[e : e + 1]]

    def _along(self, i: int, pair: Pair) -> tuple[str, bool]:
        """The answer as far as a pair's output tells.

        Under greedy decoding the subject writes the pair's own tokens up to the first that is not the likeliest.
        """
        start = sum(self.sizes[: self._number[pair]])
        likeliest = self.likeliest[i, start : start + len(pair.output)].tolist()
        parted = next((at for at, token in enumerate(pair.output) if likeliest[at] != token), None)
        if parted is None:
            return self._text(pair), True
        ends = likeliest[parted] == self.subject.endings.eos_id
        return self.subject.output_text([*pair.output[:parted], *([] if ends else [likeliest[parted]])]), ends

    def _text(self, pair: Pair) -> str:
        return self.subject.output_text(list(pair.output))

    def _task_score(self, i: int) -> tuple[float, tuple[str, ...]]:
        task = self.plan.task
        references = [example.output for example in task.test]
        if task.metric in WRITTEN:
            answers = tuple(self.answer(i, e) for e in range(len(references)))
            return grade(task.scored_by, answers, references), answers
        if self.plan.generates:
            answers = self.plan.answers[_key(self.plan.usable[i])]
            return rouge_l(answers, references), answers
        predicted = likeliest_labels(self._label_log_likelihoods[i].numpy(), task.labels)
        return (accuracy if task.metric == "label_accuracy" else macro_f1)(predicted, references), predicted

    @cached_property
    def _label_log_likelihoods(self) -> Float[Tensor, "n_prompts n_inputs n_labels"]:
        sums = torch.stack([part.double().sum(-1) for part in self.log_probs.split(self.sizes, dim=-1)], -1)
        return sums[:, [self._number[pair] for pair in self.plan.labelled]].unflatten(1, (len(self.plan.wanted), -1))

    def _against_soft_prompt(self, i: int) -> dict[str, float | None]:
        if self.differential is None:
            return {}
        prompt = self.plan.usable[i]
        vectors = prompt.embeddings if isinstance(prompt, SoftPrompt) else self.subject.embed_prompt(prompt or "")
        squared, cosine = distance_differential(self.plan.soft_prompt.embeddings, vectors.cpu()) or (None, None)
        return {
            "kl": self._kl(i),
            "performance_differential": abs(self._loss(i) - self._loss(0)),  # the soft prompt stands first
            "explained_share": explained_share(self._kl(i), self._effect),
            "logit_distance": float(self.differential.squared[i].double().mean()),
            "top1_agreement": float(self.differential.same_top[i].double().mean()),
            "agreement": self._agreement(i),
            "embedding_distance": None if squared is None else float(squared.mean()),
            "embedding_cosine": None if cosine is None else float(cosine.mean()),
        }

    def _kl(self, i: int) -> float:
        return float(self.differential.kl[i].double().mean())

    @cached_property
    def _effect(self) -> float | None:
        """KL under no prompt: all that a prompt can explain. None where it is unknown."""
        if not self.plan.has_baseline:
            return None
        return self._kl(next(i for i, prompt in enumerate(self.plan.runs) if _key(prompt) is None))

    def _agreement(self, i: int) -> float:
        """Share of test inputs with the same answer as under the soft prompt; what was cut counts as far as it goes."""
        return fmean(
            self._agrees(i, pair) or same_answer(self.answer(i, e), self._text(pair), self.plan.task.scored_by)
            for e, pair in enumerate(self.plan.written)
        )

    def _agrees(self, i: int, pair: Pair) -> bool:
        """True where every token of an output that is the likeliest under the soft prompt is so under prompt i."""
        start = sum(self.sizes[: self._number[pair]])
        rows = self.greedy[[0, i], start : start + len(pair.output)]
        return not bool((rows[0] & ~rows[1]).any())


def _finish(subject: Subject, scored: Sequence[_Scored]) -> None:
    """Generate the answers of which it takes the whole text to say if they are the wanted ones, in shared batches."""
    asked = [(one, i, e) for one in scored for i, e in one.unfinished()]
    for limit in {one.plan.limit for one, _, _ in asked}:
        some = [(one, i, e) for one, i, e in asked if one.plan.limit == limit]
        queries = [Query(one.plan.usable[i], one.plan.wanted[e].input) for one, i, e in some]
        for (one, i, e), text in zip(some, subject.generate(queries, limit), strict=True):
            one.generated[i, e] = text


def _spans(n_first: int, n: int, step: int) -> Iterator[tuple[int, int]]:
    """Stretches of at most `step` that cover 0 to n, none across `n_first`."""
    for start, end in ((0, n_first), (n_first, n)):
        yield from ((at, min(at + step, end)) for at in range(start, end, step))


# --- faithfulness ---------------------------------------------------------------------------------


class OutputDifferential(NamedTuple):
    """The distance of the next-token predictions under two prompts, at each target position."""

    squared: Float[Tensor, "*prompts n_targets"]
    """Squared difference of the logits, mean over the vocabulary."""
    kl: Float[Tensor, "*prompts n_targets"]
    """KL(soft prompt || prompt), nats."""
    same_top: Bool[Tensor, "*prompts n_targets"]
    """True where both find the same token most likely."""


def output_differential(
    logits: Float[Tensor, "n_prompts n_targets vocab"],
    log_probs: Float[Tensor, "n_prompts n_targets vocab"],
    likeliest: Int[Tensor, "n_prompts n_targets"],
) -> OutputDifferential:
    """Set the predictions under each prompt against those under the first, the soft prompt, at the same positions.

    The squared difference is of the logits as the subject gives them: unlike the divergence, it also counts a shift
    of them all that changes no probability. In `log_probs` all endings of an output are one (`Endings.merged`).
    """
    return OutputDifferential(
        squared=(logits - logits[0]).square().mean(-1),
        kl=(log_probs[0].exp() * (log_probs[0] - log_probs)).sum(-1),
        same_top=likeliest == likeliest[0],
    )


def distance_differential(
    soft_prompt: Float[Tensor, "n_tokens d_model"], prompt: Float[Tensor, "n_other d_model"]
) -> tuple[Float[Tensor, " n_tokens"], Float[Tensor, " n_tokens"]] | None:
    """Squared Euclidean distance and cosine similarity (0 beside a zero vector) of two prompts, position by position.

    Embeddings are without BOS, and compared in float32. None where the prompts do not have as many positions, for then
    no position stands beside another.
    """
    if len(soft_prompt) != len(prompt):
        return None
    soft, hard = soft_prompt.float(), prompt.to(soft_prompt.device).float()
    return (soft - hard).square().sum(-1), torch.cosine_similarity(soft, hard, dim=-1)
