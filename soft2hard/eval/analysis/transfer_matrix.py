"""The section of transfer: accuracy of every soft prompt on every task, against no prompt, and beside closeness.

An example does not depend on the cell it is in, so all tasks' distinct examples are laid out once, in rows that each
share one prompt where the architecture allows it, and every prompt is run on all rows; rows of all prompts share
batches. Tokens that every example begins with, the template's, are read once a row as well: they count as the end of
the prompt.
The first tokens of all outputs are looked at before the rest: a wrong one settles an output.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.analysis.correlations import BOTH_TASKS, correlation_row, mantel, other_tasks_mean, task_means
from soft2hard.eval.analysis.findings import Section, Tables
from soft2hard.eval.analysis.geometry import measures
from soft2hard.eval.analysis.inputs import Material
from soft2hard.eval.intervals import mean_interval
from soft2hard.eval.metrics.measurement import Job, Pair, PairEncoder
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.subject import BATCH_TOKENS, Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.workers.subject_workers import SubjectWorkers, Tell

CPU_BATCH_TOKENS = 4096
"""Tokens in a batch on a CPU: batches of 16384 took 1.6 times the processor time there (embedded subject, one core)."""

_WORTH_SHARING = 20_000
"""Examples under prompts that take longer than further processes take to start."""
_SIGNS = {"frobenius": -1.0, "reordered": -1.0, "cosine": 1.0, "alignment_dimensions": 1.0}
"""Measures of closeness, with -1 for those that are larger the farther apart prompts lie."""


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
    workers = material.workers or SubjectWorkers(material.need_subject("transfer"))
    numbers = material.need_tasks("transfer", material.main, 2)
    tasks = [material.task_by_name[name] for name in dict.fromkeys(material.names(numbers))]
    found = shared_transfer_matrix(workers, material.of(numbers), tasks)
    row, column, notes = _that_fit(material, numbers, tasks, found)
    numbers = [number for number, fits in zip(numbers, row, strict=True) if fits]
    tasks = [task for task, fits in zip(tasks, column, strict=True) if fits]
    found = TransferMatrix(found.accuracy[row][:, column], found.baseline[column])
    change = pd.DataFrame(found.change).groupby(material.names(numbers), sort=False).mean().to_numpy()
    families, names = np.array([task.family for task in tasks]), [task.name for task in tasks]
    others = ~np.eye(len(change), dtype=bool)
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
    accuracy = pd.DataFrame(
        {
            "prompt": np.repeat(material.labels(numbers), len(tasks)),
            "tuned_on": np.repeat(material.names(numbers), len(tasks)),
            "used_on": np.tile(names, len(numbers)),
            "accuracy": found.accuracy.ravel(),
            "baseline": np.tile(found.baseline, len(numbers)),
        }
    )
    pairs = pd.DataFrame({"tuned_on": np.repeat(names, len(names)), "used_on": np.tile(names, len(names))})
    pairs["change"] = change.ravel()
    tables = {"accuracy": accuracy, "pairs": pairs}
    if len({prompt.n_tokens for prompt in material.of(numbers)}) > 1 and not material.sizes.common_positions:
        return section, tables
    of_prompts = measures(material.comparable(numbers))
    close = {name: task_means(of_prompts[name], material.names(numbers))[1] for name in _SIGNS}
    for name, matrix in close.items():
        pairs[name] = matrix.ravel()
    # By ranks, where each pair of tasks counts alike, and by values, where the few pairs that gain much count most.
    correlations = [
        correlation_row(
            f"closeness: {name}",
            "change",
            method,
            partial(mantel, sign * close[name], change, method=method, centred=bool(given), seed=material.seed),
            given,
        )
        for given in ((), BOTH_TASKS)
        for method in ("spearman", "pearson")
        for name, sign in _SIGNS.items()
    ]
    return section, tables | {"correlations": pd.DataFrame(correlations)}


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


def transfer_matrix(
    subject: Subject, prompts: Sequence[SoftPrompt], tasks: Sequence[Task], *, batch_tokens: int | None = None
) -> TransferMatrix:
    """Accuracy of every soft prompt on every task's test examples, beside no prompt.

    Cell by cell it is `measurement.measure`'s accuracy; the other cells change nothing beyond rounding. Prompts may
    differ in length. `batch_tokens` is CPU_BATCH_TOKENS on a CPU, elsewhere BATCH_TOKENS, where it is not given.

    Raises UserError, before anything is run, where there are no prompts or tasks, for a task without test examples,
    and for a soft prompt of another subject.
    """
    if not prompts or not tasks:
        raise UserError(f"There are {len(prompts)} soft prompts and {len(tasks)} tasks.", "Give at least one of both.")
    if empty := [task.name for task in tasks if not task.test]:
        raise UserError(f"The task '{empty[0]}' has no test examples.", "Give it some, or leave it out.")
    for prompt in prompts:
        subject.check(prompt)
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if subject.device.type == "cpu" else BATCH_TOKENS)
    encoder = PairEncoder(subject)
    outputs = {text: encoder.output(text) for text in {e.output for task in tasks for e in task.test}}
    number: dict[Pair, int] = {}
    of_tasks = [[number.setdefault(Pair(e.input, outputs[e.output]), len(number)) for e in t.test] for t in tasks]
    # The body after no prompt has other tokens than after a prompt, so the two do not share a layout.
    baseline, accuracy = (
        np.stack([exact[:, numbers].mean(1) for numbers in of_tasks], 1)
        for exact in (_exact(encoder, some, tuple(number), batch_tokens) for some in ([None], list(prompts)))
    )
    return TransferMatrix(accuracy, baseline[0])


def shared_transfer_matrix(
    workers: SubjectWorkers, prompts: Sequence[SoftPrompt], tasks: Sequence[Task]
) -> TransferMatrix:
    """`transfer_matrix` with the prompts shared out among the workers, where there is enough to do for them.

    Raises UserError as it does.
    """
    n_scores = len(prompts) * sum(len(task.test) for task in tasks)
    n = min(workers.n, len(prompts)) if n_scores >= _WORTH_SHARING else 1
    found = dict(workers.map(_rows_of, [(list(prompts[i::n]), tuple(tasks)) for i in range(n)]))
    accuracy = np.empty((len(prompts), len(tasks)))
    for i in range(n):
        accuracy[i::n] = found[i].accuracy
    return TransferMatrix(accuracy, found[0].baseline)


def _rows_of(subject: Subject, given: tuple[list[SoftPrompt], tuple[Task, ...]], tell: Tell) -> TransferMatrix:
    return transfer_matrix(subject, *given)


@torch.no_grad()
def _exact(
    encoder: PairEncoder, prompts: Sequence[Prompt], pairs: tuple[Pair, ...], batch_tokens: int
) -> Float[np.ndarray, "n_prompts n_pairs"]:
    """1 where greedy decoding would write the pair's output under the prompt, 0 where not; NaN where both do not fit
    the context. Prompts are all soft prompts, or all None."""
    subject = encoder.subject
    embedded = [subject.prompt_embeddings(prompt) for prompt in prompts]
    of_length = {
        length: [encoder.fits(Job(prompt, (pair,))) for pair in pairs]
        for length, prompt in {len(rows): prompt for rows, prompt in zip(embedded, prompts, strict=True)}.items()
    }
    fits = np.array([of_length[len(rows)] for rows in embedded])
    examples = encoder.examples(Job(prompts[0], pairs))
    n_common = _n_common(examples)
    ids = torch.tensor(examples[0].body[:n_common], dtype=torch.long, device=subject.device)
    prefixes = [torch.cat([rows, subject.embed_ids(ids)]) for rows in embedded]
    asked = fits
    # A wrong first token settles an output, and most outputs under another task's prompt begin wrong.
    for n_tokens in (1, None):
        cut = [replace(e, body=e.body[n_common:], output=e.output[:n_tokens]) for e in examples]
        written = np.zeros(asked.shape, bool)
        chosen = [[cut[i] for i in np.flatnonzero(of_prompt)] for of_prompt in asked]
        for p, hidden in subject.scorer.hidden_states(prefixes, chosen, batch_tokens):
            wanted = torch.tensor([token for example in chosen[p] for token in example.output], device=hidden.device)
            matches = subject.scorer.score(hidden, wanted)[1].split([len(example.output) for example in chosen[p]])
            written[p, asked[p]] = [bool(part.all()) for part in matches]
        asked = written
    return np.where(fits, asked, np.nan)


def _n_common(examples: Sequence[EncodedExample]) -> int:
    """Tokens that all bodies begin with; each keeps one of its own, for the first output token is predicted there. None
    where something stands before the prompt."""
    if any(example.before for example in examples):
        return 0
    bodies = [example.body for example in examples]
    first, last = min(bodies), max(bodies)  # in order, whatever all share these two share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(same, min(map(len, bodies)) - 1)
