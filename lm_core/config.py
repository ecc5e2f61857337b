"""``config.json`` as a frozen dataclass: which model this is, checked before anything is loaded.

Field names are those of Hugging Face.  Both generations of the format are read: the older one
(``rope_theta``, ``rope_scaling``, ``torch_dtype``) and the newer one (``rope_parameters``, ``dtype``).
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_core.errors import ConfigError, ModelNotFound

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
SUPPORTED_ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")

LARGEST_CONFIG_BYTES = 1 << 20
"""A configuration is a page of text; anything larger is not one."""

MOST_LAYERS = 4096
"""Far beyond any model; keeps a damaged count from costing time before it is compared with the weights."""

LARGEST_NUMBER = 1e30
"""Far beyond any base, factor or epsilon; keeps tables of rotary angles finite."""

_ARCHITECTURE_OF_MODEL_TYPE = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
}


@dataclass(frozen=True)
class RopeParameters:
    """Rotary position embedding: the base frequency and how it is stretched to longer contexts.

    Fields that a ``rope_type`` does not use keep their defaults.  The formulas are in
    :func:`lm_core.rotary.inverse_frequencies`.
    """

    rope_type: str = "default"
    rope_theta: float = 10000.0
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class LlamaConfig:
    """The blueprint of a dense decoder of the Llama family.  Sizes are counts of float32 numbers."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeParameters
    tie_word_embeddings: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    sliding_windows: tuple[int | None, ...]
    """Per layer, how many positions a token sees, itself included; None for all of them."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def context_length(self) -> int:
        """The largest number of tokens a sequence may have.

        ``linear``, ``dynamic`` and ``yarn`` scaling extend what the model was trained on by their
        factor; the other types state the extended length themselves.
        """
        rope = self.rope
        if rope.rope_type in ("linear", "dynamic"):
            return int(self.max_position_embeddings * rope.factor)
        if rope.rope_type == "yarn":
            return max(self.max_position_embeddings, int(rope.original_max_position_embeddings * rope.factor))
        return self.max_position_embeddings

    @classmethod
    def from_pretrained(cls, path: str | Path) -> LlamaConfig:
        """Read ``path/config.json``.

        Raises:
            ModelNotFound: the folder or the file is not there.
            ConfigError: the file is malformed, or describes a model that is not supported.
        """
        return cls.from_dict(read_json_object(Path(path), "config.json"))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> LlamaConfig:
        """Check a parsed ``config.json`` and keep what the engine needs of it."""
        fields = _Fields(raw)
        architecture = _architecture(raw)
        if raw.get("quantization_config") is not None:
            raise ConfigError(
                "config.json asks for quantized weights, which are not supported; use f32, f16 or bf16"
            )
        activation = raw.get("hidden_act", "silu")
        if activation != "silu":
            raise ConfigError(f"config.json has hidden_act {_shown(activation)}; only 'silu' is supported")
        hidden_size = fields.count("hidden_size")
        num_attention_heads = fields.count("num_attention_heads")
        num_key_value_heads = fields.count("num_key_value_heads", default=num_attention_heads)
        if num_attention_heads % num_key_value_heads:
            raise ConfigError(
                f"config.json has num_attention_heads {num_attention_heads}, which is not divisible by "
                f"num_key_value_heads {num_key_value_heads}"
            )
        if raw.get("head_dim") is None and hidden_size % num_attention_heads:
            raise ConfigError(
                f"config.json has hidden_size {hidden_size}, which is not divisible by "
                f"num_attention_heads {num_attention_heads}, and no head_dim"
            )
        head_dim = fields.count("head_dim", default=hidden_size // num_attention_heads)
        if head_dim % 2:
            raise ConfigError(f"config.json has head_dim {head_dim}; rotary embeddings need an even one")
        max_position_embeddings = fields.count("max_position_embeddings")
        num_hidden_layers = fields.count("num_hidden_layers", at_most=MOST_LAYERS)
        vocab_size = fields.count("vocab_size")
        is_qwen2 = architecture == "Qwen2ForCausalLM"
        attention_bias = architecture == "LlamaForCausalLM" and fields.flag("attention_bias")
        return cls(
            architecture=architecture,
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=fields.count("intermediate_size"),
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            max_position_embeddings=max_position_embeddings,
            rms_norm_eps=fields.number("rms_norm_eps", default=1e-6),
            rope=_rope_parameters(raw, max_position_embeddings, head_dim),
            tie_word_embeddings=fields.flag("tie_word_embeddings"),
            qkv_bias=is_qwen2 or attention_bias,
            o_bias=attention_bias,
            mlp_bias=architecture == "LlamaForCausalLM" and fields.flag("mlp_bias"),
            sliding_windows=_sliding_windows(raw, fields, architecture, num_hidden_layers),
            bos_token_id=fields.token_id("bos_token_id", vocab_size),
            eos_token_ids=fields.token_ids("eos_token_id", vocab_size),
        )


def read_json_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in ``folder/name``.

    Raises:
        ModelNotFound: the folder or the file is not there.
        ConfigError: it is not a JSON object, or far too large to be one of a model's settings.
    """
    path = folder / name
    if not folder.is_dir():
        raise ModelNotFound(f"there is no model folder {str(folder)!r}; name a folder that has a config.json")
    if not path.is_file():
        raise ModelNotFound(f"the model folder {str(folder)!r} has no {name}")
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise ConfigError(
                f"{name} is larger than {LARGEST_CONFIG_BYTES} bytes; it cannot be a settings file"
            )
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} in {str(folder)!r} cannot be read as JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ConfigError(f"{name} in {str(folder)!r} holds a JSON {type(parsed).__name__}, not an object")
    return parsed


class _Fields:
    """Typed access to the fields of a parsed ``config.json``; a wrong one is an error by name."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw

    def count(self, name: str, default: int | None = None, at_most: int = (1 << 31) - 1) -> int:
        value = self._raw.get(name)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"config.json has no {name}")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= at_most:
            raise ConfigError(
                f"config.json has {name} {_shown(value)}; it must be a whole number from 1 to {at_most}"
            )
        return value

    def number(self, name: str, default: float | None = None, above: float = 0.0) -> float:
        value = self._raw.get(name)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"config.json has no {name}")
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not above < value <= LARGEST_NUMBER
        ):
            raise ConfigError(
                f"config.json has {name} {_shown(value)}; it must be a number above {above:g} "
                f"and at most {LARGEST_NUMBER:g}"
            )
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._raw.get(name, False)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise ConfigError(f"config.json has {name} {_shown(value)}; it must be true or false")
        return value

    def token_id(self, name: str, vocab_size: int) -> int | None:
        value = self._raw.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
            raise ConfigError(
                f"config.json has {name} {_shown(value)}; it must be a token id below {vocab_size}"
            )
        return value

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        value = self._raw.get(name)
        if not isinstance(value, list):
            single = self.token_id(name, vocab_size)
            return () if single is None else (single,)
        ids = [_Fields({name: item}).token_id(name, vocab_size) for item in value]
        return tuple(item for item in ids if item is not None)


def _architecture(raw: Mapping[str, Any]) -> str:
    named = raw.get("architectures")
    if named is None:
        model_type = raw.get("model_type")
        named = [_ARCHITECTURE_OF_MODEL_TYPE.get(str(model_type), f"model_type {_shown(model_type)}")]
    if not isinstance(named, list) or not named:
        raise ConfigError(f"config.json has architectures {_shown(named)}; it must be a list with a name")
    if named[0] not in SUPPORTED_ARCHITECTURES:
        raise ConfigError(
            f"config.json names the architecture {_shown(named[0])}; "
            f"supported are {', '.join(SUPPORTED_ARCHITECTURES)}"
        )
    return str(named[0])


def _sliding_windows(
    raw: Mapping[str, Any], fields: _Fields, architecture: str, num_hidden_layers: int
) -> tuple[int | None, ...]:
    if architecture == "LlamaForCausalLM" or raw.get("sliding_window") is None:
        return (None,) * num_hidden_layers
    window = fields.count("sliding_window")
    if architecture == "MistralForCausalLM":
        return (window,) * num_hidden_layers
    if not fields.flag("use_sliding_window"):
        return (None,) * num_hidden_layers
    layer_types = raw.get("layer_types")
    if layer_types is None:
        # Zero is a legal count here: every layer slides.
        full_layers = raw.get("max_window_layers", 28)
        if isinstance(full_layers, bool) or not isinstance(full_layers, int):
            raise ConfigError(
                f"config.json has max_window_layers {_shown(full_layers)}; it must be a whole number"
            )
        return tuple(None if layer < full_layers else window for layer in range(num_hidden_layers))
    known = {"full_attention": None, "sliding_attention": window}
    if (
        not isinstance(layer_types, list)
        or len(layer_types) != num_hidden_layers
        or not all(isinstance(layer_type, str) and layer_type in known for layer_type in layer_types)
    ):
        raise ConfigError(
            "config.json has layer_types that do not name "
            "'full_attention' or 'sliding_attention' for each layer"
        )
    return tuple(known[layer_type] for layer_type in layer_types)


def _rope_parameters(raw: Mapping[str, Any], max_position_embeddings: int, head_dim: int) -> RopeParameters:
    """Merge ``rope_parameters``, or ``rope_theta`` with ``rope_scaling``, into one record."""
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise ConfigError(f"config.json has RoPE parameters {_shown(given)}; they must be an object")
    merged = {"rope_theta": raw.get("rope_theta"), **given}
    fields = _Fields(merged)
    rope_type = merged.get("rope_type", merged.get("type", "default"))
    if rope_type not in SUPPORTED_ROPE_TYPES:
        raise ConfigError(
            f"config.json has the RoPE type {_shown(rope_type)}; "
            f"supported are {', '.join(SUPPORTED_ROPE_TYPES)}"
        )
    partial = merged.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise ConfigError(f"config.json has partial_rotary_factor {_shown(partial)}; only 1.0 is supported")
    original = fields.count("original_max_position_embeddings", default=max_position_embeddings)
    rope_theta = fields.number("rope_theta", default=10000.0, above=1.0)
    if rope_type == "default":
        return RopeParameters(rope_theta=rope_theta)
    if rope_type == "dynamic" and head_dim == 2:
        raise ConfigError("config.json has head_dim 2, for which dynamic RoPE is not defined")
    if rope_type == "yarn" and merged.get("factor") is None:
        merged["factor"] = max_position_embeddings / original
    factor = fields.number("factor")
    if factor < 1:
        raise ConfigError(f"config.json has a RoPE factor of {factor}; it must be at least 1")
    if rope_type == "llama3":
        low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
        if low >= high:
            raise ConfigError(
                f"config.json has low_freq_factor {low} and high_freq_factor {high}; "
                "the first must be smaller"
            )
        return RopeParameters(
            rope_type, rope_theta, factor, original, low_freq_factor=low, high_freq_factor=high
        )
    if rope_type == "yarn":
        return RopeParameters(
            rope_type,
            rope_theta,
            factor,
            original,
            beta_fast=_optional_number(fields, merged, "beta_fast") or 32.0,
            beta_slow=_optional_number(fields, merged, "beta_slow") or 1.0,
            attention_factor=_optional_number(fields, merged, "attention_factor"),
            mscale=_optional_number(fields, merged, "mscale"),
            mscale_all_dim=_optional_number(fields, merged, "mscale_all_dim"),
            truncate=merged.get("truncate", True) is not False,
        )
    return RopeParameters(rope_type, rope_theta, factor, original)


def _optional_number(fields: _Fields, merged: Mapping[str, Any], name: str) -> float | None:
    """None for null and for zero, which both mean "the default" in the reference implementation."""
    value = merged.get(name)
    return None if value is None or (value == 0 and not isinstance(value, bool)) else fields.number(name)


def _shown(value: Any) -> str:
    """A value as an error message quotes it: a damaged one may be very long, or nested very deeply."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = 80
    return brief.repr(value)
