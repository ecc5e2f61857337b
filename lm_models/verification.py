"""Is a model folder what it should be: the right bytes, and parts that fit each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lm_core.chat_template import ChatTemplate
from lm_core.checkpoint import SHARD_INDEX, SINGLE_FILE, Checkpoint
from lm_core.config import LlamaConfig, read_json_object
from lm_core.errors import CheckpointError, ModelNotFound, TokenizerError
from lm_core.stop_tokens import stop_token_ids
from lm_core.tokenizer import Tokenizer
from lm_core.weight_shapes import check_tensors
from lm_models.checksums import SUMS_FILE, listed_files, read_sums, sha256_of
from lm_models.errors import ContentsChanged
from lm_models.origin import SOURCE_FILE
from lm_models.progress import Progress

_SAMPLE = "The 12 cats' naïve 🐢 said:\n\n\t“it's   8 o'clock”"
_EXPONENTS = {"F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}
"""The bits of each storage type that are all set in an infinity and in what is not a number."""
_PIECE_ELEMENTS = 1 << 22


def is_model(folder: Path) -> bool:
    """Whether ``folder`` has a configuration and weights, in whatever state."""
    weights = (folder / SINGLE_FILE, folder / SHARD_INDEX)
    return (folder / "config.json").is_file() and any(file.is_file() for file in weights)


def verify(folder: Path, progress: Progress) -> Iterator[str]:
    """Check a model folder; yield one line for each thing that is in order.

    Raises:
        ModelNotFound: there is no such folder.
        ContentsChanged: a file is missing, added, or differs from ``SHA256SUMS``.
        ModelError: configuration, weights, tokenizer and chat template do not fit each other.
    """
    if not folder.is_dir():
        raise ModelNotFound(f"there is no model folder {folder}")
    yield _contents(folder, progress)
    yield from check_parts(folder)
    yield _numbers(folder, progress)
    yield _chat_template(folder)


def check_parts(folder: Path) -> Iterator[str]:
    """Check that the parts of a model folder fit each other, without reading the weights themselves.

    Raises:
        ModelError: they do not, or the model is of a kind that is not supported.
    """
    config = LlamaConfig.from_pretrained(folder)
    yield f"config.json: {config.architecture}, {config.num_hidden_layers} layers, supported"
    checkpoint = Checkpoint.open(folder)
    check_tensors(checkpoint, config)
    yield f"weights: {len(checkpoint.tensors)} tensors, all that the configuration asks for"
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.check_fits(config)
    _check_special_tokens(folder, tokenizer)
    yield _round_trip(tokenizer)
    stops = stop_token_ids(folder, config, tokenizer)
    yield f"end tokens: {', '.join(map(str, sorted(stops))) or 'none'}"


def _contents(folder: Path, progress: Progress) -> str:
    again = "remove the folder and pull the model again"
    sums = read_sums(folder)
    if not sums:
        if (folder / SOURCE_FILE).is_file():
            raise ContentsChanged(f"{folder} lacks {SUMS_FILE}; {again}")
        return f"contents: not compared, there is no {SUMS_FILE}"
    present = set(listed_files(folder))
    if missing := sorted(sums.keys() - present):
        raise ContentsChanged(f"{folder} lacks {missing[0]}; {again}")
    if added := sorted(present - sums.keys()):
        raise ContentsChanged(f"{folder} holds {added[0]}, which {SUMS_FILE} does not list; remove that file")
    total = sum((folder / name).stat().st_size for name in sums)
    with progress.bar("comparing checksums", total) as advance:
        for name, expected in sums.items():
            actual = sha256_of(folder / name, advance)
            if actual != expected:
                raise ContentsChanged(
                    f"{folder / name} is damaged: its sha256 should be {expected} and is {actual}; {again}"
                )
    return f"contents: {len(sums)} files equal {SUMS_FILE}"


def _check_special_tokens(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse settings that name a token which the vocabulary lacks: it would never be found in a text."""
    if not (folder / "tokenizer_config.json").is_file():
        return
    settings = read_json_object(folder, "tokenizer_config.json")
    for name in ("bos_token", "eos_token"):
        token = settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and tokenizer.token_id(content) is None:
            raise TokenizerError(
                f"tokenizer_config.json names the {name} {content!r}, which tokenizer.json does not have"
            )


def _round_trip(tokenizer: Tokenizer) -> str:
    count = f"tokenizer: {tokenizer.vocab_size} tokens, within the vocabulary"
    if tokenizer.decode(tokenizer.encode(_SAMPLE)).lstrip() == _SAMPLE:
        return f"{count}, any text comes back"
    # Lawful: the smallest vocabularies lack characters.
    return f"{count}, not every text comes back"


def _numbers(folder: Path, progress: Progress) -> str:
    checkpoint = Checkpoint.open(folder)
    count = sum(checkpoint[name].size for name in checkpoint.tensors)
    total = sum(checkpoint[name].nbytes for name in checkpoint.tensors)
    with progress.bar("looking at the weights", total) as advance:
        for name, tensor in checkpoint.tensors.items():
            kind, exponent = _EXPONENTS[tensor.dtype]
            bits = checkpoint[name].reshape(-1).view(kind)
            for start in range(0, len(bits), _PIECE_ELEMENTS):
                piece = bits[start : start + _PIECE_ELEMENTS]
                if ((piece & exponent) == exponent).any():
                    raise CheckpointError(
                        f"the weights hold infinities or not-numbers in {name!r}; "
                        "fetch or export the model again"
                    )
                advance(piece.nbytes)
    return f"numbers: {count:,}, all finite"


def _chat_template(folder: Path) -> str:
    template = ChatTemplate.find(folder)
    if template is None:
        return "chat template: none"
    template.render([{"role": "user", "content": "Hello"}])
    return "chat template: renders"
