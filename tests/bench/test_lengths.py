from __future__ import annotations

import pytest

from bench.lengths import Lengths


@pytest.mark.parametrize("context_length", [16, 64, 256, 512, 2048, 131072])
def test_nothing_measured_is_longer_than_the_context(context_length: int) -> None:
    lengths = Lengths.within(context_length)
    assert lengths.context + lengths.decoded <= context_length
    # One place must be left for the prompt's first new token.
    assert lengths.prompt + lengths.generated < context_length
    assert all(0 < count <= context_length for count in (*lengths.prefilled, *lengths.reverted))


def test_a_usual_context_gets_the_usual_lengths() -> None:
    assert Lengths.within(2048) == Lengths(
        context=32,
        decoded=128,
        prompt=5,
        generated=200,
        prefilled=(32, 256, 512),
        contexts=(128, 1024),
        reverted=(100, 500),
        speculated=64,
        answered=32,
        long_prompt=2048,
    )
