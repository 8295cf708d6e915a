// What a frontend written for the Assistants API does, with the vendor's SDK for JavaScript.
// Its product is one JSON object on standard output; any surprise is an exception.
import assert from "node:assert/strict";
import OpenAI from "openai";

const openai = new OpenAI({ maxRetries: 0 });
const { assistants, threads } = openai.beta;

const tutor = await assistants.create({ model: "gpt-4o-mini", instructions: "Be kind." });
const thread = await threads.create({ messages: [{ role: "user", content: process.argv[2] }] });
const run = await threads.runs.createAndPoll(thread.id, { assistant_id: tutor.id });
assert.equal(run.status, "completed");
const polled = (await threads.messages.list(thread.id, { run_id: run.id })).data[0];

await threads.messages.create(thread.id, { role: "user", content: "Explain in more detail." });
const events = [];
let deltas = "";
const stream = threads.runs
  .stream(thread.id, { assistant_id: tutor.id })
  .on("event", ({ event }) => events.at(-1) === event || events.push(event))
  .on("textDelta", (delta) => (deltas += delta.value ?? ""));
const final = await stream.finalRun();
const [streamed] = await stream.finalMessages();
assert.equal(final.status, "completed");
assert.equal(streamed.content[0].text.value, deltas);

const paged = [];
for await (const message of threads.messages.list(thread.id, { limit: 1, order: "asc" })) {
  paged.push(message.role);
}

const plotter = await assistants.create({
  model: "gpt-4o-mini",
  tools: [
    { type: "function", function: { name: "calculate" } },
    { type: "function", function: { name: "plot", parameters: { type: "object", properties: {} } } },
  ],
});
const content = "Announce: calculate `1/3 + 1/6` and plot a line";
const other = await threads.create({ messages: [{ role: "user", content }] });
const calls = [];
const first = threads.runs
  .stream(other.id, { assistant_id: plotter.id })
  .on("toolCallDone", (call) => calls.push(call.function.name));
const waiting = await first.finalRun();
assert.equal(waiting.status, "requires_action");
const tool_outputs = waiting.required_action.submit_tool_outputs.tool_calls.map((call) => ({
  tool_call_id: call.id,
  output: `The ${call.function.name} was made.`,
}));
let told = "";
const second = threads.runs
  .submitToolOutputsStream(waiting.id, { thread_id: other.id, tool_outputs })
  .on("textDelta", (delta) => (told += delta.value ?? ""));
assert.equal((await second.finalRun()).status, "completed");
const tools = { calls: [...new Set(calls)], told };

const errors = [];
for (const call of [
  () => threads.runs.cancel(final.id, { thread_id: thread.id }),
  () => threads.retrieve("sess_nobodys"),
  () => assistants.create({}),
  () => new OpenAI({ apiKey: "sk-none", maxRetries: 0 }).beta.threads.create(),
]) {
  await assert.rejects(call, (error) => errors.push([error.constructor.name, error.status]) > 0);
}

const answers = [polled.content[0].text.value, deltas];
console.log(JSON.stringify({ answers, events, paged, errors, tools }));
