"""Tokenizers that keep a row's text literal: whatever it contains, it never becomes a control token."""

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from llm_assets.errors import ConfigError, ModelError, did_you_mean


class Tokenizer(Protocol):
    """What prompts need of a tokenizer."""

    end_token_ids: tuple[int, ...]
    """Tokens that end an answer."""

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the messages in the model's chat format, ending where the answer begins."""
        ...

    def encode_markup(self, text: str) -> list[int]:
        """Return the ids of text in chat format, whose special tokens count as such."""
        ...

    def encode_literal(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts in which nothing is special, one list for each."""
        ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of some ids."""
        ...


class ChatTokenizer:
    """A Hugging Face fast tokenizer with its chat template.

    Args:
        tokenizer: A tokenizer of the package transformers.
        end_token_ids: Tokens that end an answer, besides the tokenizer's own.
        chat_template: Jinja template in place of the tokenizer's own.
        chat_template_kwargs: Values of the template's own variables, such as `enable_thinking`.

    Raises:
        ModelError: the tokenizer has no fast implementation.
        ConfigError: the template has no such variable.
    """

    def __init__(
        self,
        tokenizer: Any,
        end_token_ids: Iterable[int] = (),
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"The tokenizer {type(tokenizer).__name__} has no fast implementation, which prompts need. "
                "Use a model whose repository has a tokenizer.json."
            )
        self._tokenizer = tokenizer
        self._chat_template = chat_template
        self._chat_template_kwargs = dict(chat_template_kwargs or {})
        self._check_chat_template_kwargs()
        self.end_token_ids = tuple(dict.fromkeys([*end_token_ids, tokenizer.eos_token_id]))
        # A second tokenizer, without the added tokens: for it `<|im_end|>` is ten ordinary characters. Added runs of
        # white space stay, because they are ordinary text that the model was trained to see as one token.
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        controls = [token for token in state["added_tokens"] if token["special"] or token["content"].strip()]
        # Where the vocabulary lacks a byte, BPE puts its unknown token, which can be a control token: U+FFFD says so.
        unknown = state["model"].get("unk_token")
        self._control_texts = {t["id"]: "\ufffd" if t["content"] == unknown else t["content"] for t in controls}
        state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in self._control_texts]
        state["post_processor"] = None
        state["truncation"] = state["padding"] = None
        self._literal = FastTokenizer.from_str(json.dumps(state))

    def _check_chat_template_kwargs(self) -> None:
        template = self._chat_template or self._tokenizer.chat_template or ""
        words = set(re.findall(r"[A-Za-z_]\w*", template if isinstance(template, str) else json.dumps(template)))
        for name in self._chat_template_kwargs:
            if name == "messages" or name in inspect.signature(self._tokenizer.apply_chat_template).parameters:
                raise ConfigError(
                    f"chat_template_kwargs: {name!r} is what the template is used with, not yours to set."
                )
            if not words:
                raise ConfigError(f"chat_template_kwargs: the model has no chat template, and so no {name!r}.")
            if name not in words:
                raise ConfigError(
                    f"chat_template_kwargs: {name!r} does not stand in the model's chat template. "
                    f"{did_you_mean(name, words)}"
                )

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        if self._chat_template or self._tokenizer.chat_template:
            from jinja2 import TemplateError

            try:
                return self._apply_chat_template(messages)
            except TemplateError as error:
                if len(messages) < 2 or messages[0]["role"] != "system":
                    raise ConfigError(f"The model's chat template fails: {error}. Set chat_template.") from error
            # Some models have no system messages: what they would say stands before the first turn.
            system, first, *rest = messages
            content = f"{system['content']}\n\n{first['content']}"
            return self.render([{"role": first["role"], "content": content}, *rest])
        # A base model has no chat template. Turns are set apart by blank lines, as in most pretraining text.
        turns = [("" if m["role"] == "system" else m["role"].capitalize() + ": ") + m["content"] for m in messages]
        return (self._tokenizer.bos_token or "") + "\n\n".join([*turns, "Assistant:"])

    def _apply_chat_template(self, messages: Sequence[dict[str, str]]) -> str:
        return self._tokenizer.apply_chat_template(
            list(messages),
            chat_template=self._chat_template,
            tokenize=False,
            add_generation_prompt=True,
            **self._chat_template_kwargs,
        )

    def encode_markup(self, text: str) -> list[int]:
        return self._tokenizer.encode(_unicode(text), add_special_tokens=False)

    def encode_literal(self, texts: Sequence[str]) -> list[list[int]]:
        clean = [_unicode(text) for text in texts]
        encoded = [encoding.ids for encoding in self._literal.encode_batch_fast(clean, add_special_tokens=False)]
        return [ids if self._control_texts.keys().isdisjoint(ids) else self._split_controls(ids) for ids in encoded]

    def _split_controls(self, token_ids: Sequence[int]) -> list[int]:
        """Spell a control token out by character. A Unigram vocabulary can hold control tokens as ordinary pieces."""
        spelled: list[int] = []
        for token_id in token_ids:
            if token_id in self._control_texts:
                for character in self._control_texts[token_id]:
                    ids = self._literal.encode(character, add_special_tokens=False).ids
                    spelled.extend(i for i in ids if i not in self._control_texts)
            else:
                spelled.append(token_id)
        return spelled

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return self._tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )


def _unicode(text: str) -> str:
    """Return a text without lone surrogates, which no tokenizer can encode."""
    return text.encode("utf-8", "replace").decode()


def load_tokenizer(
    name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> ChatTokenizer:
    """Load the tokenizer of a model directory or hub repository; no weights are read.

    Raises:
        ModelError: there is no such model, or it has no usable tokenizer; or transformers is not installed.
        ConfigError: its chat template has no such variable.
    """
    if find_spec("transformers") is None:
        raise ModelError(
            "A model's tokenizer needs the package transformers. Install llm_assets with the extra 'cuda', 'cpu', or "
            "'server' for a model that runs elsewhere."
        )
    from transformers import AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", trust_remote_code=trust_remote_code
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and errors of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"The tokenizer of model {name!r} cannot be loaded: {reason}") from error
    try:
        eos = GenerationConfig.from_pretrained(name, revision=revision or "main").eos_token_id
    except Exception:  # many models have no generation_config.json; the tokenizer's end token serves
        eos = None
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return ChatTokenizer(tokenizer, ends, chat_template, chat_template_kwargs)
