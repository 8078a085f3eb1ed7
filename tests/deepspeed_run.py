"""One of the processes of tests/translator/test_deepspeed.py: trains tiny translators under DeepSpeed and saves them.

torchrun --nproc_per_node N -m tests.deepspeed_run FOLDER CONFIGURATION...
"""

import sys
from collections import defaultdict
from pathlib import Path

import deepspeed
from accelerate.state import AcceleratorState

from soft2hard.translator.processes import process_group_ended
from soft2hard.translator.training import train_translator
from tests import tiny_training
from tests.deepspeed_settings import PLAIN


def main(folder: Path, names: list[str]) -> None:
    """Leaves in a folder for each configuration what any training leaves."""
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
