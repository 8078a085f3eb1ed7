"""A pretrained model that no one here trained: SmolLM2-135M-Instruct, through the library, PEFT and every command."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel, PromptTuningConfig, PromptTuningInit, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.eval.report import load_run
from soft2hard.eval.transfer.results import TransferResult
from soft2hard.eval.transfer.serving import can_serve
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests.command_line import run
from tests.paths import SMOLLM2

pytestmark = pytest.mark.skipif(
    not (SMOLLM2 / "config.json").exists(), reason="needs the model that scripts/fetch_smollm2 fetches"
)
SENTIMENTS = [
    ("a warm and funny film", "positive"),
    ("dull from start to end", "negative"),
    ("the cast is a joy", "positive"),
    ("a waste of two hours", "negative"),
    ("I would see it again tomorrow", "positive"),
    ("the jokes fall flat", "negative"),
    ("beautifully shot", "positive"),
    ("badly written and badly acted", "negative"),
]
PLURALS = ["cat", "meter", "opera", "table", "river", "cloud", "garden", "song", "bridge", "window", "lesson", "farmer"]
N_NEW = 8


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(SMOLLM2)


def with_bos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """One that begins every text with BOS, as those of Llama and Gemma do."""
    other = AutoTokenizer.from_pretrained(SMOLLM2)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", other.bos_token_id)]
    )
    return other


@torch.no_grad()
def lines(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[str]:
    """The first line that transformers' own greedy decoding writes after each text."""
    found = []
    for text in texts:
        read = tokenizer(text, return_tensors="pt")
        written = model.generate(**read, max_new_tokens=16, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        new = written[0, read["input_ids"].shape[1] :]
        found.append(tokenizer.decode(new, skip_special_tokens=True).lstrip(" ").split("\n")[0])
    return found


def test_a_text_scores_what_the_first_lines_of_generate_score(model, tokenizer) -> None:
    shown = "\n".join(f"Input: {word}\nOutput: {word}s" for word in ("book", "chair", "dollar", "engine"))
    examples = tuple(Example(word, f"{word}s") for word in PLURALS)
    task = Task("plurals", "test", "Write the plural.", (), examples[:2], examples[2:4], examples)
    answers = lines(model, tokenizer, [f"{shown}\nInput: {e.input}\nOutput:" for e in examples])
    right = [answer.strip() == e.output for answer, e in zip(answers, examples, strict=True)]
    assert sum(right) > 3, "a pretrained model can do this"
    [[found]] = measure(Subject(model, tokenizer, name="smollm2"), [Comparison(task, (shown,))])
    assert found.score == sum(right) / len(right)


def labels_only(tokenizer: PreTrainedTokenizerBase, read: str, output: str) -> tuple[list[int], list[int]]:
    """Ids and labels as PEFT's examples make them: the text masked, the output tokenised apart, EOS behind it."""
    text, wanted = tokenizer(read)["input_ids"], tokenizer(output, add_special_tokens=False)["input_ids"]
    ids = [*text, *wanted, tokenizer.eos_token_id]
    return ids, [-100] * len(text) + ids[len(text) :]


def everything(tokenizer: PreTrainedTokenizerBase, read: str, output: str) -> tuple[list[int], list[int]]:
    """Every token a label, and no EOS."""
    ids = tokenizer(read + output)["input_ids"]
    return ids, ids


TWEETS = "Tweet text : {input} Label : "
WAYS = {
    "random start, labels masked": (PromptTuningInit.RANDOM, TWEETS, labels_only, False),
    "text start, nothing masked": (PromptTuningInit.TEXT, TWEETS, everything, False),
    "chat template": (PromptTuningInit.RANDOM, "chat", labels_only, False),
    "a tokenizer that begins with BOS": (PromptTuningInit.TEXT, TWEETS, labels_only, True),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_adapter_that_peft_tuned_answers_here_as_under_peft(model, tokenizer, tmp_path: Path, way: str) -> None:
    start, template, encode, bos = WAYS[way]
    tokenizer = with_bos(tokenizer) if bos else tokenizer

    def read(text: str) -> str:
        if template != "chat":
            return template.format(input=text)
        turn = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)

    tuned_by_peft(model, tokenizer, start, [encode(tokenizer, read(x), y) for x, y in SENTIMENTS], tmp_path)
    tuned = PeftModel.from_pretrained(model, str(tmp_path)).eval()
    texts = [text for text, _ in SENTIMENTS[:4]] + ["what a day", "nobody came"]
    expected = [under_peft(tuned, tokenizer(read(text))["input_ids"], tokenizer) for text in texts]
    soft_prompt = SoftPrompt.from_pretrained(tmp_path)
    subject = Subject(model, tokenizer, name="smollm2", template=template).for_prompts([soft_prompt])
    assert subject.generate([Query(soft_prompt, text) for text in texts], N_NEW) == expected


def tuned_by_peft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    start: PromptTuningInit,
    encoded: list[tuple[list[int], list[int]]],
    folder: Path,
) -> None:
    """Some steps of PEFT's prompt tuning; the adapter is saved."""
    torch.manual_seed(0)
    settings = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=8,
        prompt_tuning_init=start,
        prompt_tuning_init_text="Say whether the review is positive or negative",
        tokenizer_name_or_path=str(SMOLLM2),
        base_model_name_or_path=str(SMOLLM2),
    )
    tuned = get_peft_model(model, settings)
    optimiser = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.03)
    longest = max(len(ids) for ids, _ in encoded)
    pad = lambda row, value: row + [value] * (longest - len(row))  # noqa: E731
    ids = torch.tensor([pad(ids, tokenizer.eos_token_id) for ids, _ in encoded])
    mask = torch.tensor([pad([1] * len(ids), 0) for ids, _ in encoded])
    labels = torch.tensor([pad(labels, -100) for _, labels in encoded])
    for _ in range(3):
        optimiser.zero_grad()
        tuned(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimiser.step()
    tuned.save_pretrained(str(folder))


@torch.no_grad()
def under_peft(tuned: PeftModel, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The first line that `generate` writes with the adapter."""
    asked = torch.tensor([ids])
    written = tuned.generate(
        input_ids=asked,
        attention_mask=torch.ones_like(asked),
        max_new_tokens=N_NEW,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True).split("\n")[0].strip()


# --- every command -------------------------------------------------------------------------------


def write_tasks(folder: Path) -> Path:
    """Two task files: plurals, and the sentiment of some words."""
    folder.mkdir()
    kinds = {
        "positive": "joy love peace hope smile win gift friend beauty health".split(),
        "negative": "pain hate war fear tear loss debt enemy dirt illness".split(),
    }
    labelled = [(word, label) for label, words in kinds.items() for word in words]
    plurals = [
        (word, f"{word}s") for word in [*PLURALS, "book", "chair", "dollar", "engine", "nail", "ship", "tree", "cup"]
    ]
    for name, instruction, pairs in (
        ("plurals", "Write the plural of the word.", plurals),
        ("sentiment", "Say whether the word is positive or negative.", labelled),
    ):
        lines = [{"instruction": instruction}] + [{"input": text, "output": output} for text, output in pairs]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of all stages, small, with the tasks beside it."""
    folder = tmp_path_factory.mktemp("smollm2")
    tasks = write_tasks(folder / "tasks")
    tuning = {"n_tokens": 4, "batch_size": 4, "steps": 4, "eval_every": 2, "patience": 2}
    recipe = {
        "subject": str(SMOLLM2),
        "tuning": tuning,
        "corpora": {"train": {"split": "train", "n_tasks": 4}, "validation": {"split": "validation", "n_tasks": 2}},
        "translator": {
            "architecture": "causal-lora",
            "lora_rank": 4,
            "instruction_tokens": 6,
            "training": {"epochs": 1.0, "batch_size": 4},
            "calibration_tasks": 1,
        },
        "evaluation": {
            "tasks": {"files": [str(tasks)], "n_test": 4},
            "seeds": [0],
            "reference": "subject",
            "methods": ["none", "gold", "soft", {"name": "few-shot", "k": 6}, "nearest-token", "greedy"],
        },
    }
    if can_serve():
        recipe["transfer"] = {"serve": str(SMOLLM2), "port": 8653, "methods": ["few-shot"], "max_tokens": 8}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = run("run", folder / "recipe.yaml", "-o", folder / "run")
    assert result.exit_code == 0, result.output
    return folder


def test_examples_in_the_prompt_are_worth_something_and_every_method_is_scored(made: Path) -> None:
    rows = load_run(made / "run" / "evaluation").by_method
    assert all(row.score is not None for name in ("none", "gold", "soft", "few-shot") for row in rows[name])
    plurals = next(row for row in rows["few-shot"] if row.task == "plurals")
    assert plurals.score >= 0.5


@pytest.mark.skipif(not can_serve(), reason="needs pip install soft2hard[serving]")
def test_behind_an_api_the_model_scores_what_it_scores_here(made: Path) -> None:
    result = TransferResult.load(made / "run" / "transfer" / "transfer.json")
    assert len(result.answers) == 8 and [a.fault for a in result.answers if a.answer is None] == []
    here = [row.score for row in load_run(made / "run" / "evaluation").by_method["few-shot"]]
    [row] = result.rows
    assert row.score.interval.value == pytest.approx(sum(here) / len(here), abs=0.26), "up to two of eight by rounding"


def test_its_soft_prompts_are_tuned_translated_and_analysed(made: Path, tmp_path: Path) -> None:
    quick = ("--steps", 4, "--eval-every", 2, "--n-tokens", 4, "--batch-size", 4)
    tuned = run("tune", made / "tasks", "--subject", SMOLLM2, "-o", tmp_path / "prompts", *quick)
    assert tuned.exit_code == 0, tuned.output
    soft_prompt = tmp_path / "prompts" / "plurals.safetensors"
    assert SoftPrompt.from_pretrained(soft_prompt).template is not None
    (tmp_path / "inputs.txt").write_text("\n".join(PLURALS))
    translator = made / "run" / "translator" / "translator"
    arguments = ("--translator", translator, "--examples", tmp_path / "inputs.txt", "--candidates", 4, "--probes", 2)
    translated = run("translate", soft_prompt, "--json", *arguments)
    assert translated.exit_code == 0, translated.output
    [found] = json.loads(translated.stdout)["translations"]
    assert found["candidates"] and all(0 <= c["agreement"] <= 1 for c in found["candidates"])
    analysed = run("analyze", tmp_path / "prompts", "--subject", SMOLLM2, "--only", "extraction", "--json")
    assert analysed.exit_code == 0, analysed.output
