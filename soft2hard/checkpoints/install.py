"""Puts what a run has made into the package: python -m soft2hard.checkpoints.install runs/embedded

or, of a run of recipes/smollm2.yaml, its translator and some soft prompts of its evaluation, by
python -m soft2hard.checkpoints.install runs/smollm2 --real
"""

import json
import shutil
from pathlib import Path

import torch
from jinja2 import Template

from soft2hard.checkpoints import EMBEDDED
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world import FINAL_TUNING
from soft2hard.data_gen.world.samples import save_inputs, write_samples
from soft2hard.errors import UserError, run_script
from soft2hard.eval.config import parse_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.report.reading import load_run
from soft2hard.lm.precision import load_for_tuning
from soft2hard.storage.names import SMOLLM2
from soft2hard.storage.yaml_files import read_yaml
from soft2hard.translator.model import Translator

REAL = EMBEDDED.parent / SMOLLM2
"""Where the translator of the real language model comes with the package."""
REAL_INPUTS = Path(__file__).with_name("real_inputs.yaml")
"""Inputs by task, for the soft prompts that come with it."""


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
    _put_translator(made, out / "translator", "translator.md.jinja", base=str(out / "subject"))
    write_samples(load_for_tuning(out / "subject"), out / "soft_prompts", tuning)


def install_real(run: Path, out: Path = REAL, inputs: Path = REAL_INPUTS) -> None:
    """Copy the translator of a run of recipes/smollm2.yaml to `out`, and the soft prompts of its evaluation for whose
    tasks inputs were written.

    Raises UserError where the run has not made them.
    """
    made = run / "translator" / "translator"
    if not made.exists():
        raise UserError(f"{made} is not there.", "Run soft2hard run recipes/smollm2.yaml first.")
    harness = Harness(parse_config(load_run(run / "evaluation").record.config, "run.json"), run / "evaluation")
    cases = harness.cases(harness.config.seeds[0], "test")
    translator = _put_translator(made, out / "translator", "real_translator.md.jinja")
    written = read_yaml(inputs, "inputs by task")
    samples = [(case.task, case.soft_prompt) for case in cases if case.task.name in written]
    if not samples:
        raise UserError(f"The evaluation has no task of {inputs}.", "Evaluate more tasks, or write inputs for these.")
    save_inputs(samples, written, translator.card.subject, out / "soft_prompts")


def _put_translator(made: Path, out: Path, template: str, base: str | None = None) -> Translator:
    """A trained translator at half its size, with a card of this template; `base` is where its subject lies now."""
    translator = Translator.from_pretrained(made, base=base)
    translator.save_pretrained(out, dtype=torch.bfloat16)
    card, training = Template(Path(__file__).with_name(template).read_text()), translator.card.training
    text = card.render(card=translator.card, training=training, settings=json.dumps(training, indent=2))
    (out / "README.md").write_text(text + "\n")
    return translator


def main(run: Path, out: Path | None = None, /, *, real: bool = False) -> None:
    """Replace the checkpoints inside the package.

    Args:
        run: Folder of a finished run of recipes/embedded.yaml, or with --real of recipes/smollm2.yaml.
        out: Folder for the results; by default the one inside the package.
        real: Put the translator and soft prompts of the real language model.
    """
    if real:
        install_real(run, out or REAL)
    else:
        install(run, out or EMBEDDED)


if __name__ == "__main__":
    run_script(main)
