"""A program whose vLLM has processes of its own, for a test that kills them. Prints each event as a line of JSON."""

import json
import os
import sys
from collections.abc import Iterator

import psutil

from llm_assets.engines import VllmEngine, VllmSettings
from llm_assets.pipeline.restart import completions
from llm_assets.records import GenerateText, Request

REQUESTS = 60


def tell(**event: object) -> None:
    print("EVENT", json.dumps(event), flush=True)


def children() -> dict[str, int]:
    """The processes that vLLM has started, by their titles."""
    found = psutil.Process().children(recursive=True)
    titles = {" ".join(process.cmdline()).strip(): process.pid for process in found}
    return {title: pid for title, pid in titles.items() if title.startswith("VLLM")}


def main(model: str) -> None:
    engine = VllmEngine(VllmSettings(model=model, max_model_len=512, cpu_kv_cache_gib=1, max_num_seqs=16))
    engine.load()
    sampling = {"max_tokens": 20, "temperature": 0.0, "logprobs": 0}

    def requests() -> Iterator[Request]:
        for number in range(REQUESTS):
            [token_ids] = engine.tokenizer.encode_literal([f"The number {number} is"])
            yield Request(number, token_ids, GenerateText(sampling))

    received, failed = [], 0
    for completion in completions(engine, requests(), max_deaths=2):
        received.append(completion.id)
        failed += completion.error is not None
        if len(received) == 5:
            tell(name="running", children=children())
    tell(name="answered", ids=sorted(received), failed=failed, children=children())
    sys.stdin.readline()


if __name__ == "__main__":
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    main(sys.argv[1])
