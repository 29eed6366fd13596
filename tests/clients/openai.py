"""The official client, doing what its users do."""

import json
import sys
import urllib.request

# This file is named as the library is.
sys.path = [path for path in sys.path if not path.endswith("tests/clients")]

import openai  # noqa: E402
from openai import OpenAI  # noqa: E402

url = sys.argv[1]
client = OpenAI(base_url=f"{url}/v1", api_key="sesame", max_retries=0)
models = client.models.list().data
assert len(models) == 1, models
model = models[0].id
assert client.models.retrieve(model).id == model

ask = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "tell me a story"}]

# A whole answer.
answer = client.chat.completions.create(
    model=model, messages=ask, max_completion_tokens=16, temperature=0.7, seed=3, n=2,
    logprobs=True, top_logprobs=4,
)
assert len(answer.choices) == 2
first = answer.choices[0]
assert first.message.role == "assistant" and first.message.content
assert first.finish_reason in ("stop", "length")
assert len(first.logprobs.content) == 16 or first.finish_reason == "stop"
assert len(first.logprobs.content[0].top_logprobs) == 4
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

# The same, piece by piece.
said = ["", ""]
counts = None
with client.chat.completions.create(
    model=model, messages=ask, max_completion_tokens=16, temperature=0.7, seed=3, n=2,
    stream=True, stream_options={"include_usage": True},
) as stream:
    for chunk in stream:
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
        counts = chunk.usage or counts
assert said == [choice.message.content for choice in answer.choices], said
assert counts.completion_tokens == answer.usage.completion_tokens

# Structured answers through the library's own helper.
schema = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
shaped = client.chat.completions.create(
    model=model, messages=ask, max_completion_tokens=150, seed=1,
    response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
)
if shaped.choices[0].finish_reason == "stop":
    person = json.loads(shaped.choices[0].message.content)
    assert person["name"] in ("ann", "bob") and 1 <= person["age"] <= 99, person
else:
    # Blanks between the parts are free, and a random model likes them.
    assert shaped.choices[0].finish_reason == "length", shaped

# Plain texts.
text = client.completions.create(model=model, prompt=["once", "twice"], max_tokens=5, temperature=0, logprobs=2)
assert [choice.index for choice in text.choices] == [0, 1]
assert len(text.choices[0].logprobs.tokens) == 5

# A stream that nobody wants any more.
stream = client.chat.completions.create(model=model, messages=ask, max_completion_tokens=150, stream=True)
next(iter(stream))
stream.close()

# Errors arrive as the library's own.
def fails(kind, code, **arguments):
    call = {"model": model, "messages": ask, "max_completion_tokens": 2} | arguments
    try:
        client.chat.completions.create(**call)
    except kind as error:
        assert error.code == code, error
        return
    raise AssertionError(f"{arguments} was answered")


fails(openai.NotFoundError, "model_not_found", model="gpt-5")
fails(openai.BadRequestError, "decimal_above_max_value", temperature=3)
fails(openai.BadRequestError, "context_length_exceeded", max_completion_tokens=100_000)
fails(openai.BadRequestError, "unknown_parameter", extra_body={"flavour": "sour"})
stranger = OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
try:
    stranger.models.list()
    raise AssertionError("a wrong key was taken")
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key", error

metrics = urllib.request.urlopen(f"{url}/metrics").read().decode()
assert "vllm:time_to_first_token_seconds_count" in metrics
print(f"openai {openai.__version__}: chat, stream, schema, texts, errors")
