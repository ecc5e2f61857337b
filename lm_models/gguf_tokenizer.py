"""The tokenizer of a GGUF file as ``tokenizer.json`` and ``tokenizer_config.json``.

A GGUF file holds the vocabulary, but only the *name* of the rule by which text is split before it
is merged.  The rules below are those under which the models of that name were trained; a name that is
not here is refused, because a wrong split gives wrong tokens without any error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_models.errors import ConversionError
from lm_models.gguf_file import GgufFile

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_SPECIAL_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def _split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL | {"use_regex": False}]}


_PRE_TOKENIZERS: Mapping[str, dict[str, Any]] = {
    "gpt-2": _BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    },
    "llama-bpe": _split_by(_LLAMA3_SPLIT),
    "qwen2": _split_by(_QWEN2_SPLIT),
}


def tokenizer_files(gguf: GgufFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of ``tokenizer.json`` and of ``tokenizer_config.json``.

    Raises:
        ConversionError: the tokenizer is of a kind that is not supported, or its parts do not fit.
    """
    kind = gguf.text("tokenizer.ggml.model")
    tokens = gguf.entries("tokenizer.ggml.tokens", str)
    types = gguf.entries("tokenizer.ggml.token_type", int)
    if len(types) != len(tokens):
        raise ConversionError(f"{gguf.path.name} has {len(tokens)} tokens and {len(types)} token types")
    if kind == "gpt2":
        tokenizer = _byte_level(gguf, tokens)
        # As llama.cpp reads a file that does not say.
        adds_bos = gguf.flag(
            "tokenizer.ggml.add_bos_token", default=gguf.text("tokenizer.ggml.pre") == "llama-bpe"
        )
    elif kind == "llama":
        tokens = [
            _spelled_byte(gguf, token) if type_ == _BYTE else token
            for token, type_ in zip(tokens, types, strict=True)
        ]
        tokenizer = _sentence_piece(gguf, tokens)
        adds_bos = gguf.flag("tokenizer.ggml.add_bos_token", default=True)
    else:
        raise ConversionError(f"{gguf.path.name} has a tokenizer of kind {kind!r}; supported are gpt2, llama")
    if len(set(tokens)) != len(tokens):
        raise ConversionError(f"{gguf.path.name} has the same token more than once")
    config = _tokenizer_config(gguf, tokens, adds_bos)
    tokenizer["added_tokens"] = [
        _added_token(index, token, type_ != _USER_DEFINED)
        for index, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    if adds_bos and "bos_token" in config:
        tokenizer["post_processor"] = _prepend(config["bos_token"], tokens.index(config["bos_token"]))
    return tokenizer, config


def special_ids(gguf: GgufFile, vocab_size: int) -> dict[str, int]:
    """``bos_token_id``, ``eos_token_id`` and ``pad_token_id``, those that are stated."""
    ids = {
        "bos_token_id": gguf.token_id("tokenizer.ggml.bos_token_id", vocab_size),
        "eos_token_id": gguf.token_id("tokenizer.ggml.eos_token_id", vocab_size),
        "pad_token_id": gguf.token_id("tokenizer.ggml.padding_token_id", vocab_size),
    }
    return {name: index for name, index in ids.items() if index is not None}


def _byte_level(gguf: GgufFile, tokens: list[str]) -> dict[str, Any]:
    name = gguf.text("tokenizer.ggml.pre")
    if name not in _PRE_TOKENIZERS:
        raise ConversionError(
            f"{gguf.path.name} splits text by the rule {name!r}; supported are {', '.join(_PRE_TOKENIZERS)}"
        )
    merges = [merge.split(" ") for merge in gguf.entries("tokenizer.ggml.merges", str)]
    if not all(len(merge) == 2 for merge in merges):
        raise ConversionError(f"{gguf.path.name} has a merge that is not of two tokens")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": _PRE_TOKENIZERS[name],
        "post_processor": None,
        "decoder": _BYTE_LEVEL | {"add_prefix_space": True},
        "model": _bpe(tokens, merges, ignore_merges=name == "llama-bpe"),
    }


def _sentence_piece(gguf: GgufFile, tokens: list[str]) -> dict[str, Any]:
    scores = gguf.entries("tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise ConversionError(f"{gguf.path.name} has {len(tokens)} tokens and {len(scores)} scores")
    unknown = gguf.token_id("tokenizer.ggml.unknown_token_id", len(tokens))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizers = [replace]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if gguf.flag("tokenizer.ggml.add_space_prefix", default=True):
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(
            tokens,
            merges_of_scores(tokens, scores),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def merges_of_scores(tokens: list[str], scores: list[float]) -> list[list[str]]:
    """The merges that a SentencePiece vocabulary implies, best first.

    SentencePiece joins the neighbours whose union has the best score; every way to cut a token into
    two tokens is a merge of that score.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    found = []
    for index, token in enumerate(tokens):
        for cut in range(1, len(token)):
            left, right = ids.get(token[:cut]), ids.get(token[cut:])
            if left is not None and right is not None:
                found.append((-scores[index], index, left, right))
    return [[tokens[left], tokens[right]] for _, _, left, right in sorted(found)]


def _bpe(tokens: list[str], merges: list[list[str]], **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": merges,
    }


def _spelled_byte(gguf: GgufFile, token: str) -> str:
    # Old exports hold the character itself where the library looks for its spelled code.
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return token
    if len(token) == 1 and ord(token) < 256:
        return f"<0x{ord(token):02X}>"
    raise ConversionError(f"{gguf.path.name} has the byte token {token!r}, which is not a byte")


def _tokenizer_config(gguf: GgufFile, tokens: list[str], adds_bos: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        # Any more special class of transformers would replace the rules above by its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.count(f"{gguf.architecture}.context_length"),
    }
    for name, key in _SPECIAL_IDS.items():
        index = gguf.token_id(f"tokenizer.ggml.{key}", len(tokens))
        if index is not None:
            config[name] = tokens[index]
    if "tokenizer.chat_template" in gguf.metadata:
        config["chat_template"] = gguf.text("tokenizer.chat_template")
    return config


def _added_token(index: int, content: str, special: bool) -> dict[str, Any]:
    return {
        "id": index,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _prepend(token: str, index: int) -> dict[str, Any]:
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, start, second],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }
