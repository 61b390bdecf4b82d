"""Writes tests/golden/tool_templates.json: conversations with functions, calls
and results, as transformers renders them by templates in the manner of Qwen 2.5
and of Llama 3.1: their constructs, filters and markup.

    python tests/scripts/make_tools_golden.py > tests/golden/tool_templates.json

Needs transformers (made with 5.24.0).
"""

import json
import sys

import transformers
from transformers.utils.chat_template_utils import render_jinja_template

QWEN = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- elif messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

LLAMA = r"""
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- set system = "" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if builtin_tools is defined or tools is not none %}{{ "Environment: ipython\n" }}{% endif %}
{{- system + "<|eot_id|>" }}
{%- if tools is not none %}
    {%- set asked = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {{- "<|start_header_id|>user<|end_header_id|>\n\n" -}}
    {{- 'Answer with a call: {"name": its function, "parameters": an object}.\n\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) + "\n\n" }}
    {%- endfor %}
    {{- asked + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("Only one call at once!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- "<|start_header_id|>assistant<|end_header_id|>\n\n" -}}
        {{- '{"name": "' + call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- call.arguments | tojson + "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""


def function(name, description, properties):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call(name, arguments):
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(name, content):
    return {"role": "tool", "content": content, "tool_call_id": f"call_{name}"}


TOOLS = [
    function("tide", "High water <at> a town & its \"time\"", {"town": {"type": "string", "enum": ["Rye", "Hythe é"]}}),
    function("note", "Keeps a note", {"text": {"type": "string"}, "tags": {"type": "array", "items": {"type": "integer"}}}),
]
SYSTEM = {"role": "system", "content": "Be brief. "}
ASKS = {"role": "user", "content": " When is high water?"}
CALLS = {"role": "assistant", "content": "", "tool_calls": [call("tide", {"town": "Hythe é", "more": [1, 2.5, True, None, {}]})]}
TWO_CALLS = {"role": "assistant", "content": "I look.", "tool_calls": [call("tide", {"town": "Rye"}), call("note", {"text": "a\n\"b\""})]}
RESULT = result("tide", "9:10, <soon>")
SAYS = {"role": "assistant", "content": "At 9:10."}
THANKS = {"role": "user", "content": "Thanks."}
CONVERSATIONS = [
    ([ASKS], TOOLS),
    ([SYSTEM, ASKS], TOOLS[:1]),
    ([SYSTEM, ASKS, CALLS, RESULT], TOOLS),
    ([ASKS, CALLS, RESULT, SAYS, THANKS], None),
    ([ASKS, TWO_CALLS, RESULT, result("note", "Kept."), SAYS, THANKS], TOOLS),
]


def main():
    cases = []
    for name, template in (("qwen", QWEN), ("llama", LLAMA)):
        for messages, tools in CONVERSATIONS:
            try:
                prompt = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=True)[0][0]
            except Exception as error:  # what a template refuses, with its words
                prompt, refused = None, str(error)
            else:
                refused = None
            cases.append({"template": name, "messages": messages, "tools": tools, "prompt": prompt, "refused": refused})
    golden = {"transformers": transformers.__version__, "templates": {"qwen": QWEN, "llama": LLAMA}, "cases": cases}
    json.dump(golden, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


main()
