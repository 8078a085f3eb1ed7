"""The 16-shot classification sets of LM-BFF and RLPrompt, from their tab-separated files.

Sets and splits: Gao et al. (arXiv 2012.15723), as distributed with RLPrompt (arXiv 2205.12548, MIT licence). Label
words are theirs; the instructions are ours (`few_shot_classification.yaml`). The sets serve evaluation: every task is
a test task.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from soft2hard.data_gen.dods.drawing_examples import EvaluationDoD, Parts
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml


@dataclass(frozen=True)
class _Set:
    labels: list[str]
    """Label words in the order of the numbers in the files."""
    instruction: str


SETS = {name: _Set(**one) for name, one in read_yaml(Path(__file__).with_suffix(".yaml"), "the sets").items()}
_PARTS = ("train", "dev", "test")


@dataclass
class FewShotClassification(EvaluationDoD):
    """A folder with one folder a set (`sst-2/16-100/train.tsv`, ...); each brings its own training examples.

    Of `sizes` the test examples alone count, which are drawn from the set's own test file.
    """

    sample: str = "16-100"
    """Which draw of 16 examples a class, by the name of its folder."""

    name = "few-shot-classification"
    licence = "MIT"
    source = "github.com/mingkaid/rl-prompt; Deng et al., arXiv 2205.12548; splits after Gao et al., arXiv 2012.15723"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """All sets for which the folder holds a training, a development and a test file."""
        folders = {name: self.folder / name / self.sample for name in SETS}
        none = (f"{self.folder} holds none of {', '.join(SETS)} ({self.sample}).", "Give the folder named 16-shot.")
        for name in self.whole_sets(folders, [f"{part}.tsv" for part in _PARTS], none):
            labels = SETS[name].labels
            train, validation, test = (self._examples(folders[name] / f"{part}.tsv", labels) for part in _PARTS)
            test = Random(f"{name}/{seed}").sample(test, min(self.sizes.test, len(test)))
            parts = Parts(tuple(train), tuple(validation), tuple(test))
            more = {"labels": tuple(labels), "metric": "label_accuracy"}
            yield parts.task(f"{name}/{self.sample}", self.name, SETS[name].instruction, **more)

    def _examples(self, path: Path, labels: list[str]) -> list[Example]:
        examples = []
        # A byte that is not UTF-8 becomes a mark and stays one character of one text.
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            next(rows, None)
            for number, row in enumerate(rows, start=2):
                if len(row) != 2 or row[1] not in map(str, range(len(labels))):
                    raise UserError(f"{path}, line {number}: no text and label.", "Get the file from its source again.")
                if len(row[0].split()) > self.max_words:
                    self.dropped["texts that are too long"] += 1
                else:
                    examples.append(Example(row[0].strip(), labels[int(row[1])]))
        return examples
