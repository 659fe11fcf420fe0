"""The file that `dg scaffold defs llm_assets.dagster.LLMTable NAME` writes."""

import re

import dagster as dg
from dagster.components.component_scaffolding import scaffold_component

TEMPLATE = """\
# Labels, fields and summaries for the text rows of a table: an asset and a table for each task.
# Fill in the five lines with a number. `dg check defs` says with file and line what is not right yet, and the README
# of llm_assets lists every setting.
type: {type}

attributes:
  source:
    table: {table}  # 1. the table or view to read
    # key: id  # the columns that name a row, where the table has no primary key
    # where: text IS NOT NULL  # an SQL condition: only these rows
    # query: SELECT id, text FROM {table}  # read this, with its `key`; `table` then names the outputs

  database:
    # 2. its SQLAlchemy URL, or an environment variable with it: "{{{{ env.DATABASE_URL }}}}"
    url:
  # In place of settings, `database` and `engine` can be the key of a resource that the project has: database: warehouse

  engine:
    # 3. a directory with a model, or its name on the Hugging Face hub; every argument of vLLM's engine can stand beside
    model:
    # max_model_len: 8192
    # type: dummy  # in place of `model`: valid answers without one, to try it out

  tasks:
    - type: classify
      name: sentiment
      # 4. the text to ask about, from the columns of a row: "{{title}} {{body}}"
      text:
      # 5. the labels; with descriptions, if you like: {{positive: the writer is content, negative: the writer is not}}
      labels:
      # instruction: Decide whether the customer's message is positive or negative.

    # - type: extract
    #   name: facts
    #   text: "{{body}}"
    #   schema:
    #     type: object
    #     properties:
    #       product: {{type: [string, "null"], description: product the text is about}}
    #       request: {{enum: [refund, exchange, question, none]}}
    #     required: [product, request]

    # - type: summarize
    #   name: summary
    #   text: "{{body}}"
    #   max_words: 20

  # partitions: {{type: time, column: created_at, cadence: daily, start: 2026-01-01}}
  # schedule: {{hour_of_day: 2}}  # each partition two hours after its end; without partitions: {{cron: "0 2 * * *"}}
  # automation: eager  # or on_missing, or {{cron: "0 2 * * *"}}: the automation of Dagster itself
  # freshness: {{fail_window: 48h}}
  # sensors: {{unanswered: {{min_rows: 100, max_age: 6h}}}}
  # checks: {{failures: {{max_share: 0.02}}, coverage: {{blocking: true}}}}
  # settings: {{max_failed_share: 0.1, output_schema: answers}}
  # name: {table}_labels  # what jobs and sensors are named for, where two tables ask about one source
  # source_asset: crm/{table}  # the key of the asset that makes the table, if the project has one
  # group_name: {group}
  # owners: [team:support]
  # tags: {{domain: support}}
"""


class LLMTableScaffolder(dg.Scaffolder):
    """Writes a `defs.yaml` with the lines to fill in, and the others as comments."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        if request.scaffold_format != "yaml":
            scaffold_component(request)
            return
        folder = request.target_path.parent if request.append else request.target_path
        name = re.sub(r"\W", "_", folder.name)
        text = TEMPLATE.format(type=request.type_name, table=name, group=name)
        if request.append:
            with request.target_path.open("a", encoding="utf-8") as file:
                file.write(f"---\n{text}")
        else:
            (folder / "defs.yaml").write_text(text, encoding="utf-8")
