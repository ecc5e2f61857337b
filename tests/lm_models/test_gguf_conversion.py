"""GGUF to a model folder: the weights as the storage types define them, the tokenizer as it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import OLDER, QWEN2, Kind, RandomCheckpoint
from comparisons import assert_agrees
from reference.llama import ReferenceLlama
from safetensors.numpy import load_file
from tiny_gguf import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    SENTENCE_PIECES,
    byte_level_tokens,
    write_checkpoint_gguf,
    write_tiny_gguf,
)

from lm_core.config import LlamaConfig
from lm_core.model import Llama
from lm_core.tokenizer import Tokenizer
from lm_models.checksums import sha256_of
from lm_models.errors import ConversionError
from lm_models.gguf_conversion import convert_gguf
from lm_models.gguf_tokenizer import merges_of_scores
from lm_models.gguf_weights import split_rotary_rows
from lm_models.progress import SilentProgress


def convert(file: Path, folder: Path) -> Path:
    folder.mkdir()
    convert_gguf(file, folder, SilentProgress())
    return folder


def stored(file: Path) -> dict[str, Any]:
    """Every tensor of a GGUF file in float32, by its GGUF name."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(file).tensors
    }


class TestWeights:
    def test_all_storage_types_exactly(self, tiny_gguf: Path, converted: Path) -> None:
        source, weights = stored(tiny_gguf), load_file(converted / "model.safetensors")
        same = {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "model.layers.1.input_layernorm.weight": "blk.1.attn_norm.weight",
            "model.layers.1.post_attention_layernorm.weight": "blk.1.ffn_norm.weight",
            "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
            "model.layers.0.self_attn.o_proj.weight": "blk.0.attn_output.weight",
            "model.layers.1.mlp.gate_proj.weight": "blk.1.ffn_gate.weight",
            "model.layers.1.mlp.up_proj.weight": "blk.1.ffn_up.weight",
            "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        }
        for name, gguf_name in same.items():
            assert weights[name].dtype == np.float32
            np.testing.assert_array_equal(weights[name], source[gguf_name], err_msg=name)
        assert len(weights) == 2 + 9 * LAYERS

    def test_query_and_key_rows_are_put_back(self, tiny_gguf: Path, converted: Path) -> None:
        source, weights = stored(tiny_gguf), load_file(converted / "model.safetensors")
        for name, heads in (("q", HEADS), ("k", KV_HEADS)):
            theirs = source[f"blk.1.attn_{name}.weight"].reshape(heads, HEAD_DIM, HIDDEN)
            ours = weights[f"model.layers.1.self_attn.{name}_proj.weight"].reshape(heads, HEAD_DIM, HIDDEN)
            np.testing.assert_array_equal(ours[:, : HEAD_DIM // 2], theirs[:, 0::2])
            np.testing.assert_array_equal(ours[:, HEAD_DIM // 2 :], theirs[:, 1::2])

    def test_split_rotary_rows_of_a_bias(self) -> None:
        rows = np.arange(8, dtype=np.float32)
        np.testing.assert_array_equal(split_rotary_rows(rows, 2), [0, 2, 1, 3, 4, 6, 5, 7])

    def test_qwen2_rows_stay_and_biases_come_along(self, tmp_path: Path) -> None:
        file = write_tiny_gguf(tmp_path / "q.gguf", architecture="qwen2", pre="qwen2", tied=False, bias=True)
        source, weights = stored(file), load_file(convert(file, tmp_path / "q") / "model.safetensors")
        for name in ("weight", "bias"):
            np.testing.assert_array_equal(
                weights[f"model.layers.0.self_attn.q_proj.{name}"], source[f"blk.0.attn_q.{name}"]
            )
        np.testing.assert_array_equal(weights["lm_head.weight"], source["output.weight"])
        config = LlamaConfig.from_pretrained(tmp_path / "q")
        assert config.architecture == "Qwen2ForCausalLM"
        assert not config.tie_word_embeddings
        Llama.from_pretrained(tmp_path / "q")

    @pytest.mark.parametrize(
        "config",
        [
            OLDER,
            {**OLDER, "tie_word_embeddings": False, "num_key_value_heads": 4},
            {**OLDER, "attention_bias": True, "mlp_bias": True},
            QWEN2,
        ],
    )
    def test_there_and_back(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """A checkpoint written as llama.cpp writes it comes back to the bit, and says what it should say."""
        checkpoint = RandomCheckpoint(Kind({**config, "vocab_size": 300}, seed=7))
        folder = convert(write_checkpoint_gguf(tmp_path / "x.gguf", checkpoint), tmp_path / "x")
        weights = load_file(folder / "model.safetensors")
        assert weights.keys() == checkpoint.weights.keys()
        for name, tensor in checkpoint.weights.items():
            np.testing.assert_array_equal(weights[name], tensor, err_msg=name)
        stated = LlamaConfig.from_pretrained(checkpoint.write(tmp_path / "original"))
        reference = ReferenceLlama(stated, checkpoint.weights)
        model, text = Llama.from_pretrained(folder), [1, *range(3, 40), 299]
        assert_agrees(model.forward(text, model.new_cache(), all_positions=True), reference.forward(text))

    def test_the_same_file_gives_the_same_bytes(
        self, tiny_gguf: Path, converted: Path, tmp_path: Path
    ) -> None:
        again = convert(tiny_gguf, tmp_path / "again")
        names = sorted(file.name for file in converted.iterdir())
        assert names == sorted(file.name for file in again.iterdir())
        assert [sha256_of(again / name) for name in names] == [sha256_of(converted / name) for name in names]


class TestConfig:
    def test_fields(self, converted: Path) -> None:
        config = json.loads((converted / "config.json").read_text())
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert (config["hidden_size"], config["num_hidden_layers"], config["head_dim"]) == (64, 2, 16)
        assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
        assert config["intermediate_size"] == 96
        assert config["max_position_embeddings"] == 128
        # GGUF holds it as a float32.
        assert config["rms_norm_eps"] == 1e-5
        assert config["tie_word_embeddings"] is True
        assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
        generation = json.loads((converted / "generation_config.json").read_text())
        assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


class TestByteLevelTokenizer:
    def test_merges_and_special_tokens(self, converted: Path) -> None:
        tokenizer = Tokenizer.from_pretrained(converted)
        tokens = byte_level_tokens()
        ids = tokenizer.encode("<|im_start|>is the<|im_end|>")
        assert [tokens[index] for index in ids] == ["<|im_start|>", "is", "Ġthe", "<|im_end|>"]
        assert tokenizer.special_ids == {0, 1, 2}
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)

    @pytest.mark.parametrize("text", ["naïve 🐢\n\n\tx  y", "", "   ", "\r\n", "12 3", "\x00é\u202e"])
    def test_any_text_comes_back(self, converted: Path, text: str) -> None:
        tokenizer = Tokenizer.from_pretrained(converted)
        assert tokenizer.decode(tokenizer.encode(text)) == text

    @pytest.mark.parametrize(
        ("pre", "expected"),
        [
            # "12" is a token, "  " is one too: which rule splits decides whether they are found.
            ("smollm", ["a", "ĠĠ", "1", "2"]),
            ("gpt-2", ["a", "Ġ", "Ġ", "12"]),
            ("llama-bpe", ["a", "Ġ", "Ġ", "12"]),
            ("qwen2", ["a", "Ġ", "Ġ", "1", "2"]),
        ],
    )
    def test_rule_of_splitting(self, tmp_path: Path, pre: str, expected: list[str]) -> None:
        folder = convert(write_tiny_gguf(tmp_path / "t.gguf", pre=pre), tmp_path / "t")
        tokens = byte_level_tokens()
        assert [tokens[index] for index in Tokenizer.from_pretrained(folder).encode("a  12")] == expected

    def test_settings(self, converted: Path) -> None:
        settings = json.loads((converted / "tokenizer_config.json").read_text())
        assert settings["bos_token"] == "<|im_start|>"
        assert settings["eos_token"] == settings["pad_token"] == "<|im_end|>"
        assert settings["unk_token"] == "<|endoftext|>"
        assert settings["add_bos_token"] is False
        assert settings["model_max_length"] == 128
        assert settings["chat_template"].startswith("{% for message in messages %}")


class TestSentencePieceTokenizer:
    @pytest.fixture
    def tokenizer(self, tmp_path: Path) -> Tokenizer:
        file = write_tiny_gguf(tmp_path / "s.gguf", tokenizer="llama")
        return Tokenizer.from_pretrained(convert(file, tmp_path / "s"))

    def test_pieces_bytes_and_beginning(self, tokenizer: Tokenizer) -> None:
        pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + SENTENCE_PIECES
        ids = tokenizer.encode("the hello\né")
        expected = ["<s>", "▁the", "▁he", "llo", "<0x0A>", "<0xC3>", "<0xA9>"]
        assert [pieces[index] for index in ids] == expected
        assert tokenizer.decode(ids) == "the hello\né"

    def test_merges_come_best_first(self) -> None:
        tokens = ["a", "b", "ab", "ba", "aba"]
        assert merges_of_scores(tokens, [0.0, 0.0, -2.0, -1.0, -3.0]) == [
            ["b", "a"],
            ["a", "b"],
            ["a", "ba"],
            ["ab", "a"],
        ]

    def test_bytes_of_old_exports_are_spelled(self, tmp_path: Path) -> None:
        characters = [chr(byte) for byte in range(256)]
        pieces = [piece if len(piece) > 1 or ord(piece) > 255 else 3 * piece for piece in SENTENCE_PIECES]
        tokens = ["<unk>", "<s>", "</s>", *characters, *pieces]
        file = write_tiny_gguf(tmp_path / "o.gguf", tokenizer="llama", tokens=tokens)
        tokenizer = Tokenizer.from_pretrained(convert(file, tmp_path / "o"))
        assert tokenizer.token_id("<0x0A>") == 3 + 0x0A
        assert tokenizer.encode("é", add_special_tokens=False)[-2:] == [3 + 0xC3, 3 + 0xA9]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"architecture": "gemma"}, "architecture 'gemma'; supported are llama, qwen2"),
            ({"pre": "tekken"}, "rule 'tekken'; supported are gpt-2, smollm, llama-bpe, qwen2"),
            ({"tokenizer": "bert"}, "tokenizer of kind 'bert'"),
            ({"extra_tensor": "blk.0.ffn_gate_inp.weight"}, "holds the tensor 'blk.0.ffn_gate_inp.weight'"),
            ({"extra_tensor": "rope_freqs.weight"}, r"scales its rotary embedding \(llama3\)"),
            ({"extra": {"llama.rope.scaling.type": "yarn"}}, r"scales its rotary embedding \(yarn\)"),
            ({"extra": {"llama.attention.sliding_window": 40}}, "has a sliding window"),
            ({"extra": {"llama.attention.key_length": 32}}, "rotates 16 of 32 dimensions"),
            ({"extra": {"tokenizer.ggml.padding_token_id": 9999}, "tokenizer": "llama"}, "the token 9999"),
            ({"tokens": byte_level_tokens()[:-1] + ["a"]}, "same token more than once"),
        ],
    )
    def test_unsupported_by_name(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        file = write_tiny_gguf(tmp_path / "x.gguf", **changes)
        with pytest.raises(ConversionError, match=message):
            convert(file, tmp_path / "x")
        assert not (tmp_path / "x" / "model.safetensors").exists()

    @pytest.mark.parametrize("damage", ["no magic", "empty", "metadata cut", "tensors cut"])
    def test_damaged_file(self, tiny_gguf: Path, tmp_path: Path, damage: str) -> None:
        data = tiny_gguf.read_bytes()
        pieces = {
            "no magic": b"x" + data[1:],
            "empty": b"",
            "metadata cut": data[:500],
            "tensors cut": data[:-500],
        }
        (tmp_path / "d.gguf").write_bytes(pieces[damage])
        with pytest.raises(ConversionError, match=r"d\.gguf is damaged, or is not a GGUF file"):
            convert(tmp_path / "d.gguf", tmp_path / "d")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match="there is no file"):
            convert(tmp_path / "absent.gguf", tmp_path / "x")
