"""What a translator's language model reads of a soft prompt: its vectors, and the subject's hidden states over them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from soft2hard.errors import UserError
from soft2hard.lm.subject import Subject

_EPSILON = 1e-6


class SoftPromptReader(nn.Module):
    """Maps soft-prompt vectors, and hidden states beside them, into the input space of a language model.

    `x -> (x / scale) W`, where `scale` is the subject's embedding scale and W starts as the identity
    times the model's own embedding scale where the widths agree, else as a random matrix. To this each layer's
    hidden state is added, divided by its root mean square, through a matrix of its own that starts at zero: until
    training opens them, a reader of hidden states is one without.
    """

    def __init__(
        self,
        d_subject: int,
        d_model: int,
        subject_scale: float = 1.0,
        model_scale: float = 1.0,
        *,
        d_hidden: int = 0,
        n_layers: int = 0,
    ):
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(subject_scale)))
        self.projection = nn.Linear(d_subject, d_model, bias=False)
        self.of_layers = nn.ModuleList(nn.Linear(d_hidden, d_model, bias=False) for _ in range(n_layers))
        with torch.no_grad():
            if d_subject == d_model:
                self.projection.weight.copy_(torch.eye(d_model) * model_scale)
            else:
                self.projection.weight.normal_(std=model_scale * d_subject**-0.5)
            for layer in self.of_layers:
                layer.weight.zero_()

    def forward(
        self,
        soft_prompts: Float[Tensor, "batch n d_subject"],
        hidden: Sequence[Float[Tensor, "batch n d_hidden"]] = (),
    ) -> Float[Tensor, "batch n d_model"]:
        read = self.projection(soft_prompts / self.scale)
        for projection, states in zip(self.of_layers, hidden, strict=True):
            rms = states.square().mean(-1, keepdim=True).add(_EPSILON).sqrt()
            read = read + projection(states / rms)
        return read


class HiddenStates:
    """The subject's hidden states at chosen layers over the positions of soft prompts.

    Layer 1 is the output of the first block; a soft prompt stands where it stands in use, after BOS and before the
    rest. Raises UserError for a layer that the subject has not.
    """

    def __init__(self, subject: Subject, layers: Sequence[int]):
        n_layers = subject.model.config.num_hidden_layers
        wrong = [layer for layer in layers if not 1 <= layer <= n_layers]
        if wrong or len(set(layers)) < len(layers):
            raise UserError(
                f"The hidden layers are {', '.join(map(str, layers))}; the subject '{subject.name}' has {n_layers}.",
                f"Give distinct layers from 1 to {n_layers}.",
            )
        self.subject, self.layers = subject, tuple(layers)

    @property
    def d_hidden(self) -> int:
        """Width of a hidden state."""
        return self(torch.zeros(1, 1, self.subject.d_model), torch.ones(1, 1, dtype=torch.long))[0].shape[-1]

    @torch.no_grad()
    def __call__(
        self, soft_prompts: Float[Tensor, "batch n d_subject"], mask: Int[Tensor, "batch n"] | Bool[Tensor, "batch n"]
    ) -> list[Float[Tensor, "batch n d_hidden"]]:
        """One tensor a layer, float32, on the device of `soft_prompts`; padding, on the right, is not attended to."""
        subject, home = self.subject, soft_prompts.device
        bos = subject.prompt_embeddings(None)
        read = torch.cat([bos.expand(len(soft_prompts), -1, -1), soft_prompts.to(bos)], 1)
        seen = torch.cat([mask.new_ones(len(mask), len(bos)), mask], 1).long().to(read.device)
        model = subject.model.get_encoder() if subject.is_encoder_decoder else subject.model.base_model
        extra = {} if subject.is_encoder_decoder else {"use_cache": False}
        states = model(inputs_embeds=read, attention_mask=seen, output_hidden_states=True, **extra).hidden_states
        return [states[layer][:, len(bos) :].float().to(home) for layer in self.layers]
