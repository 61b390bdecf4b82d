// OpenAI's Node client against a running gateway: what it parses, it can use.
// usage: node openai_node.mjs BASE_URL KEY LIMITED_KEY FOLDER    (see scripts/clients.sh)
//
// LIMITED_KEY may send one request a minute; FOLDER has the client's package.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [baseURL, key, limitedKey, folder] = process.argv.slice(2);
const require = createRequire(`${folder}/`);
const { OpenAI } = require("openai");
const { VERSION } = require("openai/version");

const connect = (apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
const client = connect(key);
const create = (body) => client.chat.completions.create(body);
const question = {
  model: "flywheel",
  messages: [{ role: "user", content: "What is the capital of France?" }],
  temperature: 0,
  max_completion_tokens: 12,
};
const schema = {
  type: "object",
  properties: { name: { enum: ["Rye", "Hythe"] }, people: { type: "integer", minimum: 1, maximum: 99999 } },
  required: ["name", "people"],
  additionalProperties: false,
};
const assertTown = (value) => {
  assert.ok(["Rye", "Hythe"].includes(value.name));
  assert.ok(Number.isInteger(value.people) && value.people >= 1 && value.people <= 99999);
  assert.equal(Object.keys(value).length, 2);
};

async function chatWholeAndStreamed() {
  const whole = await create(question);
  const { content } = whole.choices[0].message;
  assert.ok(content.length > 0);
  assert.equal(whole.adapter_digest, null);
  const pieces = [];
  let usage = null;
  for await (const chunk of await create({ ...question, stream: true, stream_options: { include_usage: true } })) {
    pieces.push(chunk.choices[0]?.delta?.content ?? "");
    usage = chunk.usage ?? usage;
  }
  assert.equal(pieces.join(""), content);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
}

async function logProbabilities() {
  const probable = await create({ ...question, logprobs: true, top_logprobs: 2 });
  for (const token of probable.choices[0].logprobs.content) {
    assert.equal(token.top_logprobs.length, 2);
    assert.equal(token.top_logprobs[0].token, token.token, "greedy takes the most likely");
  }
}

async function choicesSeedsAndStops() {
  const hot = { ...question, temperature: 1.2, n: 3, seed: 7 };
  const texts = async () => (await create(hot)).choices.map((choice) => choice.message.content);
  const first = await texts();
  assert.equal(first.length, 3);
  assert.deepEqual(await texts(), first, "the same seed says the same");
  const { content } = (await create(question)).choices[0].message;
  const stop = content.slice(5, 9);
  const stopped = (await create({ ...question, stop })).choices[0];
  assert.equal(stopped.message.content, content.slice(0, content.indexOf(stop)));
  assert.equal(stopped.finish_reason, "stop");
}

async function schemas() {
  const town = await client.chat.completions.parse({
    ...question,
    max_completion_tokens: 100,
    response_format: { type: "json_schema", json_schema: { name: "town", strict: true, schema } },
  });
  assertTown(JSON.parse(town.choices[0].message.content));
}

async function calls() {
  const forced = {
    ...question,
    max_completion_tokens: 120,
    tools: [{ type: "function", function: { name: "show_town", strict: true, parameters: schema } }],
    tool_choice: { type: "function", function: { name: "show_town" } },
  };
  const { message, finish_reason } = (await create(forced)).choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.content, null);
  const call = message.tool_calls[0];
  assert.equal(call.function.name, "show_town");
  assertTown(JSON.parse(call.function.arguments));
  const deltas = [];
  const stream = client.chat.completions.stream(forced);
  stream.on("tool_calls.function.arguments.delta", (delta) => deltas.push(delta.arguments_delta));
  const joined = (await stream.finalChatCompletion()).choices[0];
  assert.equal(joined.finish_reason, "tool_calls");
  assert.equal(joined.message.tool_calls[0].function.arguments, call.function.arguments);
  assert.equal(deltas.join(""), call.function.arguments);
  // the answer goes back as it came, with the result behind it
  const messages = [...question.messages, message, { role: "tool", tool_call_id: call.id, content: "Shown." }];
  const reply = await create({ ...forced, messages, tool_choice: "none" });
  assert.ok(reply.choices[0].message.content.length > 0);
  assert.equal(reply.choices[0].message.tool_calls, undefined);
  const automatic = await create({ ...forced, messages, tool_choice: "auto", parallel_tool_calls: false });
  for (const made of automatic.choices[0].message.tool_calls ?? []) {
    assert.equal(made.function.name, "show_town");
  }
}

async function modelsAndFeedback() {
  const ids = [];
  for await (const card of client.models.list()) ids.push(card.id);
  assert.equal(ids[0], "flywheel");
  const { data, response } = await client.chat.completions.create({ ...question, user: "customer-7" }).withResponse();
  const token = response.headers.get("x-feedback-token");
  const body = { inference_id: data.id, metric_name: "thumbs", value: true, token };
  assert.equal((await client.post("/feedback", { body })).outcome, "recorded");
}

async function errors() {
  const refused = (ask, kind, check) =>
    assert.rejects(ask, (error) => error instanceof kind && error.requestID.startsWith("req-") && check(error));
  await refused(create({ ...question, temperature: 9 }), OpenAI.BadRequestError, (e) => e.param === "temperature");
  const stranger = connect("sk-not-a-key-of-this").models.list();
  await refused(stranger, OpenAI.AuthenticationError, (e) => e.code === "invalid_api_key");
  await refused(create({ ...question, model: "nobody" }), OpenAI.NotFoundError, (e) => e.code === "model_not_found");
  const limited = connect(limitedKey).chat.completions;
  await limited.create(question);
  const again = limited.create(question);
  await refused(again, OpenAI.RateLimitError, (e) => Number(e.headers.get("retry-after")) >= 1);
}

const checks = [chatWholeAndStreamed, logProbabilities, choicesSeedsAndStops, schemas, calls, modelsAndFeedback, errors];
for (const check of checks) await check();
console.log(`openai-node ${VERSION}: ${checks.map((check) => check.name).join(", ")}`);
