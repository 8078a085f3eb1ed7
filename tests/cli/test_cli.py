"""The command line as a user meets it: results, one-line errors, nothing half-written, reruns that go on."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch

from soft2hard import SoftPrompt, Subject, Translator
from soft2hard.cli import app
from soft2hard.cli.app import COMMANDS
from soft2hard.cli.examples import example_files
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.prompts.template import Template, read_template
from soft2hard.storage.names import embedded_path
from soft2hard.translator.settings import Design, TranslatorTraining
from soft2hard.translator.verification import Verifier
from tests import tiny_models
from tests.command_line import Result, run
from tests.fault_server import FaultServer
from tests.markov import inventing_subject
from tests.paths import SMOLLM2

QUICK = ["--steps", "4", "--eval-every", "2", "--n-tokens", "2"]
ANIMALS = ["cat", "dog", "bird", "fish"]
COLOURS = ["red", "green", "blue"]


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_subject(tmp_path_factory.mktemp("models") / "subject", seed=0)


@pytest.fixture(scope="session")
def translator(subject: Path) -> Path:
    """Tiny, with random weights, large enough that it writes words."""
    base = subject.parent / "base"
    tiny_models.model("t5").save_pretrained(base)
    tiny_models.tokenizer("t5").save_pretrained(base)
    made = Translator.for_subject(Subject.from_pretrained(subject), Design("encoder-decoder", str(base)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.model.seq2seq.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    made.save_pretrained(subject.parent / "translator")
    return subject.parent / "translator"


@pytest.fixture
def prompt(subject: Path, tmp_path: Path) -> Path:
    lm = Subject.from_pretrained(subject)
    path = tmp_path / "prompt.safetensors"
    vectors = torch.randn(2, lm.d_model, generator=torch.Generator().manual_seed(0))
    SoftPrompt(vectors, subject=str(subject), fingerprint=lm.fingerprint, template=Template()).save(path)
    return path


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    return task_file(tmp_path / "kinds.csv", "one", "two")


def save_subject(folder: Path, seed: int) -> Path:
    tiny_models.model("llama", seed).save_pretrained(folder)
    tiny_models.tokenizer("llama").save_pretrained(folder)
    return folder


def task_file(path: Path, animal: str, colour: str, header: str = "# instruction: one or two\n") -> Path:
    rows = [f"{word},{animal}" for word in ANIMALS] + [f"{word},{colour}" for word in COLOURS]
    path.write_text(f"{header}input,output\n" + "\n".join(rows) + "\n")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def interrupt_after(monkeypatch: pytest.MonkeyPatch, n: int) -> Callable[[], None]:
    """Tuning is interrupted, as by Ctrl-C, after `n` tasks; the returned function undoes that."""
    tune = Tuner.tune

    def interrupted(self, tasks):
        for number, tuned in enumerate(tune(self, tasks)):
            if number == n:
                raise KeyboardInterrupt
            yield tuned

    monkeypatch.setattr(Tuner, "tune", interrupted)
    return lambda: monkeypatch.setattr(Tuner, "tune", tune)


# --- help and version


def test_help_and_version_do_not_wait_for_pytorch():
    commands = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["generate", "paraphrases", "-h"]]
    code = f"import sys; from soft2hard.cli import main; [main(command) for command in {commands}]"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "soft2hard tune kinds.csv" in done.stdout


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "soft2hard", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("soft2hard ")


@pytest.mark.parametrize("command", [*COMMANDS, "generate paraphrases", "generate keyword-classification"])
def test_every_flag_has_help(command):
    _, (*_, found), _ = app.parse_commands(command.split())
    arguments = found.assemble_argument_collection(parse_docstring=True) if found.default_command else []
    shown = [argument for argument in arguments if argument.parse and argument.show]
    assert [argument.name for argument in shown if not argument.parameter.help] == []
    assert shown or command == "generate"


def test_flags_have_the_help_and_the_defaults_of_their_settings():
    tuning, further = (" ".join(run(name, "--help").stdout.replace("│", "").split()) for name in ("tune", "finetune"))
    assert f"the learning rate falls to zero over them. [default: {Tuning.steps}]" in tuning
    assert "--tuning-steps" in further and "[default: 0.0005]" in further
    assert f"[default: {TranslatorTraining.epochs}]" in further


def test_the_help_says_what_every_command_does():
    shown = run("--help").stdout
    assert re.findall(r"│ (\w+) +\w+ ", shown)[: len(COMMANDS)] == list(COMMANDS)


def test_an_unknown_flag_is_refused():
    result = run("translate", "x", "--cadidates", "3")
    assert result.exit_code == 2
    assert "--cadidates" in result.stderr


# --- translate


def test_translate_prints_json_with_scores_and_a_verdict(subject, translator, prompt):
    result = run("translate", prompt, "--json", "--subject", subject, "--translator", translator, "--candidates", 4)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["schema_version"] == 2
    (found,) = document["translations"]
    assert found["soft_prompt"] == str(prompt)
    assert found["verdict"] in {"faithful", "doubtful", "failed", "unverified"}
    assert {"text", "greedy", "agreement", "divergence", "n_probes", "probe_source", "candidates"} <= set(found)
    assert document["subject"]["name"] == str(subject) and document["subject"]["precision"] in ("float32", "bfloat16")
    assert document["settings"]["n_candidates"] == 4 and document["settings"]["seed"] == 0
    assert document["versions"]["torch"] == torch.__version__ and "commit" in document
    assert found["translator"] == str(translator)
    assert len(found["chosen_on"]) == found["n_probes"] and set(found["chosen_on"][0]) == {"input", "output"}
    assert found["proposer"] == "translator" and list(found["by_proposer"]) in ([], ["translator"])


def test_translate_verifies_on_the_inputs_of_the_user(subject, translator, prompt, kinds):
    models = ["--subject", subject, "--translator", translator]
    result = run("translate", prompt, "--json", *models, "--candidates", 4, "--examples", kinds, "--probes", 5)
    (found,) = json.loads(result.stdout)["translations"]
    # Of seven inputs, three are too few to judge on.
    assert (found["probe_source"], found["n_probes"], found["n_checks"]) == ("examples", 5, 0)
    assert found["judgement"]["at_least"] is None and found["verdict"] in ("doubtful", "failed")
    assert 0 <= found["agreement"] <= 1
    assert found["divergence"] >= 0


def test_translate_without_verification_needs_no_subject_and_says_so(translator, prompt):
    result = run("translate", prompt, "--no-verify", "--translator", translator, "--subject", "/nowhere")
    assert result.exit_code == 0, result.stderr
    assert str(prompt) in result.stdout
    assert "unverified" in result.stdout


def test_translate_gives_the_same_for_the_same_seed(subject, translator, prompt, kinds):
    command = ["translate", prompt, "--json", "--subject", subject, "--translator", translator]
    command += ["--candidates", 4, "--examples", kinds, "--seed", 7]
    assert run(*command).stdout == run(*command).stdout


def test_translate_takes_a_folder_and_writes_to_a_file(translator, prompt, tmp_path):
    (tmp_path / "more").mkdir()
    SoftPrompt.from_pretrained(prompt).save(tmp_path / "more" / "other.safetensors")
    output = tmp_path / "out" / "found.json"
    result = run("translate", tmp_path, "--json", "--no-verify", "--translator", translator, "--output", output)
    assert (result.exit_code, result.stdout) == (0, "")
    names = [t["soft_prompt"] for t in json.loads(output.read_text())["translations"]]
    assert sorted(names) == sorted([str(tmp_path / "more" / "other.safetensors"), str(prompt)])


def test_translate_refuses_another_subject_and_leaves_the_earlier_output(translator, prompt, tmp_path):
    other = save_subject(tmp_path / "other", seed=5)
    output = tmp_path / "out.txt"
    output.write_text("earlier")
    result = run("translate", prompt, "--subject", other, "--translator", translator, "--output", output)
    assert_refused(result, "subject")
    assert output.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out.txt", "prompt.safetensors"]


@pytest.mark.parametrize(
    ("path", "part"),
    [("nowhere.safetensors", "No such file"), ("broken.safetensors", "damaged"), ("empty.npy", "empty")],
)
def test_translate_refuses_a_bad_soft_prompt_in_one_line(tmp_path, path, part):
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    (tmp_path / "empty.npy").write_bytes(b"")
    assert_refused(run("translate", tmp_path / path), path, part)


def test_translate_refuses_an_output_it_cannot_write_before_it_works(prompt, tmp_path):
    (tmp_path / "folder").mkdir()
    result = run("translate", prompt, "--output", tmp_path / "folder", "--translator", "/nowhere")
    assert_refused(result, "a folder of that name exists")


def test_translate_refuses_a_folder_that_is_no_translator(prompt, tmp_path):
    assert_refused(run("translate", prompt, "--no-verify", "--translator", tmp_path), "not a translator")


# --- translate without a translator


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soft prompt of two birds, beside its subject, which answers "left" to them and "right" to all else."""
    folder = tmp_path_factory.mktemp("birds")
    made = inventing_subject()
    made.model.save_pretrained(folder / "subject")
    made.tokenizer.save_pretrained(folder / "subject")
    lm = Subject.from_pretrained(folder / "subject")
    vectors = lm.embed_text("bird bird").clone()
    prompt = SoftPrompt(vectors, str(folder / "subject"), lm.fingerprint, template=made.template)
    prompt.save(folder / "birds.safetensors")
    return folder / "birds.safetensors"


def inputs_file(path: Path, n: int = 40, outputs: bool = False) -> Path:
    words = ["cat", "dog", "red", "green", "blue", "one", "two"]
    rows = [f"{a} {b}" + ",left" * outputs for a in words for b in words][:n]
    path.write_text("\n".join(["input" + ",output" * outputs, *rows]) + "\n")
    return path


def test_translate_needs_the_soft_prompt_alone(birds):
    """It answers "left" to whatever is asked, and so does every text with a bird in it."""
    result = run("translate", birds)
    assert result.exit_code == 0 and result.stderr == "", result.stderr
    name, text, verdict, origin = result.stdout.splitlines()
    assert name == str(birds) and "bird" in text
    seen = "alike on 16 of 16 other inputs (invented by the subject, the surest of the soft prompt's)"
    assert verdict.startswith(f"  faithful: {seen}, so on at least 83% of such inputs (95% confidence); explains ")
    assert re.fullmatch(r"  found by search \(on the inputs that chose it, .*the best of search explains .*\)", origin)


def test_the_json_holds_the_judgement_and_where_texts_come_from(birds, tmp_path):
    examples = inputs_file(tmp_path / "inputs.csv")
    command = ["translate", birds, "--examples", examples, "--probes", 12, "--max-calls", 3000]
    document = json.loads(run(*command, "--json").stdout)
    assert document["schema_version"] == 2
    (found,) = document["translations"]
    assert (found["probe_source"], found["n_probes"], found["n_checks"]) == ("examples", 12, 28)
    judgement = found["judgement"]
    assert judgement["at_least"] == pytest.approx(0.05 ** (1 / 28)) and judgement["further"] == 0
    assert (found["verdict"], found["agreement"]) == (judgement["verdict"], 1.0) == ("faithful", 1.0)
    assert judgement["text"] == found["text"] and "bird" in found["text"] and judgement["partings"] == []
    assert set(found["by_proposer"]) == {"describe", "search"} and found["proposer"] == "search"
    assert run(*command, "--json").stdout == json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def test_demonstrations_come_with_a_verdict_of_their_own(birds, tmp_path):
    examples = inputs_file(tmp_path / "inputs.csv")
    few = ["--propose", "describe", "--probes", 24, "--examples", examples]
    result = run("translate", birds, *few, "--demonstrations", 2)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    [at] = [i for i, line in enumerate(lines) if line.startswith("  with demonstrations, ")]
    text, *shown = [line.strip() for line in lines[at + 1 :]]
    assert text == lines[1].strip() and len(shown) == 4
    inputs = examples.read_text().split("\n")[1:]
    assert all(line.removeprefix("Input: ") in inputs[:24] for line in shown[::2])
    assert shown[1::2] == ["Output left"] * 2
    refused = run("translate", birds, *few, "--demonstrations", 10, "--output", tmp_path / "out.txt")
    assert_refused(refused, "no room for 10 demonstrations", "--demonstrations")
    assert not (tmp_path / "out.txt").exists()


def test_time_and_calls_bound_the_work_and_a_text_still_comes(birds):
    for limit in (["--max-seconds", 0.001], ["--max-calls", 1]):
        result = run("translate", birds, "--json", *limit)
        (found,) = json.loads(result.stdout)["translations"]
        assert found["text"] and found["judgement"]["n_inputs"] == 16
        assert found["stopped"] and found["by_proposer"].keys() <= {"describe", "search"}


def test_outputs_are_as_long_as_those_of_the_examples(birds, tmp_path, monkeypatch):
    asked = []
    verifier = Verifier.__init__

    def noted(self, lm, most=None):
        asked.append(most)
        verifier(self, lm, most)

    monkeypatch.setattr(Verifier, "__init__", noted)
    few = ["--propose", "search", "--max-seconds", 0.001]
    for examples, flags, expected in (
        (None, [], None),
        (inputs_file(tmp_path / "a.csv"), [], None),
        (inputs_file(tmp_path / "b.csv", outputs=True), [], 16),
        (inputs_file(tmp_path / "b.csv", outputs=True), ["--max-new-tokens", 3], 3),
    ):
        more = [] if examples is None else ["--examples", examples]
        assert run("translate", birds, *few, *more, *flags).exit_code == 0
        assert asked.pop() == expected
    path = inputs_file(tmp_path / "c.csv", outputs=True)
    path.write_text(path.read_text() + "cat," + "left " * 20 + "\n")
    assert run("translate", birds, *few, "--examples", path).exit_code == 0
    assert asked.pop() == 21  # and its end


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--propose", "guess"], "guess"),
        (["--propose", "search", "describe", "guess"], "guess"),
        (["--propose", "translator"], "none was given or fits"),
        (["--max-seconds", "0"], "--max-seconds"),
        (["--max-seconds", "-1"], "--max-seconds"),
        (["--max-calls", "0"], "--max-calls"),
        (["--demonstrations", "-1"], "--demonstrations"),
        (["--translator", "embedded", "--propose", "search"], "--propose does not name it"),
        (["--prior", "embedded"], "another vocabulary"),
        (["--propose", "elicit"], "placeholder"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(birds, tmp_path, monkeypatch, flags, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.txt").write_text("earlier")
    assert_refused(run("translate", birds, *flags, "--output", "out.txt"), part)
    assert files(tmp_path) == {"out.txt": b"earlier"}


def test_a_soft_prompt_that_names_no_model_and_is_of_another_width_than_ours_asks_for_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.ones((20, 768), dtype=np.float32))
    refused = run("translate", tmp_path / "bare.npy")
    assert_refused(refused, "bare.npy does not name the model that it was tuned for, and is 768 wide", "--subject")


@pytest.mark.skipif(not (SMOLLM2 / "config.json").exists(), reason="needs the model that scripts/fetch_smollm2 fetches")
def test_without_verification_the_width_of_a_bare_file_tells_which_translator_reads_it(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.ones((8, 576), dtype=np.float32))
    assert run("translate", tmp_path / "bare.npy", "--no-verify").exit_code == 0


def test_of_a_folder_of_examples_each_soft_prompt_has_the_file_of_its_name_and_is_as_if_alone(tmp_path: Path) -> None:
    samples, tasks = embedded_path("soft_prompts"), tmp_path / "tasks"
    tasks.mkdir()
    for name in ("00-classify", "05-pick"):
        copy(samples / f"{name}.safetensors", tmp_path)
    copy(samples / "00-classify.jsonl", tasks / "00-classify.JSONL")
    rows = [json.loads(line) for line in (samples / "05-pick.jsonl").read_text().splitlines()]
    rows[-1]["output"] = "long " * 20
    (tasks / "05-pick.jsonl").write_text("\n".join(map(json.dumps, rows)))
    quick = ("--candidates", 4, "--json")
    together = run("translate", tmp_path, "--examples", tasks, *quick)
    assert together.exit_code == 0, together.stderr
    kept = ("text", "chosen_on", "judged_on", "max_new_tokens", "template")
    lengths = []
    for found in json.loads(together.stdout)["translations"]:
        path = Path(found["soft_prompt"])
        [file] = tasks.glob(f"{path.stem}.*")
        [alone] = json.loads(run("translate", path, "--examples", file, *quick).stdout)["translations"]
        assert [found[key] for key in kept] == [alone[key] for key in kept]
        lengths.append(found["max_new_tokens"])
    assert lengths[0] == 16 < lengths[1]


def test_soft_prompts_without_a_file_of_their_name_or_with_two_are_refused(tmp_path: Path) -> None:
    samples = embedded_path("soft_prompts")
    copy(samples / "00-classify.safetensors", tmp_path / "other.safetensors")
    refused = run("translate", tmp_path, "--examples", samples, "-o", tmp_path / "out.json")
    assert_refused(refused, "no examples for", "other.safetensors", "other.jsonl")
    (tmp_path / "tasks").mkdir()
    for suffix in ("csv", "txt"):
        (tmp_path / "tasks" / f"other.{suffix}").write_text("input\none\n")
    refused = run("translate", tmp_path, "--examples", tmp_path / "tasks", "-o", tmp_path / "out.json")
    assert_refused(refused, "both have the name of a soft prompt", "other.csv", "other.txt")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("mood.safetensors", "mood"),
        ("mood.v2.safetensors", "mood.v2"),
        ("adapters/mood", "mood"),
        ("adapters/mood/adapter_model.safetensors", "mood"),
        ("hub/models--me--my-mood/snapshots/0a1b2c", "my-mood"),
    ],
)
def test_examples_go_by_the_name_that_people_know_a_soft_prompt_by(path: str, name: str, tmp_path: Path) -> None:
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch() if place.suffix else place.mkdir()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / f"{name}.txt").write_text("one\ntwo\n")
    [found] = example_files(tmp_path / "tasks", [place])
    assert found.inputs == ("one", "two") and found.written == ()


def test_a_card_shows_one_verified_soft_prompt(birds, translator, prompt, tmp_path):
    card = tmp_path / "cards" / "card.html"
    SoftPrompt.from_pretrained(birds).save(tmp_path / "more.safetensors")
    two = [birds, tmp_path / "more.safetensors"]
    assert_refused(run("translate", *two, "--card", card), "A card shows one soft prompt, and there are 2")
    without = ["--no-verify", "--translator", translator]
    assert_refused(run("translate", prompt, *without, "--card", card), "--no-verify runs none")
    assert_refused(run("translate", prompt, *without, "--template", "plain"), "--no-verify runs none")
    assert not card.exists() and not list(tmp_path.rglob("*.tmp*"))
    result = run("translate", birds, "--card", card, "--max-seconds", 0.001)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1].strip() in card.read_text(encoding="utf-8")


def test_inputs_that_are_too_long_for_the_subject_are_left_out_with_a_remark(tmp_path: Path) -> None:
    words = [
        "translate",
        embedded_path("soft_prompts") / "00-classify.safetensors",
        "--candidates",
        2,
        "--probes",
        4,
        "--json",
        "--examples",
        tmp_path / "inputs.txt",
    ]
    inputs, long = (
        [f"{a} {b}" for a in ("dog", "oak", "red") for b in ("rose", "iron", "fish")],
        " ".join(["dog"] * 600),
    )
    (tmp_path / "inputs.txt").write_text("\n".join([*inputs, long]))
    found = run(*words)
    assert found.exit_code == 0, found.stderr
    assert "1 of 10 inputs of" in found.stderr and "left out: too long for 'embedded', which reads 512" in found.stderr
    [translation] = json.loads(found.stdout)["translations"]
    assert long not in {one["input"] for key in ("chosen_on", "judged_on") for one in translation[key]}
    (tmp_path / "inputs.txt").write_text("\n".join(f"{long} {one}" for one in inputs))
    assert_refused(run(*words), "All 9 inputs of", "too long for 'embedded'", "Give shorter ones")


# --- a describer behind an API


def test_outputs_of_the_examples_tell_whether_a_template_fits(tmp_path: Path) -> None:
    sample = embedded_path("soft_prompts") / "00-classify.safetensors"
    np.save(tmp_path / "bare.npy", SoftPrompt.from_pretrained(sample).embeddings.numpy())
    words = ["translate", tmp_path / "bare.npy", "--subject", "embedded", "--examples", sample.with_suffix(".jsonl")]
    words += ["--candidates", 4, "--probes", 4]
    right, wrong = run(*words, "--template", "plain"), run(*words, "--template", "Text: {input}\\nKind:")
    assert (right.exit_code, wrong.exit_code) == (0, 0)
    assert "nats a token" not in right.stderr
    assert wrong.stdout.count("failed:") == 1
    assert wrong.stderr.count("try --template 'Input: {input}\\nOutput: '") == 2  # at once, and beside the verdict
    noise = np.random.default_rng(0).normal(size=(8, 192)).astype("float32")
    np.save(tmp_path / "bare.npy", noise)
    none = run(*words)
    assert none.exit_code == 0 and "makes the outputs in" in none.stderr
    assert "give that with --template" in none.stderr
    assert "if the text around its inputs is the assumed one" in none.stdout
    assert "assumed" not in wrong.stdout


def test_the_template_of_an_adapter_that_records_none_is_found_by_outputs_of_the_examples(tmp_path: Path) -> None:
    examples = embedded_path("soft_prompts") / "00-classify.jsonl"
    under = ("--template", "{input} = {output}", "--steps", 60, "--init", "vocabulary")
    made = run("tune", examples, *under, "-o", tmp_path / "prompts")
    assert made.exit_code == 0, made.stderr
    tuned = SoftPrompt.from_pretrained(tmp_path / "prompts" / "00-classify.safetensors")
    replace(tuned, template=None, fingerprint=None).save_pretrained(tmp_path / "adapter", base_model="mine")
    adapter = tmp_path / "adapter"
    found = run("translate", adapter, "--subject", "embedded", "--examples", examples, "--candidates", 4, "--json")
    assert found.exit_code == 0, found.stderr
    assert "under the template '{input} = " in found.stderr and "which is taken" in found.stderr
    document = json.loads(found.stdout)
    assert "{input} = " in document["translations"][0]["template"]
    assert document["translations"][0]["template_is_assumed"] is False


@pytest.fixture
def from_api(birds, tmp_path) -> list:
    return ["translate", birds, "--propose", "describe", "--describer", "m", "--ledger", tmp_path / "ledger.sqlite"]


def test_a_describer_behind_an_api_is_asked_once_and_its_price_is_shown(birds, from_api, tmp_path):
    with FaultServer(answer=lambda text: "bird two") as server:
        result = run(*from_api, "--describer-url", server.url)
        assert result.exit_code == 0, result.stderr
        assert result.stdout.splitlines()[1:3][0].strip() == "bird two" and "faithful" in result.stdout
        assert result.output.index("Price of all") < result.output.index("bird two")
        first, *_ = result.stderr.splitlines()
        assert "| requests |" in first and "| 32 | 0 |" in result.stderr
        assert len(server.seen) == 1 + 32  # a trial first
        shown = [body["messages"][0]["content"] for body in server.seen[1:]]
        assert all("Output: left" in text or "With the instruction: left" in text for text in shown)
        assert {body["model"] for body in server.seen} == {"m"}
        again = run(*from_api, "--describer-url", server.url)
        assert again.stdout == result.stdout and "| 32 | 32 |" in again.stderr
        assert len(server.seen) == 1 + 32
        assert set(server.paid.values()) == {1}
    assert sorted(files(tmp_path)) == ["ledger.sqlite"]


def test_the_price_is_shown_before_anything_is_asked(from_api):
    with FaultServer(["ok", *["quota"] * 99]) as server:
        result = run(*from_api, "--describer-url", server.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Price of all" in result.stderr and "no quota" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_describer_that_cannot_be_asked_is_one_line(birds, from_api, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    before = sorted(files(tmp_path))
    assert_refused(run(*from_api, "--describer-url", url, "--output", tmp_path / "out"), "Cannot reach")
    with FaultServer(models={"other"}) as server:
        assert_refused(run(*from_api, "--describer-url", server.url), "knows no model 'm'")
    with FaultServer(["401"]) as server:
        assert_refused(run(*from_api, "--describer-url", server.url), "refuses the key")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert_refused(run(*from_api), "OPENAI_API_KEY is not set", "--describer-key-env")
    monkeypatch.delenv("MINE", raising=False)
    assert_refused(run(*from_api, "--describer-key-env", "MINE"), "MINE is not set")
    assert sorted(files(tmp_path)) == before


def test_no_more_is_spent_than_is_allowed(from_api):
    with FaultServer() as server:
        result = run(*from_api, "--describer-url", server.url, "--max-cost", 0)
    assert len(server.seen) <= 1
    assert result.exit_code in (0, 2) and "Traceback" not in result.stderr
    assert "cost" in result.stderr


def test_a_describer_on_this_machine_is_a_folder_or_the_subject_itself(birds, subject):
    for name in ("subject", birds.parent / "subject"):
        result = run("translate", birds, "--propose", "describe", "--describer", name, "--json")
        (found,) = json.loads(result.stdout)["translations"]
        assert found["proposer"] == "describe" and found["text"]


# --- tune


def test_tune_writes_a_soft_prompt_of_the_subject_for_each_task(subject, tmp_path, kinds):
    task_file(tmp_path / "other.csv", "up", "down")
    result = run("tune", kinds, tmp_path / "other.csv", "--subject", subject, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "out").glob("*.safetensors")) == [
        "kinds.safetensors",
        "other.safetensors",
    ]
    soft_prompt = SoftPrompt.from_pretrained(tmp_path / "out" / "kinds.safetensors")
    Subject.from_pretrained(subject).check(soft_prompt)
    assert soft_prompt.n_tokens == 2
    assert soft_prompt.provenance["task"] == "kinds"


def test_words_that_the_subject_does_not_know_are_told_before_they_are_tuned_on(subject, tmp_path, kinds):
    told = "of the tokens of these examples are unknown to the subject"
    (tmp_path / "strange.csv").write_text("input,output\nquux one,zyzzy\nquux two,plugh\nquux four,up\n")
    result = run("tune", tmp_path / "strange.csv", "--subject", subject, "-o", tmp_path / "out", *QUICK)
    assert result.exit_code == 0 and told in result.stderr, result.stderr
    assert "such as 'plugh', 'quux', 'zyzzy'." in result.stderr
    assert told not in run("tune", kinds, "--subject", subject, "-o", tmp_path / "known", *QUICK).stderr


def test_tune_writes_adapters_that_peft_reads(subject, tmp_path, kinds):
    peft = pytest.importorskip("peft")
    run("tune", kinds, "--subject", subject, "--format", "peft", "-o", tmp_path / "out", *QUICK)
    adapter = tmp_path / "out" / "kinds"
    lm = Subject.from_pretrained(subject)
    assert peft.PeftConfig.from_pretrained(str(adapter)).num_virtual_tokens == 2
    wrapped = peft.PeftModel.from_pretrained(lm.model, str(adapter))
    torch.testing.assert_close(wrapped.get_prompt(1)[0], SoftPrompt.from_pretrained(adapter).embeddings)
    assert "virtual tokens" in (adapter / "README.md").read_text()


def test_an_interrupted_tuning_goes_on_where_it_was(subject, tmp_path, kinds, monkeypatch):
    task_file(tmp_path / "other.csv", "up", "down")
    command = ["tune", kinds, tmp_path / "other.csv", "--subject", subject, "--output", tmp_path / "out", *QUICK]
    heal = interrupt_after(monkeypatch, 1)
    result = run(*command)
    assert result.exit_code == 130
    assert "run the same command again" in result.stderr
    first = files(tmp_path / "out")
    assert sum(name.endswith(".safetensors") for name in first) == 1
    heal()
    result = run(*command)
    assert result.exit_code == 0
    assert "made earlier" in result.stdout
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2
    assert first.items() <= files(tmp_path / "out").items()


def test_tune_does_not_go_on_with_other_settings(subject, tmp_path, kinds):
    command = ["tune", kinds, "--subject", subject, "--output", tmp_path / "out", *QUICK]
    run(*command)
    before = files(tmp_path / "out")
    assert_refused(run(*command, "--lr", "0.1"), "other settings (tuning.lr)")
    task_file(kinds, "up", "down")
    assert_refused(run(*command), "other settings (tasks)")
    assert files(tmp_path / "out") == before


def test_tune_refuses_a_folder_in_use_by_something_else(subject, tmp_path, kinds):
    assert_refused(run("tune", kinds, "--subject", subject, "--output", tmp_path, *QUICK), "in use")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kinds.csv"]


BAD_TASKS = {
    "missing column": ("input,answer\ncat,one\n", "no column output"),
    "no examples": ("input,output\n", "no examples"),
    "one class": ("input,output\ncat,one\ndog,one\n", "one output throughout"),
    "too long": (f"input,output\ncat,one\n{'dog ' * 80},two\n", "the subject reads 64"),
}


@pytest.mark.parametrize("case", BAD_TASKS)
def test_tune_refuses_a_bad_task_file_and_writes_nothing(subject, tmp_path, case):
    content, part = BAD_TASKS[case]
    path = tmp_path / "bad.csv"
    path.write_text(content)
    assert_refused(run("tune", path, "--subject", subject, "-o", tmp_path / "out", *QUICK), "bad", part)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "Give either task files or --dod"),
        (["--dod", "nothing"], "There is no DoD 'nothing'"),
        (["--dod", "lexical", "--snapshots", "20,x"], 'snapshot_steps.1 is "x", not a whole number'),
        (["--dod", "lexical", "--steps", "0"], "steps is 0"),
    ],
)
def test_tune_refuses_arguments_that_make_no_sense(subject, tmp_path, arguments, part):
    assert_refused(run("tune", "--subject", subject, "--output", tmp_path / "out", *arguments), part)
    assert not (tmp_path / "out").exists()


def test_a_full_or_forbidden_disk_is_one_line(subject, tmp_path, kinds, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), "somewhere")

    monkeypatch.setattr(os, "replace", full)
    assert_refused(run("tune", kinds, "--subject", subject, "--output", tmp_path / "out", *QUICK), "No space left")
    assert not (tmp_path / "out").exists()


# --- corpus, train, finetune


@pytest.fixture(scope="session")
def corpora(subject: Path) -> dict[str, Path]:
    folder = subject.parent
    for split, n in (("train", 6), ("validation", 3)):
        command = ["tune", "--dod", "lexical", "--split", split, "--n-tasks", n, "--subject", subject]
        result = run(*command, "--snapshots", "2", "--shard-size", 4, "--output", folder / split, *QUICK)
        assert result.exit_code == 0, result.stderr
    return {split: folder / split for split in ("train", "validation")}


TRAIN_QUICKLY = ["--epochs", 1, "--batch-size", 4, "--warmup-steps", 1, "--no-bf16"]


def test_tune_makes_a_corpus_that_train_turns_into_a_translator(subject, corpora, tmp_path):
    output = tmp_path / "translator"
    result = run(
        "train",
        corpora["train"],
        "--validation",
        corpora["validation"],
        "-o",
        output,
        "--subject",
        subject,
        *TRAIN_QUICKLY,
    )
    assert result.exit_code == 0, result.stderr
    path = Path(result.stderr.split("Translator: ")[1].strip())
    trained = Translator.from_pretrained(path)
    trained.bind(Subject.from_pretrained(subject))
    assert trained.card.training["config"]["batch_size"] == 4
    assert result.stdout == ""


def test_train_goes_on_from_a_translator(subject, translator, corpora, tmp_path):
    before = files(translator)
    command = ["train", corpora["train"], "--validation", corpora["validation"], "--subject", subject]
    command += ["--start", translator, *TRAIN_QUICKLY, "--lr", 1e-9]
    result = run(*command, "-o", tmp_path / "on")
    assert result.exit_code == 0, result.stderr
    old, new = (Translator.from_pretrained(path) for path in (translator, tmp_path / "on" / "translator"))
    found = new.model.state_dict()
    for name, tensor in old.model.state_dict().items():  # hardly moved at this rate, so it began there
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-4)
    assert files(translator) == before
    assert_refused(run(*command, "--reads", "both", "-o", tmp_path / "out"), "cannot be changed", "--start")
    elsewhere = ["nowhere" if word == translator else word for word in command]
    assert_refused(run(*elsewhere, "-o", tmp_path / "out"), "nowhere")
    assert not (tmp_path / "out").exists()


def test_train_refuses_to_say_where_tasks_come_from_when_none_are_read(corpora, tmp_path):
    command = ["train", corpora["train"], "--validation", corpora["validation"], "-o", tmp_path / "out"]
    assert_refused(run(*command, "--pretrain-from", "operations"), "--pretrain-tasks")
    assert not (tmp_path / "out").exists()


def test_train_refuses_a_corpus_of_another_subject_and_writes_nothing(corpora, tmp_path):
    other = save_subject(tmp_path / "other", seed=5)
    command = ["train", corpora["train"], "--validation", corpora["validation"], "--subject", other]
    assert_refused(run(*command, "--output", tmp_path / "out"), "another subject")
    assert not (tmp_path / "out").exists()


def test_train_refuses_tasks_that_are_in_both_corpora_and_writes_nothing(subject, corpora, tmp_path):
    command = ["train", corpora["train"], "--validation", corpora["train"], "--subject", subject]
    assert_refused(run(*command, "--output", tmp_path / "out"), "stand in both")
    assert not (tmp_path / "out").exists()


def test_train_refuses_a_folder_that_is_no_corpus(subject, tmp_path):
    command = ["train", tmp_path, "--validation", tmp_path, "--subject", subject, "--output", tmp_path / "out"]
    assert_refused(run(*command), "not a corpus")


@pytest.mark.parametrize(
    "flag",
    [
        "--base",
        pytest.param("--deepspeed", marks=pytest.mark.skipif(not find_spec("deepspeed"), reason="needs DeepSpeed")),
    ],
)
def test_train_refuses_what_it_cannot_read_and_writes_nothing(subject, corpora, tmp_path, flag):
    command = ["train", corpora["train"], "--validation", corpora["validation"], "--subject", subject]
    assert_refused(run(*command, flag, tmp_path / "nowhere", "--output", tmp_path / "out"), "nowhere")
    assert not (tmp_path / "out").exists()


TUNE_QUICKLY = ["--tuning-steps", "4", "--tuning-eval-every", "2", "--tuning-n-tokens", "2"]


def test_finetune_makes_a_new_translator_and_leaves_the_old_one(subject, translator, corpora, tmp_path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for i, (one, two) in enumerate([("one", "two"), ("up", "down"), ("big", "small")]):
        task_file(tasks / f"t{i}.csv", one, two, f"# instruction: {one} or {two}\n")
    before = files(translator)
    command = ["finetune", tasks, "--subject", subject, "--translator", translator, "--output", tmp_path / "out"]
    command += ["--mix", corpora["train"], "--prompts-per-task", 2, *TUNE_QUICKLY, *TRAIN_QUICKLY]
    result = run(*command, "--dtype", "float32")
    assert result.exit_code == 0, result.stderr
    assert files(translator) == before
    tuned = list((tmp_path / "out" / "tuned").glob("*/corpus.json"))
    assert {json.loads(path.read_text())["plan"]["dtype"] for path in tuned} == {"float32"}
    made = Translator.from_pretrained(Path(result.stderr.split("Translator: ")[1].strip()))
    made.bind(Subject.from_pretrained(subject))
    # Two of the three tasks with two soft prompts each, and as many old pairs; one task held out.
    assert made.card.training["train_pairs"] == 8
    assert made.card.training["validation_tasks"] == 1


def test_finetune_without_tuning_reads_examples_alone_and_mixes_in_tasks_of_the_package(tmp_path, subject, translator):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for i, (one, two) in enumerate([("one", "two"), ("up", "down"), ("big", "small")]):
        task_file(tasks / f"t{i}.csv", one, two, f"# instruction: {one} or {two}\n")
    command = ["finetune", tasks, "--prompts-per-task", 0, *TRAIN_QUICKLY]
    result = run(*command, "--mix-made", "lexical", "--mix-ratio", 0.1, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert not (tmp_path / "out" / "tuned").exists()
    assert "3 tasks are taught, and other examples of theirs tell when to stop" in result.stderr
    made = Translator.from_pretrained(Path(result.stderr.split("Translator: ")[1].strip()))
    about = made.card.training
    assert about["train_pairs"] == 64 + 7 and {"one or two", "up or down", "big or small"} <= set(made.trained_on)
    assert f"{about['best_validation_loss']:.3f} nats a token, {about['initial_validation_loss']:.3f}" in result.stderr
    tiny = ["--subject", subject, "--translator", translator, "-o", tmp_path / "tiny"]
    assert_refused(run(*command, *tiny), "This translator reads vectors")
    tuned = [*command[:2], "--prompts-per-task", 1, "--mix-made", "lexical", *tiny]
    assert_refused(run(*tuned), "This translator reads vectors", "--mix-made")
    assert_refused(run(*command, "--tuning-steps", 3, "-o", tmp_path / "tiny"), "--tuning-... is about soft prompts")
    assert_refused(run(*command, "--mix", tmp_path, "-o", tmp_path / "tiny"), "--mix-made")
    assert not (tmp_path / "tiny").exists()


def test_finetune_holds_tasks_out_where_there_are_enough_to_teach_without_tuning(tmp_path):
    for i in range(10):
        task_file(tmp_path / f"t{i}.csv", f"one{i}", "two", f"# instruction: one{i} or two\n")
    command = ["finetune", tmp_path, "--prompts-per-task", 0, *TRAIN_QUICKLY, "-o", tmp_path / "out"]
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    assert "8 tasks are taught; 2 tell when to stop: t" in result.stderr
    record = json.loads((tmp_path / "out" / "translator" / "soft2hard.json").read_text())["training"]
    assert (record["train_pairs"], record["train_tasks"], record["validation_tasks"]) == (64, 8, 2)


def test_finetune_without_tuning_teaches_a_single_task(tmp_path):
    task_file(tmp_path / "one.csv", "up", "down", "# instruction: up or down\n")
    out = tmp_path / "out"
    result = run("finetune", tmp_path / "one.csv", "--prompts-per-task", 0, *TRAIN_QUICKLY, "-o", out)
    assert result.exit_code == 0, result.stderr
    record = json.loads((out / "translator" / "soft2hard.json").read_text())["training"]
    assert (record["train_tasks"], record["validation_tasks"]) == (1, 1)


def test_a_translation_never_replaces_what_is_read(tmp_path):
    sample = embedded_path("soft_prompts") / "00-classify.safetensors"
    copy(sample, tmp_path), copy(sample.with_suffix(".jsonl"), tmp_path)
    for own in (tmp_path / sample.name, tmp_path / f"{sample.stem}.jsonl"):
        before, words = own.read_bytes(), ["--examples", tmp_path / f"{sample.stem}.jsonl", "-o", own]
        assert_refused(run("translate", tmp_path / sample.name, *words), "would replace what is read")
        assert own.read_bytes() == before


def test_neither_a_card_nor_a_translation_is_written_into_what_is_read(tmp_path):
    sample = embedded_path("soft_prompts") / "00-classify.safetensors"
    copy(sample, tmp_path)
    SoftPrompt.from_pretrained(sample).save_pretrained(tmp_path / "adapter", base_model="embedded")
    before = files(tmp_path)
    assert_refused(run("translate", tmp_path / sample.name, "--card", tmp_path / sample.name), "would replace")
    own = tmp_path / "adapter" / "adapter_config.json"
    assert_refused(run("translate", tmp_path / "adapter", "--no-verify", "-o", own), "lie within it")
    assert files(tmp_path) == before


def test_tune_refuses_a_task_whose_outputs_are_all_unknown_words(tmp_path):
    outputs = ("supercalifragile", "qwertz")
    rows = [f"dog {word},{output}" for word in ("red", "rose", "iron", "fish") for output in outputs]
    (tmp_path / "odd.csv").write_text("input,output\n" + "\n".join(rows))
    refused = run("tune", tmp_path / "odd.csv", "-o", tmp_path / "out")
    assert refused.exit_code == 2 and not (tmp_path / "out").exists()
    assert "All outputs of the task 'odd' are the same tokens to 'embedded'" in refused.stderr
    assert refused.stderr.count("--subject smollm2") == 2  # beside the share of unknown words, and as the remedy


def test_finetune_needs_instructions_and_two_tasks(subject, translator, tmp_path, kinds):
    models = ["--subject", subject, "--translator", translator, "--output", tmp_path / "out"]
    assert_refused(run("finetune", kinds, *models, *TUNE_QUICKLY), "single task")
    plain = task_file(tmp_path / "plain.csv", "up", "down", header="")
    assert_refused(run("finetune", kinds, plain, *models, *TUNE_QUICKLY), "no instruction", "'plain'")
    assert not (tmp_path / "out").exists()


def test_finetune_refuses_a_mix_of_other_prompt_lengths(subject, translator, corpora, tmp_path, kinds):
    other = task_file(tmp_path / "other.csv", "up", "down")
    command = ["finetune", kinds, other, "--subject", subject, "--translator", translator, "--mix", corpora["train"]]
    assert_refused(run(*command, "--output", tmp_path / "out"), "--tuning-n-tokens 2")
    assert not (tmp_path / "out").exists()


def test_where_no_sentence_does_what_a_soft_prompt_does_demonstrations_are_offered(tmp_path: Path) -> None:
    noise = torch.randn(8, 192, generator=torch.Generator().manual_seed(0))
    SoftPrompt(noise, template=Template()).save(tmp_path / "noise.safetensors")
    (tmp_path / "inputs.txt").write_text("\n".join(f"{a} {b}" for a in ("dog", "oak") for b in ("red", "iron", "rose")))
    asked = ("translate", tmp_path / "noise.safetensors", "--examples", tmp_path / "inputs.txt", "--candidates", 2)
    plain, shown = run(*asked), run(*asked, "--demonstrations", 2)
    assert "failed" in plain.stdout and "try --demonstrations 8" in plain.stderr
    assert shown.exit_code == 0 and "try --demonstrations" not in shown.stderr


@pytest.mark.parametrize(
    ("template", "named"),
    [(Template(), "plain"), (Template(input_prefix="Q: ", output_prefix="\nA:"), '{"input_prefix": "Q: "')],
)
def test_the_json_of_a_translation_says_the_template_that_the_soft_prompt_records(
    tmp_path: Path, template: Template, named: str
) -> None:
    noise = torch.randn(8, 192, generator=torch.Generator().manual_seed(0))
    SoftPrompt(noise, template=template).save(tmp_path / "p.safetensors")
    (tmp_path / "inputs.txt").write_text("\n".join(f"{a} {b}" for a in ("dog", "oak") for b in ("red", "iron", "rose")))
    asked = ("--examples", tmp_path / "inputs.txt", "--candidates", 2, "--json")
    found = run("translate", tmp_path / "p.safetensors", *asked)
    assert found.exit_code == 0, found.stderr
    written = json.loads(found.stdout)["translations"][0]["template"]
    assert written.startswith(named) and read_template(written).template == template
