"""Puts what has been made of the embedded world into the package."""

import json
import shutil
from pathlib import Path

import torch

from soft2hard.checkpoints import EMBEDDED
from soft2hard.data_gen.tuning import Tuning
from soft2hard.data_gen.world import FINAL_TUNING
from soft2hard.data_gen.world.samples import write_samples
from soft2hard.lm.precision import load_for_tuning
from soft2hard.storage.files import atomic_folder
from soft2hard.translator.model import Translator


def install(world: Path, translator: Path, out: Path = EMBEDDED, tuning: Tuning = FINAL_TUNING) -> None:
    """Copy the models of a world and a translator to `out`, and tune soft prompts of test tasks there."""
    for name in ("subject", "api_model"):
        with atomic_folder(out / name, overwrite=True) as temporary:
            shutil.copytree(world / name, temporary, dirs_exist_ok=True)
    made = Translator.from_pretrained(translator)
    made.save_pretrained(out / "translator", dtype=torch.bfloat16)
    card = Path(__file__).with_name("translator.md.jinja").read_text()
    (out / "translator" / "README.md").write_text(_filled(card, made.card.training))
    write_samples(load_for_tuning(out / "subject"), out / "soft_prompts", tuning)


def _filled(card: str, training: dict) -> str:
    from jinja2 import Template

    return Template(card, keep_trailing_newline=True).render(training=training, settings=json.dumps(training, indent=2))
