"""Does `evaluate` score texts as a reader of the model's own answers would? On a real model, against `generate`.

    python benchmarks/generate_agreement.py --data FOLDER

FOLDER is that of instruction induction (raw/ and annotations/). `soft2hard evaluate` scores eight examples in the
prompt on every task. Then transformers' own `generate` answers the same test inputs under the same texts, one after
another, and its first lines are compared with the wanted outputs. Two scores of a task differ where an end of an output
is missed or another tokenization of the right answer is not taken for it.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from soft2hard.cli.common import AtLeast1
from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError, run_script
from soft2hard.eval.cases import drawn_tasks
from soft2hard.eval.config import Tasks
from soft2hard.eval.metrics.text import rouge

LABEL = "few-shot"


def evaluated(folder: Path, choice: Tasks, k: int, subject: str) -> dict[str, tuple[str, float]]:
    """Of each task the text that `soft2hard evaluate` made and its score."""
    settings = {
        "tasks": choice.model_dump(mode="json", exclude_defaults=True),
        "seeds": [0],
        "subject": subject,
        "translator": "none",
        "reference": "none",
        "tuning": {"steps": 1, "eval_every": 1},  # no soft prompt is asked about here
        "methods": [{"name": "few-shot", "k": k, "label": LABEL}],
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "soft2hard", "evaluate", str(folder / "settings.yaml"), "-o", str(folder / "run")]
    if subprocess.run(command).returncode:
        raise UserError("soft2hard evaluate failed.", "Its message stands above.")
    rows = json.loads((folder / "run" / "results.json").read_text())
    return {row["task"]: (row["prompt"], row["score"]) for row in rows}


@torch.no_grad()
def first_line(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, n_new: int) -> str:
    """What the model writes after a text, up to the line break."""
    read = tokenizer(text, return_tensors="pt")
    written = model.generate(
        **read, max_new_tokens=n_new, do_sample=False, pad_token_id=tokenizer.eos_token_id, repetition_penalty=1.0
    )
    answer = tokenizer.decode(written[0, read["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer.lstrip(" ").split("\n")[0]


def plain(text: str) -> str:
    """Case, white space at the ends and closing punctuation do not count."""
    return re.sub(r"[\s.,;:!?]+$", "", " ".join(text.split()).lower())


def score(task: Task, answers: list[tuple[str, Example]]) -> float:
    """By the task's metric."""
    pairs = [(plain(answer), plain(example.output)) for answer, example in answers]
    if task.metric == "rougeL":
        return sum(rouge(answer, [wanted]).rougeL for answer, wanted in pairs) / len(pairs)
    return sum(answer == wanted for answer, wanted in pairs) / len(pairs)


def main(*, data: Path, subject: str, k: AtLeast1 = 8, n_test: AtLeast1 = 24, n_tasks: AtLeast1 = 24) -> None:
    """Print both scores of each task, their means and the ratio.

    Args:
        data: The folder of instruction induction.
        subject: A causal language model by name or folder, such as the one that scripts/fetch_smollm2 makes.
        k: Examples in the prompt.
        n_test: Test examples of each task.
        n_tasks: Tasks at most.
    """
    choice = Tasks(dod="instruction-induction", folder=data, n=n_tasks, n_test=n_test)
    with TemporaryDirectory() as folder:
        begun = time.perf_counter()
        ours = evaluated(Path(folder), choice, k, subject)
        seconds = time.perf_counter() - begun
    tokenizer = AutoTokenizer.from_pretrained(subject)
    model = AutoModelForCausalLM.from_pretrained(subject, dtype=torch.float32).eval()
    begun, theirs = time.perf_counter(), {}
    for task in drawn_tasks(choice, "test", 0):
        longest = max(len(tokenizer(" " + example.output).input_ids) for example in task.test)
        answers = [
            (first_line(model, tokenizer, f"{ours[task.name][0]}\nInput: {e.input}\nOutput:", max(16, longest)), e)
            for e in task.test
        ]
        theirs[task.name] = score(task, answers)
        print(f"{task.name:32} evaluate {ours[task.name][1]:.3f}   generate {theirs[task.name]:.3f}", flush=True)
    mean_ours, mean_theirs = (sum(values) / len(theirs) for values in ([s for _, s in ours.values()], theirs.values()))
    print(f"mean of {len(theirs)} tasks                 evaluate {mean_ours:.4f}  generate {mean_theirs:.4f}")
    other = time.perf_counter() - begun
    print(f"ratio {mean_ours / mean_theirs:.3f}; evaluate took {seconds:.0f} s, generate {other:.0f} s")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {subject}")


if __name__ == "__main__":
    run_script(main)
