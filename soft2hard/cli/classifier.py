"""soft2hard classifier: a classifier of styles, for rewards and scores of text style transfer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from soft2hard.cli.common import Output, parsed_pairs, quiet
from soft2hard.errors import UserError

if TYPE_CHECKING:
    from soft2hard.data_gen.tasks import Example


def classifier(
    files: list[Path] | None = None,
    /,
    *,
    output: Output,
    encoder: str = "minilm",
    dod: str | None = None,
    dod_folder: Path | None = None,
    dod_options: Annotated[list[str] | None, Parameter(name="--dod-option")] = None,
    seed: int = 0,
) -> None:
    """Train a classifier of sentences, such as tells positive ones from negative ones.

    It is linear, over the vectors of a sentence encoder; a fifth of the sentences are held out and say how good it is.
    An evaluation names its folder under style (docs/evaluation.md).

    **Examples:** `soft2hard classifier --dod style-transfer --dod-folder style_transfer_yelp -o classifiers/yelp`

    `soft2hard classifier sentences.csv --encoder lm:smollm2 -o classifiers/mine`

    Args:
        files: Files of sentences with labels (.jsonl or .csv with columns input and output), or folders of them.
        output: A new folder, for its weights (safetensors) and a card (JSON).
        encoder: Sentence-embedding model: 'minilm', a name or a folder (extra 'embeddings'); or 'lm:NAME', the last
            hidden state of a causal language model, 'lm:embedded' for the embedded one.
        dod: Instead of files: a collection of style transfer, whose sentences without pairs are taken.
        dod_folder: Where the files of the collection lie.
        dod_options: NAME=VALUE of the collection, such as labelled=all (docs/datasets.md); repeatable.
        seed: Of the choice of held-out sentences.
    """
    if bool(files) == (dod is not None):
        raise UserError("Give either files or --dod.", "For instance: soft2hard classifier sentences.csv -o mine.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already.", "Give a new folder as --output.")
    quiet()
    from soft2hard.eval.classifiers import trained_classifier

    if dod is None:
        labelled = _of_files(files or [], seed)
    else:
        labelled = _of_collection(dod, dod_folder, parsed_pairs(dod_options or [], "--dod-option"), seed)
    card = trained_classifier(labelled, encoder, output, seed)
    print(f"{output}: {', '.join(card.labels)}; right on {card.accuracy:.1%} of {card.n_held_out} held-out sentences")


def _of_files(files: list[Path], seed: int) -> "list[Example]":
    from soft2hard.data_gen.taskfiles import read_tasks

    return [example for task in read_tasks(files, seed) for example in task.examples]


def _of_collection(dod: str, folder: Path | None, options: dict[str, object], seed: int) -> "list[Example]":
    from soft2hard.data_gen.dods.registry import FOLDER_DODS
    from soft2hard.data_gen.tasks import StyleTask

    if dod not in FOLDER_DODS or folder is None or not folder.is_dir():
        problem = f"There is no collection '{dod}'" if dod not in FOLDER_DODS else f"'{dod}' needs its folder"
        raise UserError(f"{problem}.", "Give, for instance, --dod style-transfer --dod-folder style_transfer_yelp.")
    tasks = [task for task in FOLDER_DODS[dod](folder, options).tasks("test", seed=seed) if isinstance(task, StyleTask)]
    if not tasks:
        raise UserError(f"'{dod}' has no tasks of style transfer.", "Give style-transfer, or files of sentences.")
    return list(dict.fromkeys(example for task in tasks for example in task.labelled))
