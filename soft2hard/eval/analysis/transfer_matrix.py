"""The section of transfer: accuracy of every soft prompt on every task, against no prompt, and beside closeness.

An example does not depend on the cell it is in, so all tasks' distinct examples are laid out once, in rows that each
share one prompt where the architecture allows it, and every prompt is run on all rows; rows of all prompts share
batches. Tokens that every example begins with, the template's, are read once a row as well: they count as the end of
the prompt.
The first tokens of all outputs are looked at before the rest: a wrong one settles an output.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.correlations import (
    BOTH_TASKS,
    correlation_row,
    mantel,
    other_tasks_mean,
    row_means,
    task_means,
)
from soft2hard.eval.analysis.findings import Section, Tables
from soft2hard.eval.analysis.geometry import Square, alignment, cosines, distances, reordered_distances
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.intervals import mean_interval
from soft2hard.eval.metrics.measurement import Job, Pair, PairEncoder
from soft2hard.lm.batching import EncodedExample, batches_by_length
from soft2hard.lm.subject import BATCH_TOKENS, Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell

ROW_TOKENS = 256
"""Tokens of examples that share a row: more of them read the prompt less often, but attend in the square of the row."""

CPU_BATCH_TOKENS = 4096
"""Tokens in a batch on a CPU: batches of 16384 took 1.6 times the processor time there (embedded subject, one core)."""

_WORTH_SHARING = 20_000
"""Examples under prompts that take longer than further processes take to start."""
_LOGITS_AT_ONCE = 2**26  # 256 MB in float32
_SIGNS = {"frobenius": -1.0, "reordered": -1.0, "cosine": 1.0, "alignment_dimensions": 1.0}


@dataclass(frozen=True)
class TransferMatrix:
    """Accuracy of soft prompts on tasks."""

    accuracy: Float[np.ndarray, "n_prompts n_tasks"]
    """Share of a task's test outputs written exactly, EOS included, under greedy decoding, whatever the task's metric.
    NaN where the subject's context has no room for the prompt and the task's longest example."""
    baseline: Float[np.ndarray, " n_tasks"]
    """The same without a prompt."""

    @property
    def change(self) -> Float[np.ndarray, "n_prompts n_tasks"]:
        """Accuracy under the prompt minus accuracy without one, -1 to 1."""
        return self.accuracy - self.baseline


def transfer_section(material: Material) -> tuple[Section, Tables]:
    """Accuracy of every main prompt on every task, and how it goes with the closeness of prompts.

    Much of the Frobenius distance of two prompts is their two lengths, and much of the change in accuracy is how well
    the column's task does without a prompt. So closeness is also measured by cosine, which knows nothing of lengths,
    and every correlation stands beside that of the remainder of both matrices after each row's and each column's own
    part is taken out (`mantel`, centred).

    Tasks and prompts that do not fit the subject's context together are left out, and named in the notes. `accuracy`:
    a row for each prompt and task. `pairs`: for each two tasks the `change` in accuracy against no prompt and the
    measures of closeness, prompts of one task averaged (none where prompts differ in length). `correlations`: Mantel
    tests of closeness with the change. Figures: mean change on the `own` task, on `other` tasks, and on those of the
    `same_family`, and the share of pairs of different tasks in which accuracy rises.
    """
    material.need_subject("transfer")
    numbers = material.need_tasks("transfer", material.main, 2)
    tasks = [material.task_by_name[name] for name in dict.fromkeys(material.names(numbers))]
    found = shared_transfer_matrix(material.crew, material.of(numbers), tasks)
    row, column, notes = _that_fit(material, numbers, tasks, found)
    numbers = [number for number, fits in zip(numbers, row, strict=True) if fits]
    tasks = [task for task, fits in zip(tasks, column, strict=True) if fits]
    found = TransferMatrix(found.accuracy[row][:, column], found.baseline[column])
    change = row_means(found.change, material.names(numbers))
    families, names = np.array([task.family for task in tasks]), [task.name for task in tasks]
    others = ~np.eye(len(change), dtype=bool)
    close = _closeness(material, numbers)
    section = Section(
        figures={
            "own": mean_interval(np.diag(change)),
            "other": other_tasks_mean(change),
            "same_family": other_tasks_mean(change, families[:, None] == families[None]),
            "share_helped": float((change[others] > 0).mean()),
            "n_examples": sum(len(task.test) for task in tasks),
        },
        notes=tuple(f"Left out, because it does not fit the subject's context with the others: {one}" for one in notes),
    )
    of_prompts = np.repeat([(material.prompts[i].name, material.prompts[i].task) for i in numbers], len(tasks), 0)
    accuracy = pd.DataFrame(of_prompts, columns=["prompt", "tuned_on"])
    accuracy["used_on"] = np.tile(np.array(names, dtype=object), len(numbers))
    accuracy["accuracy"], accuracy["baseline"] = found.accuracy.ravel(), np.tile(found.baseline, len(numbers))
    pairs = pd.DataFrame({"tuned_on": np.repeat(names, len(names)), "used_on": np.tile(names, len(names))})
    for name, matrix in ({"change": change} | close).items():
        pairs[name] = matrix.ravel()
    # By ranks, where each pair of tasks counts alike, and by values, where the few pairs that gain much count most.
    correlations = [
        correlation_row(
            f"closeness: {name}",
            "change",
            method,
            lambda near=_SIGNS[name] * matrix, method=method, centred=bool(given): mantel(
                near, change, method=method, centred=centred, seed=material.seed
            ),
            given,
        )
        for given in ((), BOTH_TASKS)
        for method in ("spearman", "pearson")
        for name, matrix in close.items()
    ]
    tables = {"accuracy": accuracy, "pairs": pairs}
    return section, tables | ({"correlations": pd.DataFrame(correlations)} if correlations else {})


def _that_fit(
    material: Material, numbers: Sequence[int], tasks: Sequence[Task], found: TransferMatrix
) -> tuple[Bool[np.ndarray, " n_prompts"], Bool[np.ndarray, " n_tasks"], list[str]]:
    """The prompts and tasks that fit the subject's context with each other, and the names of the others.

    Those in the way of most others go first. A task goes with its prompts, and with its last prompt. Raises UserError
    where fewer than two tasks are left.
    """
    names, of_tasks = np.array(material.names(numbers)), np.array([task.name for task in tasks])
    row, column = np.ones(len(names), dtype=bool), np.isfinite(found.baseline)
    while True:
        row &= np.isin(names, of_tasks[column])
        column &= np.isin(of_tasks, names[row])
        missing = ~np.isfinite(found.accuracy) & row[:, None] & column[None]
        if not missing.any():
            break
        shares = (missing.sum(1) / max(column.sum(), 1), missing.sum(0) / max(row.sum(), 1))
        axis = int(shares[1].max() >= shares[0].max())
        (row, column)[axis][shares[axis].argmax()] = False
    left_out = [f"task {name}" for name in of_tasks[~column]]
    own = ~row & np.isin(names, of_tasks[column])
    left_out += [f"soft prompt {material.prompts[numbers[i]].name}" for i in np.flatnonzero(own)]
    if column.sum() < 2:
        raise UserError(
            f"{column.sum()} tasks are left whose longest example fits the subject's context with the soft prompts.",
            f"Shorten the soft prompts or the examples: left out are {', '.join(left_out)}.",
        )
    return row, column, left_out


def _closeness(material: Material, numbers: Sequence[int]) -> dict[str, Square]:
    """Measures over tasks, prompts of one task averaged; none where prompts differ in length."""
    prompts = material.of(numbers)
    if len({prompt.n_tokens for prompt in prompts}) > 1:
        return {}
    rows, names = np.stack([p.embeddings.numpy() for p in prompts]).astype(np.float64), material.names(numbers)
    measures = {
        "frobenius": distances(rows),
        "reordered": reordered_distances(rows)[0],
        "cosine": cosines(rows),
        "alignment_dimensions": alignment(rows),
    }
    return {name: task_means(matrix, names)[1] for name, matrix in measures.items()}


def transfer_matrix(
    subject: Subject,
    prompts: Sequence[SoftPrompt],
    tasks: Sequence[Task],
    *,
    batch_tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
) -> TransferMatrix:
    """Accuracy of every soft prompt on every task's test examples, beside no prompt.

    Cell by cell it is `measurement.measure`'s accuracy; the other cells change nothing beyond rounding. Prompts may
    differ in length. `batch_tokens` is CPU_BATCH_TOKENS on a CPU, elsewhere BATCH_TOKENS, where it is not given.

    Raises UserError, before anything is run, where there are no prompts or tasks, for a task without test examples,
    and for a soft prompt of another subject.
    """
    _check(subject, prompts, tasks)
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if subject.device.type == "cpu" else BATCH_TOKENS)
    sheet = _Sheet(subject, tasks, batch_tokens, row_tokens)
    # The body after no prompt has other tokens than after a prompt, so the two do not share a layout.
    baseline, accuracy = (sheet.accuracies(some) for some in ([None], list(prompts)))
    return TransferMatrix(accuracy, baseline[0])


def shared_transfer_matrix(
    workers: SubjectWorkers, prompts: Sequence[SoftPrompt], tasks: Sequence[Task]
) -> TransferMatrix:
    """`transfer_matrix` with the prompts shared out among the workers, where there is enough to do for them.

    Raises UserError as it does.
    """
    _check(workers.subject, prompts, tasks)
    n_scores = len(prompts) * sum(len(task.test) for task in tasks)
    n = min(workers.n, len(prompts)) if n_scores >= _WORTH_SHARING else 1
    found = dict(workers.map(_rows_of, [(list(prompts[i::n]), tuple(tasks)) for i in range(n)]))
    accuracy = np.empty((len(prompts), len(tasks)))
    for i in range(n):
        accuracy[i::n] = found[i].accuracy
    return TransferMatrix(accuracy, found[0].baseline)


def _rows_of(subject: Subject, given: tuple[list[SoftPrompt], tuple[Task, ...]], tell: Tell) -> TransferMatrix:
    return transfer_matrix(subject, *given)


def _check(subject: Subject, prompts: Sequence[SoftPrompt], tasks: Sequence[Task]) -> None:
    if not prompts or not tasks:
        raise UserError(f"There are {len(prompts)} soft prompts and {len(tasks)} tasks.", "Give at least one of both.")
    empty = [task.name for task in tasks if not task.test]
    if empty:
        raise UserError(f"The task '{empty[0]}' has no test examples.", "Give it some, or leave it out.")
    for prompt in prompts:
        subject.check(prompt)


class _Sheet:
    """The distinct examples of all tasks."""

    def __init__(self, subject: Subject, tasks: Sequence[Task], batch_tokens: int, row_tokens: int) -> None:
        self.subject, self.encoder = subject, PairEncoder(subject)
        self.batch_tokens = batch_tokens
        self.row_tokens = row_tokens if subject.scorer.shares_prefixes else 0
        outputs = {text: self.encoder.output(text) for text in {e.output for task in tasks for e in task.test}}
        number: dict[Pair, int] = {}
        self.of_task = [
            [number.setdefault(Pair(e.input, outputs[e.output]), len(number)) for e in task.test] for task in tasks
        ]
        """For each task the numbers of its test examples' pairs, repeated ones repeated."""
        self.pairs = tuple(number)

    def accuracies(self, prompts: Sequence[Prompt]) -> Float[np.ndarray, "n_prompts n_tasks"]:
        """NaN where a prompt and a task's longest example do not fit the context."""
        fits = self._fits(prompts)
        exact = np.where(fits, self._exact(prompts, fits), np.nan)
        return np.stack([exact[:, numbers].mean(1) for numbers in self.of_task], 1)

    def _fits(self, prompts: Sequence[Prompt]) -> Bool[np.ndarray, "n_prompts n_pairs"]:
        """Prompts of one length are looked at once."""
        lengths = [prompt.n_tokens if isinstance(prompt, SoftPrompt) else 0 for prompt in prompts]
        of_length = {
            length: [self.encoder.fits(Job(prompt, (pair,))) for pair in self.pairs]
            for length, prompt in dict(zip(lengths, prompts, strict=True)).items()
        }
        return np.array([of_length[length] for length in lengths])

    @torch.no_grad()
    def _exact(
        self, prompts: Sequence[Prompt], fits: Bool[np.ndarray, "n_prompts n_pairs"]
    ) -> Bool[np.ndarray, "n_prompts n_pairs"]:
        """True where greedy decoding would write the pair's output under the prompt; False where that does not fit.

        Prompts are all soft prompts, or all None.
        """
        examples = self.encoder.examples(Job(prompts[0], self.pairs))
        n_common = _n_common(examples)
        ids = torch.tensor(examples[0].body[:n_common], dtype=torch.long, device=self.subject.device)
        common = self.subject.embed_ids(ids)
        prefixes = [torch.cat([self.subject.prompt_embeddings(prompt), common]) for prompt in prompts]
        examples = [EncodedExample(example.body[n_common:], example.output) for example in examples]
        begun = [EncodedExample(example.body, example.output[:1]) for example in examples]
        # A wrong first token settles an output, and most outputs under another task's prompt begin wrong.
        return self._written(prefixes, examples, self._written(prefixes, begun, fits))

    def _written(
        self,
        prefixes: Sequence[Float[Tensor, "_n d_model"]],
        examples: Sequence[EncodedExample],
        asked: Bool[np.ndarray, "n_prompts n_examples"],
    ) -> Bool[np.ndarray, "n_prompts n_examples"]:
        """True where an example is `asked`, and every token of its output is the likeliest one."""
        rows = [(p, row) for p in range(len(prefixes)) for row in self._rows(examples, np.flatnonzero(asked[p]))]
        lengths = [len(prefixes[p]) + sum(examples[e].n_read for e in row) for p, row in rows]
        found = np.zeros(asked.shape, bool)
        for batch in batches_by_length(lengths, self.batch_tokens):
            chosen = [rows[i] for i in batch]
            rows_of_batch = [[examples[e] for e in row] for _, row in chosen]
            targets = self.subject.scorer.run([prefixes[p] for p, _ in chosen], rows_of_batch)
            step = max(1, _LOGITS_AT_ONCE // len(self.subject.embedding))
            greedy = torch.cat([self.subject.head(part).argmax(-1) for part in targets.hidden.split(step)])
            missed = torch.zeros(len(chosen), max(len(row) for _, row in chosen), dtype=torch.bool)
            wrong = greedy != targets.ids
            missed[targets.prompt[wrong].cpu(), targets.example[wrong].cpu()] = True
            for (p, row), of_row in zip(chosen, missed.numpy(), strict=True):
                found[p, row] = ~of_row[: len(row)]
        return found

    def _rows(self, examples: Sequence[EncodedExample], numbers: Int[np.ndarray, " n"]) -> Iterator[list[int]]:
        """These examples, as many a row as may share one."""
        row: list[int] = []
        filled = 0
        for number in numbers.tolist():
            if row and filled + examples[number].n_read > self.row_tokens:
                yield row
                row, filled = [], 0
            row.append(number)
            filled += examples[number].n_read
        if row:
            yield row


def _n_common(examples: Sequence[EncodedExample]) -> int:
    """Tokens that all bodies begin with; each keeps one of its own, for the first output token is predicted there."""
    bodies = [example.body for example in examples]
    first, last = min(bodies), max(bodies)  # in order, whatever all share these two share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(same, min(map(len, bodies)) - 1)
