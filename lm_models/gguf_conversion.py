"""A GGUF file into a Hugging Face model folder.

The same file always gives the same bytes, so that their SHA-256 sums can be known beforehand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lm_models.gguf_file import GgufFile
from lm_models.gguf_tokenizer import special_ids, tokenizer_files
from lm_models.gguf_weights import model_config, write_weights
from lm_models.progress import Progress


def convert_gguf(file: Path, folder: Path, progress: Progress) -> None:
    """Fills an empty folder with ``config.json``, weights and tokenizer.

    Everything that can be refused is refused before the weights are written.

    Raises:
        ConversionError: the file is damaged, or of a kind that cannot be converted.
    """
    gguf = GgufFile(file)
    config = model_config(gguf)
    tokenizer, tokenizer_config = tokenizer_files(gguf)
    ids = special_ids(gguf, config["vocab_size"])
    _write_json(folder / "config.json", config | ids)
    _write_json(folder / "generation_config.json", ids)
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    write_weights(gguf, config, folder / "model.safetensors", progress)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    file.write_text(text + "\n", encoding="utf-8", newline="\n")
