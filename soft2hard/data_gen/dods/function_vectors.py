"""The 56 tasks of the function vectors study, from their JSON files.

Todd et al. (arXiv 2310.15213), MIT licence: `abstractive` tasks answer from what a model knows, `extractive` ones with
a part of the input. The files hold no instructions; ours are in `function_vectors.yaml`. The tasks serve evaluation:
every one is a test task.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from soft2hard.data_gen.dods.drawing_examples import EvaluationDoD, draw, in_fixed_order, labels_where_few, usable
from soft2hard.data_gen.tables import read_json
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.storage.yaml_files import read_yaml

_KINDS = ("abstractive", "extractive")


@dataclass
class FunctionVectors(EvaluationDoD):
    """A folder with `abstractive` and `extractive`; a task's family is one of the two."""

    name = "function-vectors"
    licence = "MIT"
    source = "github.com/ericwtodd/function_vectors, dataset_files; Todd et al., arXiv 2310.15213"

    def test_tasks(self, seed: int) -> Iterator[Task]:
        """All tasks in a fixed order, of which the first ones are a mixture."""
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
        for name in known:
            examples = usable(_examples(files[name]), self.dropped, self.max_words)
            parts = draw(examples, self.sizes, Random(f"{name}/{seed}"))
            kind = files[name].parent.name
            yield parts.task(name, kind, instructions[name], labels=labels_where_few(examples))


def read_instructions() -> dict[str, str]:
    """Our instruction for each task, by its name."""
    return read_yaml(Path(__file__).with_suffix(".yaml"), "the instructions of function vectors")


def _examples(path: Path) -> list[Example]:
    try:
        return [Example(str(record["input"]), str(record["output"])) for record in read_json(path)]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} has records of another kind.", "Get the file from its source again.") from error
