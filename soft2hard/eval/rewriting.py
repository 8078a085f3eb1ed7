"""Rewritings of sentences under prompts: sampled, rewarded, and measured (RLPrompt, arXiv 2205.12548, section 3.2)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random

import numpy as np
from jaxtyping import Bool, Float

from soft2hard.data_gen.tasks import StyleTask
from soft2hard.eval.classifiers import TextClassifier, label_probabilities
from soft2hard.eval.metrics.scrutability import log_perplexities
from soft2hard.eval.metrics.style import StyleScores, content_scores, fluency_limit, style_scores, sum_rewards
from soft2hard.lm.sentences import Encoder
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt

N_NATURAL = 256
"""Sentences of a task by which fluency is told."""
_LIMITS = 8  # lengths of rewritings are multiples, so that sentences of like length share batches
_FIRST_SENTENCE = re.compile(r"[^.!?]*[.!?]?")
_MOST_REMEMBERED = 50_000


@dataclass
class Remembering:
    """An encoder that embeds no text twice while it remembers it."""

    encoder: Encoder
    known: dict[str, Float[np.ndarray, " width"]] = field(default_factory=dict)

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n_texts width"]:
        if len(self.known) + len(texts) > _MOST_REMEMBERED:
            self.known.clear()
        if new := [text for text in dict.fromkeys(texts) if text not in self.known]:
            self.known |= zip(new, np.asarray(self.encoder(new)), strict=True)
        return np.stack([self.known[text] for text in texts])


@dataclass(frozen=True)
class Styling:
    """What rewritings are sampled, rewarded and measured with."""

    classifier: TextClassifier
    """Rewards, and chooses among the samples of a test sentence."""
    judge: TextClassifier
    """Measures what was chosen."""
    encoder: Encoder
    samples: int
    """Of each sentence, of which the best counts."""
    top_k: int
    """Tokens that the subject draws from."""

    def rewrite(self, subject: Subject, asked: Sequence[tuple[Prompt, str]], n: int, seed: int) -> list[list[str]]:
        """`n` rewritings of each sentence under the prompt before it, each up to the end of its first sentence.

        The random numbers are those of the seed, the sentence and the number of the sample, whatever the prompt: so
        prompts are compared on the same draws. Raises UserError as `Subject.sample` does.
        """
        found: dict[int, list[str]] = {}
        groups: dict[int, list[int]] = defaultdict(list)
        for i, (_, sentence) in enumerate(asked):
            groups[most_new_tokens(subject, sentence)].append(i)
        for limit, places in groups.items():
            queries = [Query(*asked[i]) for i in places]
            seeds = [[f"{seed}/{query.input}/{k}" for k in range(n)] for query in queries]
            texts = subject.sample(queries, seeds, self.top_k, limit)
            found |= zip(places, ([first_sentence(text) for text in own] for own in texts), strict=True)
        return [found[i] for i in range(len(asked))]

    def rewards(
        self, rewritings: Sequence[Sequence[str]], sentences: Sequence[str], wanted: Sequence[str]
    ) -> Float[np.ndarray, "n_sentences samples"]:
        """The sum reward of each rewriting, 0 to 100, by its sentence and the style wanted of it."""
        texts = [text for own in rewritings for text in own]
        n = len(texts) // len(sentences)
        content = content_scores(texts, np.repeat(np.array(sentences, object), n).tolist(), self.encoder)
        style = label_probabilities(self.classifier, texts, [label for label in wanted for _ in range(n)])
        return sum_rewards(content, style).reshape(len(sentences), n)

    def best_rewritings(
        self, subject: Subject, task: StyleTask, prompts: Sequence[Prompt], seed: int
    ) -> list[list[str]]:
        """For each prompt, of the samples of each test sentence the one with the highest sum reward."""
        sentences = [example.input for example in task.test]
        asked = [(prompt, sentence) for prompt in prompts for sentence in sentences]
        texts = self.rewrite(subject, asked, self.samples, seed)
        best = self.rewards(texts, [s for _, s in asked], [task.wanted] * len(asked)).argmax(axis=1)
        chosen = [own[i] for own, i in zip(texts, best, strict=True)]
        return [chosen[i : i + len(sentences)] for i in range(0, len(chosen), len(sentences))]

    def scores(
        self, task: StyleTask, rewritings: Iterable[Sequence[str]], reference: Subject | None
    ) -> list[StyleScores]:
        """Scores of rewritings of a task's test sentences, one for each list of them."""
        natural = Random(task.name).sample(task.labelled, min(N_NATURAL, len(task.labelled)))
        limit = reference and fluency_limit(log_perplexities(reference, [example.input for example in natural]))
        found = []
        for texts in map(list, rewritings):
            content = content_scores(texts, [example.input for example in task.test], self.encoder)
            fluent = reference and np.array([_is_below(v, limit) for v in log_perplexities(reference, texts)])
            found.append(style_scores(content, self._in_style(texts, task.wanted), fluent))
        return found

    def _in_style(self, texts: Sequence[str], wanted: str) -> Bool[np.ndarray, " n_texts"]:
        """True where the judge finds the wanted style likelier than every other."""
        labels = sorted(self.judge.labels, key=lambda label: label.casefold() != wanted.casefold())
        own, *others = (label_probabilities(self.judge, texts, [label] * len(texts)) for label in labels)
        return own > np.max(others, axis=0)


def _is_below(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit


def most_new_tokens(subject: Subject, sentence: str) -> int:
    """Tokens that a rewriting may have: half as many again as its sentence, and at least ten more, as published;
    rounded up."""
    n = len(subject.tokenizer(sentence, add_special_tokens=False)["input_ids"])
    return _LIMITS * ceil(max(1.5 * n, n + 10) / _LIMITS)


def has_room(subject: Subject, prompt: Prompt, sentences: Sequence[str]) -> bool:
    """Whether the longest sentence and its rewriting fit the subject's context beside a prompt."""
    if subject.context_length is None:
        return True
    n_prompt = len(subject.prompt_embeddings(prompt))
    needed = (subject.encode_input(s, "hard").n_input + most_new_tokens(subject, s) for s in sentences)
    return n_prompt + max(needed) <= subject.context_length


def first_sentence(text: str) -> str:
    """A text up to its first full stop, exclamation or question mark."""
    return _FIRST_SENTENCE.match(text)[0].strip()
