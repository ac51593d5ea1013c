/** Talks to the gateway that served this page. Paths are relative, so that a proxy's prefix stays in front of them. */

const KEY = "search-agent.key";

/** The API key of this tab. */
export const key = {
  get value() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return "";
    }
  },
  set value(text) {
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  },
};

let askForKey = async () => false;

/** Sets who is asked for a key when the gateway wants one; resolves to whether there is a new one. */
export function onMissingKey(ask) {
  askForKey = ask;
}

/** An error in the words of the gateway (RFC 9457). */
export class Problem extends Error {
  constructor(body, retryAfter = 0) {
    super(body.detail || body.title || "The gateway gave no reason.");
    this.title = body.title;
    this.status = body.status;
    this.requestId = body.request_id;
    this.retryAfter = retryAfter;
  }
}

async function problemOf(response) {
  let body = {};
  try {
    body = await response.json();
  } catch {
    // A proxy has answered in its own way.
  }
  const detail = body.detail || `The answer was ${response.status} ${response.statusText}`.trim() + ".";
  return new Problem(
    { status: response.status, title: body.title || `Error ${response.status}`, detail, request_id: body.request_id },
    Number(response.headers.get("retry-after")) || 0,
  );
}

function authorization() {
  return key.value ? { authorization: `Bearer ${key.value}` } : {};
}

/** `body` is sent as JSON; `lines` are text or a file of JSON lines instead. */
async function request(path, { body, lines, signal, accept = "application/json" } = {}) {
  const sent = lines ?? (body === undefined ? undefined : JSON.stringify(body));
  for (;;) {
    const headers = { accept, ...authorization() };
    if (sent !== undefined) headers["content-type"] = lines === undefined ? "application/json" : "application/x-ndjson";
    let response;
    try {
      response = await fetch(path, {
        method: sent === undefined ? "GET" : "POST",
        headers,
        body: sent,
        signal,
        cache: "no-store",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ title: "No connection", detail: "The gateway cannot be reached." });
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401 || !(await askForKey(problem.message))) throw problem;
  }
}

/** Returns the JSON of a GET, or of a POST where there is a body. */
export async function json(path, options) {
  return (await request(path, options)).json();
}

/** Returns the readiness, which comes with status 503 while something is not ready. */
export async function readiness() {
  const response = await fetch("readyz", { headers: authorization(), cache: "no-store" });
  return response.json();
}

/** Yields [name, data] of each server-sent event. Throws the problem that an event `error` holds. */
export async function* events(path, options) {
  const response = await request(path, { ...options, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (!event) continue;
        if (event[0] === "error") throw new Problem(event[1]);
        yield event;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
    throw new Problem({ title: "The connection broke", detail: "The gateway stopped sending before the end." });
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Returns [name, data], or null for a heartbeat. */
function parsed(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5));
  }
  return data.length ? [name, JSON.parse(data.join("\n"))] : null;
}
