"""Whether a constraint can be compiled and followed: tried in a process of its own, which can be stopped.

The cost of a constraint does not show in its size. A regular expression of fifteen characters can take seconds for each
token, and some schemas fill the memory or end the process. So what is not plainly harmless is tried before a model is
loaded, with a small vocabulary, for which anything sensible takes a fraction of a second.
"""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from llm_assets.errors import ConfigError, EngineError
from llm_assets.json_schema import MAX_CHOICES, check_regex, check_size, subschemas
from llm_assets.records import Constraint
from llm_assets.secrets import masked

CPU_SECONDS = 10
"""Processor time for compiling a constraint and following it; thousands of labels take three seconds. Not measured by
the clock, so that a busy machine does not refuse what an idle one takes."""

MEMORY_BYTES = 2 * 2**30
"""Memory for the same; thousands of labels take 200 MiB."""

WALKS, WALK_TOKENS = 3, 100
"""Random answers to follow, and how far."""

WALK_SECONDS = 0.5
"""Processor time for one of them. Sensible constraints take a fifth of it. With a model's vocabulary, twenty times as
large, each token of each answer takes a tenth of a second and more beyond it, and all other answers wait."""

_CLOCK_SECONDS = 120.0
"""Only a process that hangs, or a machine that does hardly anything, takes so long."""

_ADVICE = {
    "json": "Nest less, give unions fewer options that begin alike, and take repetitions in patterns out of one "
    "another.",
    "regex": "Take repetitions out of one another, and do not put parts side by side that match the same text: write "
    "'[a-z ]{1,900}' in place of '([a-z]{1,30} ?){1,30}'.",
    "grammar": "Take repetitions out of one another, write rules that derive a text in one way only, and fewer or "
    "shorter alternatives.",
    "choice": "Give fewer or shorter choices.",
}


def check_limits(constraint: Constraint) -> None:
    """Refuse a constraint that asks for more than any answer holds; at once, and for all engines alike.

    Raises:
        ConfigError: a number in it is too high, or there is too much of it.
    """
    if constraint.kind == "json":
        check_size(_schema(constraint))
    elif constraint.kind == "regex":
        check_regex(str(constraint.value))
    elif constraint.kind == "choice" and len(constraint.value) > MAX_CHOICES:
        raise ConfigError(
            f"{len(constraint.value)} choices are given, beginning with {constraint.value[0]!r}. Give {MAX_CHOICES} or "
            "less, or let the answer be free."
        )


def check_cost(constraint: Constraint, compiler: str = "xgrammar") -> str:
    """Try a constraint, unless it is plainly harmless, and return what the compiler says against it, if anything.

    The compiler is one of vLLM's; those that are not known here are not tried.

    Raises:
        ConfigError: the compiler needs too long or too much memory for it, or crashes.
        EngineError: the compiler does not even start.
    """
    if compiler not in _COMPILERS or find_spec(_COMPILERS[compiler].package) is None or is_plain(constraint):
        return ""
    tried = _try(constraint, compiler)
    if tried.trouble:
        value = masked(str(constraint.value))  # before it is cut: half a secret would not be found
        raise ConfigError(
            f"The constraint compiler {_COMPILERS[compiler].package} {tried.trouble} with this {constraint.kind}: "
            f"{value if len(value) < 300 else f'{value[:300]}...'}\n{_ADVICE[constraint.kind]}\n"
            "vLLM has another compiler, which takes some that are too much for this one: "
            f"{other_compiler(compiler)}."
        )
    return tried.complaint


def other_compiler(compiler: str) -> str:
    """Return the setting by which vLLM takes another compiler than this one."""
    other = "xgrammar" if compiler == "guidance" else "guidance"
    return f'structured_outputs_config={{"backend": "{other}", "disable_any_whitespace": true}}'


SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One space after each colon and comma of JSON, as models write it and xgrammar has it. llguidance would leave it away,
and small models then write null where they would have written a value."""


def compiled_schema(schema: str) -> dict[str, Any]:
    """Return a JSON schema as vLLM gets it: with it, llguidance allows what xgrammar allows with the schema itself."""
    result = json.loads(schema)
    for node in subschemas(result):
        if isinstance(pattern := node.get("pattern"), str):
            node["pattern"] = _whole(pattern)
    return {**result, "x-guidance": SPACED}


_REGEX_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)


def _whole(pattern: str) -> str:
    """Return the pattern of a whole text: llguidance would let what is not anchored stand among any other text."""
    branches: list[list[str]] = [[]]
    depth = 0
    for token in _REGEX_TOKEN.findall(pattern):
        depth += (token == "(") - (token == ")")
        if token == "|" and depth == 0:
            branches.append([])
        else:
            branches[-1].append(token)
    bodies = ["".join(tokens[tokens[:1] == ["^"] : len(tokens) - (tokens[-1:] == ["$"])]) for tokens in branches]
    return f"^{bodies[0]}$" if len(bodies) == 1 else f"^({'|'.join(bodies)})$"


def one_of(choices: Iterable[str]) -> str:
    """Return the regular expression of choices, as which llguidance takes thousands of them, and each sooner.

    Only what has a meaning is escaped: xgrammar warns of every other escape.
    """
    return "|".join(re.sub(r"[\\.^$|?*+()\[\]{}]", r"\\\g<0>", choice) for choice in choices)


def patterns(constraint: Constraint) -> list[Constraint]:
    """Return the patterns of a JSON schema, each as a constraint of its own."""
    nodes = subschemas(_schema(constraint))
    return [Constraint("regex", str(node["pattern"])) for node in nodes if "pattern" in node]


def _schema(constraint: Constraint) -> Any:
    try:
        return json.loads(str(constraint.value))
    except RecursionError:
        raise ConfigError(
            f"The JSON schema is nested too deep to be read: {masked(str(constraint.value))[:300]}... Make it flatter; "
            "what nests in itself is defined once under '$defs' and referred to with '$ref'."
        ) from None


# Plain is what can be read in one way only: its cost grows with its size and no faster, and its size is small.

_PLAIN_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minLength"),
    *("maxLength", "minimum", "maximum", "enum", "const", "anyOf", "$ref", "$defs", "pattern", "format"),
    *("title", "description", "default", "examples"),
}
_VARIES = re.compile(r"[*+?]|\{\d+,\d*\}")
_GROUP_REPEATS = re.compile(r"\)[*+?{]|\(\?")


def is_plain(constraint: Constraint) -> bool:
    """Whether a constraint is so small and simple that it need not be tried."""
    value = constraint.value
    match constraint.kind:
        case "choice":
            return len(value) <= 1000 and sum(map(len, value)) <= 20_000
        case "regex":
            if len(value) > 200:
                return False
            bare = re.sub(r"\\.", "x", str(value))
            # Two parts of varying length side by side can already share a text in many ways.
            if len(_VARIES.findall(bare)) > 1 or _GROUP_REPEATS.search(bare):
                return False
            return max(map(int, re.findall(r"\d+", bare)), default=0) <= 100
        case "json":
            nodes = list(subschemas(_schema(constraint)))
            # xgrammar goes through the whole vocabulary once for each length of strings.
            lengths = {(node.get("minLength"), node.get("maxLength")) for node in nodes}
            return len(value) <= 20_000 and len(nodes) <= 200 and len(lengths) <= 10 and all(map(_is_plain, nodes))
    return False


def _is_plain(node: dict[str, Any]) -> bool:
    options = node.get("anyOf", [])
    return (
        node.keys() <= _PLAIN_KEYWORDS
        and isinstance(node.get("type", ""), str)
        and not node.get("additionalProperties")
        and (not options or (len(options) == 2 and {"type": "null"} in options))
        and is_plain(Constraint("regex", str(node.get("pattern", ""))))
    )


class _Tried(NamedTuple):
    """How it went: `trouble` is what the process met with, `complaint` what the compiler said."""

    trouble: str = ""
    complaint: str = ""


@cache
def _try(constraint: Constraint, compiler: str) -> _Tried:
    """Compile a constraint in a child process and follow it."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-c", f"from {__name__} import answer_parent; answer_parent()"],
            input=json.dumps([constraint.kind, constraint.value, compiler]),
            capture_output=True,
            text=True,
            timeout=_CLOCK_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Tried(f"takes more than {_CLOCK_SECONDS:.0f} seconds")
    if child.returncode == -signal.SIGXCPU:
        return _Tried(f"takes more than {CPU_SECONDS} seconds of processor time")
    if child.returncode < 0:
        return _Tried(f"is ended by {signal.Signals(-child.returncode).name}")
    if child.returncode > 0:
        raise EngineError(f"The constraint compiler {compiler} cannot be started: {child.stderr.strip()[-1000:]}")
    return _Tried(*json.loads(child.stdout.splitlines()[-1]))


# Below is what runs in the child process.


def answer_parent() -> None:
    """Try the constraint on standard input and write how it went to standard output."""
    kind, value, compiler = json.load(sys.stdin)
    following = _COMPILERS[compiler]()
    _limit_process()
    tried = _Tried()
    try:
        following.compile(kind, value)
        for seed in range(WALKS):
            if trouble := _walk(following, random.Random(seed)):
                tried = _Tried(trouble)
                break
    except Exception as error:  # compilers raise RuntimeError, ValueError and errors of their native side
        # C++ says so when there is no memory left, which is not the constraint's form.
        starved = isinstance(error, MemoryError) or "bad_alloc" in str(error)
        tried = (
            _Tried(f"needs more than {MEMORY_BYTES / 2**30:.0f} GiB")
            if starved
            else _Tried("", masked(str(error) or repr(error))[:1000])
        )
    sys.stdout.write(f"\n{json.dumps(tried)}\n")


def _limit_process() -> None:
    """Limit what is used from here on; imports are not the constraint's doing."""
    spent = int(time.process_time()) + 1 + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (spent, spent + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.is_file():
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _walk(following: "_Xgrammar | _Guidance", rng: random.Random) -> str:
    """Follow one random answer; return why that is too slow, or nothing."""
    start = time.process_time()
    following.begin()
    for count in range(1, WALK_TOKENS + 1):
        tokens = following.allowed()
        if tokens:
            following.accept(rng.choice(tokens))
        spent = time.process_time() - start
        if spent > WALK_SECONDS:
            return f"takes {spent:.1f} seconds of processor time for {count} tokens of an answer"
        if not tokens:
            break
    return ""


def small_vocabulary() -> list[bytes]:
    """Return all bytes, and words of several scripts: long tokens are what makes ambiguous constraints slow."""
    words = [str(number) for number in range(10, 1000)]
    for letters in ("etaoinshrdlucmfw", "ETAOINSHRD", "оеаинтсрвл", "的一是不了人我在有他", "éèüöñçãåøß"):
        pairs = ["".join(pair) for pair in product(letters, repeat=2)]
        for first, last in zip(pairs, reversed(pairs), strict=True):
            words += [first, f" {first}", f"{first}{last}", f" {first}{last}{first}"]
    return list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *(word.encode() for word in words)]))


class _Xgrammar:
    """xgrammar as vLLM uses it."""

    package = "xgrammar"

    def __init__(self) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        vocabulary: list[Any] = [*small_vocabulary(), b"<end>"]
        self._stop = len(vocabulary) - 1
        tokens = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[self._stop])
        self._compiler = xgrammar.GrammarCompiler(tokens, max_threads=1)
        self._bitmask = xgrammar.allocate_token_bitmask(1, len(vocabulary))

    def compile(self, kind: str, value: Any) -> None:
        compiler = self._compiler
        if kind == "json":
            self._compiled = compiler.compile_json_schema(value, any_whitespace=False)
        elif kind == "regex":
            self._compiled = compiler.compile_regex(value)
        elif kind == "choice":
            self._compiled = compiler.compile_regex(one_of(value))
        elif "::=" in value:
            self._compiled = compiler.compile_grammar(value)
        else:
            self._compiled = compiler.compile_lark(value)

    def begin(self) -> None:
        self._matcher = self._xgrammar.GrammarMatcher(self._compiled)

    def allowed(self) -> list[int]:
        if self._matcher.is_terminated():
            return []
        self._matcher.fill_next_token_bitmask(self._bitmask)
        words = self._bitmask[0].tolist()
        return [token for token in range(self._stop) if words[token // 32] >> (token % 32) & 1]

    def accept(self, token: int) -> None:
        self._matcher.accept_token(token)


class _Guidance:
    """llguidance, with bytes for tokens; it has limits of its own, some of which show only as it follows an answer."""

    package = "llguidance"

    def __init__(self) -> None:
        import llguidance

        self._llguidance = llguidance
        self._tokenizer = llguidance.LLTokenizer("byte")

    def compile(self, kind: Any, value: Any) -> None:
        matcher = self._llguidance.LLMatcher
        if kind == "json":
            self._grammar = matcher.grammar_from_json_schema(json.dumps(compiled_schema(value)))
        elif kind == "choice":
            self._grammar = self._llguidance.grammar_from("regex", one_of(value))
        else:
            self._grammar = self._llguidance.grammar_from(kind, value)

    def begin(self) -> None:
        self._matcher = self._llguidance.LLMatcher(self._tokenizer, self._grammar, log_level=0)

    def allowed(self) -> list[int]:
        mask = b"" if self._matcher.is_stopped() else self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())
        return [token for token in range(256) if mask and mask[token // 8] >> (token % 8) & 1]

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)


# "auto" takes xgrammar for what xgrammar can express.
_COMPILERS = {"xgrammar": _Xgrammar, "auto": _Xgrammar, "guidance": _Guidance}
