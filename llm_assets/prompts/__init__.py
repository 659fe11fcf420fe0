"""From messages to token ids: the chat template, the shared part, and the row's text kept literal."""

from llm_assets.prompts.byte_tokenizer import ByteTokenizer, TextTokenizer
from llm_assets.prompts.template import ChatPrompt, Layout, Message, fit
from llm_assets.prompts.text import TextTemplate
from llm_assets.prompts.tokenizer import ChatTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "ByteTokenizer",
    "ChatPrompt",
    "ChatTokenizer",
    "Layout",
    "Message",
    "TextTemplate",
    "TextTokenizer",
    "Tokenizer",
    "fit",
    "load_tokenizer",
]
