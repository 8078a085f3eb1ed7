"""Classifiers of texts, which say what style a text has: one trained here, or any sequence classifier of transformers.

Ours is linear, over the vectors of a sentence encoder or of a language model; it is kept as a folder with its weights
in safetensors and a card in JSON, and nothing in it is ever run.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import load_file, save_file

from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError, first_line
from soft2hard.eval.metrics.scrutability import subject_encoder
from soft2hard.lm.loading import READING_ERRORS
from soft2hard.lm.sentences import Encoder, sentence_encoder
from soft2hard.lm.subject import Subject
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.hub import local_folder

SCHEMA_VERSION = 1
_CARD, _WEIGHTS = "classifier.json", "classifier.safetensors"
_OF_LM = "lm:"
_AT_ONCE = 64
HELD_OUT = 0.2
"""Share of the sentences that a classifier is judged on, and not trained."""
FEWEST = 10
"""Sentences of each label that it takes at least."""


@runtime_checkable
class TextClassifier(Protocol):
    """Tells texts apart by their labels."""

    name: str
    labels: tuple[str, ...]
    fingerprint: str
    """SHA-256 of its telling weights."""

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "n_texts n_labels"]:
        """Of each label for each text; a text may not be empty."""
        ...


def named_encoder(name: str) -> Encoder:
    """The encoder of a name: 'lm:NAME' is the last hidden state of a causal language model ('lm:embedded': of the
    embedded subject), all else a sentence-embedding model. Raises UserError for one that cannot be loaded."""
    if name.startswith(_OF_LM):
        return subject_encoder(Subject.from_pretrained(name.removeprefix(_OF_LM)))
    return sentence_encoder(name)


def text_classifier(name_or_path: str, encoder_name: str = "", encoder: Encoder | None = None) -> TextClassifier:
    """A classifier that `soft2hard classifier` has saved, or a sequence classifier by name or folder.

    `encoder`, called `encoder_name`, serves a saved classifier that names the same, which is then not loaded twice.
    Raises UserError for what cannot be loaded.
    """
    folder = local_folder(name_or_path, "subject")
    if (folder / _CARD).is_file():
        return LinearClassifier.load(folder, {encoder_name: encoder} if encoder is not None else {})
    return SequenceClassifier(name_or_path, folder)


def check_labels(classifier: TextClassifier, styles: Collection[str]) -> None:
    """Raise UserError where a classifier lacks one of these styles among its labels, whatever the case."""
    known = {label.casefold() for label in classifier.labels}
    if lacking := sorted(style for style in styles if style.casefold() not in known):
        raise UserError(
            f"The classifier '{classifier.name}' tells {', '.join(classifier.labels)} apart; the tasks' styles are "
            f"{', '.join(sorted(styles))}, and it does not know {lacking[0]}.",
            "Name one with these labels, rename those in its config.json (id2label), or train one: soft2hard "
            "classifier.",
        )


def label_probabilities(
    classifier: TextClassifier, texts: Sequence[str], labels: Sequence[str]
) -> Float[np.ndarray, " n_texts"]:
    """The probability of each text's label beside it; 0 for an empty text, and each distinct text is read once."""
    distinct = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text))}
    if not distinct:
        return np.zeros(len(texts))
    place = {label.casefold(): i for i, label in enumerate(classifier.labels)}
    table = classifier.probabilities(list(distinct))
    pairs = zip(texts, labels, strict=True)
    return np.array([table[distinct[text], place[label.casefold()]] if text else 0.0 for text, label in pairs])


def _sha256(arrays: Sequence[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


# --- trained here -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassifierCard:
    """What a saved classifier is, and how good."""

    labels: tuple[str, ...]
    encoder: str
    """As `named_encoder` reads it."""
    n_sentences: int
    """It was trained on; `n_held_out` others, the share `HELD_OUT` of all, judged it."""
    accuracy: float
    """On held-out sentences."""
    n_held_out: int


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Multinomial logistic regression over an encoder's vectors."""

    name: str
    labels: tuple[str, ...]
    weights: Float[np.ndarray, "n_labels width"]
    biases: Float[np.ndarray, " n_labels"]
    encoder: Encoder

    @property
    def fingerprint(self) -> str:
        return _sha256([self.weights, self.biases])

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "n_texts n_labels"]:
        """Softmax of the linear scores."""
        vectors = np.asarray(self.encoder(list(texts)), np.float64)
        scores = vectors @ self.weights.T + self.biases
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    @classmethod
    def train(cls, examples: Sequence[Example], encoder: Encoder, name: str) -> "LinearClassifier":
        """Fit one to sentences with their labels as outputs: scikit-learn's logistic regression over vectors of unit
        variance. Raises UserError where there are fewer than two labels, or too few sentences of one."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        found = [example.output for example in examples]
        labels = tuple(sorted(set(found)))
        short = [label for label in labels if found.count(label) < FEWEST]
        if len(labels) < 2 or short:
            what = f"{found.count(short[0])} sentences of {short[0]}" if short else f"{len(labels)} label"
            raise UserError(
                f"A classifier cannot be trained from {what}.", f"Give {FEWEST} sentences of each of two labels."
            )
        vectors = np.asarray(encoder([example.input for example in examples]), np.float64)
        scaler = StandardScaler().fit(vectors)
        fitted = LogisticRegression(max_iter=2000).fit(scaler.transform(vectors), found)
        weights, biases = fitted.coef_, fitted.intercept_
        if len(labels) == 2:  # one row then says how much likelier the second label is
            weights, biases = np.vstack([0 * weights, weights]), np.concatenate([0 * biases, biases])
        weights = weights / scaler.scale_
        return cls(name, labels, weights, biases - weights @ scaler.mean_, encoder)

    def save(self, folder: Path, card: ClassifierCard) -> None:
        """Write weights and card; the folder appears whole."""
        with atomic_folder(folder) as part:
            save_file({"weights": self.weights, "biases": self.biases}, part / _WEIGHTS)
            card_text = json.dumps({"schema_version": SCHEMA_VERSION} | asdict(card), indent=2)
            (part / _CARD).write_text(card_text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, encoders: Mapping[str, Encoder] = MappingProxyType({})) -> "LinearClassifier":
        """A saved one, over its encoder, which is loaded if it is none of `encoders`, by name.

        Raises UserError where it is damaged, or its encoder cannot be loaded.
        """
        try:
            card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
            if card["schema_version"] > SCHEMA_VERSION:
                raise UserError(f"'{folder}' was saved by a later soft2hard.", "Update soft2hard.")
            tensors = load_file(folder / _WEIGHTS)
            weights, biases, labels = tensors["weights"], tensors["biases"], tuple(map(str, card["labels"]))
            name = str(card["encoder"])
            if weights.ndim != 2 or not len(weights) == len(biases) == len(labels):
                raise ValueError("its weights do not go with its labels")
        except (*READING_ERRORS, IndexError) as error:
            raise UserError(
                f"The classifier in {folder} is damaged ({first_line(error)}).", "Train it again: soft2hard classifier."
            ) from error
        return cls(str(folder), labels, weights, biases, encoders.get(name) or named_encoder(name))


def trained_classifier(examples: Sequence[Example], encoder_name: str, folder: Path, seed: int = 0) -> ClassifierCard:
    """Train a classifier of sentences, judge it on a fifth of them, and save it in a folder.

    Raises UserError for too few sentences or labels, an encoder that cannot be loaded, and a folder in use.
    """
    encoder = named_encoder(encoder_name)
    shuffled = Random(seed).sample(list(examples), len(examples))
    n_held_out = max(1, int(HELD_OUT * len(shuffled)))
    kept, held_out = shuffled[n_held_out:], shuffled[:n_held_out]
    made = LinearClassifier.train(kept, encoder, str(folder))
    table = made.probabilities([example.input for example in held_out])
    right = [made.labels[i] == e.output for i, e in zip(table.argmax(1), held_out, strict=True)]
    card = ClassifierCard(made.labels, encoder_name, len(kept), float(np.mean(right)), n_held_out)
    made.save(folder, card)
    return card


# --- transformers -------------------------------------------------------------------------------


class SequenceClassifier:
    """Any model of transformers for sequence classification, with the labels of its config."""

    def __init__(self, name: str, folder: Path) -> None:
        """Raises UserError for what is no such model, or has no trained head."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        read = partial(AutoModelForSequenceClassification.from_pretrained, folder, trust_remote_code=False)
        try:
            model, loaded = read(use_safetensors=True, output_loading_info=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (*READING_ERRORS, ImportError) as error:
            raise UserError(
                f"The classifier '{name}' cannot be read ({first_line(error)}).",
                "Give a folder of soft2hard classifier, or a sequence classifier of transformers by name or folder.",
            ) from error
        if loaded["missing_keys"]:
            raise UserError(
                f"'{name}' is no trained classifier: it lacks {', '.join(sorted(loaded['missing_keys'])[:2])}.",
                "Give a model that was saved with its classification head.",
            )
        self.name, self.model = name, model.eval()
        self.labels = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
        self.fingerprint = _sha256([list(model.parameters())[-1].detach().float().numpy()])

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "n_texts n_labels"]:
        """Softmax of the logits; texts beyond the model's length are cut."""
        longest = getattr(self.model.config, "max_position_embeddings", None)
        limit = min(self.tokenizer.model_max_length, longest or self.tokenizer.model_max_length)
        found = np.zeros((len(texts), len(self.labels)))
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _AT_ONCE):
            some = order[start : start + _AT_ONCE]
            rows = [texts[i] for i in some]
            batch = self.tokenizer(rows, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            found[some] = self.model(**batch).logits.float().softmax(-1).numpy()
        return found
