"""Training rows for the embedded language models: one instruction shared by many examples.

A row holds an instruction and as many examples as fit. In a *zero-shot* row every example attends to
the instruction and to itself alone, and its positions restart right after the instruction, so one
row gives what as many separate sequences would, without repeating the instruction. In a *few-shot*
row there is no instruction and examples attend to all earlier ones. An *induction* row is a few-shot row
that ends with the instruction, so that the model can be asked for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain, count, repeat
from random import Random

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.data_gen.dods.lexical import LexicalTask
from soft2hard.data_gen.world.vocabulary import Encoder
from soft2hard.lm.batching import segment_mask
from soft2hard.prompts.template import Kind, Template

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
    """True where a query position (second axis) may attend to a key position (third)."""
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

    def build(
        self, tasks: Sequence[LexicalTask], rng: Random, few_shot_share: float = 0.0, induction_share: float = 0.0
    ) -> Rows:
        """One row a task; these shares of the rows are few-shot and induction rows."""
        table = np.tile(np.array([self.pad, 0, -1, IGNORE, 0, 0.0]), (len(tasks), self.length, 1))
        for row, task in zip(table, tasks, strict=True):
            point = rng.random()
            is_chain = point < few_shot_share + induction_share
            tokens = self._row(task, rng, is_chain, asks_instruction=is_chain and point >= few_shot_share)
            row[: len(tokens)] = tokens
        ids, positions, segment, labels, answer = np.moveaxis(table[..., :5].astype(np.int64), -1, 0).copy()
        weights = (table[..., 5] * (labels != IGNORE)).astype(np.float32)
        return Rows(*map(torch.from_numpy, (ids, positions, segment_mask(segment), labels, weights, answer)))

    def _row(
        self, task: LexicalTask, rng: Random, is_chain: bool, asks_instruction: bool
    ) -> list[tuple[int, int, int, int, int, float]]:
        """Id, position, segment, label, answer and weight of each token; in a chain all examples see earlier ones."""
        closing = self.encode(f"{INSTRUCTION_CUE} {self._instruction(task, rng)}") if asks_instruction else []
        prompt = [] if is_chain else self.encode(self._instruction(task, rng))
        row = [*zip(prompt, count(), repeat(0), [*prompt[1:], IGNORE], repeat(0), repeat(CONTEXT_WEIGHT))]
        for number in count(1):
            is_asked = not is_chain or number > 1
            body, output = self._example(task, rng, kind="hard" if is_asked else "none")
            if len(row) + len(body) + len(output) - 1 > self.length - len(closing) - asks_instruction:
                break
            # In a chain the token after an output is the next "Input:", but a model that is asked
            # to answer must stop there: the label is the end of the sequence all the same.
            tokens, labels = body + output[:-1], body[1:] + output
            first, segment = (len(row), 0) if is_chain else (len(prompt), number)
            answers = [0] * (len(body) - 1) + [number * is_asked] * len(output)
            weights = [1.0 if answer else CONTEXT_WEIGHT for answer in answers]
            row += [*zip(tokens, count(first), repeat(segment), labels, answers, weights)]
        if closing:
            n_cue = len(self.encode(INSTRUCTION_CUE)) - 1
            weights = chain(repeat(CONTEXT_WEIGHT, n_cue), repeat(INDUCTION_WEIGHT))
            row += [*zip(closing, count(len(row)), repeat(0), [*closing[1:], self.eos], repeat(0), weights)]
        return row

    def _example(self, task: LexicalTask, rng: Random, kind: Kind) -> tuple[list[int], list[int]]:
        example = task.example(rng)
        body = self.encode(self.template.body_text(example.input, kind))
        return body, [*self.encode(self.template.output_text(example.output)), self.eos]

    def _instruction(self, task: LexicalTask, rng: Random) -> str:
        return task.instruction(rng.randrange(len(task.variant.phrasings)), rng)

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
        positions = np.tile(np.arange(self.length), (n_rows, 1))
        weights = (COPY_WEIGHT * (labels != IGNORE)).astype(np.float32)
        arrays = (ids, positions, segment_mask(np.zeros_like(ids)), labels, weights, np.zeros_like(ids))
        return Rows(*map(torch.from_numpy, arrays))
