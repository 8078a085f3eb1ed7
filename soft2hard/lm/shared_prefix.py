"""Names of the engine before it was one; goes when its last caller has moved."""

from soft2hard.lm.scoring import EncodedExample, Targets
from soft2hard.lm.subject import Subject


class Runner:
    def __init__(self, subject: Subject):
        self.subject = subject

    def run(self, prompts, examples) -> Targets:
        return self.subject.scorer.run(prompts, examples)


SharedPrefixRunner = RepeatedPrefixRunner = Runner


def encode_example(subject: Subject, input: str, output: str) -> EncodedExample:
    return EncodedExample(subject.encode_body(input, has_prompt=True), subject.encode_output(output))


def make_runner(subject: Subject) -> Runner:
    return Runner(subject)
