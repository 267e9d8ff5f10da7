// The session: where it began, what was tried, and where one stands. All of it is in the address after "#".

const LONGEST = 12000; // characters of an image in the address; larger ones stay in this tab

export class ServerError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

let askForKey = async () => "";
export function onKey(ask) { askForKey = ask; }

/** One request to the server. Texts, blobs and lists of texts become a form. */
export async function call(path, fields = null, signal = undefined) {
  const options = { signal, headers: {} }, key = sessionStorage.getItem("key");
  if (key) options.headers.Authorization = `Bearer ${key}`;
  if (fields) {
    options.method = "POST";
    options.body = new FormData();
    for (const [name, given] of Object.entries(fields))
      for (const value of Array.isArray(given) ? given : [given]) options.body.append(name, value instanceof Blob ? value : String(value));
  }
  const response = await fetch(path, options);
  if (response.status === 401) {
    const given = await askForKey();
    if (given) { sessionStorage.setItem("key", given); return call(path, fields, signal); }
  }
  if (response.ok) return response.json();
  let said = `The server answers ${response.status}.`;
  try { said = (await response.json()).error.message; } catch { /* no JSON */ }
  throw new ServerError(response.status, said);
}

/** Nodes: 0 is the beginning, others {parent, action, seed, pick, ...}; `at` is where one stands. */
export class Session {
  constructor() { this.begin({ example: 0 }, null); }

  begin(source, frame) {
    this.source = source;
    this.nodes = [{ parent: -1, action: "", frame }];
    this.at = 0;
  }

  get now() { return this.nodes[this.at]; }

  add(action, seed, pick, verifier, frame, score = null) {
    const same = this.nodes.findIndex((n) => n.parent === this.at && n.action === action && n.seed === seed && n.pick === pick);
    if (same > 0) { this.at = same; return; }
    this.nodes.push({ parent: this.at, action, seed, pick, verifier, frame, score });
    this.at = this.nodes.length - 1;
  }

  path(node = this.at) {
    const steps = [];
    for (let i = node; i >= 0; i = this.nodes[i].parent) steps.unshift(i);
    return steps;
  }

  /** Ends of other branches than the one that is shown. */
  branches() {
    const shown = new Set(this.path());
    return this.nodes.map((_, i) => i).filter((i) => !shown.has(i) && !this.nodes.some((n) => n.parent === i));
  }

  toJson() {
    return { retrodict: 1, source: this.source, at: this.at,
      nodes: this.nodes.slice(1).map(({ parent, action, seed, pick, verifier }) => ({ parent, action, seed, pick, verifier })) };
  }
}

export async function imageSource(blob, toBase64) {
  const text = await toBase64(blob);
  if (text.length <= LONGEST) return { image: text };
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  const name = [...digest.subarray(0, 8)].map((b) => b.toString(16).padStart(2, "0")).join("");
  try { sessionStorage.setItem(`image-${name}`, text); } catch { /* too large to keep: a reload begins anew */ }
  return { kept: name };
}

export function write(state) {
  const text = btoa(String.fromCharCode(...new TextEncoder().encode(JSON.stringify(state))));
  history.replaceState(null, "", `#${text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`);
}

export function read() {
  try {
    const text = location.hash.slice(1).replaceAll("-", "+").replaceAll("_", "/");
    return text ? JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)))) : null;
  } catch { return null; }
}
