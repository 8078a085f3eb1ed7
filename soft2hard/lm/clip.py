"""A frozen CLIP: texts and images as directions in one space, from any CLIP of transformers."""

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from soft2hard.errors import UserError, first_line
from soft2hard.lm.loading import READING_ERRORS, load_tokenizer
from soft2hard.lm.settings import Loading

_AT_ONCE = 256  # texts, or images, in one batch


class Clip:
    """A model with `get_text_features` and `get_image_features`, its tokenizer and the pixels that it reads.

    Parameters take no gradient and the model stays in evaluation mode. Raises UserError for a model without text
    projection, whose texts have no place among images.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str, processor: object):
        _check_projection(model, name)
        self.model, self.tokenizer, self.name = model.eval().requires_grad_(False), tokenizer, name
        self._processor = processor
        self._table = model.text_model.get_input_embeddings()
        around = tokenizer("", add_special_tokens=True)["input_ids"]
        self._begin, self._end = list(around[:-1]), list(around[-1:])

    @classmethod
    def from_pretrained(cls, name: str, device: str = "auto") -> "Clip":
        """A CLIP from a folder, or by a name in the local cache or on the hub. Safetensors only, no code.

        Raises UserError where a part of it is missing or damaged, and for a model without text projection.
        """
        where = Loading(device=device).torch_device
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            kind = AutoModel._model_mapping[type(config)]
            _check_projection(kind[0] if isinstance(kind, tuple) else kind, name)
            model, loaded = AutoModel.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            _check_weights(name, loaded["missing_keys"])
            processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        except (*READING_ERRORS, ImportError) as error:
            raise UserError(
                f"The CLIP '{name}' could not be read ({first_line(error)}).",
                "Give a folder that holds config.json, model.safetensors, preprocessor_config.json and a tokenizer, "
                "or the name of such a model.",
            ) from error
        return cls(model.to(where), load_tokenizer(name), name=name, processor=processor)

    @property
    def device(self) -> torch.device:
        return self._table.weight.device

    @property
    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """The table of its text side."""
        return self._table.weight

    @property
    def context_length(self) -> int:
        """Most tokens of a text, those that the tokenizer puts around it included."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def room(self) -> int:
        """Most tokens of a prompt."""
        return self.context_length - len(self._begin) - len(self._end)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Directions (unit vectors) of texts; what does not fit the context (`fits`) is cut off."""
        found = []
        for start in range(0, len(texts), _AT_ONCE):
            rows = self.tokenizer(
                list(texts[start : start + _AT_ONCE]), truncation=True, max_length=self.context_length
            )["input_ids"]
            longest = max(map(len, rows))
            # Padded by the last token, as CLIP's own tokenizer does: the first of its kind is where CLIP looks.
            ids = [[*row, *row[-1:] * (longest - len(row))] for row in rows]
            mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
            ids, mask = (torch.tensor(x, device=self.device) for x in (ids, mask))
            found.append(self._directions(self.model.get_text_features(input_ids=ids, attention_mask=mask)))
        return torch.cat(found)

    def fits(self, texts: Sequence[str]) -> Bool[Tensor, "n"]:
        """Which texts are read to their ends."""
        rows = self.tokenizer(list(texts), truncation=False)["input_ids"]
        return torch.tensor([len(row) <= self.context_length for row in rows], device=self.device)

    def prompts(
        self, ids: Int[Tensor, "batch n"], points: Float[Tensor, "batch n d_model"]
    ) -> Float[Tensor, "batch d"]:
        """Directions of prompts of these tokens, with a gradient to `points`, which stand for their embeddings."""
        begin, end = (torch.tensor(x, dtype=torch.long, device=self.device) for x in (self._begin, self._end))
        rows = torch.cat([begin.expand(len(ids), -1), ids, end.expand(len(ids), -1)], 1)
        read = self._table(rows)
        read = torch.cat([read[:, : len(begin)], points.to(read.dtype), read[:, len(begin) + ids.shape[1] :]], 1)
        # The model looks for the end of a text among ids, so it is given both; the vectors take the table's place.
        hook = self._table.register_forward_hook(lambda module, given, out: read)
        try:
            return self._directions(self.model.get_text_features(input_ids=rows))
        finally:
            hook.remove()

    @torch.no_grad()
    def images(self, paths: Sequence[Path]) -> Float[Tensor, "n d"]:
        """Directions of image files, read by Pillow. Raises UserError for one that cannot be read."""
        found = []
        for start in range(0, len(paths), _AT_ONCE):
            opened = [_opened(path) for path in paths[start : start + _AT_ONCE]]
            pixels = self._processor(images=opened, return_tensors="pt")["pixel_values"].to(self.device)
            found.append(self._directions(self.model.get_image_features(pixel_values=pixels)))
        return torch.cat(found)

    def _directions(self, features: object) -> Float[Tensor, "n d"]:
        """Unit vectors of what the model gives: a tensor, or an output that holds one."""
        return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1)


def need_pillow() -> None:
    """Raise UserError where images cannot be read."""
    if find_spec("PIL") is None:
        raise UserError("Pillow is not installed.", "Run pip install 'soft2hard[vision]'.")


def _opened(path: Path) -> object:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"There is no image {path}.", "Check the path.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} is no image that can be read ({first_line(error)}).", "Give a PNG, JPEG or WebP file."
        ) from error


def _check_projection(model: object, name: str) -> None:
    """Raise UserError for a model, or a class of models, that does not bring texts and images into one space."""
    has_both = all(hasattr(model, method) for method in ("get_text_features", "get_image_features"))
    if not has_both or (isinstance(model, PreTrainedModel) and getattr(model, "text_projection", None) is None):
        raise _no_projection(name)


def _check_weights(name: str, missing: Collection[str]) -> None:
    """Raise UserError where a checkpoint lacks weights, which would be random instead."""
    if any("text_projection" in key for key in missing):
        raise _no_projection(name)
    if missing:
        raise UserError(f"The CLIP '{name}' lacks weights: {', '.join(sorted(missing)[:3])}.", "Save the whole model.")


def _no_projection(name: str) -> UserError:
    return UserError(
        f"'{name}' has no text projection beside an image side, so its texts have no place among images.",
        "Take a whole CLIP, such as openai/clip-vit-base-patch32.",
    )
