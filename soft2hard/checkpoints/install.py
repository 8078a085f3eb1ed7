"""Puts what a run has made into the package: python -m soft2hard.checkpoints.install runs/embedded"""

import json
import shutil
from pathlib import Path

import torch
from jinja2 import Template

from soft2hard.checkpoints import EMBEDDED
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world import FINAL_TUNING
from soft2hard.data_gen.world.samples import write_samples
from soft2hard.errors import UserError, run_script
from soft2hard.lm.precision import load_for_tuning
from soft2hard.translator.model import Translator


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


def main(run: Path, out: Path = EMBEDDED, /) -> None:
    """Replace the checkpoints inside the package.

    Args:
        run: Folder of a finished run of recipes/embedded.yaml.
        out: Folder for the results; by default the one inside the package.
    """
    install(run, out)


if __name__ == "__main__":
    run_script(main)
