"""The 56 tasks of the function vectors study, from their JSON files.

Todd et al. (arXiv 2310.15213), MIT licence: `abstractive` tasks answer from what a model knows, `extractive` ones with
a part of the input. The files hold no instructions; ours are in `function_vectors.yaml`. The tasks serve evaluation:
every one is a test task.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from soft2hard.data_gen.dods.drawing_examples import Sizes, draw, in_fixed_order, labels_where_few, usable
from soft2hard.data_gen.dods.sources import read_json
from soft2hard.data_gen.tasks import Example, Split, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

_KINDS = ("abstractive", "extractive")


@dataclass
class FunctionVectors:
    """A folder with `abstractive` and `extractive`; a task's family is one of the two.

    `dropped` counts what the last reading left out and why. Raises UserError for another folder and for damaged files.
    """

    folder: Path
    sizes: Sizes = Sizes()
    max_words: int = 100
    """Longer texts are left out."""
    dropped: Counter[str] = field(default_factory=Counter)

    name = "function-vectors"
    licence = "MIT"
    source = "github.com/ericwtodd/function_vectors, dataset_files; Todd et al., arXiv 2310.15213"

    def tasks(self, split: Split, n: int | None = None, seed: int = 0) -> Iterator[Task]:
        """The tasks in a fixed order, of which the first `n` are a mixture; `seed` draws their examples."""
        if split != "test":
            return
        self.dropped.clear()
        instructions = read_instructions()
        files = {path.stem: path for kind in _KINDS for path in sorted((self.folder / kind).glob("*.json"))}
        known = in_fixed_order(files.keys() & instructions.keys())
        if not known:
            raise UserError(
                f"{self.folder} has no task of function vectors in {' or '.join(_KINDS)}.",
                "Give the folder dataset_files of the published repository.",
            )
        if len(known) < len(files):
            self.dropped["files that are none of the 56 tasks"] = len(files) - len(known)
        yield from (self._task(files[name], instructions[name], seed) for name in known[:n])

    def _task(self, path: Path, instruction: str, seed: int) -> Task:
        examples = usable(_examples(path), self.dropped, self.max_words)
        parts = draw(examples, self.sizes, Random(f"{path.stem}/{seed}"))
        return Task(
            name=path.stem,
            family=path.parent.name,
            instruction=instruction,
            paraphrases=(),
            train=parts.train,
            validation=parts.validation,
            test=parts.test,
            labels=labels_where_few(examples),
        )


def read_instructions() -> dict[str, str]:
    """Our instruction for each task, by its name."""
    return read_yaml(Path(__file__).with_suffix(".yaml"), "the instructions of function vectors")


def _examples(path: Path) -> list[Example]:
    try:
        return [Example(str(record["input"]), str(record["output"])) for record in read_json(path)]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} has records of another kind.", "Get the file from its source again.") from error
