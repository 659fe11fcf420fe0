"""What cannot be in a file is said with its line, and with what would be right."""

import pytest

from tests.dagster.component.project import SMALL, Project, schema_errors

FILE = """
source: {table: reviews}
engine:
  model: small
  max_model_len: 2048
database: warehouse
tasks:
  - type: classify
    name: sentiment
    text: "{text}"
    labels: [positive, negative]
  - type: summarize
    name: summary
    text: "{text}"
    max_words: 20
partitions:
  type: time
  cadence: daily
  start: 2026-11-01
  column: at
checks: {coverage: {max_missing_share: 0.1}}
settings: {commit_rows: 10}
schedule: {hour_of_day: 2}
automation: eager
freshness: {fail_window: 24h}
sensors: {unanswered: {max_age: 6h}}
"""

WRONG = [
    ("source: {table", "sorce: {table", "0: attributes: 'source' is missing. The rows to ask about"),
    ("source: {table", "sorce: {table", "1: sorce: There is no such setting. Did you mean 'source'?"),
    ("{table: reviews}", "reviews", "1: source: Input should be a valid dictionary"),
    ("table:", "tabel:", "1: source: 'table' is missing. Table or view to read"),
    ("table:", "tabel:", "1: source.tabel: There is no such setting. Did you mean 'table'?"),
    ("labels:", "lables:", "10: tasks.0.lables: There is no such setting. Did you mean 'labels'? Valid: al"),
    ("labels:", "lables:", "7: tasks.0: 'labels' is missing. The labels; or each label with a description"),
    ("[positive, negative]", "[yes, no]", "10: tasks.0.labels.1: Input should be a valid string. YAML reads yes, no"),
    ("[positive, negative]", "[good, good]", "7: tasks.0: Task 'sentiment': label 'good' is given 2 times."),
    ("[positive, negative]", "", "10: tasks.0.labels: Nothing is written here. The labels; or each"),
    ("[positive, negative]", "5", "10: tasks.0.labels: Input should be a valid list, not 5., or: Input should"),
    ("classify", "clasify", "7: tasks.0.type: There is no type 'clasify'. Did you mean 'classify'?"),
    ("type: classify\n    ", "", "7: tasks.0: The type is missing. Write one of: classify, extract, generate,"),
    ("sentiment", "Sentiment", "8: tasks.0.name: Task name 'Sentiment' must be lower-case letters"),
    ("{text}", "{text", "9: tasks.0.text: "),
    ("max_words: 20", "max_words: many", "14: tasks.1.max_words: Input should be a valid integer"),
    (" 20\n", ' "{{ env.NOT_SET }}"\n', "14: tasks.1.max_words: '{{ env.NOT_SET }}' gives nothing. Is the environment"),
    ("max_words: 20", "sampling: {temprature: 1}", "14: tasks.1.sampling.temprature: Unknown sampling parameter"),
    ("summary", "sentiment", "6: tasks: Two tasks are named 'sentiment'."),
    ("max_model_len", "max_modl_len", "4: engine.max_modl_len: vLLM has no engine argument 'max_modl_len'. Did you"),
    ("max_model_len: 2048", "hf_token: abc", "4: engine.hf_token: Engine argument 'hf_token' cannot be set."),
    (
        "model: small",
        "type: vlm",
        "3: engine.type: There is no type 'vlm'. Did you mean 'vllm'? Valid: dummy, ray, server, vllm.",
    ),
    (
        "warehouse",
        "sqlite:///shop.db",
        "5: database: 'sqlite:///shop.db' is no resource key: a URL stands under `url`.",
    ),
    ("warehouse", "{url: nonsense}", "5: database.url: The database URL does not parse."),
    ("type: time", "type: tmie", "16: partitions.type: There is no type 'tmie'. Did you mean 'time'?"),
    ("2026-11-01", "soon", "18: partitions.start: 'soon' is no time."),
    (
        "daily",
        "dayly",
        "17: partitions.cadence: Input should be 'hourly', 'daily', 'weekly' or 'monthly', not 'dayly'.",
    ),
    ("_share", "", "20: checks.coverage.max_missing: There is no such setting. Did you mean 'max_missing_share'?"),
    (
        "commit_rows: 10",
        "commit_rows: 0",
        "21: settings.commit_rows: Input should be greater than or equal to 1, not 0.",
    ),
    ("hour_of_day: 2", "cron: 0 2 * * *", "0: attributes: The schedule of 'reviews' follows its partitions by time"),
    ("hour_of_day: 2", "cron: nightly", "22: schedule.cron: 'nightly' is no cron expression."),
    ("hour_of_day", "huor_of_day", "22: schedule.huor_of_day: There is no such setting. Did you mean 'hour_of_day'?"),
    ("eager", "eeger", "23: automation: There is no automation 'eeger'. Did you mean 'eager'?"),
    ("24h", "24 hours", "24: freshness.fail_window: '24 hours' is no duration. Write a number and its unit"),
    ("6h", "soon", "25: sensors.unanswered.max_age: 'soon' is no duration."),
    ("unanswered", "unansward", "25: sensors.unansward: There is no such setting. Did you mean 'unanswered'?"),
]


OWNER, PARTS = "The owner 'support' is neither an address nor a team.", "key_prefix has the part 'a/b'. A part has"
PAIRS = """partitions:
  type: multi
  dimensions: {day: {type: time, column: at, start: 2026-11-01}, country: {type: dynamic, column: country}}
"""

BUILT_WRONG = [
    ("checks:\n  accuracy:\n    gold: {mood: gold}\n", "8: checks.accuracy.gold.mood: checks.accuracy.gold names the"),
    (
        "checks:\n  grounded:\n    skip: [nope]\n",
        "8: checks.grounded.skip.0: checks.grounded.skip names the field 'nope'",
    ),
    (
        "sensors:\n  source: {}\n  partitions: {}\n",
        "8: sensors.partitions: The table 'reviews' has no DynamicPartitions",
    ),
    ("sensors:\n  unanswered:\n    max_age: 6h\n", "8: sensors.unanswered.max_age: max_age needs the time of a row"),
    ("checks:\n  summaries: {blocking: true}\n", "7: checks.summaries: checks.summaries would check nothing"),
    ("max_partitions_per_run: 5\n", "6: max_partitions_per_run: max_partitions_per_run=5 has no effect on a table"),
    ("settings:\n  full_refresh: true\n", "7: settings.full_refresh: settings.full_refresh asks about every row"),
    (
        "sensors:\n  unanswered:\n    time_column: at\n",
        "8: sensors.unanswered.time_column: time_column='at' has no effect without max_age",
    ),
    (
        PAIRS + "sensors:\n  partitions:\n    request_runs: true\n",
        "11: sensors.partitions.request_runs: request_runs is for partitions by one column.",
    ),
    (
        "source_asset: reviews_sentiment\n",
        "6: source_asset: source_asset is reviews_sentiment, which is the asset of the",
    ),
    ("owners:\n  - team:crm\n  - support\n", f"8: owners.1: {OWNER}"),
    (
        "tags:\n  a: b\n  a b!: x\n",
        "8: tags.a b!: The tag 'a b!': Found invalid tag keys: ['a b!']. Allowed characters",
    ),
    ("tags: {tier: 1}\n", "6: tags.tier: Input should be a valid string, not 1."),
    ("group_name: my group\n", '6: group_name: "my group" is not a valid asset group name.'),
    ("key_prefix: shop\n", "6: key_prefix: Input should be a valid list, not 'shop'."),
    ("key_prefix: [a/b]\n", f"6: key_prefix: {PARTS} letters, digits, - and _; several parts are several items"),
    ("pool: a pool\n", '0: attributes: Pool "a pool" is not a valid pool name.'),
]


@pytest.mark.parametrize(("added", "expected"), BUILT_WRONG)
def test_an_error_of_what_is_built_from_the_settings_has_its_line_too(
    project: Project, added: str, expected: str
) -> None:
    [line] = project.refused(SMALL + added)
    assert line.startswith(expected), line


FACTS = """source: {table: reviews}
database: warehouse
tasks:
  - type: extract
    name: facts
    schema:
      type: object
      properties:
        answer: FIELD
"""


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("{type: object, properties: }", "answer.properties cannot be: None is not of type 'object'."),
        ("{type: string, enum: [yes, no]}", "answer.enum.0 is True, which is no string. YAML reads yes, no, on and"),
        ("{type: array, items: string}", "answer.items cannot be: 'string' is not of type 'object', 'boolean'."),
        ("{type: string}\n        no: {type: string}", " has the key False, which is no text. YAML reads yes, no, on"),
    ],
)
def test_what_is_no_json_schema_is_told_with_its_line(project: Project, field: str, expected: str) -> None:
    [line] = project.refused(FACTS.replace("FIELD", field))
    dot = "" if expected.startswith(" ") else "."
    assert line.partition(": ")[2].startswith(f"tasks.0.schema: The JSON schema's $.properties{dot}{expected}"), line
    assert line.startswith(("6: ", "7: ")), line


@pytest.mark.parametrize(("written", "instead", "expected"), WRONG)
def test_an_error_has_its_line_and_says_what_is_right(
    project: Project, written: str, instead: str, expected: str
) -> None:
    assert written in FILE
    lines = project.refused(FILE.replace(written, instead, 1))
    assert any(line.startswith(expected) for line in lines), lines


def test_the_file_in_which_all_that_was_wrong_is_right(project: Project) -> None:
    component, _ = project.load(project.write(FILE))
    assert [task.name for task in component.tasks] == ["sentiment", "summary"]


def test_a_template_that_names_nothing_is_told_with_its_line(project: Project) -> None:
    with pytest.raises(Exception, match="reviews") as caught:
        project.load(project.write(FILE.replace("{text}", "{{ nowhere }}", 1)))
    message = str(caught.value.__cause__)
    assert "UndefinedError: 'nowhere' not found in scope" in message
    assert "defs.yaml:11 - attributes.tasks.0.text" in message


def test_all_errors_of_a_file_are_said_at_once_in_their_order(project: Project) -> None:
    attributes = SMALL.replace("labels", "lables").replace("type: dummy", "type: dumy").replace("table:", "tabel:")
    lines = [int(line.partition(":")[0]) for line in project.refused(attributes)]
    assert lines == sorted(lines)
    assert set(lines) == {1, 3, 5}


def test_a_file_without_attributes_says_what_is_missing(project: Project) -> None:
    folder = project.write(SMALL)
    (folder / "defs.yaml").write_text("type: llm_assets.dagster.LLMTable\n")
    with pytest.raises(Exception, match="reviews") as caught:
        project.load(folder)
    assert "'source' is missing" in str(caught.value.__cause__)
    assert "'tasks' is missing" in str(caught.value.__cause__)


def test_the_schema_for_files_accepts_what_loads() -> None:
    assert schema_errors(SMALL) == {}
    assert schema_errors("source: {table: t, key: [a, b]}\ntasks: '{{ my_tasks }}'\nengine: shared\ndatabase: db") == {}
    assert schema_errors(
        "source: {table: t, key: id}\n"
        "tasks: [{type: extract, name: x, schema: 'shop:Facts', examples: [{text: a, answer: {b: 1}}],\n"
        "         sampling: {max_tokens: '{{ env.TOKENS }}', stop: null}}]\n"
        "engine: {model: small, max_model_len: '{{ env.LENGTH }}', block_size: 16, engine_args: {max_logprobs: 5}}\n"
        "partitions: {type: multi, dimensions: {a: {type: time, column: x, start: 2026-11-01}}}\n"
        "source_database: null\nschedule: null\npool: null\n"
    ) == {}  # fmt: skip


def test_the_schema_for_files_finds_what_is_wrong_where_it_is() -> None:
    wrong = """
source: {tabel: reviews}
engine: {type: dummy, model: x}
database: {ulr: x}
tasks:
  - {type: classify, name: a, lables: [x]}
  - {type: clasify, name: b}
  - {type: summarize, name: c, max_words: many, sampling: {temperature: -1}, too_long: drop}
  - {name: d}
  - 5
partitions: {type: time, column: x, start: x, cadence: dayly}
checks: {coverage: {max_missing: 1}}
group: x
"""
    found = schema_errors(wrong)
    assert found == {
        "source": "'table' is a required property",
        "engine": "Additional properties are not allowed ('model' was unexpected)",
        "database": "'url' is a required property",
        "tasks.0": "'labels' is a required property",
        "tasks.1.type": "'clasify' is not one of ['classify', 'extract', 'generate', 'summarize']",
        "tasks.2.max_words": "'many' is not of type 'integer'",
        "tasks.2.sampling.temperature": "-1 is less than the minimum of 0",
        "tasks.2.too_long": "'drop' is not one of ['cut', 'fail']",
        "tasks.3": "'type' is a required property",
        "tasks.4": "5 is not of type 'object'",
        "partitions.cadence": "'dayly' is not one of ['hourly', 'daily', 'weekly', 'monthly']",
        "checks.coverage": "Additional properties are not allowed ('max_missing' was unexpected)",
        "": "Additional properties are not allowed ('group' was unexpected)",
    }
