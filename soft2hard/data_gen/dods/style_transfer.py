"""Sentiment transfer on sentences of Yelp reviews, from text files of one sentence a line.

Sentences: Shen et al. (arXiv 1705.09655); the rewritings that people wrote: Li et al. (arXiv 1804.06437); both cleaned
and distributed with RLPrompt (arXiv 2205.12548, MIT licence). The instructions are ours. The tasks serve evaluation:
every one is a test task.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from soft2hard.data_gen.dods.drawing_examples import Parts, Sizes, apart, draw, usable
from soft2hard.data_gen.exampletable import read_text
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError

SENTIMENTS = ("negative", "positive")
"""In the order of the numbers in the names of the files."""
_CLASSIFY = "Say whether the sentiment of the sentence is negative or positive."
_REWRITE = "Rewrite the {} sentence so that its sentiment is {} and everything else stays."


@dataclass
class StyleTransfer:
    """A folder with `sentiment.dev.0.clean`, `sentiment.test.0.clean`, `sentiment.ref.0.clean`, and the same of 1.

    Three tasks: rewriting in either direction, and telling the two sentiments apart. `dropped` counts what the last
    reading left out and why. Raises UserError for another folder and for damaged files.
    """

    folder: Path
    sizes: Sizes = Sizes()
    max_words: int = 100
    """Longer texts are left out."""
    dropped: Counter[str] = field(default_factory=Counter)

    name = "style-transfer"
    licence = "MIT"
    source = "github.com/mingkaid/rl-prompt; Shen et al., arXiv 1705.09655; references of Li et al., arXiv 1804.06437"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """Both rewritings, then the classification; `seed` draws their examples."""
        if split != "test":
            return
        self.dropped.clear()
        for number in range(3)[:n]:
            yield self._classification(seed) if number == 2 else self._rewriting(number, seed)

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
        return _task(name, _REWRITE.format(given, wanted), parts, metric="rougeL")

    def _classification(self, seed: int) -> Task:
        test = self._labelled("test")
        # The published development files hold the test sentences too.
        train = apart(self._labelled("dev"), test, self.dropped)
        parts = draw(train, self.sizes, Random(f"sentiment/{seed}"), test=test)
        return _task("sentiment", _CLASSIFY, parts, metric="label_accuracy", labels=SENTIMENTS)

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


def _task(name: str, instruction: str, parts: Parts, metric: str, labels: tuple[str, ...] | None = None) -> Task:
    return Task(
        name=name,
        family="style-transfer",
        instruction=instruction,
        paraphrases=(),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        labels=labels,
        metric=metric,
    )
