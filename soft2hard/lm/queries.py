"""What a subject is asked, and what it answers about a given output."""

from dataclasses import dataclass

from soft2hard.prompts.soft_prompt import Prompt


@dataclass(frozen=True)
class Query:
    """One input under one prompt, with the output to be scored if there is one."""

    prompt: Prompt
    """A soft prompt, a hard prompt, or None (the empty text counts as None)."""
    input: str
    """The text that stands after "Input: "."""
    output: str | None = None
    """The text whose probability is asked for; not read by generation."""


@dataclass(frozen=True)
class TargetScore:
    """How likely a subject finds the output of a query, EOS included."""

    log_likelihood: float
    """Sum over the output's tokens of log p(token | everything before it), in nats."""
    n_tokens: int
    """How many tokens the output has, EOS counted."""
    greedy_match: bool
    """Whether every token, EOS too, is the most likely one: greedy generation would write this output."""
