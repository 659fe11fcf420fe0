"""Tokenizers without a model: every byte is a token."""

import re
from collections.abc import Sequence

_TURN, _END = "<|turn|>", "<|end|>"


class ByteTokenizer:
    """One token for each byte, and two for the beginning and end of a turn."""

    turn_token_id = 256
    end_token_ids: tuple[int, ...] = (257,)

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        turns = [f"{_TURN}{message['role']}\n{message['content']}{_END}" for message in messages]
        return "".join([*turns, f"{_TURN}assistant\n"])

    def encode_markup(self, text: str) -> list[int]:
        token_ids: list[int] = []
        for piece in re.split(f"({re.escape(_TURN)}|{re.escape(_END)})", text):
            if piece == _TURN:
                token_ids.append(self.turn_token_id)
            elif piece == _END:
                token_ids.extend(self.end_token_ids)
            else:
                token_ids.extend(piece.encode("utf-8", "replace"))
        return token_ids

    def encode_literal(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode("utf-8", "replace")) for text in texts]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        # Its special tokens have no text.
        return bytes(token_id for token_id in token_ids if token_id < 256).decode("utf-8", "replace")

    def messages(self, token_ids: Sequence[int]) -> tuple[list[dict[str, str]], str]:
        """Return the messages that a prompt was rendered from, and how far the answer has come that it ends with."""
        turns: list[list[int]] = []
        for token_id in token_ids:
            if token_id == self.turn_token_id:
                turns.append([])
            elif token_id < 256:
                turns[-1].append(token_id)
        found = []
        for turn in turns:
            role, _, content = self.decode(turn).partition("\n")
            found.append({"role": role, "content": content})
        return found[:-1], found[-1]["content"]


class TextTokenizer(ByteTokenizer):
    """For a model that is only known by its texts: a token is a byte, or a piece of text that has an id of its own.

    Such pieces are the tokens that a host names, and the answers that it is to choose from.
    """

    _FIRST = 1000

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._texts: list[str] = []

    def id_of(self, text: str) -> int:
        """Return the id of a piece of text."""
        if text not in self._ids:
            self._ids[text] = self._FIRST + len(self._texts)
            self._texts.append(text)
        return self._ids[text]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        pieces = (
            self._texts[token_id - self._FIRST].encode("utf-8", "replace")
            if token_id >= self._FIRST
            else bytes([token_id] if token_id < 256 else [])
            for token_id in token_ids
        )
        return b"".join(pieces).decode("utf-8", "replace")
