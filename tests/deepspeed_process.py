"""One of the processes of tests/translator/test_deepspeed.py: trains tiny translators under DeepSpeed, and saves."""

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from soft2hard.translator.processes import process_group_ended
from soft2hard.translator.training import train_translator
from tests import tiny_training

if os.environ.get("DS_ACCELERATOR") == "cpu" and find_spec("deepspeed"):  # where the processes come from
    import accelerate.utils.deepspeed  # noqa: F401
    import deepspeed

PLAIN = {"epochs": 4, "batch_size": 3, "lr": 0.02, "noise": 0.0, "paraphrase_share": 0.0}
"""18 pairs, three pairs for each of two processes: three steps an epoch. Nothing is drawn, so curves can be equal."""


def main(folder: Path, names: Sequence[str], environment: dict[str, str], log: Path) -> None:
    """Leaves in a folder for each configuration what any training leaves; what is said goes to a file."""
    from accelerate.state import AcceleratorState

    os.environ |= environment
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    # DeepSpeed would compile shared-memory collectives for the CPU; gloo serves, and needs no compiler.
    deepspeed.ops.__compatible_ops__ = defaultdict(bool)
    subject = tiny_training.llama_subject()
    corpus, validation = tiny_training.corpora(subject)
    with process_group_ended():
        for name in names:
            AcceleratorState._reset_state()  # of the last configuration
            config = tiny_training.config(**PLAIN, deepspeed=name)
            translator = tiny_training.translator(subject, dropout=0.0)
            train_translator(translator, corpus, validation, config, folder / name)
