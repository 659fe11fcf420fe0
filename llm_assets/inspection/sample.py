"""A sample of the texts that pass by: a distinct text is in it or not by its content hash, and so always the same."""

from dataclasses import dataclass

MOST_TEXTS = 20_000
MOST_CHARACTERS = 16_000_000
"""A sample that grows beyond one of these loses half of its texts."""

_SPACE = 16**8


@dataclass(slots=True)
class Sampled:
    """A text of the sample, in how many rows it stands, and a bit for each task that is to be asked about it."""

    text: str
    rows: int = 0
    tasks: int = 0


class Sample:
    """Distinct texts whose content hashes are below a bound, which falls as the sample grows."""

    def __init__(self, most_texts: int = MOST_TEXTS, most_characters: int = MOST_CHARACTERS) -> None:
        self.texts: dict[str, Sampled] = {}
        self.bound: str | None = None
        """The first digits of a content hash that is left out; None while every text is in the sample."""
        self._most_texts, self._most_characters = most_texts, most_characters
        self._characters = 0
        self._share = _SPACE

    def add(self, digest: str, text: str, tasks: int) -> None:
        """Take a row's text, unless its hash is beyond the bound."""
        if self.bound is not None and digest >= self.bound:
            return
        known = self.texts.get(digest)
        if known is None:
            known = self.texts[digest] = Sampled(text)
            self._characters += len(text)
            if len(self.texts) > self._most_texts or self._characters > self._most_characters:
                self._halve()
        known.rows += 1
        known.tasks |= tasks

    def _halve(self) -> None:
        # One text is always kept: of none nothing could be told.
        while len(self.texts) > 1 and (len(self.texts) > self._most_texts or self._characters > self._most_characters):
            self._share //= 2
            self.bound = f"{self._share:08x}"
            kept = {digest: item for digest, item in self.texts.items() if digest < self.bound}
            if not kept:
                first = min(self.texts)
                kept = {first: self.texts[first]}
            self.texts = kept
            self._characters = sum(len(item.text) for item in kept.values())
