"""soft2hard analyze as a user runs it: on soft prompts of a folder, and on tunings of its own."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist

from soft2hard.cli.analyze import chosen_translator
from soft2hard.errors import UserError
from soft2hard.eval.analysis.experiments import greedy_translation
from soft2hard.eval.analysis.findings import BY_WISH, SECTIONS, NotRun, load_analysis, load_pass, load_tables
from soft2hard.lm.subject import Subject
from soft2hard.prompts.files import find_soft_prompts
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design
from tests.command_line import run
from tests.paths import SHARED
from tests.tiny_training import llama_subject, save_models, write_task

PUBLISHED = SHARED / "published_soft_prompts"
TUNING = ("--n-tokens", 3, "--steps", 6, "--eval-every", 3, "--batch-size", 2)
FEW = ("--workers", 1, "--tunings", 3, "--control-tasks", 1, "--orders", 1)

pytestmark = pytest.mark.usefixtures("without_umap")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_models(tmp_path_factory.mktemp("world"))
    tasks = folder / "tasks"
    tasks.mkdir()
    for name, outputs in (("a", "cat dog"), ("b", "one two three"), ("c", "left right")):
        write_task(tasks / f"{name}.jsonl", outputs)
    return folder


@pytest.fixture(scope="module")
def tunings(world: Path) -> tuple[Path, tuple[object, ...], str]:
    """A folder of an analysis that tuned its own soft prompts, how it was made, and what was printed."""
    models = ("--subject", world / "subject", "--translator", world / "translator")
    command = ("analyze", "--examples", world / "tasks", *models, *TUNING, *FEW, "-o", world / "analysis")
    result = run(*command)
    assert result.exit_code == 0, result.output
    return world / "analysis", command, result.output


def prompts_of(folder: Path, world: Path, n: int = 2) -> Path:
    """Random soft prompts of two tasks, as somebody might have saved them: bare tensors."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for task in "ab":
        for number in range(n):
            np.save(folder / f"{task}-{number}.npy", rng.standard_normal((3, 16)).astype(np.float32))
    return folder


def one_line(*arguments: object) -> str:
    """What a command says that ends in status 2."""
    result = run("analyze", *arguments)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


def test_tunings_give_every_section(tunings: tuple[Path, tuple[object, ...], str]) -> None:
    sections = load_analysis(tunings[0]).sections
    assert [name for name in SECTIONS if name not in sections] == [*BY_WISH]
    assert [name for name, section in sections.items() if isinstance(section, NotRun)] == []
    assert all(section.seconds >= 0 for section in sections.values())


def test_every_task_is_tuned_as_often_as_asked_with_both_seeds_moved(
    tunings: tuple[Path, tuple[object, ...], str],
) -> None:
    analysis = load_analysis(tunings[0])
    main = [row for row in analysis.prompts if row.group == "main"]
    assert [(row.task, row.init_seed, row.order_seed) for row in main] == [
        (task, i, i) for task in "abc" for i in range(3)
    ]
    assert analysis.tuning_seconds > 0


def test_scores_are_the_diagonal_of_the_transfer_matrix(tunings: tuple[Path, tuple[object, ...], str]) -> None:
    analysis = load_analysis(tunings[0])
    accuracy = load_tables(tunings[0], analysis, "transfer")["accuracy"]
    own = accuracy[accuracy["tuned_on"] == accuracy["used_on"]]
    scores = {row.name: row.score for row in analysis.prompts if row.group == "main"}
    assert own["accuracy"].tolist() == pytest.approx([scores[name] for name in own["prompt"]])
    baseline = own.drop_duplicates("used_on").set_index("used_on")["baseline"]
    assert [baseline[task.name] for task in analysis.tasks] == pytest.approx([t.baseline for t in analysis.tasks])
    change = (own["accuracy"] - own["baseline"]).mean()
    assert analysis.sections["transfer"].figures["own"].value == pytest.approx(change)


def test_distances_are_those_of_the_soft_prompts_on_disk(tunings: tuple[Path, tuple[object, ...], str]) -> None:
    pairs = pd.read_parquet(tunings[0] / "tables" / "distances-pairs.parquet")
    passes = [load_pass(tunings[0] / "tunings" / f"vocabulary-{i}-{i}.safetensors") for i in range(3)]
    rows = np.stack([passes[i][task].embeddings.numpy().ravel() for task in range(3) for i in range(3)])
    np.testing.assert_allclose(pairs["frobenius"], pdist(rows.astype(float)))
    names = [f"{task} #{i}" for task in "abc" for i in range(3)]
    assert list(dict.fromkeys([*pairs["first"], *pairs["second"]])) == names


def test_claims_are_printed_with_their_verdicts_and_what_keeps_them_open(
    tunings: tuple[Path, tuple[object, ...], str],
) -> None:
    claims = load_analysis(tunings[0]).sections["claims"].claims
    assert len(claims) == 4 and {claim.verdict for claim in claims} <= {"undecided", "not tested"}
    *_, verdicts, notes = re.split(r"\n *(?=Claims of the study|Notes that qualify)", tunings[2])
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in verdicts.splitlines() if "│" in line]
    assert [row[1] for row in cells if row[1]] == [claim.verdict for claim in claims]
    assert " ".join(row[0] for row in cells if row[0]) == " ".join(claim.text for claim in claims)
    assert notes.count("3 tasks, and a verdict needs 8.") == sum(claim.verdict == "undecided" for claim in claims)
    assert (tunings[0] / "analysis.html").exists()


def test_the_same_command_again_makes_nothing_again(tunings: tuple[Path, tuple[object, ...], str]) -> None:
    before = load_analysis(tunings[0])
    assert run(*tunings[1]).exit_code == 0
    assert load_analysis(tunings[0]) == before


def test_a_folder_of_other_settings_is_refused(tunings: tuple[Path, tuple[object, ...], str]) -> None:
    assert "holds a run made with other settings (tunings)" in one_line(*tunings[1][1:], "--tunings", 2)


def test_a_killed_run_is_resumed_after_its_last_section(tunings: tuple[Path, tuple[object, ...], str]) -> None:
    whole = load_analysis(tunings[0])
    cut = {name: section for name, section in whole.sections.items() if name not in ("maps", "claims")}
    whole.model_copy(update={"sections": cut}).save(tunings[0])
    assert run(*tunings[1]).exit_code == 0
    again = load_analysis(tunings[0])
    assert again.sections["claims"].claims == whole.sections["claims"].claims
    assert again.sections["transfer"] == whole.sections["transfer"]


def test_given_prompts_with_subject_translator_and_examples_get_what_tunings_get(world: Path, tmp_path: Path) -> None:
    models = ("--subject", world / "subject", "--translator", world / "translator", "--examples", world / "tasks")
    models += ("--template", "plain:after")
    given = prompts_of(tmp_path / "prompts", world)
    result = run("analyze", given, *models, "--only", "transfer", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    pairs = [(row["tuned_on"], row["used_on"]) for row in found["tables"]["transfer-pairs"]]
    assert pairs == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]
    assert [row["task"] for row in found["prompts"]] == ["a", "a", "b", "b"]
    assert all(0 <= row["score"] <= 1 for row in found["prompts"])


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published soft prompts are not on this machine")
def test_published_prompts_are_analysed_without_their_subject(tmp_path: Path) -> None:
    result = run("analyze", PUBLISHED, "-o", tmp_path / "found", "--positions", 2)
    assert result.exit_code == 0, result.output
    analysis = load_analysis(tmp_path / "found")
    assert [row.task for row in analysis.prompts] == ["mrpc", "rte", "sst2"]
    prompts = [
        SoftPrompt.from_pretrained(path).embeddings.numpy().astype(float) for path in find_soft_prompts([PUBLISHED])
    ]
    found = load_tables(tmp_path / "found", analysis, "distances")["pairs"]["frobenius"]
    np.testing.assert_allclose(found, pdist(np.stack([prompt.ravel() for prompt in prompts])))
    assert "not run: No subject was given" in result.output


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published soft prompts are not on this machine")
def test_nearest_tokens_of_published_prompts_in_a_table_of_their_width(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((50, 768)).astype(np.float32)
    np.save(tmp_path / "table.npy", table)
    result = run("analyze", PUBLISHED / "rte.npy", "--table", tmp_path / "table.npy", "--only", "extraction", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["tables"]["extraction-tokens"]
    row = SoftPrompt.from_pretrained(PUBLISHED / "rte.npy").embeddings.numpy()[0]
    cosines = table @ row / np.linalg.norm(table, axis=1) / np.linalg.norm(row)
    assert [near["id"] for near in found[:3]] == np.argsort(-cosines)[:3].tolist()


def test_prompts_of_different_widths_have_no_comparison_but_statistics(world: Path, tmp_path: Path) -> None:
    given = prompts_of(tmp_path / "prompts", world)
    np.save(given / "wide.npy", np.ones((3, 20), np.float32))
    said = one_line(given, "-o", tmp_path / "out")
    assert "'a-0.npy' is 16 wide and 'wide.npy' is 20 wide" in said
    assert "Sections that can be run: statistics." in said
    assert not (tmp_path / "out").exists()
    assert run("analyze", given, "--only", "statistics").exit_code == 0


def test_prompts_of_different_subjects_are_refused_in_one_comparison(tmp_path: Path) -> None:
    for seed in (0, 1):
        subject = llama_subject(seed)
        prompt = SoftPrompt(subject.embed_text("red cat"), subject.name, subject.fingerprint)
        prompt.save(tmp_path / f"p{seed}.safetensors")
    said = one_line(tmp_path)
    assert "belong to different subjects" in said
    assert "Sections that can be run: statistics." in said and "extraction" not in said


def test_a_single_prompt_has_no_distances_but_statistics(world: Path, tmp_path: Path) -> None:
    given = prompts_of(tmp_path / "prompts", world) / "a-0.npy"
    assert "There are 1 soft prompts where 2 are compared" in one_line(given, "--only", "distances")
    result = run("analyze", given)
    assert result.exit_code == 0, result.output
    assert "Each soft prompt" in result.output


def test_prompts_of_different_lengths_have_a_transfer_matrix_and_a_page(world: Path, tmp_path: Path) -> None:
    given = prompts_of(tmp_path / "prompts", world, 1)
    np.save(given / "c.npy", np.ones((2, 16), np.float32))
    models = ("--subject", world / "subject", "--examples", world / "tasks", "--template", "plain:after")
    result = run("analyze", given, *models, "--only", "transfer", "-o", tmp_path / "found")
    assert result.exit_code == 0, result.output
    assert "correlations" not in load_analysis(tmp_path / "found").sections["transfer"].tables
    text = (tmp_path / "found" / "analysis.html").read_text(encoding="utf-8")
    assert "Change in accuracy (rows" in text and "Frobenius distance of the tasks" not in text


def test_statistics_of_a_task_need_its_own_prompts_to_be_of_one_length_alone(world: Path, tmp_path: Path) -> None:
    given = prompts_of(tmp_path / "prompts", world)
    for name, n in (("c-0", 2), ("c-1", 2), ("d-0", 2), ("d-1", 4)):
        np.save(given / f"{name}.npy", np.ones((n, 16), np.float32))
    result = run("analyze", given, "--only", "statistics", "--json")
    found = json.loads(result.stdout)
    assert [row["task"] for row in found["tables"]["statistics-tasks"]] == ["a", "b", "c"]
    assert [note.split(":")[0] for note in found["sections"]["statistics"]["notes"]] == ["Task 'd'"]


def test_counts_of_tunings_are_refused_where_soft_prompts_are_given(world: Path, tmp_path: Path) -> None:
    given = prompts_of(tmp_path / "prompts", world, 1)
    for option in ("--n-tasks", "--tunings", "--control-tasks", "--control-tunings", "--steps", "--n-tokens"):
        assert f"{option} is about tunings that the command makes" in one_line(given, option, 1)


def test_files_that_are_named_after_tasks_are_of_those_tasks(world: Path, tmp_path: Path) -> None:
    given = prompts_of(tmp_path / "prompts", world, 1)
    for name in ("sst-2", "sst-5"):
        np.save(given / f"{name}.npy", np.ones((3, 16), np.float32))
    result = run("analyze", given, "--only", "statistics", "--json")
    assert [row["task"] for row in json.loads(result.stdout)["prompts"]] == ["a", "b", "sst-2", "sst-5"]
    printed = " ".join(run("analyze", given, "--only", "statistics").output.split())
    assert "Tasks; --mapping says others" in printed


def test_tunings_of_an_analysis_can_be_analysed_again(
    tunings: tuple[Path, tuple[object, ...], str], world: Path, tmp_path: Path
) -> None:
    models = ("--subject", world / "subject", "--examples", world / "tasks", "--template", "plain:after")
    result = run("analyze", tunings[0] / "tunings", *models, "--only", "transfer", "--json")
    assert result.exit_code == 0, result.output
    found, before = json.loads(result.stdout), load_analysis(tunings[0])
    scores = {(row["task"], row["init"], row["init_seed"], row["order_seed"]): row["score"] for row in found["prompts"]}
    for row in before.prompts:
        assert scores[row.task, row.init, row.init_seed, row.order_seed] == pytest.approx(row.score)
    main = {(row.task, row.init_seed) for row in before.prompts if row.group == "main"}
    assert {(row["task"], row["init_seed"]) for row in found["prompts"] if row["group"] == "given"} == main


def test_other_names_and_tables_are_other_settings(world: Path, tmp_path: Path) -> None:
    given, out = prompts_of(tmp_path / "prompts", world), tmp_path / "out"
    mapping, table = tmp_path / "map.csv", tmp_path / "table.npy"
    mapping.write_text("file,task\na-0.npy,first\n")
    np.save(table, np.eye(16, dtype=np.float32))
    command = (given, "--mapping", mapping, "--table", table, "--only", "statistics", "-o", out)
    assert run("analyze", *command).exit_code == 0
    mapping.write_text("file,task\na-0.npy,second\n")
    assert "holds a run made with other settings (names and tasks)" in one_line(*command)
    mapping.write_text("file,task\na-0.npy,first\n")
    np.save(table, 2 * np.eye(16, dtype=np.float32))
    assert "holds a run made with other settings (embeddings)" in one_line(*command)


def test_what_cannot_be_run_leaves_no_folder_and_names_what_can(world: Path, tmp_path: Path) -> None:
    given = prompts_of(tmp_path / "prompts", world, 1)
    said = one_line(given, "--only", "difficulty", "-o", tmp_path / "out")
    assert "No subject was given" in said and "Sections that can be run: statistics, distances, maps, claims" in said
    models = ("--subject", world / "subject", "--examples", world / "tasks", "--template", "plain:after")
    said = one_line(given, *models, "--only", "difficulty", "-o", tmp_path / "out")
    assert "difficulty" in said and not (tmp_path / "out").exists()


def test_a_subject_of_another_width_is_refused_with_the_file(world: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((3, 20), np.float32))
    said = one_line(tmp_path / "wide.npy", "--subject", world / "subject", "-o", tmp_path / "out")
    assert "wide.npy: " in said and not (tmp_path / "out").exists()


def test_a_table_that_is_not_there_is_one_line(world: Path, tmp_path: Path) -> None:
    assert "There is no file" in one_line(prompts_of(tmp_path / "prompts", world), "--table", tmp_path / "no.npy")


def test_a_translator_of_hidden_states_reads_them_from_the_subject(world: Path, tmp_path: Path) -> None:
    subject = Subject.from_pretrained(world / "subject")
    Translator.for_subject(subject, Design("encoder-decoder", hidden_layers=(1,))).save_pretrained(tmp_path / "hidden")
    translator = chosen_translator(str(tmp_path / "hidden"), None, subject)
    prompts = [
        SoftPrompt.from_pretrained(path) for path in find_soft_prompts([prompts_of(tmp_path / "prompts", world)])
    ]
    assert len(greedy_translation(translator)(prompts)) == 4
    with pytest.raises(UserError, match="trained for another subject"):
        chosen_translator(str(tmp_path / "hidden"), None, llama_subject(1))


def test_a_missing_subject_is_said_with_the_sections_that_need_none(world: Path, tmp_path: Path) -> None:
    said = one_line(prompts_of(tmp_path / "prompts", world), "--only", "transfer")
    assert "Give --subject; statistics, distances and maps work without, and extraction with --table" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Give soft prompts, or one of --dod and --examples"),
        (("--dod", "lexical"), "Tunings need a folder"),
        (("--dod", "lexical", "--examples", "x", "-o", "y"), "Give soft prompts, or one of"),
        (("--dod", "no-such", "-o", "y"), "There is no collection 'no-such'"),
        (("--dod", "super-glue", "-o", "y"), "Give --dod-folder"),
        (("--dod", "lexical", "--dod-folder", "x", "-o", "y"), "--dod-folder belongs to a published collection"),
        (("x.npy", "--dod", "lexical"), "Soft prompts and --dod exclude each other"),
        (("x.npy",), "No such file or folder: x.npy"),
        (("x.npy", "--only", "mops"), "There is no section 'mops'"),
        (("x.npy", "--k", "0"), "k is 0"),
        (("x.npy", "--only", "statistics", "--orders", "3"), "--orders is about positions, not made here"),
    ],
)
def test_bad_options_are_one_line(arguments: tuple[str, ...], said: str) -> None:
    assert said in one_line(*arguments)
