"""The recipes of Towards Interpretable Soft Prompts (arXiv 2504.02144) and of PIN (arXiv 2407.14733), run as a user
runs them, at a tiny size."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from soft2hard.eval.config import read_config
from soft2hard.eval.report import Run, load_run
from soft2hard.eval.report.sections import contents
from tests import command_line, tiny_models, tiny_tokenizers
from tests.paths import ROOT
from tests.tiny_models import WORDS

RECIPES = ROOT / "recipes"


def tiny(name: str, folder: Path, **changes: Any) -> Path:
    """The recipe on models and files in `folder`, its searches and its tuning cut to a few steps."""
    raw = yaml.safe_load((RECIPES / name).read_text(encoding="utf-8"))
    few = {
        "pez": {"steps": 4, "batch_size": 2, "eval_every": 2},
        "rlprompt": {"steps": 4, "batch": 2, "examples": 2, "hidden": 8, "eval_every": 2, "policy": None},
        "pin": {"steps": 4, "batch": 2, "examples": 2, "hidden": 8, "eval_every": 2},
    }
    few |= changes.pop("methods", {})
    methods = [m if isinstance(m, str) else m | few.get(m["name"], {}) for m in raw["methods"]]
    tuning = raw["tuning"] | {"steps": 4, "batch_size": 2, "eval_every": 2}
    tasks = raw["tasks"] | changes.pop("tasks")
    path = folder / name
    path.write_text(yaml.safe_dump(raw | {"methods": methods, "tuning": tuning, "tasks": tasks} | changes))
    return path


def save(architecture: str, folder: Path) -> str:
    subject = tiny_models.subject(architecture)
    subject.model.save_pretrained(folder)
    subject.tokenizer.save_pretrained(folder)
    return str(folder)


def evaluated(recipe: Path, output: Path) -> Run:
    """What the two commands at the top of a recipe leave."""
    assert command_line.run("evaluate", recipe, "-o", output).exit_code == 0
    assert command_line.run("report", output).exit_code == 0
    return load_run(output)


def of_title(run: Run, title: str) -> list[dict[str, Any]]:
    """The rows of a section's table."""
    [table] = next(part for part in contents(run, [], ()) if part.title == title).tables
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_boolq_sets_soft_prompts_and_pez_of_three_lengths_side_by_side_in_all_trials(tmp_path: Path) -> None:
    boolq = tmp_path / "superglue" / "BoolQ"
    boolq.mkdir(parents=True)
    for part, shift in (("train", 0), ("val", 1)):
        rows = [
            {"passage": f"{a} {b} {WORDS[shift]}", "question": f"{b} {a}", "label": (i + j) % 2 == 0, "idx": 9 * i + j}
            for i, a in enumerate(WORDS[6:12])
            for j, b in enumerate(WORDS[12:16])
        ]
        (boolq / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"sets": ["boolq"], "sizes": {"train": 8, "validation": 4, "test": 6}}
    recipe = tiny(
        "towards-boolq.yaml",
        tmp_path,
        subject=save("t5", tmp_path / "t5"),
        reference=save("bloom", tmp_path / "bloom"),  # without an end of its context, which 100 tokens would pass
        seeds=[0, 1],
        tasks={"folder": str(tmp_path / "superglue"), "dod_options": sizes},
    )
    run = evaluated(recipe, tmp_path / "run")
    lengths = read_config(RECIPES / "towards-boolq.yaml").tasks.lengths
    assert lengths == (5, 20, 100) and len(read_config(RECIPES / "towards-boolq.yaml").seeds) == 5
    assert {task.name for task in run.tasks} == {f"boolq, {n} tokens" for n in lengths}
    for seed in (0, 1):
        prompts = load_file(tmp_path / "run" / "soft_prompts" / f"{seed}-test.safetensors")
        assert {name: len(prompt) for name, prompt in prompts.items()} == {f"boolq, {n} tokens": n for n in lengths}
    assert not any(row.failure for row in run.rows) and len(run.rows) == 6 * 3 * 2
    for row in run.rows:
        n = next(n for n in lengths if row.task.endswith(f", {n} tokens"))
        if row.method.startswith("PEZ"):
            # A text of so many words, as every token of the tiny vocabulary is one.
            assert len(row.prompt.split()) == n and row.perplexity > 1
            assert [point["step"] for point in row.trace["curve"]] == [0, 2, 4]
            assert all(0 <= point["score"] <= 1 and point["perplexity"] > 1 for point in row.trace["curve"])
    assert run.record.reference_perplexity.inputs > 1
    trials = of_title(run, "Trials")
    assert len(trials) == 6 * 3 and {row["trials"] for row in trials} == {2}
    assert {row["method"] for row in of_title(run, "Searches by step")} == {"PEZ, Adafactor", "PEZ, AdamW"}


def test_sst2_sets_rewards_of_two_lengths_and_several_coefficients_side_by_side(tmp_path: Path) -> None:
    folder = tmp_path / "16-shot" / "sst-2" / "16-100"
    folder.mkdir(parents=True)
    for part, shift in (("train", 0), ("dev", 4), ("test", 8)):
        rows = [f"{WORDS[6 + (shift + i) % 12]} {WORDS[3 + i]}\t{i % 2}\n" for i in range(8)]
        (folder / f"{part}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    gpt2 = save("gpt2", tmp_path / "gpt2")
    files = {"folder": str(tmp_path / "16-shot")}
    recipe = tiny("towards-sst2.yaml", tmp_path, subject=gpt2, reference=gpt2, seeds=[0, 1], tasks=files)
    run = evaluated(recipe, tmp_path / "run")
    assert not any(row.failure for row in run.rows)
    options = {method.label: method.options for method in run.record.methods if method.name == "rlprompt"}
    assert {o["n_tokens"] for o in options.values()} == {5, 15}
    assert {o["reward_form"] for o in options.values()} == {"cross_entropy"}
    assert sum(o.get("accuracy_weight") == 0 for o in options.values()) == 2
    for row in run.rows:
        if row.method in options:
            assert len(row.prompt.split()) == options[row.method]["n_tokens"]
            assert [point["step"] for point in row.trace["curve"]] == [2, 4]
    assert {row["method"] for row in of_title(run, "Searches by step")} == set(options)


def test_pin_and_rlprompt_write_prompts_behind_the_input_for_a_masked_subject_with_policies_of_another_vocabulary(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "16-shot" / "sst-2" / "16-100"
    folder.mkdir(parents=True)
    for part, shift in (("train", 0), ("dev", 4), ("test", 8)):
        rows = [f"{WORDS[6 + (shift + i) % 12]} {WORDS[3 + i]}\t{i % 2}\n" for i in range(8)]
        (folder / f"{part}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    words = tiny_tokenizers.tokenizer("gpt2", [f"{' '.join(WORDS)} great terrible ."] * 9, vocab_size=420)
    words.add_special_tokens({"mask_token": "<mask>", "sep_token": "</s>"})
    roberta = tiny_models.model("roberta", vocab_size=len(words))
    for saved in (roberta, words):
        saved.save_pretrained(tmp_path / "roberta")
    gpt2 = str(tmp_path / "gpt2")
    for saved in (tiny_models.model("gpt2", vocab_size=400), tiny_tokenizers.tokenizer("gpt2", [" ".join(WORDS)] * 9)):
        saved.save_pretrained(gpt2)
    tiny_policy = {"policy": gpt2, "steps": 4, "batch": 2, "examples": 2, "hidden": 8, "eval_every": 2}
    recipe = tiny(
        "pin-roberta.yaml",
        tmp_path,
        subject=str(tmp_path / "roberta"),
        reference=gpt2,
        seeds=[0],
        tasks={"folder": str(tmp_path / "16-shot")},
        methods={"rlprompt": tiny_policy, "pin": tiny_policy},
    )
    run = evaluated(recipe, tmp_path / "run")
    assert not any(row.failure for row in run.rows)
    written = {row.method: row.prompt for row in run.rows if row.method in ("pin", "rlprompt")}
    assert len(written) == 2 and all(written.values())
    assert all(row.score in {n / 8 for n in range(9)} for row in run.rows)
    assert {
        m.options["policy"] for m in read_config(RECIPES / "pin-roberta.yaml").methods if "policy" in m.options
    } == {
        "distilgpt2",
        "facebook/opt-125m",
    }


@pytest.mark.parametrize("name", ["towards-boolq.yaml", "towards-sst2.yaml"])
def test_the_recipes_have_a_size_for_the_embedded_world(name: str) -> None:
    whole, small = read_config(RECIPES / name), read_config(RECIPES / name, "embedded")
    assert small.subject == small.reference == "embedded" and small.tasks.dod == "lexical"
    assert small.tasks.lengths == whole.tasks.lengths
    assert {m.name for m in small.methods} == {m.name for m in whole.methods}


def test_the_ablation_of_pez_has_all_kinds_of_fluency_at_the_same_steps() -> None:
    searches = [m.options for m in read_config(RECIPES / "towards-pez-ablation.yaml").methods if m.name == "pez"]
    assert len({(o["n_tokens"], o["steps"], o["batch_size"]) for o in searches}) == 1
    varied = ("fluency", "fluency_at", "fluency_roles", "optimizer", "aim")
    assert {(key, o[key]) for o in searches for key in varied if key in o} == {
        ("fluency", "perplexity"),
        ("fluency_at", "copy"),
        ("fluency_roles", "read"),
        ("fluency_roles", "predicted"),
        ("optimizer", "adafactor"),
        ("aim", "minimise"),
    }
