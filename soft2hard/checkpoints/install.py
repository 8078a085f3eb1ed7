"""Puts what a run has made into the package: python -m soft2hard.checkpoints.install runs/embedded

or, of a run of recipes/smollm2.yaml, its translator and some soft prompts of its evaluation, by
python -m soft2hard.checkpoints.install runs/smollm2 --real
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from jinja2 import Template

from soft2hard.checkpoints import EMBEDDED
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world import FINAL_TUNING
from soft2hard.data_gen.world.samples import write_samples
from soft2hard.errors import UserError, run_script
from soft2hard.eval.config import parse_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.methods.base import Case
from soft2hard.eval.report.reading import load_run
from soft2hard.lm.precision import load_for_tuning
from soft2hard.storage.files import atomic_folder
from soft2hard.storage.names import SMOLLM2
from soft2hard.translator.model import Translator

N_REAL = 10
"""Soft prompts of the real model that come with its translator."""


def install(run: Path, out: Path = EMBEDDED, tuning: Tuning = FINAL_TUNING) -> None:
    """Copy `world` and `translator` of a run to `out`, and tune soft prompts of test tasks there.

    Raises UserError where the run has not made them.
    """
    made = run / "translator" / "translator"
    for folder in (run / "world" / "subject", run / "world" / "api_model", made):
        if not folder.exists():
            raise UserError(f"{folder} is not there.", "Run soft2hard run recipes/embedded.yaml first.")
    for name in ("subject", "api_model"):
        shutil.copytree(run / "world" / name, out / name, dirs_exist_ok=True)
    translator = Translator.from_pretrained(made)
    translator.save_pretrained(out / "translator", dtype=torch.bfloat16)
    card, training = Template(Path(__file__).with_name("translator.md.jinja").read_text()), translator.card.training
    text = card.render(training=training, settings=json.dumps(training, indent=2))
    (out / "translator" / "README.md").write_text(text + "\n")
    write_samples(load_for_tuning(out / "subject"), out / "soft_prompts", tuning)


def install_real(run: Path, out: Path = EMBEDDED.parent / SMOLLM2, n_prompts: int = N_REAL) -> None:
    """Copy the translator of a run of recipes/smollm2.yaml to `out`, and every n-th soft prompt of its evaluation.

    Raises UserError where the run has not made them.
    """
    made = run / "translator" / "translator"
    if not made.exists():
        raise UserError(f"{made} is not there.", "Run soft2hard run recipes/smollm2.yaml first.")
    harness = Harness(parse_config(load_run(run / "evaluation").record.config, "run.json"), run / "evaluation")
    cases = harness.cases(harness.config.seeds[0], "test")
    translator = Translator.from_pretrained(made)
    translator.save_pretrained(out / "translator", dtype=torch.bfloat16)
    card = Template(Path(__file__).with_name("real_translator.md.jinja").read_text())
    training = translator.card.training
    text = card.render(card=translator.card, training=training, settings=json.dumps(training, indent=2))
    (out / "translator" / "README.md").write_text(text + "\n")
    # Of every n-th task, so that nobody chose them by what the translator makes of them.
    _write_cases(cases[:: max(1, len(cases) // n_prompts)][:n_prompts], translator.card.subject, out / "soft_prompts")


def _write_cases(cases: list[Case], subject: str, folder: Path) -> None:
    """Soft prompts with the test and validation examples of their tasks, and `tasks.json`, as `write_samples` does."""
    about = []
    with atomic_folder(folder, overwrite=True) as temporary:
        for number, case in enumerate(cases):
            task = case.task
            file = f"{number:02d}-{re.sub('[^a-z0-9]+', '-', task.name.lower()).strip('-')}.safetensors"
            replace(case.soft_prompt, subject=subject).save(temporary / file)
            shown = {example.input: example.output for example in (*task.test, *task.validation)}
            lines = "".join(json.dumps({"input": i, "output": o}, ensure_ascii=False) + "\n" for i, o in shown.items())
            (temporary / file).with_suffix(".jsonl").write_text(lines, encoding="utf-8")
            about.append({"file": file, "task": task.name, "instruction": task.instruction})
        (temporary / "tasks.json").write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")


def main(run: Path, out: Path | None = None, /, *, real: bool = False) -> None:
    """Replace the checkpoints inside the package.

    Args:
        run: Folder of a finished run of recipes/embedded.yaml.
        out: Folder for the results; by default the one inside the package.
        real: The run is one of recipes/smollm2.yaml: its translator and ten soft prompts go to `smollm2`.
    """
    if real:
        install_real(run, *([out] if out else []))
    else:
        install(run, out or EMBEDDED)


if __name__ == "__main__":
    run_script(main)
