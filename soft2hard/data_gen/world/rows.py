"""Training rows for the embedded language models: one instruction shared by many examples.

A row holds an instruction and as many examples as fit. In a *zero-shot* row every example attends to
the instruction and to itself alone, and its positions restart right after the instruction, so one
row gives what as many separate sequences would, without repeating the instruction. In a *few-shot*
row there is no instruction and examples attend to all earlier ones. An *induction* row is a few-shot row
that ends with the instruction, so that the model can be asked for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.data_gen.dods.lexical import LexicalTask
from soft2hard.data_gen.world.vocabulary import Encoder
from soft2hard.lm.batching import segment_mask
from soft2hard.lm.template import Template

IGNORE = -100
CONTEXT_WEIGHT = 0.02  # loss weight of instruction and input tokens; outputs weigh 1
COPY_WEIGHT = 0.5  # loss weight of the tokens of copy rows
INDUCTION_WEIGHT = 0.3  # loss weight of an instruction after its examples
INSTRUCTION_CUE = "\nTask:"
"""After examples, asks for their instruction."""


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows."""

    ids: Int[Tensor, "rows length"]
    positions: Int[Tensor, "rows length"]
    allowed: Bool[Tensor, "rows length length"]
    """Whether a query position (second axis) may attend to a key position (third)."""
    labels: Int[Tensor, "rows length"]
    """The next token, IGNORE where there is nothing to learn."""
    weights: Float[Tensor, "rows length"]
    answer: Int[Tensor, "rows length"]
    """Which answer of the row a label belongs to (from 1), 0 for labels that are not outputs."""


def joined(first: Rows, second: Rows) -> Rows:
    """Two batches of rows as one."""
    return Rows(*(torch.cat([getattr(first, f.name), getattr(second, f.name)]) for f in fields(Rows)))


class RowBuilder:
    """Lays out tasks as rows of a fixed length for one tokenizer."""

    def __init__(self, encode: Encoder, eos: int, pad: int, length: int = 128, template: Template | None = None):
        self.encode, self.eos, self.pad, self.length = encode, eos, pad, length
        self.template = template or Template()

    def _example(self, task: LexicalTask, rng: Random, has_prompt: bool) -> tuple[list[int], list[int]]:
        example = task.example(rng)
        body = self.encode(self.template.body_text(example.input, has_prompt))
        return body, [*self.encode(self.template.output_text(example.output)), self.eos]

    def build(
        self, tasks: Sequence[LexicalTask], rng: Random, few_shot_share: float = 0.0, induction_share: float = 0.0
    ) -> Rows:
        """One row a task; these shares of the rows are few-shot and induction rows."""
        shape = (len(tasks), self.length)
        ids = np.full(shape, self.pad, np.int64)
        labels = np.full(shape, IGNORE, np.int64)
        positions, segment, answer = (np.zeros(shape, np.int64) for _ in range(3))
        weights = np.full(shape, CONTEXT_WEIGHT, np.float32)
        for row, task in enumerate(tasks):
            point = rng.random()
            chained = point < few_shot_share + induction_share
            closing = self._closing(task, rng) if few_shot_share <= point and chained else []
            end = self._fill(
                task, rng, chained, len(closing), ids[row], labels[row], positions[row], segment[row], answer[row]
            )
            if closing:
                self._close(closing, end, ids[row], labels[row], positions[row], segment[row], weights[row])
        allowed = segment_mask(segment)
        weights = np.where(answer > 0, 1.0, weights) * (labels != IGNORE)
        return Rows(*map(torch.from_numpy, (ids, positions, allowed, labels, weights.astype(np.float32), answer)))

    def build_copies(self, n_rows: int, vocabulary: int, rng: Random) -> Rows:
        """Rows in which a run of random tokens is repeated to the end: only copying can predict them.

        They teach early on to look up what followed a token before (induction, Olsson et al. 2022, arXiv
        2209.11895), on which lists, label words and examples in context all depend, and which is slow to
        emerge from tasks alone.
        """
        generator = np.random.default_rng(rng.getrandbits(62))
        ids = np.zeros((n_rows, self.length), np.int64)
        labels = np.full_like(ids, IGNORE)
        for row in range(n_rows):
            period = int(generator.integers(4, self.length // 2))
            run = generator.integers(3, vocabulary, period)
            ids[row] = np.resize(run, self.length)
            labels[row, period - 1 : -1] = ids[row, period:]
        positions = np.broadcast_to(np.arange(self.length), ids.shape).copy()
        allowed = np.broadcast_to(
            np.tril(np.ones((self.length, self.length), bool)), (n_rows, self.length, self.length)
        )
        weights = (COPY_WEIGHT * (labels != IGNORE)).astype(np.float32)
        arrays = (ids, positions, allowed.copy(), labels, weights, np.zeros_like(ids))
        return Rows(*map(torch.from_numpy, arrays))

    def _instruction(self, task: LexicalTask, rng: Random) -> str:
        return task.instruction(rng.randrange(len(task.variant.phrasings)), rng)

    def _closing(self, task: LexicalTask, rng: Random) -> list[int]:
        return [*self.encode(f"{INSTRUCTION_CUE} {self._instruction(task, rng)}"), self.eos]

    def _close(self, closing: list[int], at: int, ids, labels, positions, segment, weights) -> None:
        """Put the instruction after the examples, which it may attend to."""
        tokens, end = closing[:-1], at + len(closing) - 1
        ids[at:end], positions[at:end], segment[at:end] = tokens, range(at, end), 0
        labels[at:end] = closing[1:]
        first = at + len(self.encode(INSTRUCTION_CUE)) - 1
        weights[first:end] = INDUCTION_WEIGHT

    def _fill(self, task, rng, chained, reserved, ids, labels, positions, segment, answer) -> int:
        """Lay out a task's examples, leaving `reserved` tokens of the row; returns where they end."""
        segment[:] = -1
        start = 0
        if not chained:
            prompt = self.encode(self._instruction(task, rng))
            start = len(prompt)
            ids[:start], positions[:start], segment[:start] = prompt, range(start), 0
            labels[: start - 1] = prompt[1:]
        at, n_examples = start, 0
        while True:
            body, output = self._example(task, rng, has_prompt=not chained or n_examples > 0)
            tokens = body + output[:-1]
            end = at + len(tokens)
            if end > self.length - reserved:
                return at
            n_examples += 1
            ids[at:end] = tokens
            segment[at:end] = 0 if chained else n_examples  # the examples of a chain see all earlier ones
            positions[at:end] = range(at, end) if chained else range(start, start + len(tokens))
            labels[at : end - 1] = tokens[1:]
            # In a chain the token after an output is the next "Input:", but a model that is asked
            # to answer must stop there: the label is the end of the sequence all the same.
            labels[end - len(output) : end] = output
            if not chained or n_examples > 1:
                answer[end - len(output) : end] = n_examples
            at = end
