"""Reading a GGUF file: its metadata as plain values, and errors that a person can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_models.errors import ConversionError


class GgufFile:
    """The metadata and the tensors of a GGUF file, which stays mapped and is not read as a whole."""

    def __init__(self, path: Path) -> None:
        """Maps the file.

        Raises:
            ConversionError: there is no such file, or it is not a readable GGUF file.
        """
        # Imported here because only conversion needs it, and it takes a tenth of a second.
        from gguf import GGUFReader

        if not path.is_file():
            raise ConversionError(f"there is no file {path}")
        try:
            reader = GGUFReader(path)
            self.metadata: Mapping[str, Any] = {
                name: field.contents()
                for name, field in reader.fields.items()
                if not name.startswith("GGUF.")
            }
        except (ValueError, LookupError, UnicodeDecodeError, OverflowError, TypeError) as error:
            raise ConversionError(f"{path} is damaged, or is not a GGUF file") from error
        except OSError as error:
            raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
        self.path = path
        self.tensors: Mapping[str, Any] = {tensor.name: tensor for tensor in reader.tensors}

    @property
    def architecture(self) -> str:
        """``general.architecture``, such as ``llama``."""
        return self.text("general.architecture")

    def text(self, key: str) -> str:
        """A text that must be there."""
        value: str = self._typed(key, str, "a text")
        return value

    def number(self, key: str) -> float:
        """A number that must be there."""
        value: float = self._typed(key, int | float, "a number")
        return value

    def count(self, key: str) -> int:
        """A positive whole number that must be there."""
        value: int = self._typed(key, int, "a whole number")
        if value <= 0:
            raise ConversionError(f"{self.path.name} states {value} for {key}")
        return value

    def optional_count(self, key: str) -> int | None:
        """A positive whole number that may be absent."""
        return self.count(key) if key in self.metadata else None

    def flag(self, key: str, default: bool) -> bool:
        """A truth value that may be absent."""
        value: bool = self._typed(key, bool, "true or false") if key in self.metadata else default
        return value

    def entries(self, key: str, kind: type) -> list[Any]:
        """A list that must be there, of which every entry is a ``kind``."""
        values: list[Any] = self._typed(key, list, "a list")
        if not all(isinstance(value, kind) for value in values):
            raise ConversionError(f"{self.path.name} has entries of a wrong type in {key}")
        return values

    def token_id(self, key: str, vocab_size: int) -> int | None:
        """A token id that may be absent."""
        if key not in self.metadata:
            return None
        value: int = self._typed(key, int, "a token id")
        if not 0 <= value < vocab_size:
            raise ConversionError(
                f"{self.path.name} states the token {value} for {key}, of {vocab_size} tokens"
            )
        return value

    def _typed(self, key: str, kind: Any, description: str) -> Any:
        value = self.metadata.get(key)
        if value is None:
            raise ConversionError(f"{self.path.name} does not state {key}")
        if not isinstance(value, kind):
            raise ConversionError(f"{self.path.name} does not state {description} for {key}")
        return value
