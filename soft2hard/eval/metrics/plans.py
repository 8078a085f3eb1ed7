"""What is run to measure prompts: which of them, on which pairs of input and output, after what they have written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from soft2hard.data_gen.tasks import Task
from soft2hard.eval.metrics.forward import Job, Pair, PairEncoder
from soft2hard.eval.metrics.task_score import BY_LABEL
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt

MAX_NEW_TOKENS = 16
"""Tokens generated for an answer; more where the longest wanted output of the task has more."""


@dataclass(frozen=True)
class Comparison:
    """Prompts for one task, and the soft prompt they are measured against."""

    task: Task
    prompts: tuple[Prompt, ...]
    soft_prompt: SoftPrompt | None = None
    """None: scores and losses alone."""


@dataclass(frozen=True)
class Plan:
    """One comparison as it is run."""

    task: Task
    soft_prompt: SoftPrompt | None
    """None where there is none, or the context has no room for it."""
    prompts: tuple[Prompt, ...]
    """The distinct prompts that fit the context, after the soft prompt if there is one."""
    wanted: tuple[Pair, ...]
    """The test examples."""
    labelled: tuple[tuple[Pair, ...], ...]
    """For each test input a pair for each label, where the task's metric chooses among them."""
    written: tuple[Pair, ...]
    """For each test input what the subject writes under the soft prompt."""
    answers: tuple[tuple[str, ...], ...] | None
    """For each prompt what is written under it, where the task is scored by ROUGE-L."""

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """The wanted pairs, each as often as the task has it, then all others once."""
        wanted = set(self.wanted)
        others = (*self.written, *(pair for of_input in self.labelled for pair in of_input))
        return (*self.wanted, *(pair for pair in dict.fromkeys(others) if pair not in wanted))

    @property
    def n_targets(self) -> int:
        """Output tokens of all pairs."""
        return sum(len(pair.output) for pair in self.pairs)


def key_of(prompt: Prompt) -> object:
    """What tells prompts apart; None and the empty text are one."""
    return id(prompt) if isinstance(prompt, SoftPrompt) else prompt or None


def make_plans(subject: Subject, comparisons: Sequence[Comparison], encoder: PairEncoder) -> list[Plan]:
    """Plan all comparisons; what has to be generated first is generated in shared batches."""
    drafts = [_Draft(encoder, comparison) for comparison in comparisons]
    writing = [(draft, draft.soft_prompt) for draft in drafts if draft.soft_prompt is not None]
    for (draft, soft_prompt), rows in zip(writing, _generate(subject, writing), strict=True):
        draft.take_written(rows, soft_prompt)
    answering = [(d, p) for d in drafts if d.task.metric == "rougeL" for p in d.usable if p is not d.soft_prompt]
    for (draft, prompt), rows in zip(answering, _generate(subject, answering), strict=True):
        draft.take_answers(rows, prompt)
    return [draft.plan() for draft in drafts]


class _Draft:
    """A plan while it is being made."""

    def __init__(self, encoder: PairEncoder, comparison: Comparison):
        self.task, self.encoder, self.comparison = comparison.task, encoder, comparison
        self.wanted = tuple(Pair(e.input, encoder.output(e.output)) for e in self.task.test)
        self.limit = max(MAX_NEW_TOKENS, *(len(pair.output) for pair in self.wanted))
        by_label = self.task.metric in BY_LABEL
        outputs = [encoder.output(label) for label in self.task.labels or ()] if by_label else []
        self.labelled = tuple(tuple(Pair(e.input, out) for out in outputs) for e in self.task.test if outputs)
        soft = comparison.soft_prompt
        self.soft_prompt = soft if soft is not None and self._fits(soft, self.limit) else None
        self.written: tuple[Pair, ...] = ()
        self.answers: dict[object, tuple[str, ...]] = {}

    def _fits(self, prompt: Prompt, n_new: int) -> bool:
        pairs = (*self.wanted, *(pair for of_input in self.labelled for pair in of_input))
        return self.encoder.fits(Job(prompt, pairs), n_new)

    @cached_property
    def usable(self) -> tuple[Prompt, ...]:
        """Distinct prompts with room for all that is run under them."""
        n_new = max((len(pair.output) for pair in self.written), default=0)
        n_new = self.limit if self.task.metric == "rougeL" else n_new
        soft = () if self.soft_prompt is None else (self.soft_prompt,)
        distinct = {key_of(prompt): prompt for prompt in (*soft, *self.comparison.prompts)}
        return tuple(prompt for prompt in distinct.values() if self._fits(prompt, n_new))

    def take_written(self, rows: list[list[int]], soft_prompt: SoftPrompt) -> None:
        """Keep the tokens written under the soft prompt as outputs; one that was not cut ends in EOS."""
        end = self.encoder.subject.eos_ids[:1]
        outputs = (tuple(row + end if len(row) < self.limit else row) for row in rows)
        self.written = tuple(Pair(e.input, output) for e, output in zip(self.task.test, outputs, strict=True))
        self.take_answers(rows, soft_prompt)

    def take_answers(self, rows: list[list[int]], prompt: Prompt) -> None:
        """Keep what was written under a prompt as text."""
        decode = self.encoder.subject.tokenizer.decode
        self.answers[key_of(prompt)] = tuple(decode(row, skip_special_tokens=True).strip() for row in rows)

    def plan(self) -> Plan:
        answers = tuple(self.answers[key_of(p)] for p in self.usable) if self.task.metric == "rougeL" else None
        return Plan(self.task, self.soft_prompt, self.usable, self.wanted, self.labelled, self.written, answers)


def _generate(subject: Subject, jobs: Sequence[tuple[_Draft, Prompt]]) -> list[list[list[int]]]:
    """What is written for each job's test inputs; jobs with one limit share batches."""
    found: list[list[list[int]]] = [[] for _ in jobs]
    for limit in {draft.limit for draft, _ in jobs}:
        numbers = [i for i, (draft, _) in enumerate(jobs) if draft.limit == limit]
        queries = [Query(jobs[i][1], example.input) for i in numbers for example in jobs[i][0].task.test]
        rows = iter(subject.generate_ids(queries, limit))
        for i in numbers:
            found[i] = [next(rows) for _ in jobs[i][0].task.test]
    return found
