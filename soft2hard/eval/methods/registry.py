"""All methods by the names that configurations call them; a method's module is imported when it is first built."""

from importlib import import_module

from soft2hard.eval.methods import options

METHODS: dict[str, str] = {
    "soft": "soft2hard.eval.methods.reference_points:SoftPromptItself",
    "gold": "soft2hard.eval.methods.reference_points:GoldInstruction",
    "none": "soft2hard.eval.methods.reference_points:NoPrompt",
    "few-shot": "soft2hard.eval.methods.reference_points:FewShot",
    "few-shot-influence": "soft2hard.eval.methods.influence:InfluentialFewShot",
    "induction": "soft2hard.eval.methods.instruction_induction:InstructionInduction",
    "gepa": "soft2hard.eval.methods.gepa:Gepa",
    "mipro": "soft2hard.eval.methods.mipro:Mipro",
    "nearest-token": "soft2hard.eval.methods.nearest_token:NearestToken",
    "inspect": "soft2hard.eval.methods.inspect_patching:Inspect",
    "inspect-oracle": "soft2hard.eval.methods.inspect_patching:InspectOracle",
    "pez": "soft2hard.eval.methods.pez:Pez",
    "rlprompt": "soft2hard.eval.methods.policies:RLPrompt",
    "pin": "soft2hard.eval.methods.policies:Pin",
    "greedy": "soft2hard.eval.methods.translation:GreedyTranslation",
    "translated": "soft2hard.eval.methods.translation:VerifiedTranslation",
}
"""Module and class of each (see `base.Method`)."""

_OPTIONS = {found.name: found for found in vars(options).values() if hasattr(found, "name")}


def options_of(name: str) -> type:
    """The dataclass of a method's options, with its `name`, `source` and `needs`; no method is imported for it.

    A method that `options` does not know, added to `METHODS` by other code, is its own dataclass of options.
    """
    return _OPTIONS.get(name) or method_of(name)


def method_of(name: str) -> type:
    """The class of a method, which extends that of its options."""
    module, _, found = METHODS[name].partition(":")
    return getattr(import_module(module), found)
