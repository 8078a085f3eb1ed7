"""The benchmark of tuning throughput runs where there is no GPU too, and its figures fit together."""

import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

WAYS = ("soft2hard", "soft2hard", "PEFT, one by one")


def test_rates_and_ratios_of_every_number_of_prompts_are_printed() -> None:
    command = [sys.executable, "benchmarks/tuning_throughput.py", "--shape", "tiny", "--steps", "4"]
    command += ["--at-once", "2", "--at-once", "8"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    weights = 1e6 * float(re.search(r"tiny: ([\d.]+) M weights", said)[1])
    peak = 1e12 * float(re.search(r"run at ([\d.]+) TFLOP/s", said)[1])
    number = r"\s+([\d.]+)"
    rows = re.findall(rf"^(soft2hard|PEFT, one by one){number}{number}{number}{number}%{number}x$", said, re.MULTILINE)
    assert [(name, int(n)) for name, n, *_ in rows] == list(zip(WAYS, (2, 8, 1), strict=True))
    for _, _, steps, tokens, share, ratio in rows:
        assert float(ratio) == pytest.approx(float(steps) / float(rows[-1][2]), abs=0.06)
        # What is printed is rounded, the peak most of all.
        assert float(share) / 100 == pytest.approx(4 * weights * float(tokens) / peak, rel=0.6)
