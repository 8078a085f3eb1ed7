"""What the checkpoints that come with the package must be able to do. Floors stand well below the measured figures."""

import json
import subprocess
import sys

import numpy as np
import pytest

from soft2hard import SoftPrompt, Subject, Translator, translate
from soft2hard.checkpoints import EMBEDDED, embedded_path
from soft2hard.data_gen.dods.lexical import parse
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.lm.subject import Query
from soft2hard.translator.settings import Design, TranslateConfig
from tests.oracles import accuracies, held_out_tasks

N_TASKS = 30


@pytest.fixture(scope="module")
def subject():
    return Subject.from_pretrained(embedded_path("subject"))


@pytest.fixture(scope="module")
def samples():
    records = json.loads((embedded_path("soft_prompts") / "tasks.json").read_text())
    return [(record, SoftPrompt.from_pretrained(embedded_path("soft_prompts") / record["file"])) for record in records]


def gold_accuracy(model) -> float:
    tasks = held_out_tasks(N_TASKS)
    return float(np.mean(accuracies(model, [(task.instruction, task) for task in tasks])))


def no_prompt_accuracy(model) -> float:
    tasks = held_out_tasks(N_TASKS)
    return float(np.mean(accuracies(model, [(None, task) for task in tasks])))


def test_all_checkpoints_together_are_at_most_60_megabytes():
    assert sum(path.stat().st_size for path in EMBEDDED.rglob("*") if path.is_file()) <= 60e6


@pytest.mark.parametrize("name", ["subject", "api_model", "translator"])
def test_every_checkpoint_has_a_card_and_safetensors_alone(name):
    files = {path.name for path in embedded_path(name).rglob("*")}
    assert "README.md" in files and {"model.safetensors", "adapter_model.safetensors"} & files
    assert not [file for file in files if file.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_a_translator_knows_the_embedded_subject_by_its_name_and_not_by_where_it_lies(subject):
    shipped = Translator.from_pretrained("embedded")
    made = Translator.for_subject(subject, Design("causal-lora", lora_rank=2))
    assert shipped.card.subject == shipped.card.base == made.card.subject == made.card.base == "embedded"


def test_the_subject_follows_instructions_of_test_tasks(subject):
    assert gold_accuracy(subject) >= 0.9
    assert no_prompt_accuracy(subject) <= 0.5


def test_the_api_side_model_is_larger_of_another_family_and_follows_the_same_instructions(subject):
    api_model = Subject.from_pretrained(embedded_path("api_model"))
    size = {model.name: sum(p.numel() for p in model.model.parameters()) for model in (subject, api_model)}
    assert size[api_model.name] > size[subject.name]
    assert api_model.model.config.model_type != subject.model.config.model_type
    assert api_model.tokenizer.get_vocab() != subject.tokenizer.get_vocab()
    assert gold_accuracy(api_model) >= 0.45


def test_twenty_soft_prompts_of_test_tasks_come_along_and_work(subject, samples):
    assert len(samples) == 20
    assert all(parse(record["instruction"]).split == "test" for record, _ in samples)
    right = [
        subject.generate([_query(prompt, example) for example in record["examples"]])
        == [example["output"] for example in record["examples"]]
        for record, prompt in samples
    ]
    assert np.mean(right) >= 0.5  # every one of a task's test examples right


def _query(prompt, example):
    return Query(prompt, example["input"])


def test_verified_translations_do_most_of_the_soft_prompts_work(subject, samples):
    translator = Translator.from_pretrained(embedded_path("translator"))
    chosen = samples[:6]
    config = TranslateConfig(n_candidates=16, refine_rounds=0)
    inputs = [[example["input"] for example in record["examples"]] for record, _ in chosen]
    found = translate([prompt for _, prompt in chosen], translator, subject, config, inputs=inputs)
    assert np.mean([translation.agreement for translation in found]) >= 0.5
    assert all(translation.text == translation.candidates[0].text for translation in found)


def test_the_command_line_translates_a_sample_out_of_the_box(samples):
    file = embedded_path("soft_prompts") / samples[0][0]["file"]
    command = [sys.executable, "-m", "soft2hard", "translate", str(file), "--json", "--candidates", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (translation,) = json.loads(done.stdout)["translations"]
    assert translation["verdict"] in ("faithful", "doubtful", "failed")
    assert translation["probe_source"] == "invented by the subject under the first guesses"


def test_default_tuning_teaches_the_subject_a_task_from_examples_alone(subject):
    (task,) = held_out_tasks(1)
    (tuned,) = Tuner(subject, Tuning(steps=60)).tune([task])
    assert tuned.validation_loss < 0.3 < tuned.initial_loss
    assert accuracies(subject, [(tuned.soft_prompt, task)])[0] >= 0.8
