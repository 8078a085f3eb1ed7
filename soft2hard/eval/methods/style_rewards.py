"""Rewards for prompts that rewrite sentences in another style, from sentences without pairs.

As published with RLPrompt (arXiv 2205.12548, section 3.2 and its code): each prompt of a step rewrites one sentence
many times; its reward is the mean of bootstrapped maxima of the sum reward (content and style), standardised among the
prompts that had the same sentence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from random import Random
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from soft2hard.data_gen.tasks import StyleTask, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench
from soft2hard.eval.methods.discrete import Meter, perplexity_charges
from soft2hard.eval.methods.options import PolicyOptions
from soft2hard.eval.metrics.style import bootstrapped_maxima, source_z_scores
from soft2hard.eval.rewriting import most_new_tokens
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.subject import Subject


@dataclass
class StyleTrials:
    """Sentences as prompts are tried on them, and the rewards of prompts that were tried on all."""

    wanted: str
    sentences: tuple[str, ...]
    examples: list[EncodedExample]
    """What the subject reads and may write for each sentence."""
    n_calls: int
    """Sequences that it takes to try a prompt."""
    meter: Meter
    rewards: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._turn: Iterator[str] = cycle(self.sentences)

    def next_sentences(self, n: int) -> list[str]:
        """The next ones, in order, and then from the first again."""
        return list(islice(self._turn, n))


class _Trial(NamedTuple):
    trials: StyleTrials
    prompt: str
    sentence: str


class StyleRewards:
    """Bootstrapped sum rewards, 0 to 100, less what perplexity costs.

    Raises UserError where the bench has nothing to tell styles by.
    """

    def __init__(self, bench: Bench, reference: Subject, options: PolicyOptions):
        if bench.style is None:
            raise UserError(
                "There is no classifier to reward a style by.", "Set style and encoder (docs/evaluation.md)."
            )
        self.bench, self.subject, self.reference, self.options = bench, bench.fast_subject, reference, options

    def trials(self, task: Task, seed: str, meter: Meter) -> tuple[StyleTrials, StyleTrials]:
        """The sentences without pairs, in an order of the seed, and the inputs of the validation examples.

        Raises UserError for a task that is no style transfer, or has no sentences.
        """
        sources = task.sources if isinstance(task, StyleTask) else ()
        if not sources or not task.validation:
            raise UserError(f"Task '{task.name}' has no sentences to rewrite in another style.", "Reward its outputs.")
        shuffled = Random(seed).sample(sources, len(sources))
        n_tried = 1
        if self.are_comparable:
            shuffled = shuffled[: self.options.sentences]
            n_tried = len(shuffled)
        inputs = [example.input for example in task.validation]
        return self._trials(task, shuffled, meter, n_tried), self._trials(task, inputs, meter, len(inputs))

    def _trials(self, task: StyleTask, sentences: Sequence[str], meter: Meter, n_tried: int) -> StyleTrials:
        room = [0] * max(most_new_tokens(self.subject, sentence) for sentence in sentences)
        examples = [self.subject.encode_input(sentence, "hard", room) for sentence in sentences]
        return StyleTrials(task.wanted, tuple(sentences), examples, n_tried * self._n_samples, meter)

    @property
    def are_comparable(self) -> bool:
        """Whether the rewards of two steps are: on other sentences they are not."""
        return self.options.fixed_sentences

    @property
    def _n_samples(self) -> int:
        return self.bench.style.samples * self.options.bootstraps

    def score(self, wanted: Sequence[tuple[StyleTrials, str]]) -> None:
        """Put the mean rewards over all sentences where they are missing; all tasks share batches."""
        wanted = list({(id(t), text): (t, text) for t, text in wanted if text not in t.rewards}.values())
        if not wanted:
            return
        maxima = self._maxima([_Trial(t, text, sentence) for t, text in wanted for sentence in t.sentences])
        sizes = np.cumsum([len(trials.sentences) for trials, _ in wanted])[:-1]
        for (trials, text), own in zip(wanted, np.split(maxima, sizes), strict=True):
            trials.rewards[text] = float(own.mean())

    def sampled(
        self, batches: Sequence[tuple[StyleTrials, Sequence[str]]]
    ) -> list[tuple[Sequence[float], Sequence[float]]]:
        """For each task's prompts of a step their rewards, and these standardised for each sentence.

        The prompts are shared out among the task's next sentences, in order; with `fixed_sentences` each is tried on
        all of them.
        """
        if self.are_comparable:
            return self._on_all(batches)
        asked, numbers = [], []
        for trials, texts in batches:
            own = [i * self.options.sentences // len(texts) for i in range(len(texts))]
            sentences = trials.next_sentences(self.options.sentences)
            asked += [_Trial(trials, text, sentences[i]) for text, i in zip(texts, own, strict=True)]
            numbers.append(np.array(own))
        found = np.split(self._maxima(asked), np.cumsum([len(own) for own in numbers])[:-1])
        return [(m.mean(axis=1).tolist(), source_z_scores(m, n).tolist()) for m, n in zip(found, numbers, strict=True)]

    def _on_all(
        self, batches: Sequence[tuple[StyleTrials, Sequence[str]]]
    ) -> list[tuple[Sequence[float], Sequence[float]]]:
        """Mean rewards on the trials' sentences, and these standardised; no prompt is run twice."""
        self.score([(trials, text) for trials, texts in batches for text in texts])
        found = [np.array([trials.rewards[text] for text in texts]) for trials, texts in batches]
        return [(own.tolist(), source_z_scores(own[:, None], np.zeros(len(own), int)).tolist()) for own in found]

    def _maxima(self, asked: Sequence[_Trial]) -> Float[np.ndarray, "n_asked bootstraps"]:
        """Of each prompt on its sentence; the same is not run twice in one call."""
        if not asked:
            return np.zeros((0, self.options.bootstraps))
        style, place = self.bench.style, {(t.prompt, t.sentence, t.trials.wanted): t for t in asked}
        distinct = list(place.values())
        texts = style.rewrite(
            self.subject, [(t.prompt, t.sentence) for t in distinct], self._n_samples, self.bench.seed
        )
        rewards = style.rewards(texts, [t.sentence for t in distinct], [t.trials.wanted for t in distinct])
        maxima = bootstrapped_maxima(rewards, self.options.bootstraps) - self._charges(distinct)[:, None]
        for one, own in zip(distinct, texts, strict=True):
            n_read = len(self.subject.prompt_embeddings(one.prompt))
            n_read += self.subject.encode_input(one.sentence, "hard").n_input
            n_written = sum(map(len, self.subject.tokenizer(own, add_special_tokens=False)["input_ids"]))
            one.trials.meter.add(self._n_samples, n_read + n_written)
        number = {key: i for i, key in enumerate(place)}
        return maxima[[number[t.prompt, t.sentence, t.trials.wanted] for t in asked]]

    def _charges(self, asked: Sequence[_Trial]) -> Float[np.ndarray, " n_asked"]:
        weight, tokenizer = self.options.perplexity_weight, self.reference.tokenizer
        if not weight:
            return np.zeros(len(asked))
        for trials, prompt in {(id(one.trials), one.prompt): (one.trials, one.prompt) for one in asked}.values():
            trials.meter.add(1, len(tokenizer(prompt, add_special_tokens=False)["input_ids"]))
        distinct = list(dict.fromkeys(one.prompt for one in asked))
        charges = dict(zip(distinct, perplexity_charges(self.reference, distinct), strict=True))
        return weight * np.array([charges[one.prompt] for one in asked])
