"""Subjects are read from folders, and what is wrong with a folder is said in one line."""

import json
from pathlib import Path

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.lm.loading import Loading
from soft2hard.lm.subject import Query, Subject
from tests import tiny_models


def save(folder: Path, architecture: str) -> Path:
    tiny_models.model(architecture).save_pretrained(folder)
    tiny_models.tokenizer(architecture).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ["llama", "opt", "t5", "bart"])
def test_a_saved_subject_reads_back_the_same(tmp_path: Path, architecture: str) -> None:
    read = Subject.from_pretrained(save(tmp_path, architecture), device="cpu")
    kept, query = tiny_models.subject(architecture), Query("cat", "dog", "bird")
    assert read.name == str(tmp_path)
    assert read.fingerprint == kept.fingerprint
    assert read.is_encoder_decoder == (architecture in ("t5", "bart"))
    torch.testing.assert_close(read.target_distributions([query])[0], kept.target_distributions([query])[0])


def test_the_dtype_is_float32_on_a_cpu_unless_another_is_asked_for(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "llama"))
    assert Subject.from_pretrained(folder, device="cpu").embedding.dtype == torch.float32
    half = Subject.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
    assert half.embedding.dtype == torch.bfloat16
    assert half.target_distributions([Query("cat", "dog", "bird")])[0].dtype == torch.float32


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.*could not be read.*config.json"):
        Subject.from_pretrained(str(tmp_path / "nowhere"))


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_models.model("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer.*save_pretrained"):
        Subject.from_pretrained(str(tmp_path), device="cpu")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights = save(tmp_path, "llama") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="could not be read"):
        Subject.from_pretrained(str(tmp_path), device="cpu")


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    weights = save(tmp_path, "llama") / "model.safetensors"
    torch.save(tiny_models.model("llama").state_dict(), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="could not be read.*model.safetensors"):
        Subject.from_pretrained(str(tmp_path), device="cpu")


def test_a_model_without_its_output_head_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    tiny_models.model("llama").model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks weights: lm_head"):
        Subject.from_pretrained(str(tmp_path), device="cpu")


def test_a_model_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="could not be read"):
        Subject.from_pretrained(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("file", "changes", "part"),
    [
        ("config.json", {"vocab_size": 5}, "other shapes than its config.json says"),
        ("config.json", {"num_attention_heads": "four"}, "could not be read"),
        ("config.json", {"num_attention_heads": 5}, "could not be read"),
        ("tokenizer.json", None, "no tokenizer that can be read"),
    ],
    ids=["weights of other shapes", "a word for a number", "impossible sizes", "a tokenizer without content"],
)
def test_a_model_that_does_not_fit_together_is_refused(
    tmp_path: Path, file: str, changes: dict | None, part: str
) -> None:
    path = save(tmp_path, "llama") / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes if changes else {}))
    with pytest.raises(UserError, match=part):
        Subject.from_pretrained(str(tmp_path), device="cpu")


@pytest.mark.parametrize("device", ["meta", "xpu", "cpu:3"])
def test_a_device_that_is_not_here_is_refused_in_one_line(device):
    with pytest.raises(UserError, match=f"There is no device '{device}' here"):
        _ = Loading(device=device).torch_device


@pytest.mark.parametrize(("rank", "expected"), [(None, "cuda"), ("1", "cuda:1"), ("2", "cuda"), ("x", "cuda")])
def test_each_process_of_a_launcher_takes_its_own_gpu(monkeypatch, rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(Loading().torch_device) == expected


def test_transformers_names_for_how_a_model_is_held_are_understood(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "llama"))
    half = Subject.from_pretrained(folder, torch_dtype=torch.bfloat16, device_map="cpu", attn_implementation="eager")
    assert half.embedding.dtype == torch.bfloat16
    assert half.model.config._attn_implementation == "eager"
    assert Subject.from_pretrained(folder, dtype="bfloat16", device_map={"": "cpu"}).embedding.dtype == torch.bfloat16


def test_names_that_subjects_do_not_know_are_refused(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "llama"))
    with pytest.raises(UserError, match="trust_remote_code.*Use dtype"):
        Subject.from_pretrained(folder, trust_remote_code=True)
    with pytest.raises(UserError, match="one device"):
        Subject.from_pretrained(folder, device_map={"model.layers.0": 0, "lm_head": 1})


@pytest.mark.parametrize("name", ["/home/me/models/llama", "../llama", "runs/of/llama"])
def test_a_base_model_whose_folder_is_not_here_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' could not be read .there is no such folder.*--subject"):
        Subject.from_pretrained(name)
