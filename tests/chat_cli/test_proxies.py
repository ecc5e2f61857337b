"""Proxies that the environment names: none for this machine, and told of where they cannot be used."""

from __future__ import annotations

import pytest
from chat_clients import ChatServer

from chat_cli.client import ChatClient
from chat_cli.errors import ServerUnreachable
from lm_core.errors import InvalidParameter


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "nonsense://127.0.0.1:9"])
def test_a_proxy_of_the_environment_is_none_for_this_machine(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
    with server.client() as client:
        assert client.health().status == "ok"
    with ChatClient("http://127.9.9.9:1") as other, pytest.raises(ServerUnreachable, match="127.9.9.9"):
        other.health()


def test_an_environment_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was an internal error."""
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:9")
    with pytest.raises(InvalidParameter, match=r"proxy.*nonsense://127.0.0.1:9"):
        ChatClient("http://server.example")
