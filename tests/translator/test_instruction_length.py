"""How long an instruction a translator learns and writes is its own property."""

import json
from pathlib import Path

import pytest

from soft2hard.errors import UserError
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.material import Material
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import CARD_FILE, Design
from soft2hard.translator.training import share_cut, train_translator
from tests import tiny_training

SUBJECT = tiny_training.llama_subject()
ARCHITECTURES = ["encoder-decoder", "causal-lora"]


def made(architecture: str, instruction_tokens: int) -> Translator:
    return Translator.for_subject(SUBJECT, Design(architecture, instruction_tokens=instruction_tokens))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n", [2, 40])
def test_no_text_is_learned_or_written_beyond_the_translators_own_length(architecture: str, n: int) -> None:
    translator = made(architecture, n)
    soft_prompts = tiny_training.soft_prompts(tiny_training.corpora(SUBJECT)[1])[:2]
    for texts in propose(translator, soft_prompts, 8):
        assert all(len(translator.tokenizer.encode(text, add_special_tokens=False)) <= n for text in texts)
    assert max(len(row) for row in Reading(translator, soft_prompts[0]).complete([[5]])) <= n
    assert len(translator.encode_instruction("cat " * 50)) == n + 1


def test_the_length_is_saved_and_a_card_without_it_means_64(tmp_path: Path) -> None:
    made("encoder-decoder", 40).save_pretrained(tmp_path / "translator")
    assert Translator.from_pretrained(tmp_path / "translator").card.instruction_tokens == 40
    path = tmp_path / "translator" / CARD_FILE
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "instruction_tokens"}))
    assert Translator.from_pretrained(tmp_path / "translator").card.instruction_tokens == 64


def test_a_context_too_short_for_the_longest_instruction_is_refused_and_auto_avoids_it() -> None:
    translator = made("causal-lora", 60)
    with pytest.raises(UserError, match="reads 64 tokens; with an instruction of up to 60"):
        propose(translator, tiny_training.soft_prompts(tiny_training.corpora(SUBJECT)[1])[:1], 1)
    chosen = [Design(instruction_tokens=n).architecture_for(SUBJECT) for n in (32, 33)]
    assert chosen == ["causal-lora", "encoder-decoder"]


def test_the_share_of_texts_that_are_cut_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train, validation = tiny_training.corpora(SUBJECT)
    translator = made("encoder-decoder", 2)  # instructions have two words; every second paraphrase three
    assert share_cut(translator, Material(train, validation).texts) == pytest.approx(1 / 3)
    train_translator(translator, train, validation, tiny_training.config(epochs=1), tmp_path)
    assert "33.3% of the instructions are longer than 2 tokens and are cut" in capsys.readouterr().err
    assert translator.card.training["share_cut"] == pytest.approx(1 / 3)
