"""What soft prompts do on tasks they were not tuned for: accuracy of every prompt on every task, against no prompt.

An example does not depend on the cell it is in, so all tasks' distinct examples are laid out once, in rows that each
share one prompt (`SharedPrefixRunner`), and every prompt is run on all rows; rows of all prompts share batches. Tokens
that every example begins with, the template's, are read once a row as well: they count as the end of the prompt.
The first tokens of all outputs are looked at before the rest: a wrong one settles an output.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.metrics.forward import Job, Pair, PairEncoder
from soft2hard.lm.batching import batches_by_length
from soft2hard.lm.shared_prefix import EncodedExample, Runner, SharedPrefixRunner, Targets, make_runner
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


@dataclass(frozen=True)
class _Sheet:
    """The distinct examples of all tasks."""

    pairs: tuple[Pair, ...]
    of_task: tuple[tuple[int, ...], ...]
    """For each task the numbers of its test examples' pairs, repeated ones repeated."""


def transfer_matrix(
    subject: Subject,
    prompts: Sequence[SoftPrompt],
    tasks: Sequence[Task],
    *,
    runner: Runner | None = None,
    batch_tokens: int | None = None,
    row_tokens: int = ROW_TOKENS,
) -> TransferMatrix:
    """Accuracy of every soft prompt on every task's test examples, beside no prompt.

    Cell by cell it is `measurement.measure`'s accuracy; what else is in the matrix changes nothing beyond rounding.
    `runner` saves finding out which one suits the subject (`make_runner`). Prompts may differ in length.
    `batch_tokens` is CPU_BATCH_TOKENS on a CPU, elsewhere BATCH_TOKENS, where it is not given.

    Raises UserError, before anything is run, where there are no prompts or tasks, for a task without test examples,
    and for a soft prompt of another subject.
    """
    _check(subject, prompts, tasks)
    encoder = PairEncoder(subject)
    sheet = _sheet(encoder, tasks)
    runner = runner or make_runner(subject)
    batch_tokens = batch_tokens or (CPU_BATCH_TOKENS if subject.device.type == "cpu" else BATCH_TOKENS)
    # The body after no prompt has other tokens than after a prompt, so the two do not share a layout.
    cells = [_accuracies(runner, encoder, some, sheet, batch_tokens, row_tokens) for some in ([None], list(prompts))]
    return TransferMatrix(cells[1], cells[0][0])


def shared_transfer_matrix(
    workers: SubjectWorkers, prompts: Sequence[SoftPrompt], tasks: Sequence[Task]
) -> TransferMatrix:
    """`transfer_matrix` with the prompts shared out among the workers, where there is enough to do for them.

    Raises UserError as it does.
    """
    _check(workers.subject, prompts, tasks)
    n_scores = len(prompts) * sum(len(task.test) for task in tasks)
    n = min(workers.n, len(prompts)) if n_scores >= _WORTH_SHARING else 1
    shares = [list(prompts[i::n]) for i in range(n)]
    found = dict(workers.map(_rows_of, [(share, tuple(tasks)) for share in shares]))
    accuracy = np.empty((len(prompts), len(tasks)))
    for i in range(n):
        accuracy[i::n] = found[i].accuracy
    return TransferMatrix(accuracy, found[0].baseline)


def _rows_of(runner: Runner, given: tuple[list[SoftPrompt], tuple[Task, ...]], tell: Tell) -> TransferMatrix:
    prompts, tasks = given
    return transfer_matrix(runner.subject, prompts, tasks, runner=runner)


def _accuracies(
    runner: Runner, encoder: PairEncoder, prompts: Sequence[Prompt], sheet: _Sheet, batch_tokens: int, row_tokens: int
) -> Float[np.ndarray, "n_prompts n_tasks"]:
    fits = _fits(encoder, prompts, sheet.pairs)
    exact = np.where(fits, _exact(runner, encoder, prompts, sheet.pairs, fits, batch_tokens, row_tokens), np.nan)
    return np.stack([exact[:, list(numbers)].mean(1) for numbers in sheet.of_task], 1)


@torch.no_grad()
def _exact(
    runner: Runner,
    encoder: PairEncoder,
    prompts: Sequence[Prompt],
    pairs: Sequence[Pair],
    fits: Bool[np.ndarray, "n_prompts n_pairs"],
    batch_tokens: int,
    row_tokens: int,
) -> Bool[np.ndarray, "n_prompts n_pairs"]:
    """Whether greedy decoding would write each pair's output under each prompt; False where that does not fit.

    Prompts are all something, or all nothing.
    """
    subject = runner.subject
    examples = encoder.examples(Job(prompts[0], tuple(pairs)))
    n_common = _n_common(examples)
    common = subject.embed_ids(torch.tensor(examples[0].body[:n_common], dtype=torch.long, device=subject.device))
    prefixes = [torch.cat([subject.prompt_embeddings(prompt), common]) for prompt in prompts]
    examples = [EncodedExample(example.body[n_common:], example.output) for example in examples]
    begun = [EncodedExample(example.body, example.output[:1]) for example in examples]
    most = row_tokens if isinstance(runner, SharedPrefixRunner) else 0
    # A wrong first token settles an output, and most outputs under another task's prompt begin wrong.
    right = _written(runner, prefixes, begun, fits, batch_tokens, most)
    return _written(runner, prefixes, examples, right, batch_tokens, most)


def _written(
    runner: Runner,
    prefixes: Sequence[Float[Tensor, "_n d_model"]],
    examples: Sequence[EncodedExample],
    asked: Bool[np.ndarray, "n_prompts n_examples"],
    batch_tokens: int,
    row_tokens: int,
) -> Bool[np.ndarray, "n_prompts n_examples"]:
    """Whether every token of an example's output is the likeliest one, for all that is asked; else False."""
    rows = [(p, row) for p in range(len(prefixes)) for row in _rows(examples, np.flatnonzero(asked[p]), row_tokens)]
    lengths = [len(prefixes[p]) + sum(examples[e].n_read for e in row) for p, row in rows]
    found = np.zeros(asked.shape, bool)
    for batch in batches_by_length(lengths, batch_tokens):
        chosen = [rows[i] for i in batch]
        targets = runner.run([prefixes[p] for p, _ in chosen], [[examples[e] for e in row] for _, row in chosen])
        greedy = _greedy(runner.subject, targets.hidden)
        missed = _missed(targets, greedy, len(chosen), max(len(row) for _, row in chosen))
        for (p, row), of_row in zip(chosen, missed, strict=True):
            found[p, row] = ~of_row[: len(row)]
    return found


def _check(subject: Subject, prompts: Sequence[SoftPrompt], tasks: Sequence[Task]) -> None:
    if not prompts or not tasks:
        raise UserError(f"There are {len(prompts)} soft prompts and {len(tasks)} tasks.", "Give at least one of both.")
    empty = [task.name for task in tasks if not task.test]
    if empty:
        raise UserError(f"The task '{empty[0]}' has no test examples.", "Give it some, or leave it out.")
    for prompt in prompts:
        subject.check(prompt)


def _sheet(encoder: PairEncoder, tasks: Sequence[Task]) -> _Sheet:
    number: dict[Pair, int] = {}
    outputs: dict[str, tuple[int, ...]] = {}
    of_task = []
    for task in tasks:
        for example in task.test:
            if example.output not in outputs:
                outputs[example.output] = encoder.output(example.output)
        pairs = [Pair(example.input, outputs[example.output]) for example in task.test]
        of_task.append(tuple(number.setdefault(pair, len(number)) for pair in pairs))
    return _Sheet(tuple(number), tuple(of_task))


def _fits(
    encoder: PairEncoder, prompts: Sequence[Prompt], pairs: Sequence[Pair]
) -> Bool[np.ndarray, "n_prompts n_pairs"]:
    """Which pairs fit the subject's context after each prompt; prompts of one length are looked at once."""
    lengths = [prompt.n_tokens if isinstance(prompt, SoftPrompt) else 0 for prompt in prompts]
    of_length = {
        length: [encoder.fits(Job(prompt, (pair,))) for pair in pairs]
        for length, prompt in dict(zip(lengths, prompts, strict=True)).items()
    }
    return np.array([of_length[length] for length in lengths])


def _n_common(examples: Sequence[EncodedExample]) -> int:
    """Tokens that all bodies begin with; each keeps one of its own, for the first output token is predicted there."""
    bodies = [example.body for example in examples]
    first, last = min(bodies), max(bodies)  # in order, whatever all share these two share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(same, min(map(len, bodies)) - 1)


def _rows(examples: Sequence[EncodedExample], numbers: Int[np.ndarray, " n"], row_tokens: int) -> Iterator[list[int]]:
    """These examples, as many a row as may share one."""
    row: list[int] = []
    filled = 0
    for number in numbers.tolist():
        if row and filled + examples[number].n_read > row_tokens:
            yield row
            row, filled = [], 0
        row.append(number)
        filled += examples[number].n_read
    if row:
        yield row


def _greedy(subject: Subject, hidden: Float[Tensor, "n_targets d_out"]) -> Tensor:
    """The likeliest token at each position."""
    step = max(1, _LOGITS_AT_ONCE // len(subject.embedding))
    return torch.cat([subject.head(part).argmax(-1) for part in hidden.split(step)])


def _missed(targets: Targets, greedy: Tensor, n_rows: int, n_examples: int) -> Bool[np.ndarray, "n_rows n_examples"]:
    """Where some token of an output is not the likeliest one."""
    missed = torch.zeros(n_rows, n_examples, dtype=torch.bool, device=greedy.device)
    wrong = greedy != targets.ids
    missed[targets.prompt[wrong], targets.example[wrong]] = True
    return missed.cpu().numpy()
