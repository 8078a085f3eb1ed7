"""Sentiment transfer on sentences of Yelp reviews, from text files of one sentence a line.

Sentences: Shen et al. (arXiv 1705.09655); the rewritings that people wrote: Li et al. (arXiv 1804.06437); both cleaned
and distributed with RLPrompt (arXiv 2205.12548, MIT licence). The instructions are ours. The tasks serve evaluation:
every one is a test task.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from soft2hard.data_gen.dods.drawing_examples import EvaluationDoD, apart, draw, usable
from soft2hard.data_gen.tables import read_text
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError

SENTIMENTS = ("negative", "positive")
"""In the order of the numbers in the names of the files."""
_CLASSIFY = "Say whether the sentiment of the sentence is negative or positive."
_REWRITE = "Rewrite the {} sentence so that its sentiment is {} and everything else stays."


@dataclass
class StyleTransfer(EvaluationDoD):
    """A folder with `sentiment.dev.0.clean`, `sentiment.test.0.clean`, `sentiment.ref.0.clean`, and the same of 1.

    Three tasks: rewriting in either direction, and telling the two sentiments apart.
    """

    name = "style-transfer"
    licence = "MIT"
    source = "github.com/mingkaid/rl-prompt; Shen et al., arXiv 1705.09655; references of Li et al., arXiv 1804.06437"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """Both rewritings, then the classification."""
        yield from (self._rewriting(number, seed) for number in range(2))
        test = self._labelled("test")
        # The published development files hold the test sentences too.
        train = apart(self._labelled("dev"), test, self.dropped)
        parts = draw(train, self.sizes, Random(f"sentiment/{seed}"), test=test)
        yield parts.task("sentiment", self.name, _CLASSIFY, labels=SENTIMENTS, metric="label_accuracy")

    def _rewriting(self, of: int, seed: int) -> Task:
        """Sentences of one sentiment with their rewritings: few, so that all parts are drawn from them."""
        given, wanted = SENTIMENTS[of], SENTIMENTS[1 - of]
        sentences, rewritten = (self._lines(part, of) for part in ("test", "ref"))
        if len(sentences) != len(rewritten):
            raise UserError(
                f"{self._path('ref', of)} has {len(rewritten)} lines for the {len(sentences)} of the test file.",
                "Get both files from their source again.",
            )
        pairs = [Example(sentence, text) for sentence, text in zip(sentences, rewritten, strict=True)]
        name = f"{given}-to-{wanted}"
        parts = draw(usable(pairs, self.dropped, self.max_words), self.sizes, Random(f"{name}/{seed}"))
        return parts.task(name, self.name, _REWRITE.format(given, wanted), metric="rougeL")

    def _labelled(self, part: str) -> list[Example]:
        examples = [Example(line, name) for of, name in enumerate(SENTIMENTS) for line in self._lines(part, of)]
        return usable(examples, self.dropped, self.max_words)

    def _lines(self, part: str, of: int) -> Sequence[str]:
        path = self._path(part, of)
        if not path.is_file():
            raise UserError(f"{self.folder} has no {path.name}.", "Give the folder of the cleaned Yelp sentences.")
        return read_text(path).rstrip("\n").split("\n")

    def _path(self, part: str, of: int) -> Path:
        return self.folder / f"sentiment.{part}.{of}.clean"
