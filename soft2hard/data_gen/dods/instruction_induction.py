"""The 24 tasks of instruction induction, from their JSON files.

Honovich et al. (arXiv 2205.10782), Apache-2.0: `raw/induce` holds examples to learn from, `raw/execute` held-out ones,
`annotations` instructions that people wrote. The tasks serve evaluation: every one is a test task.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from soft2hard.data_gen.dods.drawing_examples import EvaluationDoD, Parts, labels_where_few
from soft2hard.data_gen.tables import read_json
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError

_ROUGE_TASKS = ("common_concept", "informal_to_formal")


@dataclass
class InstructionInduction(EvaluationDoD):
    """A folder with `raw/induce`, `raw/execute` and `annotations`."""

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
