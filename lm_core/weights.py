"""The weights of a model, immutable and shared by every session, in the storage they are used in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from lm_core import bfloat16
from lm_core.checkpoint import Checkpoint
from lm_core.config import LlamaConfig
from lm_core.errors import InvalidParameter
from lm_core.linear import Linear, make_linear
from lm_core.weight_shapes import FINAL_NORM, HEAD, check_tensors, embedding_name

F32 = npt.NDArray[np.float32]
Array = TypeVar("Array", bound=npt.NDArray[Any])
Storage = Literal["f32", "bf16"]

STORAGE_CHOICES = ("auto", "f32", "bf16")

WIDENED_BYTES = 64 << 20
"""``auto`` widens a bf16 checkpoint to float32 up to this size.  Weights this small stay in the
processor's cache, where float32 products are fastest; larger ones are bound by memory, where bf16
is half the bytes."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer.  Projections that read the same input are one ``Linear``."""

    input_layernorm: F32
    qkv_proj: Linear
    o_proj: Linear
    post_attention_layernorm: F32
    gate_up_proj: Linear
    down_proj: Linear
    sliding_window: int | None


@dataclass(frozen=True)
class ModelWeights:
    """Everything ``Llama.forward`` multiplies with."""

    storage: Storage
    embed_tokens: Linear
    layers: tuple[LayerWeights, ...]
    norm: F32
    lm_head: Linear

    @property
    def nbytes(self) -> int:
        """Bytes of the matrices, a tied head counted once: what decoding one token has to read."""
        return sum(linear.nbytes for linear in self._linears())

    def _linears(self) -> Iterator[Linear]:
        for layer in self.layers:
            yield from (layer.qkv_proj, layer.o_proj, layer.gate_up_proj, layer.down_proj)
        yield self.lm_head


def load_weights(checkpoint: Checkpoint, config: LlamaConfig, dtype: str) -> ModelWeights:
    """Compare ``checkpoint`` with ``config``, then build the layers over it.

    ``dtype`` is "f32", "bf16", or "auto": the checkpoint's own storage, but float32 for f16 ones
    and for bf16 ones of at most ``WIDENED_BYTES``.

    Raises:
        InvalidParameter: ``dtype`` is none of these.
        CheckpointError: a tensor is missing, left over, or of the wrong shape.
    """
    if dtype not in STORAGE_CHOICES:
        raise InvalidParameter("dtype", f"dtype is {dtype!r}; choose one of {', '.join(STORAGE_CHOICES)}")
    check_tensors(checkpoint, config)
    return _Loader(checkpoint, config, _storage(checkpoint, config, dtype)).load()


def _storage(checkpoint: Checkpoint, config: LlamaConfig, dtype: str) -> Storage:
    if dtype != "auto":
        return "bf16" if dtype == "bf16" else "f32"
    matrices = [tensor for tensor in checkpoint.tensors.values() if len(tensor.shape) == 2]
    if any(tensor.dtype != "BF16" for tensor in matrices) or config.hidden_size % 2:
        return "f32"
    widened_bytes = sum(4 * tensor.shape[0] * tensor.shape[1] for tensor in matrices)
    return "f32" if widened_bytes <= WIDENED_BYTES else "bf16"


class _Loader:
    def __init__(self, checkpoint: Checkpoint, config: LlamaConfig, storage: Storage) -> None:
        self._checkpoint, self._config, self._storage = checkpoint, config, storage

    def load(self) -> ModelWeights:
        config = self._config
        embedding = embedding_name(self._checkpoint, config)
        embed_tokens = self._linear([embedding.removesuffix(".weight")], bias=False)
        return ModelWeights(
            storage=self._storage,
            embed_tokens=embed_tokens,
            layers=tuple(self._layer(index) for index in range(config.num_hidden_layers)),
            norm=self._vector(FINAL_NORM),
            lm_head=embed_tokens
            if config.tie_word_embeddings
            else self._linear([HEAD.removesuffix(".weight")], bias=False),
        )

    def _layer(self, index: int) -> LayerWeights:
        config, prefix = self._config, f"model.layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        return LayerWeights(
            input_layernorm=self._vector(prefix + "input_layernorm.weight"),
            qkv_proj=self._linear(
                [attention + name for name in ("q_proj", "k_proj", "v_proj")], config.qkv_bias
            ),
            o_proj=self._linear([attention + "o_proj"], config.o_bias),
            post_attention_layernorm=self._vector(prefix + "post_attention_layernorm.weight"),
            gate_up_proj=self._linear([mlp + "gate_proj", mlp + "up_proj"], config.mlp_bias),
            down_proj=self._linear([mlp + "down_proj"], config.mlp_bias),
            sliding_window=config.sliding_windows[index],
        )

    def _linear(self, names: Sequence[str], bias: bool) -> Linear:
        parts = [self._matrix(f"{name}.weight") for name in names]
        biases = np.concatenate([self._vector(f"{name}.bias") for name in names]) if bias else None
        return make_linear(parts, biases)

    def _vector(self, name: str) -> F32:
        return self._converted(name, _as_float32)

    def _matrix(self, name: str) -> npt.NDArray[Any]:
        # Pairs of bf16 weights need an even width; a matrix without one is used as float32.
        even = self._checkpoint.tensors[name].shape[1] % 2 == 0
        return self._converted(name, _as_bfloat16 if self._storage == "bf16" and even else _as_float32)

    def _converted(self, name: str, convert: Callable[[npt.NDArray[Any]], Array]) -> Array:
        stored = self._checkpoint[name]
        used = convert(stored)
        if used is not stored:
            # Nobody reads the stored one again, so its pages need not stay beside those of its copy.
            self._checkpoint.release(name)
        return used


def _as_bfloat16(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where it is bf16 bits already."""
    return stored if stored.dtype == np.uint16 else bfloat16.narrow(_as_float32(stored))


def _as_float32(stored: npt.NDArray[Any]) -> F32:
    """The array itself where it is float32 already, so that mapped weights stay mapped."""
    if stored.dtype == np.uint16:
        return bfloat16.widen(stored)
    return stored.astype(np.float32, copy=False)
