// The server: JSON requests, streams of an answer, the key.

const KEY_NAME = "maskprobe.key";
let heldKey = "";

/** What the server, or the way to it, said. `status` is 0 where there was no answer. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setKey(key) {
  heldKey = key;
  try {
    sessionStorage.setItem(KEY_NAME, key);
  } catch {
    // storage is switched off: the key lives as long as the page
  }
}

function key() {
  try {
    return sessionStorage.getItem(KEY_NAME) || heldKey;
  } catch {
    return heldKey;
  }
}

function headers(more = {}) {
  return key() ? { ...more, Authorization: `Bearer ${key()}` } : more;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server does not answer. Is it still running?");
  }
  if (!response.ok) throw new ServerError(response.status, await errorLine(response));
  return response;
}

async function errorLine(response) {
  const text = await response.text().catch(() => "");
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text.trim().split("\n")[0].slice(0, 300) || `The server answered ${response.status}.`;
  }
}

export async function getJson(path) {
  return (await request(path, { headers: headers() })).json();
}

/** The chunks of a streamed answer, parsed. Raises ServerError, and AbortError when `signal` says so. */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(response.status, chunk.error.message);
    yield chunk;
  }
  throw new ServerError(0, "The connection broke before the answer was complete.");
}

/** The data of server-sent events; those of ours have one line each. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6).trimEnd();
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The connection broke before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
