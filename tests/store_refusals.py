"""How a store is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from chat_server.store import Store, StoreError


def refusal(database: str | Path, kind: type[StoreError]) -> str:
    """The one sentence with which a database is refused."""
    with pytest.raises(kind) as refused:
        Store.open(str(database))
    assert type(refused.value) is kind
    message = str(refused.value)
    assert message.startswith("the ") and "\n" not in message and not message.endswith(".")
    assert message.count("the store") <= 1
    return message
