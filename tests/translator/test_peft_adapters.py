"""Adapters tuned by PEFT itself are put into words as well as soft prompts of our own; `benchmarks/peft_adapters.py`
measures it on more tasks, with intervals."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks.peft_adapters import outcomes, tuned_by_peft, tuned_by_us
from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.dods.lexical import LexicalDoD
from soft2hard.data_gen.world import FINAL_TUNING
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.settings import TranslateConfig

MARGIN = 0.15
"""Accuracy on test examples that translations of PEFT's adapters may be worse by: one example in seven."""
QUICK = TranslateConfig(n_candidates=8, n_probes=8, n_checks=4, refine_rounds=0)


def test_adapters_tuned_by_peft_translate_as_well_as_our_own_soft_prompts(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    tasks = [task.record(0, n_train=32) for task in LexicalDoD().draw("test", 3, 0)]
    tuning = replace(FINAL_TUNING, steps=50)
    adapters = [tuned_by_peft(task, tuning, tmp_path / str(i)) for i, task in enumerate(tasks)]
    theirs = outcomes(tasks, [SoftPrompt.from_pretrained(adapter) for adapter in adapters], QUICK)
    ours = outcomes(tasks, tuned_by_us(Subject.from_pretrained(embedded_path("subject")), tasks, tuning), QUICK)
    assert fmean(o.soft for o in theirs) > 0.8 and fmean(o.soft for o in ours) > 0.8  # else there is nothing to say
    assert fmean(o.translated for o in theirs) > 0.7
    assert fmean(o.translated for o in theirs) >= fmean(o.translated for o in ours) - MARGIN
