"""Model cards of the embedded checkpoints: how each was made, and what it scores."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.tuner import Tuned
from soft2hard.data_gen.world.lm_training import LMTrainer
from soft2hard.translator.card import TranslatorCard

_TITLES = {
    "subject": "Embedded subject: a word-level Llama-type model",
    "api_model": "Embedded API-side model: a GPT-NeoX-type model with a SentencePiece vocabulary",
}


def language_model_card(name: str, trainer: LMTrainer, scores: dict[str, dict[str, float]]) -> str:
    """Markdown card of a language model; `scores` are exact-match accuracies by setting and family."""
    n = sum(p.numel() for p in trainer.model.parameters())
    tokens = trainer.step * trainer.config.rows * trainer.config.row_length
    settings = json.dumps(asdict(trainer.config), indent=2)
    rows = [
        f"| {family} | {scores['zero_shot'][family]:.3f} | {scores['few_shot'][family]:.3f} |"
        for family in scores["zero_shot"]
    ]
    means = [sum(s.values()) / len(s) for s in scores.values()]
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "language: en",
            "---",
            f"# {_TITLES[name]}",
            "",
            f"{n / 1e6:.2f} million parameters, trained from nothing by `scripts/train_embedded` on training tasks of",
            f"the lexical world: {trainer.step} steps, {tokens / 1e6:.1f} million tokens,",
            f"{trainer.seconds / 60:.0f} minutes.",
            "It knows some 600 words and the tasks of that world, and nothing else.",
            "",
            "## Scores",
            "",
            "Exact-match accuracy on tasks of the test split, never seen in training, from the instruction alone and",
            "from earlier examples alone (one or more); 64 draws a family, with repetition where it has fewer tasks:",
            "",
            "| family | zero-shot | few-shot |",
            "|---|---|---|",
            *rows,
            f"| **mean** | **{means[0]:.3f}** | **{means[1]:.3f}** |",
            "",
            "## Training",
            "",
            f"torch {version('torch')}, transformers {version('transformers')}, seed {trainer.config.seed}.",
            "",
            "```json",
            settings,
            "```",
            "",
        ]
    )


def write_translator_card(folder: Path, card: TranslatorCard) -> None:
    """Markdown card of the translator, beside its weights."""
    training = card.training
    text = "\n".join(
        [
            "---",
            "license: apache-2.0",
            "language: en",
            "---",
            "# Embedded translator: soft prompts of the embedded subject to instructions",
            "",
            "A T5-type encoder-decoder started from the subject's own weights. Trained on "
            f"{training['train_pairs']} soft prompts of {training['train_tasks']} training tasks for "
            f"{training['epochs_run']:.0f} epochs; the loss on {training['validation_tasks']} validation tasks is",
            f"{training.get('validation_loss', training['best_validation_loss']):.4f} nats a token "
            f"({training['best_validation_loss']:.4f} at its lowest).",
            *([training["remark"]] if "remark" in training else []),
            "The families `contains` and `pick_relation` were never shown.",
            "",
            "Its scores on test tasks are in the project's README, printed by `scripts/evaluate_embedded`.",
            "",
            "```json",
            json.dumps(training, indent=2),
            "```",
            "",
        ]
    )
    (folder / "README.md").write_text(text)


def sample_record(file: str, tuned: Tuned) -> dict:
    """What `tasks.json` says of one example soft prompt."""
    task = tuned.task
    return {
        "file": file,
        "task": task.name,
        "family": task.family,
        "instruction": task.instruction,
        "validation_loss": round(tuned.validation_loss, 5),
        "steps": tuned.best_step,
        "examples": [{"input": e.input, "output": e.output} for e in task.test],
    }


def example_lines(task: Task) -> str:
    """Test examples of a task as a JSONL task file, to verify a translation on (`translate --examples`)."""
    return "".join(json.dumps({"input": e.input, "output": e.output}) + "\n" for e in task.test)
