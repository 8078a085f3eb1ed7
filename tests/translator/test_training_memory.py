"""A training that runs out of memory continues in smaller passes, to the same end."""

import shutil
from pathlib import Path

import pytest
import torch

from soft2hard.errors import UserError
from soft2hard.translator.network import TranslatorModel
from soft2hard.translator.processes import Share
from soft2hard.translator.training import train_translator
from tests import tiny_training
from tests.tiny_training import config, corpora, llama_subject

SUBJECT = llama_subject()


def train(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    made = tiny_training.translator(SUBJECT, dropout=0.0)
    train_translator(made, *corpora(SUBJECT), config(**{"epochs": 2} | changes), folder)
    return made.model.state_dict()


def test_a_share_is_cut_into_equal_passes_of_half_as_many_pairs_or_fewer() -> None:
    assert Share(8, 1).smaller() == Share(4, 2)
    assert Share(9, 2).smaller() == Share(3, 6)
    assert Share(7, 1).smaller() == Share(1, 7)
    assert Share(1, 8).smaller() is None


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch):
    """Sets how many pairs fit."""
    forward = TranslatorModel.forward

    def limit(n: int) -> None:
        def scarce(self, soft_prompts, attention_mask, labels):
            if len(soft_prompts) > n:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, soft_prompts, attention_mask, labels)

        monkeypatch.setattr(TranslatorModel, "forward", scarce)

    return limit


def test_half_the_pairs_and_twice_the_passes_end_near_the_whole_batch(tmp_path: Path, room, capsys) -> None:
    whole = train(tmp_path / "whole")
    room(4)
    halved = train(tmp_path / "halved")
    assert "continuing with 4 pairs a pass, 2 passes a step" in capsys.readouterr().err
    for name, tensor in whole.items():  # passes weigh alike, though one may have more tokens
        torch.testing.assert_close(halved[name], tensor, rtol=0.1, atol=0.05)


def test_where_no_pair_fits_one_line_says_what_to_do(tmp_path: Path, room) -> None:
    room(0)
    with pytest.raises(UserError, match="not enough memory to train the translator on one pair"):
        train(tmp_path, epochs=1, batch_size=4)
    room(99)
    train(tmp_path, epochs=1, batch_size=4, recompute=True)  # the same folder, with the remedy


def test_recomputing_layers_changes_nothing(tmp_path: Path) -> None:
    plain, recomputed = (train(tmp_path / str(r), epochs=1, recompute=r) for r in (False, True))
    for name, tensor in plain.items():
        torch.testing.assert_close(recomputed[name], tensor, rtol=0, atol=1e-3)  # Muon may work in bfloat16


@pytest.mark.parametrize("file", ["training.json", "checkpoints/step.json"])
def test_a_damaged_record_is_named_in_one_line(tmp_path: Path, file: str) -> None:
    train(tmp_path, epochs=1)
    (tmp_path / file).write_text("{")
    if file != "training.json":
        shutil.rmtree(tmp_path / "translator")  # else it is read back
    with pytest.raises(UserError, match=f"{file} is damaged"):
        train(tmp_path, epochs=1)
