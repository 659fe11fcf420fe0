"""Models behind HTTP: vLLM servers, and hosts with OpenAI's interface."""
