"""OpenAI's Python client against a running gateway: what it parses, it can use.

usage: openai_python.py BASE_URL KEY LIMITED_KEY    (see scripts/clients.sh)

LIMITED_KEY may send one request a minute.
"""

import json
import sys
from typing import Literal

import openai
from pydantic import BaseModel, Field

BASE_URL, KEY, LIMITED_KEY = sys.argv[1:]
MODEL = "flywheel"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ASK = dict(model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=12)


def connect(key):
    return openai.OpenAI(base_url=BASE_URL, api_key=key, max_retries=0, timeout=60)


client = connect(KEY)
create = client.chat.completions.create


class Size(BaseModel):
    people: int = Field(ge=1, le=99999)
    unit: Literal["people", "families"]


class Town(BaseModel):
    name: Literal["Rye", "Hythe"]
    coast: bool
    size: Size


def chat_whole_and_streamed():
    whole = create(**ASK)
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and choice.message.content, whole
    assert choice.finish_reason in ("stop", "length"), whole
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.model_extra["adapter_digest"] is None
    pieces, usage, reason, ids = [], None, None, set()
    for chunk in create(**ASK, stream=True, stream_options={"include_usage": True}):
        ids.add(chunk.id)
        assert chunk.model_extra["adapter_digest"] is None
        for part in chunk.choices:
            pieces.append(part.delta.content or "")
            reason = part.finish_reason or reason
        usage = chunk.usage or usage
    assert "".join(pieces) == choice.message.content, pieces
    assert len(ids) == 1 and reason == choice.finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens
    # the helper takes only answers that came to their end
    hello = {**ASK, "messages": [{"role": "user", "content": "Say hello."}], "max_completion_tokens": 80}
    with client.chat.completions.stream(**hello) as events:
        joined = "".join(event.delta for event in events if event.type == "content.delta")
        assert joined == create(**hello).choices[0].message.content
        assert events.get_final_completion().choices[0].message.content == joined


def log_probabilities():
    reply = create(**ASK, logprobs=True, top_logprobs=3).choices[0]
    tokens = reply.logprobs.content
    assert bytes(b for t in tokens for b in t.bytes).decode() == reply.message.content
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token, "greedy takes the most likely"
    streamed = []
    for chunk in create(**ASK, logprobs=True, top_logprobs=3, stream=True):
        for choice in chunk.choices:
            streamed += choice.logprobs.content if choice.logprobs else []
    assert streamed == tokens


def choices_seeds_and_stops():
    hot = {**ASK, "temperature": 1.2, "n": 3}
    texts = lambda seed: [c.message.content for c in create(**hot, seed=seed).choices]
    first = texts(7)
    assert len(set(first)) > 1, first
    assert texts(7) == first, "the same seed says the same"
    assert texts(8) != first
    whole = create(**ASK).choices[0].message.content
    stop = whole[5:9]
    stopped = create(**ASK, stop=[stop, "never said"]).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)], (stop, stopped)
    assert stopped.finish_reason == "stop"


def bias_and_extra_fields():
    # a bias that leaves one token: vLLM's extra fields go along
    tokens = create(**ASK, logprobs=True, top_logprobs=2, logit_bias={"18": 100}).choices[0].logprobs.content
    assert len({token.token for token in tokens}) == 1, tokens
    same = create(**{**ASK, "temperature": 1.0}, extra_body={"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0})
    assert same.choices[0].message.content == create(**ASK).choices[0].message.content


def schemas():
    town = dict(ASK, messages=[{"role": "user", "content": "Describe a town."}], max_completion_tokens=120)
    reply = client.chat.completions.parse(**town, response_format=Town)
    parsed = reply.choices[0].message.parsed
    assert isinstance(parsed, Town) and 1 <= parsed.size.people <= 99999, reply
    with client.chat.completions.stream(**town, response_format=Town) as events:
        for _ in events:
            pass
        assert events.get_final_completion().choices[0].message.parsed == parsed


def forced_calls():
    tool = openai.pydantic_function_tool(Town, name="show_town")
    ask = dict(
        ASK,
        messages=[{"role": "user", "content": "Show me Rye."}],
        max_completion_tokens=120,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "show_town"}},
    )
    choice = client.chat.completions.parse(**ask).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    call = choice.message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, Town), call
    # the streaming helper joins the same call out of its pieces
    kinds = []
    with client.chat.completions.stream(**ask) as events:
        for event in events:
            kinds.append(event.type)
        final = events.get_final_completion().choices[0]
    assert kinds.count("tool_calls.function.arguments.done") == 1
    assert kinds.count("tool_calls.function.arguments.delta") > 1, "the arguments come in pieces"
    assert final.finish_reason == "tool_calls"
    streamed = final.message.tool_calls[0].function
    assert streamed.name == "show_town" and streamed.arguments == call.function.arguments
    assert streamed.parsed_arguments == call.function.parsed_arguments
    # the answer goes back as the client holds it, with the result behind it
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"shown": True})}
    plain = create(**ask).choices[0].message
    result_of_plain = {**result, "tool_call_id": plain.tool_calls[0].id}
    reply = create(**{**ASK, "messages": [*ask["messages"], plain, result_of_plain], "tools": [tool]})
    assert reply.choices[0].message.content or reply.choices[0].message.tool_calls


def calls_by_itself():
    """A small model does what it has just done: it is shown calls."""
    tool = openai.pydantic_function_tool(Town, name="show_town")
    messages = []
    for i, town in enumerate(["Rye", "Hythe", "Rye"]):
        arguments = {"name": town, "coast": True, "size": {"people": 4000, "unit": "people"}}
        call = {"id": f"call_{i}", "type": "function", "function": {"name": "show_town", "arguments": json.dumps(arguments)}}
        messages += [
            {"role": "user", "content": f"Show {town}."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "Shown."},
            {"role": "assistant", "content": "Here it is."},
        ]
    ask = dict(
        ASK,
        messages=[*messages, {"role": "user", "content": "Show Hythe."}],
        max_completion_tokens=120,
        tools=[tool],
        tool_choice="auto",
        parallel_tool_calls=False,
    )
    choice = client.chat.completions.parse(**ask).choices[0]
    assert choice.finish_reason == "tool_calls", choice
    assert choice.message.tool_calls[0].function.parsed_arguments.name == "Hythe", choice
    silent = create(**{**ask, "tool_choice": "none", "max_completion_tokens": 4}).choices[0]
    assert silent.message.tool_calls is None and silent.finish_reason == "length", silent


def models():
    cards = client.models.list().data
    assert [card.id for card in cards][0] == MODEL
    assert client.models.retrieve(MODEL).id == MODEL


def feedback():
    raw = client.chat.completions.with_raw_response.create(**ASK, user="customer-7")
    token, answer = raw.headers["x-feedback-token"], raw.parse()
    vote = {"inference_id": answer.id, "metric_name": "thumbs", "value": False, "token": token}
    receipt = client.post("/feedback", cast_to=object, body=vote)
    assert receipt["outcome"] == "recorded", receipt
    better = {**vote, "metric_name": "demonstration", "value": "Paris."}
    assert client.post("/feedback", cast_to=object, body=better)["outcome"] == "recorded"
    try:
        client.post("/feedback", cast_to=object, body={**vote, "inference_id": "chatcmpl-" + "0" * 8, "token": token[:-2]})
    except openai.APIStatusError as error:
        assert error.status_code in (400, 404), error
    else:
        raise AssertionError("a vote on nothing was taken")


def expect(kind, ask, **fields):
    try:
        ask()
    except kind as error:
        for name, value in fields.items():
            assert getattr(error, name) == value, (name, getattr(error, name), error)
        assert error.request_id and error.request_id.startswith("req-"), error
        return error
    raise AssertionError(f"no {kind.__name__}")


def errors():
    bad_schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}
    for wrong, param in [
        ({"temperature": 9}, "temperature"),
        ({"response_format": bad_schema}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ]:
        ask = lambda: create(**{**ASK, **wrong})
        expect(openai.BadRequestError, ask, param=param, type="invalid_request_error")
    expect(openai.AuthenticationError, lambda: connect("sk-not-a-key-of-this").models.list(), code="invalid_api_key")
    expect(openai.NotFoundError, lambda: create(**{**ASK, "model": "nobody"}), code="model_not_found")
    limited = connect(LIMITED_KEY).chat.completions.create
    limited(**ASK)
    error = expect(openai.RateLimitError, lambda: limited(**ASK), code="rate_limit_exceeded")
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60 and headers["x-ratelimit-remaining-requests"] == "0"


CHECKS = [
    chat_whole_and_streamed,
    log_probabilities,
    choices_seeds_and_stops,
    bias_and_extra_fields,
    schemas,
    forced_calls,
    calls_by_itself,
    models,
    feedback,
    errors,
]
for check in CHECKS:
    check()
print(f"openai-python {openai.__version__}: {', '.join(check.__name__ for check in CHECKS)}")
