"""Published tasks that serve evaluation, from their files: every one is a test task. Instructions that the files lack
are ours, here and in the YAML files beside this one.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from soft2hard.data_gen.dods.drawing_examples import (
    EvaluationDoD,
    Parts,
    apart,
    draw,
    in_fixed_order,
    labels_where_few,
    usable,
)
from soft2hard.data_gen.tables import read_json, read_jsonl, read_text
from soft2hard.data_gen.tasks import Example, StyleTask, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

# --- classification with 16 examples a class --------------------------------------------------------


@dataclass(frozen=True)
class _Set:
    labels: list[str]
    """Label words in the order of the numbers in the files."""
    instruction: str
    paraphrases: list[str]


SETS = {
    name: _Set(**one)
    for name, one in read_yaml(Path(__file__).with_name("few_shot_classification.yaml"), "the sets").items()
}
_PARTS = ("train", "dev", "test")


@dataclass
class FewShotClassification(EvaluationDoD):
    """The 16-shot classification sets of LM-BFF and RLPrompt, with their label words and splits (arXiv 2012.15723).

    A folder with one folder a set (`sst-2/16-100/train.tsv`, ...); each brings its own training examples. Of `sizes`
    the test examples alone count, which are drawn from the set's own test file.
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
            more = {"labels": tuple(labels), "metric": "label_accuracy", "paraphrases": tuple(SETS[name].paraphrases)}
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


# --- function vectors -------------------------------------------------------------------------------

_KINDS = ("abstractive", "extractive")


@dataclass
class FunctionVectors(EvaluationDoD):
    """The 56 tasks of the function vectors study, in the folders `abstractive` and `extractive`: a task's family.

    The first are answered from what a model knows, the others with a part of the input.
    """

    name = "function-vectors"
    licence = "MIT"
    source = "github.com/ericwtodd/function_vectors, dataset_files; Todd et al., arXiv 2310.15213"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """All tasks in a fixed order, of which the first ones are a mixture."""
        wordings = read_wordings("function_vectors")
        files = {path.stem: path for kind in _KINDS for path in sorted((self.folder / kind).glob("*.json"))}
        known = in_fixed_order(files.keys() & wordings.keys())
        if not known:
            raise UserError(
                f"{self.folder} has no task of function vectors in {' or '.join(_KINDS)}.",
                "Give the folder dataset_files of the published repository.",
            )
        if len(known) < len(files):
            self.dropped["files that are none of the 56 tasks"] = len(files) - len(known)
        for name in known:
            examples = usable(_pairs(files[name], read_json, "input", "output"), self.dropped, self.max_words)
            parts = draw(examples, self.sizes, Random(f"{name}/{seed}"))
            kind = files[name].parent.name
            yield parts.task(name, kind, **wordings[name], labels=labels_where_few(examples))


def read_wordings(collection: str) -> dict[str, dict[str, Any]]:
    """Our instruction and its paraphrases for each task of a collection without any, by the task's name."""
    texts = read_yaml(Path(__file__).with_name(f"{collection}.yaml"), f"the instructions of {collection}")
    return {name: {"instruction": first, "paraphrases": tuple(rest)} for name, (first, *rest) in texts.items()}


def _pairs(path: Path, read: Callable[[Path], Iterable[Mapping[str, Any]]], input: str, output: str) -> list[Example]:
    """The records of a file as examples, by these fields. Raises UserError where they are of another kind."""
    try:
        return [Example(str(record[input]), str(record[output])) for record in read(path)]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} has records of another kind.", "Get the file from its source again.") from error


# --- relations and statements -----------------------------------------------------------------------


@dataclass
class Relations(EvaluationDoD):
    """The 40 relations between things, people and words of the linear relations study: a subject in, its object out."""

    name = "relations"
    licence = "MIT"
    source = "github.com/evandez/relations, data; Hernandez et al., arXiv 2308.09124"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """All tasks in a fixed order."""
        yield from _with_our_wordings(
            self,
            "relations",
            "*.json",
            lambda p: _pairs(p, lambda q: read_json(q)["samples"], "subject", "object"),
            seed,
        )


@dataclass
class PersonaStatements(EvaluationDoD):
    """67 kinds of statement, such as an agreeable person's: whether one is of the kind, yes or no."""

    name = "persona-statements"
    licence = "CC BY 4.0"
    source = "github.com/anthropics/evals, persona; Perez et al., arXiv 2212.09251"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """All tasks in a fixed order."""
        yield from _with_our_wordings(
            self,
            "persona_statements",
            "*.jsonl",
            lambda p: _pairs(p, lambda q: [record for _, record in read_jsonl(q)], "statement", "matches"),
            seed,
            metric="label_accuracy",
        )


def _with_our_wordings(
    dod: EvaluationDoD, collection: str, files: str, read: Callable[[Path], list[Example]], seed: int, **more: Any
) -> Iterator[Task]:
    """The tasks of a folder with a file each, in a fixed order. Raises UserError where it holds none."""
    wordings = read_wordings(collection)
    paths = {path.stem: path for path in sorted(dod.folder.glob(files))}
    known = in_fixed_order(paths.keys() & wordings.keys())
    if not known:
        raise UserError(f"{dod.folder} has no task of {dod.name}.", f"Give the folder of its {files}.")
    if len(known) < len(paths):
        dod.dropped[f"files that are none of the {len(wordings)} tasks"] = len(paths) - len(known)
    for name in known:
        examples = usable(read(paths[name]), dod.dropped, dod.max_words)
        parts = draw(examples, dod.sizes, Random(f"{name}/{seed}"))
        yield parts.task(name, dod.name, **wordings[name], labels=labels_where_few(examples), **more)


# --- instruction induction --------------------------------------------------------------------------

_ROUGE_TASKS = ("common_concept", "informal_to_formal")


@dataclass
class InstructionInduction(EvaluationDoD):
    """The 24 tasks of instruction induction: a folder with `raw/induce`, `raw/execute` and `annotations`.

    They hold examples to learn from, held-out ones, and instructions that people wrote.
    """

    name = "instruction-induction"
    licence = "Apache-2.0"
    source = "github.com/orhonovich/instruction-induction, data; Honovich et al., arXiv 2205.10782"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """All tasks by name."""
        files = sorted((self.folder / "raw" / "induce").glob("*.json"))
        if not files:
            raise UserError(f"{self.folder} has no raw/induce/*.json.", "Give the folder of the published data.")
        yield from (self._task(path.stem, seed) for path in files)

    def _task(self, name: str, seed: int) -> Task:
        rng = Random(f"{name}/{seed}")
        induce, held_out = (self._examples(part, name) for part in ("induce", "execute"))
        rng.shuffle(induce)
        n_validation = min(self.sizes.validation, len(induce) // 4)
        validation, train = induce[:n_validation], induce[n_validation : n_validation + self.sizes.train]
        known = {example.input for example in (*train, *validation)}
        unseen = [example for example in held_out if example.input not in known]
        if len(unseen) < len(held_out):
            self.dropped["held-out examples that are among the others"] += len(held_out) - len(unseen)
        if not (train and validation and unseen):
            raise UserError(
                f"The task '{name}' has too few distinct examples.", "Get its files from their source again."
            )
        test = rng.sample(unseen, min(self.sizes.test, len(unseen)))
        instruction, *paraphrases = self._annotations(name)
        return Parts(tuple(train), tuple(validation), tuple(test)).task(
            name,
            self.name,
            instruction,
            paraphrases=tuple(paraphrases),
            labels=labels_where_few(induce),
            metric="rougeL" if name in _ROUGE_TASKS else "exact_match",
        )

    def _examples(self, part: str, name: str) -> list[Example]:
        try:
            records = read_json(self.folder / "raw" / part / f"{name}.json")["examples"].values()
            found = dict.fromkeys(_example(name, record) for record in records)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"raw/{part}/{name}.json has records of another kind.", "Get it again.") from error
        one_each = {example.input: example for example in found}
        if len(one_each) < len(records):
            self.dropped["repeated inputs"] += len(records) - len(one_each)
        return list(one_each.values())

    def _annotations(self, name: str) -> list[str]:
        found = read_json(self.folder / "annotations" / f"{name}.json")
        texts = found.get("annotations") if isinstance(found, dict) else None
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"annotations/{name}.json holds no instructions.", "Get it again.")
        return texts


def _example(name: str, record: Mapping[str, Any]) -> Example:
    """A record as input and output, in the paper's form where the file holds parts."""
    if name == "cause_and_effect":
        # Which sentence comes first must not give the answer away: alphabetical order does not know.
        first, second = sorted((record["cause"], record["effect"]))
        return Example(f"Sentence 1: {first} Sentence 2: {second}", record["cause"])
    if name == "common_concept":
        return Example(f"Objects: {', '.join(record['items'])}", record["concept"])
    return Example(str(record["input"]).strip(), str(record["output"]).strip())


# --- style transfer ---------------------------------------------------------------------------------

SENTIMENTS = ("negative", "positive")
"""In the order of the numbers in the names of the files."""
_CLASSIFY = "Say whether the sentiment of the sentence is negative or positive."
_REWRITE = "Rewrite the {} sentence so that its sentiment is {} and everything else stays."


@dataclass
class StyleTransfer(EvaluationDoD):
    """Sentences of Yelp reviews: `sentiment.dev.0.clean`, `sentiment.test.0.clean`, `sentiment.ref.0.clean`, and of 1.

    References are what people wrote. Three tasks: rewriting in either direction, and telling the sentiments apart.
    The rewriting tasks come with sentences of the development files, for rewards without pairs.
    """

    labelled: int = 2000
    """Sentences of each sentiment, from the development files, for rewards and the training of classifiers."""

    name = "style-transfer"
    licence = "MIT"
    source = "github.com/mingkaid/rl-prompt; Shen et al., arXiv 1705.09655; references of Li et al., arXiv 1804.06437"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """Both rewritings, then the classification."""
        yield from (self._rewriting(number, seed) for number in range(2))
        test = self._labelled("test", self.dropped)
        # The published development files hold the test sentences too.
        train = apart(self._labelled("dev", self.dropped), test, self.dropped)
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
        return StyleTask(
            **vars(parts),
            name=name,
            family=self.name,
            instruction=_REWRITE.format(given, wanted),
            paraphrases=(),
            metric="rougeL",
            given=given,
            wanted=wanted,
            labelled=self._unpaired(seed),
        )

    def _unpaired(self, seed: int) -> tuple[Example, ...]:
        """Development sentences of both sentiments, as many of one as of the other where the files have as many."""
        # What falls out of these files is told with the classification task, once.
        known = apart(self._labelled("dev", Counter()), self._labelled("test", Counter()), Counter())
        found: list[Example] = []
        for name in SENTIMENTS:
            of_name = [example for example in known if example.output == name]
            found += Random(f"{name}/{seed}").sample(of_name, min(self.labelled, len(of_name)))
        return tuple(found)

    def _labelled(self, part: str, dropped: Counter[str]) -> list[Example]:
        examples = [Example(line, name) for of, name in enumerate(SENTIMENTS) for line in self._lines(part, of)]
        return usable(examples, dropped, self.max_words)

    def _lines(self, part: str, of: int) -> Sequence[str]:
        path = self._path(part, of)
        if not path.is_file():
            raise UserError(f"{self.folder} has no {path.name}.", "Give the folder of the cleaned Yelp sentences.")
        return read_text(path).rstrip("\n").split("\n")

    def _path(self, part: str, of: int) -> Path:
        return self.folder / f"sentiment.{part}.{of}.clean"
