"""The recipe of PIN's ablations as a user runs it, at a tiny size."""

from pathlib import Path

import yaml

from soft2hard.eval.config import read_config
from soft2hard.eval.report import load_run
from soft2hard.eval.report.ablations import ablations
from tests.command_line import run
from tests.paths import ROOT

RECIPE = ROOT / "recipes" / "pin-ablations.yaml"


def test_the_recipe_of_ablations_runs_and_its_report_draws_the_score_by_every_option(tmp_path: Path):
    settings = yaml.safe_load(RECIPE.read_text())
    settings["tasks"] |= {"n": 2, "n_test": 4}
    settings["tuning"] |= {"steps": 1}
    for method in settings["methods"]:
        method |= {"steps": 1, "batch": 2, "hidden": 8}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    done = run("evaluate", tmp_path / "tiny.yaml", "-o", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert "0 of them failed" in done.stdout
    assert run("report", tmp_path / "run").exit_code == 0
    curves = {one.option: one.values for one in ablations(load_run(tmp_path / "run").record.methods)}
    assert curves["k"] == (1000, 5000, 10_000, 20_000, 40_000, 50_272)
    assert [1 / scale for scale in curves["reward_scale"]] == [1, 0.5, 0.2, 0.1, 0.05]
    assert curves["n_tokens"] == (1, 2, 5, 10, 20)
    assert curves["perplexity_weight"] == (0, 0.1, 1)
    assert curves["reverse"] == (0, 0.5, 1)
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f"Score of pin by {option}" in page for option in curves)


def test_the_recipe_has_policies_of_three_sizes_all_else_being_the_same():
    [searches] = [read_config(RECIPE, "policies").methods]
    options = [dict(method.options) for method in searches]
    assert [o.pop("policy", None) for o in options] == [None, "reference", "smollm2"]
    assert options[0] == options[1] == options[2]
