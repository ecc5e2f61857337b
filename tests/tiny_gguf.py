"""Small GGUF files with random weights in several storage types, written with the ``gguf`` package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from checkpoints import RandomCheckpoint
from gguf import GGMLQuantizationType as Storage

F32 = npt.NDArray[np.float32]

HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, LAYERS, CONTEXT = 64, 96, 4, 2, 2, 128
HEAD_DIM = HIDDEN // HEADS
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_STORAGE = {
    "token_embd": Storage.Q8_0,
    "attn_q": Storage.Q4_1,
    "attn_k": Storage.Q8_0,
    "attn_v": Storage.Q4_1,
    "attn_output": Storage.Q4_0,
    "ffn_gate": Storage.F16,
    "ffn_up": Storage.BF16,
    "ffn_down": Storage.Q5_1,
    "output": Storage.Q8_0,
}
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "Ġ Ġ", "Ċ Ċ", "1 2", "l l", "e ll", "i s", "Ġ is"]


def byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes in a byte-level vocabulary, in order of code point."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def byte_level_tokens() -> list[str]:
    """Special tokens, the byte alphabet, and what ``MERGES`` make."""
    return SPECIAL_TOKENS + byte_alphabet() + [merge.replace(" ", "") for merge in MERGES]


SENTENCE_PIECES = ["▁", "▁t", "he", "▁the", "a", "b", "h", "e", "t", "ll", "l", "o", "▁he", "llo"]


def sentence_piece_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and token types of a SentencePiece vocabulary with byte fallback."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + SENTENCE_PIECES
    scores = [0.0] * 259 + [-float(index) for index in range(len(SENTENCE_PIECES))]
    types = [2, 3, 3] + [6] * 256 + [1] * len(SENTENCE_PIECES)
    return tokens, scores, types


def write_tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    tokenizer: str = "gpt2",
    pre: str = "smollm",
    tied: bool = True,
    bias: bool = False,
    extra: dict[str, Any] | None = None,
    extra_tensor: str | None = None,
    tokens: list[str] | None = None,
) -> Path:
    """Writes a two-layer model.  ``extra`` adds texts and whole numbers to the metadata."""
    writer = gguf.GGUFWriter(path, architecture)
    _add_blueprint(writer, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, LAYERS, CONTEXT)
    vocab_size = _add_tokenizer(writer, tokenizer, pre, tokens)
    for key, value in (extra or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    _add_tensors(writer, vocab_size, tied, bias)
    if extra_tensor is not None:
        writer.add_tensor(extra_tensor, np.ones(8, np.float32))
    return _finish(writer, path)


def write_checkpoint_gguf(path: Path, checkpoint: RandomCheckpoint) -> Path:
    """Writes a checkpoint as llama.cpp's ``convert_hf_to_gguf.py`` does, in float32.

    Its ``LlamaModel.permute`` is repeated here: it pairs up the rows that rotate together.
    """
    config = checkpoint.kind.config
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    architecture = config["model_type"]
    writer = gguf.GGUFWriter(path, architecture)
    _add_blueprint(
        writer,
        config["hidden_size"],
        config["intermediate_size"],
        heads,
        kv_heads,
        config["num_hidden_layers"],
        config["max_position_embeddings"],
    )
    _add_tokenizer(writer, "gpt2", "smollm", None)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config["num_hidden_layers"])
    for name, tensor in checkpoint.weights.items():
        if architecture == "llama" and "q_proj" in name:
            tensor = _permute(tensor, heads)
        if architecture == "llama" and "k_proj" in name:
            tensor = _permute(tensor, kv_heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor)
    return _finish(writer, path)


def _permute(weights: F32, heads: int) -> F32:
    rows = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return rows.swapaxes(1, 2).reshape(weights.shape)


def _add_blueprint(
    writer: gguf.GGUFWriter,
    hidden: int,
    feed_forward: int,
    heads: int,
    kv_heads: int,
    layers: int,
    context: int,
) -> None:
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(hidden // heads)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, kind: str, pre: str, tokens: list[str] | None) -> int:
    writer.add_tokenizer_model(kind)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if kind == "gpt2":
        tokens = tokens or byte_level_tokens()
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3] * len(SPECIAL_TOKENS) + [1] * (len(tokens) - len(SPECIAL_TOKENS)))
        writer.add_token_merges(MERGES)
        writer.add_add_bos_token(False)
        writer.add_pad_token_id(2)
        writer.add_chat_template(CHATML)
    else:
        standard, scores, types = sentence_piece_vocabulary()
        tokens = tokens or standard
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
    return len(tokens)


def _add_tensors(writer: gguf.GGUFWriter, vocab_size: int, tied: bool, bias: bool) -> None:
    random = np.random.default_rng(0)

    def add(name: str, rows: int, columns: int) -> None:
        storage = _STORAGE[name.split(".")[-2]]
        values = random.normal(0, 0.3, (rows, columns)).astype(np.float32)
        writer.add_tensor(name, gguf.quants.quantize(values, storage), raw_dtype=storage)

    def add_vector(name: str, size: int) -> None:
        writer.add_tensor(name, random.normal(1, 0.1, size).astype(np.float32))

    add("token_embd.weight", vocab_size, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        add_vector(prefix + "attn_norm.weight", HIDDEN)
        add_vector(prefix + "ffn_norm.weight", HIDDEN)
        for name, rows in (
            ("attn_q", HIDDEN),
            ("attn_k", KV_HEADS * HEAD_DIM),
            ("attn_v", KV_HEADS * HEAD_DIM),
        ):
            add(f"{prefix}{name}.weight", rows, HIDDEN)
            if bias:
                add_vector(f"{prefix}{name}.bias", rows)
        add(prefix + "attn_output.weight", HIDDEN, HIDDEN)
        add(prefix + "ffn_gate.weight", FEED_FORWARD, HIDDEN)
        add(prefix + "ffn_up.weight", FEED_FORWARD, HIDDEN)
        add(prefix + "ffn_down.weight", HIDDEN, FEED_FORWARD)
    add_vector("output_norm.weight", HIDDEN)
    if not tied:
        add("output.weight", vocab_size, HIDDEN)
