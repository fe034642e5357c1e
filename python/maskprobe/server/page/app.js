// The page: a conversation with one of the server's models, and what the drafts of each answer did.

import { ServerError, getJson, setKey, streamChat } from "./api.js";
import { Batch } from "./batch.js";
import { drawChart } from "./chart.js";
import { Conversation } from "./chat.js";
import { TokenDetail } from "./detail.js";
import { PassLog } from "./passes.js";
import { fillModels, modelLine, sampling, systemMessages, theme, watchSettings } from "./settings.js";
import { OWN, drawLegend } from "./sources.js";
import { drawSpeed, drawTimes, measured } from "./speed.js";
import { Speaker, fixed, plural } from "./text.js";
import { acceptedPath, drawTree } from "./tree.js";

const $ = (id) => document.getElementById(id);

const conversation = new Conversation($("log"));
const speaker = new Speaker($("spoken"));
const answers = new WeakMap(); // the element of an answer's text -> its tokens
const detail = new TokenDetail($("token-detail"), $("log"), (span) => answers.get(span.parentElement)?.[span.dataset.index]);

let history = []; // messages of this page, without the system prompt
let running = null; // AbortController of what runs
let last = null; // the last request: {body, asked: what was measured, plain}

// --- one answer ---

async function send() {
  const text = $("input").value;
  if (running || !text.trim()) return;
  const question = conversation.user(text);
  $("input").value = "";
  const body = { ...sampling(), messages: [...systemMessages(), ...history, { role: "user", content: text }] };
  const draft = $("draft").value;
  const chat = history;
  const view = conversation.answer(body.model);
  answers.set(view.text, view.tokens);
  last = null;
  drawSpeed($("speed").tBodies[0], $("speed-result"));
  const log = new PassLog();
  drawPanels(log);
  const result = await run(body, draft, log, (tokens) => {
    if (history !== chat) return; // a new chat was begun meanwhile
    view.add(tokens);
    speaker.add(tokens.map((token) => token.text).join(""));
    drawPanels(log);
  });
  if (history !== chat) return;
  const content = view.text.textContent;
  if (result.error && !content) {
    question.remove();
    view.element.remove();
    if (!$("input").value) $("input").value = text; // to be sent again
  } else {
    history.push({ role: "user", content: text }, { role: "assistant", content });
    view.end(footLine(log, result, body.seed));
    last = { body, asked: measured(log, { draft, ...result }) };
  }
  if (result.error) report(result.error);
  speaker.finish(result.error ? "" : `The answer has ended: ${plural(log.stats.n_gen, "token")}.`);
  drawPanels(log);
  drawLast();
  await refresh();
}

/** Runs a request to its end; `draw` gets its tokens. What went wrong is in the result, not thrown. */
async function run(body, draft, log, draw) {
  running = new AbortController();
  setRunning(true);
  const batch = new Batch(draw);
  const result = { complete: false, reason: "", error: null, others: 0 };
  try {
    for await (const chunk of streamChat({ ...body, draft, maskprobe: { evidence: true } }, running.signal)) {
      const isFirst = !log.tokens.length;
      const tokens = log.add(chunk.maskprobe ?? {});
      if (isFirst && tokens.length) countOthers(result);
      result.reason = chunk.choices[0]?.finish_reason ?? result.reason;
      batch.add(tokens);
    }
    result.complete = true;
  } catch (error) {
    if (error.name === "AbortError") result.reason = "stopped";
    else result.error = error;
  }
  batch.flush();
  running = null;
  setRunning(false);
  return result;
}

function countOthers(result) {
  getJson("internal/generations").then(
    ({ generations }) => (result.others = Math.max(0, generations.length - 1)),
    () => {},
  );
}

function setRunning(isRunning) {
  const active = document.activeElement;
  $("send").disabled = isRunning;
  $("stop").disabled = !isRunning;
  $("measure").disabled = isRunning || !last;
  if (active === $("stop") || active === $("send")) $("input").focus();
}

const REASONS = { stop: "it came to its end", length: "cut at the most tokens", stopped: "stopped" };

function footLine(log, result, seed) {
  const parts = [plural(log.stats.n_gen, "token"), `in ${plural(log.stats.passes, "pass")}`];
  if (log.rate) parts.push(`${fixed(log.rate, 1)} tokens/s`);
  parts.push(result.error ? "broken off" : (REASONS[result.reason] ?? result.reason), `seed ${seed}`);
  return parts.filter(Boolean).join(", ");
}

function report(error) {
  if (!(error instanceof ServerError)) console.error(error);
  conversation.error(error instanceof ServerError ? error.message : `The page failed: ${error.message}`);
  if (error.status === 401) askKey();
}

// --- plain decoding beside it ---

async function measurePlain() {
  if (running || !last) return;
  const request = last;
  const log = new PassLog();
  const told = (line) => ($("measure-note").textContent = line);
  told("Measuring plain decoding …");
  const result = await run(request.body, "off", log, () =>
    told(`Measuring plain decoding: ${plural(log.tokens.length, "token")} …`),
  );
  if (result.error) {
    told(`It could not be measured: ${result.error.message}`);
    if (result.error.status === 401) askKey();
  } else {
    request.plain = measured(log, { draft: "off", ...result });
    told("Repeats the last request with drafting off and the same seed.");
  }
  drawLast();
  speaker.say($("speed-result").textContent);
  await refresh();
}

function drawLast() {
  drawSpeed($("speed").tBodies[0], $("speed-result"), last?.asked, last?.plain);
  $("measure").disabled = Boolean(running) || !last || last.asked.draft === "off";
  if (last?.asked.draft === "off") $("speed-result").textContent = "The last request was plain already: send one with drafting on.";
}

// --- panels ---

function drawPanels(log) {
  drawLegend($("legend").tBodies[0], log.tokens);
  const n = log.tokens.filter((token) => token.source !== OWN).length;
  $("legend-note").textContent = `The newest answer: ${plural(log.tokens.length, "token")}, ${n} of them drafted.`;
  drawChart($("chart"), $("chart-text"), log.passes.slice(0, log.newest));
  drawNewest(log);
}

function drawNewest(log) {
  const number = log.newest;
  if (!number) {
    $("tree-facts").textContent = "There was none yet.";
    $("tree").replaceChildren();
    return;
  }
  const pass = log.at(number);
  const facts = [`Pass ${number}`];
  if (pass.rows) facts.push(`${pass.exact ? "" : "about "}${plural(Math.round(pass.rows), "row")}`);
  const drafted = `${pass.exact ? "" : "about "}${plural(Math.round(pass.drafted), "candidate")}`;
  facts.push(pass.drafted ? `${pass.accepted.length} of ${drafted} accepted` : "nothing drafted");
  $("tree-facts").textContent = `${facts.join(", ")}.`;
  drawTree($("tree"), log.tree?.nodes ?? acceptedPath(log, number));
  const n = Math.round(pass.drafted) - pass.accepted.length;
  if (!log.tree && n > 0) {
    const note = document.createElement("p");
    note.className = "tree-note";
    note.textContent = `+ ${plural(n, "candidate")} not accepted (the server does not tell which)`;
    $("tree").append(note);
  }
}

// --- the server ---

async function refresh() {
  try {
    const { data } = await getJson("v1/models");
    fillModels(data);
    await showModel();
  } catch (error) {
    if (error.status === 401) askKey();
    else $("model-note").textContent = error.message;
  }
}

async function showModel() {
  const name = $("model").value;
  const { models } = await getJson("internal/models");
  $("model-note").textContent = modelLine(models.find((model) => model.name === name));
  const { times } = await getJson(`internal/pass-times?model=${encodeURIComponent(name)}`);
  drawTimes($("times").tBodies[0], $("times-note"), times);
}

function askKey() {
  $("key-form").hidden = false;
  $("key").focus();
}

// --- what a reader does ---

function newChat() {
  running?.abort();
  history = [];
  last = null;
  speaker.rest = "";
  conversation.clear();
  drawPanels(new PassLog());
  drawLast();
  $("input").focus();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  detail.hide();
  running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("measure").addEventListener("click", measurePlain);
$("new-chat").addEventListener("click", newChat);
$("model").addEventListener("change", () => showModel().catch((error) => ($("model-note").textContent = error.message)));
$("shading").addEventListener("change", () => $("log").classList.toggle("shaded", $("shading").checked));
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  setKey($("key").value.trim());
  $("key").value = "";
  $("key-form").hidden = true;
  await refresh();
  if ($("key-form").hidden) $("input").focus();
});

theme();
watchSettings();
$("log").classList.toggle("shaded", $("shading").checked);
drawPanels(new PassLog());
drawLast();
refresh();
