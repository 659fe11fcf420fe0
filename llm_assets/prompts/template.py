"""A prompt whose shared part is tokenised once and whose row text is put in between as token ids."""

from collections.abc import Sequence
from typing import Literal, TypedDict

from llm_assets.errors import ConfigError
from llm_assets.prompts.tokenizer import Tokenizer

ROW_TEXT = "{{ROW_TEXT}}"
"""Stands for the row's text in a message. It is gone before anything is tokenised."""


CACHE_BLOCK = 32
"""Tokens of the prefix cache's blocks: 16 on a GPU, 32 without one. Only whole blocks are cached."""

FILLER = " #"
"""One token to nearly every tokenizer, and no word in any language."""

Layout = Literal["instruction_first", "row_first"]
"""What stands first in a prompt: the instruction, which all rows share, or the row's text, which all tasks share."""


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatPrompt:
    """Messages with one `ROW_TEXT` in them, rendered and tokenised except for the row's text.

    With `aligned` the first message is filled up, so that what stands before the row's text ends with a block of the
    prefix cache: otherwise the tokens behind the last whole block are computed for every row.

    Raises:
        ConfigError: the chat template drops or repeats the row's text.
    """

    def __init__(self, tokenizer: Tokenizer, messages: Sequence[Message], aligned: bool = False) -> None:
        self.prefix, self.suffix = self._encode(tokenizer, messages)
        first, *rest = messages
        for count in range(1, 2 * CACHE_BLOCK if aligned else 0):
            if len(self.prefix) % CACHE_BLOCK == 0:
                break
            filled: Message = {"role": first["role"], "content": f"{first['content']}\n{FILLER * count}"}
            prefix, suffix = self._encode(tokenizer, [filled, *rest])
            if len(prefix) % CACHE_BLOCK == 0:
                self.prefix, self.suffix = prefix, suffix

    @staticmethod
    def _encode(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Return the ids before the row's text and those behind it."""
        rendered = tokenizer.render([{"role": m["role"], "content": m["content"]} for m in messages])
        pieces = rendered.split(ROW_TEXT)
        if len(pieces) != 2:
            raise ConfigError(
                f"The chat template puts the row's text into the prompt {len(pieces) - 1} times instead of once. "
                f"An instruction or example must not contain {ROW_TEXT!r}."
            )
        return tokenizer.encode_markup(pieces[0]), tokenizer.encode_markup(pieces[1])

    @property
    def shared_tokens(self) -> int:
        """The number of prompt tokens that are the same for every row."""
        return len(self.prefix) + len(self.suffix)

    def build(self, text_token_ids: Sequence[int]) -> list[int]:
        """Return the whole prompt for one row's text."""
        return [*self.prefix, *text_token_ids, *self.suffix]


def fit(token_ids: list[int], limit: int, marker: Sequence[int]) -> list[int]:
    """Cut a text in the middle so that at most `limit` tokens remain, with `marker` where something is missing.

    The beginning and the end of a text say most about it, so both stay.
    """
    if len(token_ids) <= limit:
        return token_ids
    keep = max(limit - len(marker), 0)
    head = (keep + 1) // 2
    tail = keep - head
    return [*token_ids[:head], *list(marker)[: limit - keep], *(token_ids[-tail:] if tail else [])]
