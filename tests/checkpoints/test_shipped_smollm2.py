"""The translator that comes with the package for a real model, and the soft prompts beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from soft2hard.checkpoints.install import REAL, REAL_INPUTS
from soft2hard.data_gen.dods.real_tasks import is_apart
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.settings import read_card
from tests.command_line import run
from tests.paths import SMOLLM2

PROMPTS = REAL / "soft_prompts"
N_REAL = len(yaml.safe_load(REAL_INPUTS.read_text()))


def about() -> list[dict[str, str]]:
    return json.loads((PROMPTS / "tasks.json").read_text())


def test_translator_and_soft_prompts_are_at_most_25_megabytes_and_no_pickles() -> None:
    files = [path for path in REAL.rglob("*") if path.is_file()]
    assert 1e6 < sum(path.stat().st_size for path in files) <= 25e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    adapter = json.loads((REAL / "translator" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "smollm2", "no path of the machine that trained it"


def test_the_soft_prompts_are_of_the_translators_subject_and_come_with_inputs_enough_to_judge() -> None:
    card = read_card(REAL / "translator")
    assert len(about()) == N_REAL
    for one in about():
        soft_prompt = SoftPrompt.from_pretrained(PROMPTS / one["file"])
        assert (soft_prompt.fingerprint, soft_prompt.d_model) == (card.fingerprint, card.d_subject)
        assert len(set((PROMPTS / one["file"]).with_suffix(".txt").read_text().splitlines())) == 16


def test_their_tasks_are_test_tasks_that_were_not_trained_on() -> None:
    trained_on = set((REAL / "translator" / "trained_on.txt").read_text().splitlines())
    assert len(trained_on) > 1000
    for one in about():
        assert not is_apart(one["task"], ("test",)), "held out, so no task may be trained on beside it"
        assert one["instruction"] not in trained_on


@pytest.mark.skipif(not (SMOLLM2 / "config.json").exists(), reason="needs the model that scripts/fetch_smollm2 fetches")
def test_translate_finds_both_by_what_the_soft_prompts_say_of_their_subject(tmp_path: Path) -> None:
    result = run("translate", PROMPTS, "--no-verify", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["translations"]
    texts = {one["text"] for one in found}
    assert len(found) == N_REAL and len(texts) > N_REAL // 2, "one for each, not one for all"
    assert all(text.endswith((".", "?")) for text in texts)


@pytest.mark.skipif(not (SMOLLM2 / "config.json").exists(), reason="needs the model that scripts/fetch_smollm2 fetches")
@pytest.mark.parametrize(
    ("named", "fits"),
    [(None, True), ("HuggingFaceTB/SmolLM2-135M-Instruct", True), ("HuggingFaceTB/SmolLM-135M", False)],
)
def test_a_strangers_prompt_of_the_same_width_is_read_only_where_its_model_is_ours_by_name(
    tmp_path: Path, named: str | None, fits: bool
) -> None:
    """Without a subject that could be looked at, width alone would have any model's prompt read as SmolLM2's."""
    ours = SoftPrompt.from_pretrained(sorted(PROMPTS.glob("*.safetensors"))[0])
    replace(ours, subject=named, fingerprint=None).save(tmp_path / "p.safetensors")
    result = run("translate", tmp_path / "p.safetensors", "--no-verify")
    if fits:
        assert result.exit_code == 0, result.stderr
    else:
        assert result.exit_code == 2 and "No translator fits" in result.stderr
    other = run("translate", tmp_path / "p.safetensors", "--no-verify", "--subject", "gpt2")
    assert other.exit_code == 2 and "No translator fits" in other.stderr
