"""An exact Llama inference engine in pure NumPy.

The names below are the public interface.  They are imported on first use, so that a program can
set up the processor (:mod:`lm_core.blas`) before NumPy is loaded, and show its help without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_core.config import LlamaConfig
    from lm_core.generation import generate
    from lm_core.kv_cache import KVCache
    from lm_core.model import Llama
    from lm_core.sampler import Sampler, SamplingParams
    from lm_core.tokenizer import StreamDecoder, Tokenizer

__all__ = [
    "KVCache",
    "Llama",
    "LlamaConfig",
    "Sampler",
    "SamplingParams",
    "StreamDecoder",
    "Tokenizer",
    "generate",
]

_MODULE_OF = {
    "KVCache": "kv_cache",
    "Llama": "model",
    "LlamaConfig": "config",
    "Sampler": "sampler",
    "SamplingParams": "sampler",
    "StreamDecoder": "tokenizer",
    "Tokenizer": "tokenizer",
    "generate": "generation",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
