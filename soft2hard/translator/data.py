"""Training pairs for the translator: of a corpus, and imitations that cost nothing; and how they are batched.

Batches stay as they were drawn: mixed, which teaches more than batches of like length do. But the decoder reads each
in runs of instructions of like length, so that little of what it reads is padding. How many runs a batch has depends
on its size alone, so that all processes pass through the model equally often, as ZeRO-3 needs it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import ConcatDataset, Dataset

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.settings import Reads

if TYPE_CHECKING:
    import datasets

    from soft2hard.lm.subject import Subject


IGNORE = -100
"""The label of padding."""

_MOST_RUNS = 6
_FEWEST_PAIRS = 8
"""In a run, on average: smaller passes would keep a machine less busy."""
_MOST_SETS = 2
"""Four say hardly more (docs/experiments.md, twentieth sitting)."""
_IMITATION_LENGTHS = (8, 16)
"""Fewest and most vectors of an imitation soft prompt."""
_IMITATION_FACTORS = (0.5, 3.0)
"""Range of the factor on each vector."""
_IMITATION_NOISE = 0.7
"""Most standard deviations of noise, in units of the subject's embedding scale."""


@dataclass(frozen=True)
class View:
    """What a translator is given of a task: the vectors of its soft prompt, examples in the place of them, both, or
    nothing; see `Design.reads`. Examples are read as the text of a few-shot prompt, by the subject's own embeddings.
    """

    subject: "Subject"
    reads: Reads = "vectors"
    n_examples: int = 8
    room: int | None = None
    """Rows that the translator can read at most: fewer examples are shown where they are long, and of a single one that
    is longer its end."""
    without: float | None = None
    """Show any number of examples from one to `n_examples`, and in such a share of the draws none, as a translator that
    can do with few is trained; None: always as many as there may be."""

    def __call__(
        self, vectors: Float[Tensor, "n d"], examples: Sequence[Example], rng: Random
    ) -> Float[Tensor, "n_read d"]:
        """`rng` draws the examples. An imitation, which has none, is read as it is, but by a view of nothing."""
        if self.reads == "nothing":
            return vectors.new_zeros(1, vectors.shape[1])
        if not examples or not self.reads_examples:
            return vectors
        n = min(self.n_examples, len(examples))
        if self.without is not None:
            n = 0 if rng.random() < self.without else rng.randint(1, n)
        return self._showing(vectors, rng.sample(list(examples), n)) if n else vectors

    @property
    def reads_examples(self) -> bool:
        """Whether examples are read at all; who reads vectors too does without them where the template has no place."""
        return self.reads == "examples" or (self.reads == "both" and not self.subject.template.input_first)

    def _showing(self, vectors: Float[Tensor, "n d"], shown: Sequence[Example]) -> Float[Tensor, "n_read d"]:
        text = self.subject.embed_text(self.subject.template.few_shot_text(shown)).detach().to(vectors)
        rows = text if self.reads == "examples" else torch.cat([vectors, text])
        if self.room is None or len(rows) <= self.room:
            return rows
        if len(shown) > 1:
            return self._showing(vectors, shown[:-1])
        return vectors if self.reads == "both" and len(vectors) else rows[-self.room :]

    def of(self, soft_prompt: SoftPrompt, task: Task, seed: int) -> SoftPrompt:
        """The same in the form of a soft prompt of the subject, as translators are given it."""
        rows = self(self._vectors_of(soft_prompt), task.train, Random(f"view/{seed}/{task.name}"))
        return self._as_prompt(soft_prompt, rows)

    def of_pairs(self, soft_prompt: SoftPrompt, pairs: Sequence[Example]) -> SoftPrompt:
        """As `of`, with just these pairs; a soft prompt without any is read by itself."""
        if not pairs or not self.reads_examples:
            return soft_prompt
        return self._as_prompt(soft_prompt, self._showing(self._vectors_of(soft_prompt), pairs))

    def of_sets(
        self, soft_prompt: SoftPrompt, sets: Sequence[Sequence[str]], pairs: Iterable[Example]
    ) -> list[SoftPrompt]:
        """As `of_pairs`, once for each set of inputs that has pairs; where there are none, the soft prompt."""
        of_input = {pair.input: pair for pair in pairs}
        shown = [[of_input[input] for input in of_set if input in of_input] for of_set in sets]
        return [self.of_pairs(soft_prompt, of_set) for of_set in filter(None, shown)] or [soft_prompt]

    def _vectors_of(self, soft_prompt: SoftPrompt) -> Float[Tensor, "n d"]:
        """None where examples alone are read: the soft prompt may be of another subject, and of another width."""
        vectors = soft_prompt.embeddings
        return vectors.new_zeros(0, self.subject.d_model) if self.reads == "examples" else vectors

    def _as_prompt(self, soft_prompt: SoftPrompt, rows: Float[Tensor, "n_read d"]) -> SoftPrompt:
        if self.reads == "examples":  # these rows are the subject's, whoever wrote the outputs
            soft_prompt = replace(soft_prompt, fingerprint=self.subject.fingerprint)
        return replace(soft_prompt, embeddings=rows)

    def chosen(self, inputs: Sequence[str], seed: int) -> list[str]:
        """Those of the inputs that are shown where they are shown once: the first of `sets`."""
        return self.sets(inputs, seed)[0]

    def sets(self, inputs: Sequence[str], seed: int) -> list[list[str]]:
        """Sets of inputs that are shown one at a time, each of as many as were shown in training; which ones depends on
        the seed and on themselves alone. Up to `_MOST_SETS`, which share no input where there are enough. One set
        without any, beside vectors, of a template that has no place for solved examples."""
        if not self.reads_examples:
            return [[]]
        rng = Random("\n".join([f"view/{seed}", *inputs]))
        order, n = rng.sample(list(inputs), len(inputs)), min(self.n_examples, len(inputs))
        n_sets = min(max(round(len(inputs) / max(n, 1)), 1), _MOST_SETS)
        starts = np.linspace(0, len(inputs) - n, n_sets).round().astype(int)
        return [order[start : start + n] for start in starts]


@dataclass(frozen=True)
class Views:
    """All that a translator is given of one soft prompt, to propose and weigh texts by."""

    shown: tuple[SoftPrompt, ...]
    """What it reads, one at a time: with several sets of examples, or just the vectors. The first is what greedy
    decoding reads."""
    alone: SoftPrompt | None = None
    """Beside examples, the vectors alone: of a kind of task that it never met, examples make a translator too sure of
    one that it knows."""
    pairs: tuple[Example, ...] = ()
    """What the soft prompt writes, in all sets of examples."""


def in_sets(pairs: Sequence[Example], sets: Sequence[Sequence[str]]) -> tuple[Example, ...]:
    """The pairs whose inputs are in one of the sets and were answered with something."""
    shown = set(chain.from_iterable(sets))
    return tuple(pair for pair in pairs if pair.input in shown and pair.output)


class CorpusPairs(Dataset):
    """Pairs of what is read, by default the soft prompt, and instruction, of a corpus.

    Each epoch draws again: the reference instruction or, with probability `paraphrase_share`, one of its
    paraphrases; and Gaussian noise on the soft prompt, of up to `noise` times the standard deviation of
    its entries. What is drawn depends on the seed, the epoch and the row alone, so a training that resumes
    sees what it would have seen.
    """

    def __init__(
        self,
        corpus: "datasets.Dataset",
        *,
        paraphrase_share: float = 0.0,
        noise: float = 0.0,
        seed: int = 0,
        view: View | None = None,
    ):
        self.embeddings = torch.from_numpy(np.stack(corpus.with_format("numpy")["embeddings"]).astype(np.float32))
        self.instructions: list[str] = list(corpus["instruction"])
        self.paraphrases: list[list[str]] = list(corpus["paraphrases"])
        self.examples = [
            [Example(*pair) for pair in zip(*of_task, strict=True)]
            for of_task in zip(corpus["inputs"], corpus["outputs"], strict=True)
        ]
        self.paraphrase_share, self.noise, self.seed, self.view = paraphrase_share, noise, seed, view
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.instructions)

    def set_epoch(self, epoch: int) -> None:
        """As the Trainer's data loader calls it."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        rng = Random(f"{self.seed}/{self.epoch}/{index}")
        text, soft_prompt = self.instructions[index], self.embeddings[index]
        if self.paraphrases[index] and rng.random() < self.paraphrase_share:
            text = rng.choice(self.paraphrases[index])
        if self.noise:
            generator = torch.Generator().manual_seed(rng.getrandbits(62))
            size = self.noise * rng.random() * soft_prompt.std()
            soft_prompt = soft_prompt + size * torch.randn(soft_prompt.shape, generator=generator)
        if self.view is not None:
            soft_prompt = self.view(soft_prompt, self.examples[index], rng)
        return soft_prompt, text


class ExamplesAlone(Dataset):
    """Pairs of a task's labelled examples, read without any soft prompt, and its instruction.

    Nothing is tuned for them, so that a translator which reads examples can learn many more tasks than there are soft
    prompts of. With probability `paraphrase_share` a paraphrase is the instruction. Each epoch draws again, as of
    `CorpusPairs`, and where `n` tasks are shown in an epoch it goes on in the tasks where the last one ended. Any
    number of examples is shown up to the view's, or with `all_shown` as many as there may be.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        view: View,
        *,
        paraphrase_share: float = 0.0,
        seed: int = 0,
        n: int | None = None,
        all_shown: bool = False,
    ):
        self.tasks, self.view = tasks, replace(view, without=None if all_shown else 0.0)
        self.paraphrase_share, self.seed, self.n = paraphrase_share, seed, len(tasks) if n is None else n
        self.epoch = 0
        self._vectors = torch.zeros(0, view.subject.d_model)

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """As the Trainer's data loader calls it."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        number = index + self.epoch * self.n
        task, rng = self.tasks[number % len(self.tasks)], Random(f"examples alone/{self.seed}/{number}")
        text = task.instruction
        if task.paraphrases and rng.random() < self.paraphrase_share:
            text = rng.choice(task.paraphrases)
        return self.view(self._vectors, list(dict.fromkeys(task.train)), rng), text


class Mixed(ConcatDataset):
    """Datasets of pairs one after another, each of which draws again for every epoch."""

    def set_epoch(self, epoch: int) -> None:
        """As the Trainer's data loader calls it."""
        for part in self.datasets:
            if isinstance(part, CorpusPairs | ExamplesAlone):
                part.set_epoch(epoch)


def padded(soft_prompts: Sequence[Float[Tensor, "_n d"]]) -> tuple[Float[Tensor, "batch n d"], Int[Tensor, "batch n"]]:
    """Soft prompts padded to one length, on the right, and their attention mask."""
    batch = pad_sequence(list(soft_prompts), batch_first=True)
    lengths = torch.tensor([[len(one)] for one in soft_prompts])
    return batch, (torch.arange(batch.shape[1]) < lengths).long()


class PairCollator:
    """Pads soft prompts and encoded instructions to the longest of the batch.

    `encode` gives an instruction's token ids, as `Translator.encode_instruction` does.
    """

    def __init__(self, encode: Callable[[str], list[int]]):
        self.encode = encode

    def __call__(self, pairs: list[tuple[Tensor, str]]) -> dict[str, Tensor]:
        soft_prompts, mask = padded([soft_prompt for soft_prompt, _ in pairs])
        labels = [torch.tensor(self.encode(text)) for _, text in pairs]
        labels = pad_sequence(labels, batch_first=True, padding_value=IGNORE)
        return {"soft_prompts": soft_prompts, "attention_mask": mask, "labels": labels}


def imitation_pairs(subject: "Subject", instructions: list[str], rng: Random) -> Iterator[tuple[Tensor, str]]:
    """Endless pairs of imitation soft prompt and instruction.

    A soft prompt says its task in a bag of vectors of which some lie near words and none is in order. So the
    embeddings of an instruction's words, made to look like that, train a translator without any tuning.
    """
    scale = subject.embedding.float().square().mean().sqrt().item()
    # Detached: else every step would work out gradients of the subject's whole table.
    embedded = [subject.embed_text(text).detach().float().cpu() for text in instructions]
    while True:
        i = rng.randrange(len(instructions))
        yield _imitation(embedded[i], rng, scale), instructions[i]


def _imitation(embeddings: Float[Tensor, "n_words d"], rng: Random, scale: float) -> Float[Tensor, "n d"]:
    """Words shuffled, some dropped and some repeated, each scaled at random, with noise; all kept where there is room.

    `scale` is the root mean square of the subject's embeddings.
    """
    n = rng.randint(*_IMITATION_LENGTHS)
    order = rng.sample(range(len(embeddings)), len(embeddings))
    chosen = (order + rng.choices(order, k=max(0, n - len(order))))[:n]
    rng.shuffle(chosen)
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    factor = torch.empty(n, 1).uniform_(*_IMITATION_FACTORS, generator=generator)
    noise = torch.randn(n, embeddings.shape[1], generator=generator) * scale * _IMITATION_NOISE * rng.random()
    return embeddings[chosen].float() * factor + noise


def n_runs(n_pairs: int) -> int:
    """Runs of a batch of so many pairs."""
    return max(1, min(_MOST_RUNS, n_pairs // _FEWEST_PAIRS))


def runs_of_like_length(lengths: Sequence[int], n: int) -> list[list[int]]:
    """Indices of the items in `n` runs, shortest items first, cut where the least is padded.

    None is empty where there are at least `n` items.
    """
    order = np.argsort(lengths, kind="stable")
    ends = np.arange(1, len(order) + 1)
    longest = np.asarray(lengths)[order]
    # cost[i]: places of the first i + 1 items in as many runs as were cut so far; cuts: where the last of them begins.
    cost = ends * longest
    cuts: list[np.ndarray] = []
    for _ in range(1, min(n, len(order))):
        # A last run from item j to i, after the best runs of all before j.
        places = np.where(ends[:, None] > ends[None] - 1, (ends[:, None] - ends[None] + 1) * longest[:, None], np.inf)
        total = places + np.concatenate([[np.inf], cost[:-1]])[None]
        cuts.append(total.argmin(1))
        cost = total.min(1)
    bounds = [len(order)]
    for begin in reversed(cuts):
        bounds.append(int(begin[bounds[-1] - 1]))
    bounds = [0, *reversed(bounds)]
    return [order[start:end].tolist() for start, end in zip(bounds, bounds[1:], strict=False)]
