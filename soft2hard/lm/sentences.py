"""Sentence embeddings, for how alike two texts are in meaning."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from soft2hard.errors import UserError

Encoder = Callable[[Sequence[str]], Float[np.ndarray, "n_texts width"]]
"""One vector a text."""


def sentence_encoder(name_or_path: str = "sentence-transformers/all-MiniLM-L6-v2") -> Encoder:
    """A sentence-embedding model as a function of texts; any that the sentence-transformers library loads.

    Raises UserError where the library is not installed or the model is not available.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            "Sentence embeddings need the sentence-transformers library, which is not installed.",
            "Install it: pip install 'soft2hard[embeddings]'.",
        ) from error
    try:
        model = SentenceTransformer(name_or_path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The sentence-embedding model '{name_or_path}' cannot be loaded: {error}",
            "Give the folder of a saved model, or a model on the hub and a connection to it.",
        ) from error
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False))


def embedding_cosines(texts: Sequence[str], references: Sequence[str], encoder: Encoder) -> list[float]:
    """Cosine similarity of each text's embedding to its reference's; -1 to 1."""
    vectors = np.asarray(encoder([*texts, *references]), np.float64)
    directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8)
    return (directions[: len(texts)] * directions[len(texts) :]).sum(1).tolist()
