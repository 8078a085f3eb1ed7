"""What it saves that a causal translator reads a soft prompt once for all its texts, instead of once for each.

    python benchmarks/reading_once.py [TRANSLATOR [SUBJECT]]

The shipped soft prompts of the embedded world, with what they write for their inputs where the translator reads that
too: as many candidates as `translate` asks for, how likely they are, and completions, in turns with and without the
cache. The texts are the same.
"""

import time
from statistics import median

from soft2hard.checkpoints import embedded_path
from soft2hard.data_gen.taskfiles import read_inputs
from soft2hard.errors import run_script
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.candidates import Reading, propose
from soft2hard.translator.causal import CausalTranslator
from soft2hard.translator.model import Translator
from soft2hard.translator.network import Memory


def work(translator: Translator, read: list[SoftPrompt]) -> tuple[float, list[list[str]]]:
    """Processor seconds, and the texts."""
    started = time.process_time()
    texts = propose(translator, read, 64)
    for prompt, some in zip(read, texts, strict=True):
        reading = Reading(translator, prompt)
        reading.log_probs(some)
        reading.complete([translator.encode_instruction(text)[:2] for text in some[:5]])
    return time.process_time() - started, texts


def each(_: CausalTranslator, memory: Memory) -> Memory:
    """Nothing is kept."""
    return memory


def main(translator: str = "embedded", subject: str = "embedded", /, *, rounds: int = 3, n_prompts: int = 8) -> None:
    """Print both, and their ratio.

    Args:
        translator: A translator with a causal language model.
        subject: Its subject, of the embedded world.
        rounds: Times each, in turns; the median counts.
        n_prompts: Soft prompts that are read.
    """
    lm = Subject.from_pretrained(subject)
    model = Translator.from_pretrained(translator, subject=lm)
    files = sorted(embedded_path("soft_prompts").glob("*.safetensors"))[:n_prompts]
    prompts = [SoftPrompt.from_pretrained(file) for file in files]
    read = model.view(lm).of_outputs(prompts, [read_inputs(file.with_suffix(".jsonl")) for file in files], 0)
    seconds: dict[str, list[float]] = {"read once": [], "read for each text": []}
    once = CausalTranslator._cached
    for _ in range(rounds):
        texts = {}
        for name, way in zip(seconds, (once, each), strict=True):
            CausalTranslator._cached = way
            spent, texts[name] = work(model, read)
            seconds[name].append(spent)
        CausalTranslator._cached = once
        assert texts["read once"] == texts["read for each text"]
    found = {name: median(times) for name, times in seconds.items()}
    for name, spent in found.items():
        print(f"{name:20} {spent:6.2f} s of processor time")
    print(f"ratio {found['read for each text'] / found['read once']:.2f}")


if __name__ == "__main__":
    run_script(main)
