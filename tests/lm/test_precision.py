"""Subjects loaded for tuning are the same subjects."""

from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

from soft2hard.compute.precision import has_fast_bf16
from soft2hard.lm.precision import load_for_tuning
from soft2hard.lm.subject import Query, Subject
from tests import tiny_models


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["saved in float32", "saved in bfloat16"])
def saved(request, tmp_path):
    subject = tiny_models.subject("llama")
    deepcopy(subject.model).to(request.param).save_pretrained(tmp_path)  # the subject is shared among tests
    subject.tokenizer.save_pretrained(tmp_path)
    return tmp_path, request.param


def test_loading_for_tuning_keeps_the_fingerprint(saved):
    path, _ = saved
    assert load_for_tuning(path).fingerprint == Subject.from_pretrained(path).fingerprint


def test_only_weights_saved_in_bfloat16_are_tuned_in_it(saved):
    path, dtype = saved
    expected = torch.bfloat16 if dtype == torch.bfloat16 and has_fast_bf16() else torch.float32
    assert load_for_tuning(path).embedding.dtype == expected


def test_weights_are_rounded_and_rotary_frequencies_are_not(saved):
    path, _ = saved
    expected = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    for found in (load_for_tuning(path), Subject.from_pretrained(path, dtype=torch.bfloat16)):
        frequencies = dict(found.model.named_buffers())
        for name, buffer in expected.named_buffers():
            assert torch.equal(frequencies[name], buffer) and frequencies[name].dtype == torch.float32
    assert {p.dtype for p in found.model.parameters()} == {torch.bfloat16}


def test_a_subject_for_tuning_scores_as_the_plain_one_up_to_rounding(saved):
    path, _ = saved
    queries = [Query("red blue", "one two", "three"), Query(None, "one", "two two")]
    plain, tuned = (s.target_scores(queries) for s in (Subject.from_pretrained(path), load_for_tuning(path)))
    for a, b in zip(plain, tuned, strict=True):
        assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=0.05)
