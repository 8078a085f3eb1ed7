"""Classifiers of styles: trained ones equal scikit-learn's, are kept without pickles, and strange ones are refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForSequenceClassification, BertConfig

from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError
from soft2hard.eval.classifiers import (
    ClassifierCard,
    LinearClassifier,
    SequenceClassifier,
    check_labels,
    label_probabilities,
    text_classifier,
)
from tests import tiny_models
from tests.command_line import run

WORDS = tiny_models.WORDS[3:]


def counts(texts: Sequence[str]) -> np.ndarray:
    return np.array([[text.split().count(word) for word in WORDS] for text in texts], float)


def sentences(styles: Sequence[str] = ("left", "right"), n: int = 20) -> list[Example]:
    """Texts with the word that names their style."""
    rng = np.random.default_rng(0)
    return [Example(" ".join([*rng.choice(WORDS[:12], 3), style]), style) for style in styles for _ in range(n)]


@pytest.mark.parametrize("styles", [("left", "right"), ("up", "left", "right")])
def test_a_trained_classifier_gives_scikit_learns_probabilities(styles: tuple[str, ...]):
    examples = sentences(styles)
    made = LinearClassifier.train(examples, counts, "made")
    texts = ["cat left", "dog up up", "red right left", "one"]
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    theirs.fit(counts([e.input for e in examples]), [e.output for e in examples])
    assert made.labels == tuple(theirs.classes_) == tuple(sorted(styles))
    np.testing.assert_allclose(made.probabilities(texts), theirs.predict_proba(counts(texts)), atol=1e-9)


def test_each_text_has_the_probability_of_its_own_label_and_no_text_has_none():
    made = LinearClassifier.train(sentences(), counts, "made")
    table = made.probabilities(["cat left", "dog right"])
    found = label_probabilities(made, ["cat left", "", "cat left", "dog right"], ["Left", "left", "right", "RIGHT"])
    assert found.tolist() == pytest.approx([table[0, 0], 0.0, table[0, 1], table[1, 1]])
    assert label_probabilities(made, ["", ""], ["left", "left"]).tolist() == [0.0, 0.0]


def test_what_is_saved_is_what_is_read_and_holds_no_pickle(tmp_path: Path):
    made = LinearClassifier.train(sentences(), counts, "made")
    made.save(tmp_path / "kept", ClassifierCard(made.labels, "counts", 40, 1.0, 8))
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "classifier.json",
        "classifier.safetensors",
    ]
    again = text_classifier(str(tmp_path / "kept"), "counts", counts)
    np.testing.assert_array_equal(again.probabilities(["cat left"]), made.probabilities(["cat left"]))
    assert again.fingerprint == made.fingerprint
    assert LinearClassifier.train(sentences(n=30), counts, "").fingerprint != made.fingerprint


def test_damaged_folders_and_strange_sentences_are_refused_in_one_line(tmp_path: Path):
    made = LinearClassifier.train(sentences(), counts, "made")
    folder = tmp_path / "kept"
    made.save(folder, ClassifierCard(made.labels, "counts", 40, 1.0, 8))
    save_file({"weights": made.weights, "biases": made.biases[:1]}, folder / "classifier.safetensors")
    with pytest.raises(UserError, match="damaged.*do not go with its labels"):
        text_classifier(str(folder), "counts", counts)
    (folder / "classifier.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        text_classifier(str(folder))
    with pytest.raises(UserError, match="cannot be read"):
        text_classifier(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="from 1 label"):
        LinearClassifier.train(sentences(("left",)), counts, "")
    with pytest.raises(UserError, match="from 9 sentences of left"):
        LinearClassifier.train(sentences()[11:], counts, "")


def tiny_bert(folder: Path, **labels: int) -> Path:
    """A sequence classifier with random weights, on disk."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tiny_models.VOCAB_SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, pad_token_id=0,
        id2label={number: name for name, number in labels.items()}, label2id=labels,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tiny_models.tokenizer("gpt2").save_pretrained(folder)
    return folder


def test_a_sequence_classifier_of_transformers_serves_whatever_its_batches_and_lengths(tmp_path: Path):
    found = text_classifier(str(tiny_bert(tmp_path, NEGATIVE=0, POSITIVE=1)))
    assert isinstance(found, SequenceClassifier) and found.labels == ("NEGATIVE", "POSITIVE")
    texts = ["cat dog", "red", "one two three four up down left right cat"]
    table = found.probabilities(texts)
    with torch.no_grad():
        for text, row in zip(texts, table, strict=True):
            ids = found.tokenizer(text, return_tensors="pt", truncation=True, max_length=8)
            np.testing.assert_allclose(row, found.model(**ids).logits.softmax(-1)[0], atol=1e-5)
    check_labels(found, {"negative", "positive"})


def test_a_classifier_with_other_labels_or_without_a_head_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="tells LABEL_0, LABEL_1 apart.*negative, positive.*id2label"):
        check_labels(text_classifier(str(tiny_bert(tmp_path / "a", LABEL_0=0, LABEL_1=1))), {"positive", "negative"})
    bare = tiny_bert(tmp_path / "b", a=0, b=1)
    model = AutoModelForSequenceClassification.from_pretrained(bare)
    model.base_model.save_pretrained(bare)
    with pytest.raises(UserError, match="no trained classifier"):
        text_classifier(str(bare))


# --- the command --------------------------------------------------------------------------------


def write_sentences(folder: Path) -> Path:
    """Sentences of the embedded world with labels."""
    rng = np.random.default_rng(0)
    lines = [
        {"input": f"{rng.choice(['dog', 'cat'])} {rng.choice(['red', 'blue'])} {i}", "output": "few"} for i in range(25)
    ]
    lines += [{"input": f"alpha dog alpha {word} {i}", "output": "many"} for i, word in enumerate(["red", "blue"] * 12)]
    path = folder / "sentences.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_command_trains_one_from_files_and_says_how_good_it_is(tmp_path: Path):
    files = write_sentences(tmp_path)
    done = run("classifier", files, "--encoder", "lm:embedded", "-o", tmp_path / "made")
    assert done.exit_code == 0 and "few, many; right on" in done.stdout, done.output
    card = json.loads((tmp_path / "made" / "classifier.json").read_text())
    assert card["labels"] == ["few", "many"] and card["encoder"] == "lm:embedded" and card["accuracy"] > 0.8
    found = text_classifier(str(tmp_path / "made"))
    assert (found.probabilities(["dog red", "alpha cat alpha blue"]).argmax(1) == [0, 1]).all()
    again = run("classifier", files, "--encoder", "lm:embedded", "-o", tmp_path / "made")
    assert (again.exit_code, len(again.stderr.splitlines())) == (2, 1) and "is there already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give either files or --dod"),
        (["--dod", "nothing"], "no collection 'nothing'"),
        (["--dod", "style-transfer"], "needs its folder"),
        (["none.csv"], "No such file"),
    ],
)
def test_what_it_cannot_train_from_is_refused_in_one_line(arguments: list[str], said: str, tmp_path: Path):
    done = run("classifier", *arguments, "-o", tmp_path / "made")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1) and said in done.stderr, done.output
