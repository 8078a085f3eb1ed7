"""The corpus: soft prompts beside the tasks they were tuned for, on disk, in shards.

Each shard is a `datasets` folder (Arrow); `corpus.folder` says how they lie, and `corpus.shards` makes them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from pyarrow.lib import ArrowException

from soft2hard.data_gen.corpus.folder import PLAN_FILE, count_shards, saved_plan
from soft2hard.errors import UserError, first_line
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template
from soft2hard.storage.hub import local_folder

MOST_EXAMPLES = 16
"""Training examples of a task that a corpus keeps beside the soft prompt."""


def corpus_features(n_tokens: int, d_model: int) -> datasets.Features:
    """Columns of a corpus. Corpora made before they kept examples have no `inputs` and `outputs`."""
    text, number = datasets.Value("string"), datasets.Value("float32")
    return datasets.Features(
        {
            "task": text,
            "family": text,
            "instruction": text,
            "paraphrases": datasets.List(text),
            "inputs": datasets.List(text),
            "outputs": datasets.List(text),
            "step": datasets.Value("int32"),
            "is_best": datasets.Value("bool"),
            "validation_loss": number,
            "initial_loss": number,
            "embeddings": datasets.Array2D((n_tokens, d_model), "float32"),
        }
    )


def load_corpus(folder: Path | str, *, snapshots: bool = True) -> datasets.Dataset:
    """A finished corpus as one dataset, in order; without snapshots, the best prompts alone.

    Where it was made before corpora kept examples, none are there (empty `inputs` and `outputs`).

    It is read from its folder, or by its name from the local cache or the hub. Raises UserError when there is no
    corpus, its plan cannot be read, or shards are missing.
    """
    folder = local_folder(folder, "corpus")
    if not (folder / PLAN_FILE).exists():
        raise UserError(f"'{folder}' is not a corpus: it has no {PLAN_FILE}.", "Make one with soft2hard tune --dod.")
    plan = corpus_plan(folder)
    n_shards = count_shards(plan["n_tasks"], plan["shard_size"])
    shards = sorted(path for path in (folder / "shards").glob("[0-9]*") if path.name.isdigit())
    if len(shards) < n_shards:
        raise UserError(
            f"The corpus '{folder}' is half-made: it has {len(shards)} of {n_shards} shards.",
            "Run its command again to resume it.",
        )
    corpus = datasets.concatenate_datasets([_with_examples(_read_shard(shard)) for shard in shards])
    # By indices: a filter would leave a file of its own among the shards.
    return corpus if snapshots else corpus.select(np.flatnonzero(corpus.with_format("numpy")["is_best"][:]))


def _read_shard(path: Path) -> datasets.Dataset:
    try:
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, ArrowException) as error:
        raise UserError(
            f"The shard '{path}' is damaged ({first_line(error)}).", "Remove it and make the corpus again, or copy it."
        ) from error


def _with_examples(shard: datasets.Dataset) -> datasets.Dataset:
    """With empty columns of examples where it has none, so that corpora of all ages can be read together."""
    if "inputs" in shard.column_names:
        return shard
    of_texts = datasets.List(datasets.Value("string"))
    for name in ("inputs", "outputs"):
        shard = shard.add_column(name, [[]] * len(shard), feature=of_texts)
    return shard


def corpus_plan(folder: Path | str) -> dict[str, Any]:
    """The plan a corpus was made to, as saved. Raises UserError where it cannot be read."""
    return saved_plan(local_folder(folder, "corpus"))


def soft_prompt_of(row: dict, fingerprint: str | None = None, template: Template = Template()) -> SoftPrompt:
    """The soft prompt of a corpus row, tuned under the template of the corpus."""
    embeddings = torch.from_numpy(np.asarray(row["embeddings"], dtype=np.float32))
    return SoftPrompt(embeddings, None, fingerprint, {"task": row["task"], "step": str(row["step"])}, template)


def content_hash(corpus: datasets.Dataset) -> str:
    """SHA-256 of all tasks, texts and embeddings, to tell whether two corpora are the same."""
    digest = hashlib.sha256()
    for row in corpus.with_format("numpy"):
        texts = [str(row["instruction"]), *map(str, row["paraphrases"])]
        digest.update(json.dumps([str(row["task"]), int(row["step"]), texts]).encode())
        digest.update(np.ascontiguousarray(row["embeddings"], dtype=np.float32).tobytes())
    return digest.hexdigest()
