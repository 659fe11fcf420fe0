"""Label, extract from and summarize the text rows of a database with vLLM, inside Dagster runs."""
