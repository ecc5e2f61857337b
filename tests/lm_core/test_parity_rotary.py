"""Rotary frequencies beside those of ``transformers``, over many settings of every type."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from checkpoints import NEWER

from lm_core.config import LlamaConfig
from lm_core.rotary import inverse_frequencies

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

THETAS = [10.0, 10000.0, 1e6]
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    *({"rope_type": "dynamic", "factor": factor} for factor in (1.0, 2.5)),
    *(
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
        for low, high, original in ((1.0, 4.0, 64), (0.5, 40.0, 8192))
    ),
    *(
        {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **more}
        for factor, original, more in itertools.product(
            (1.0, 4.0, 40.0),
            (16, 512, 32768),
            (
                {},
                {"beta_fast": 8.0, "beta_slow": 0.5},
                {"beta_fast": 1.0, "beta_slow": 1.0},
                {"truncate": False},
                {"mscale": 0.707, "mscale_all_dim": 1.0},
                {"attention_factor": 1.3},
            ),
        )
    ),
]


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("head_dim", [4, 16, 128])
def test_frequencies(theta: float, head_dim: int) -> None:
    """Within and past the trained length."""
    transformers = pytest.importorskip("transformers")
    rope_functions = pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    for scaling, length in itertools.product(SCALINGS, (1, 512, 700, 5000)):
        raw = {**NEWER, "head_dim": head_dim, "rope_parameters": {"rope_theta": theta, **scaling}}
        config = LlamaConfig.from_dict(raw)
        published = transformers.LlamaConfig(
            **{key: value for key, value in raw.items() if key != "architectures"}
        )
        if scaling["rope_type"] == "default":
            rotary = pytest.importorskip("transformers.models.llama.modeling_llama").LlamaRotaryEmbedding
            expected, factor = rotary.compute_default_rope_parameters(published)
        else:
            expected, factor = rope_functions[scaling["rope_type"]](published, "cpu", seq_len=length)
        found, found_factor = inverse_frequencies(config, length)
        np.testing.assert_allclose(found, expected.numpy(), rtol=3e-6, err_msg=str((scaling, length)))
        assert found_factor == pytest.approx(factor, rel=1e-6)
