"""Two tokenizers small enough to be known by heart, of the two kinds that Llama models have."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

BYTE_LEVEL_SPECIAL = ("<|begin|>", "<|im_start|>", "<|im_end|>")
BYTE_FALLBACK_SPECIAL = ("<unk>", "<s>", "</s>")


def byte_level() -> Tokenizer:
    """GPT-2's kind: every byte is a letter of its own alphabet, and spaces belong to words.

    Ids 0 to 2 are special, 3 to 258 the bytes in the order of their letters, then come the merges.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"), ("Ġ", "and"), ("Ċ", "Ċ")]
    vocab = _numbered([*BYTE_LEVEL_SPECIAL, *letters, *("".join(pair) for pair in merges)])
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer, BYTE_LEVEL_SPECIAL, beginning="<|begin|>")


def byte_fallback(normalized: bool = False) -> Tokenizer:
    """SentencePiece's kind: a space goes before the text, and what is not in the vocabulary is bytes.

    Ids 0 to 2 are special, 3 to 258 the bytes in order, then come letters and merges.
    """
    pieces = ["▁", *"abcdehnt"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("a", "n"), ("an", "d"), ("▁", "and"), ("▁", "a")]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    joined = ["".join(pair) for pair in merges]
    vocab = _numbered([*BYTE_FALLBACK_SPECIAL, *bytes_, *pieces, *joined])
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(tokenizer, BYTE_FALLBACK_SPECIAL, beginning="<s>", normalized=normalized)


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _finished(
    tokenizer: Tokenizer, special: tuple[str, ...], beginning: str, normalized: bool = False
) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, normalized=normalized) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{beginning} $A", special_tokens=[(beginning, tokenizer.token_to_id(beginning))]
    )
    return tokenizer
