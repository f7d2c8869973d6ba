// Runs that go on and finished reports, by workflow and node: kept here so that a node of another tab, or of a page opened
// again, finds its own.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const VERSION = 1;
const runs = new Map();     // "workflow node" -> the whole message of the newest run there
const reports = new Map();  // "workflow node" -> the newest report there, of a run or of words
const MOST_PROMPTS = 200;
const queuedFrom = new Map();   // prompt id -> promise of the id of the workflow it was queued from

export function rootGraph() {
  return app.rootGraph ?? app.graph;
}

const keyOf = (workflow, node) => `${workflow ?? ""} ${node}`;

/** Every node with its execution id ("9", in a subgraph "4:9"). */
export function* nodesWithIds(graph = rootGraph(), prefix = "") {
  for (const node of graph?.nodes ?? []) {
    yield [`${prefix}${node.id}`, node];
    if (node.subgraph) yield* nodesWithIds(node.subgraph, `${prefix}${node.id}:`);
  }
}

/** The newest run of a node of the workflow that is open, or undefined. */
export function runOf(executionId) {
  return runs.get(keyOf(rootGraph()?.id, executionId)) ?? runs.get(keyOf(null, executionId));
}

/** The newest report of a node of the workflow that is open, or undefined. */
export function reportOf(executionId) {
  return reports.get(keyOf(rootGraph()?.id, executionId));
}

/** Takes a message in; returns false when earlier ones are missing. */
function take(message) {
  if (message?.version !== VERSION) return true;
  const key = keyOf(message.workflow, message.node);
  const known = runs.get(key);
  const before = known?.run === message.run ? known.decisions : [];
  const { first_look: firstLook = 0, looks = [] } = message;
  const seen = known?.run === message.run ? known.looks : [];
  if (message.first > before.length || firstLook > seen.length) return false;
  runs.set(key, { ...message, first: 0, decisions: [...before.slice(0, message.first), ...message.decisions],
    first_look: 0, looks: [...seen.slice(0, firstLook), ...looks] });
  return true;
}

/** Asks the server for everything so far. */
export async function catchUp() {
  const client = api.clientId ?? api.initialClientId ?? "";
  if (!client) return;
  const answer = await api.fetchApi(`/saferedir/live?client_id=${encodeURIComponent(client)}`);
  if (!answer.ok) return;
  for (const message of (await answer.json()).runs) take(message);
}

/** Calls `changed(executionId)` after each message about the workflow that is open. */
export function listen(changed) {
  api.addEventListener("saferedir.step", async ({ detail }) => {
    if (!take(detail)) await catchUp();
    if (!detail.workflow || detail.workflow === rootGraph()?.id) changed(detail.node);
  });
}

/** The id of the workflow a prompt was queued from: the host tells a node's output to whichever tab is open. */
function workflowOf(prompt) {
  if (!queuedFrom.has(prompt)) queuedFrom.set(prompt, askedFor(prompt).catch(() => undefined));
  if (queuedFrom.size > MOST_PROMPTS) queuedFrom.delete(queuedFrom.keys().next().value);
  return queuedFrom.get(prompt);
}

async function askedFor(prompt) {
  const { queue_running } = await (await api.fetchApi("/queue")).json();
  const running = queue_running.find((each) => each[1] === prompt);
  const queued = running ?? (await (await api.fetchApi(`/history/${prompt}`)).json())[prompt]?.prompt;
  return queued?.[3]?.extra_pnginfo?.workflow?.id;
}

/** Calls `changed(executionId, done, total)` as a node of the workflow that is open gets on. */
export function listenForProgress(changed) {
  api.addEventListener("progress", async ({ detail }) => {
    const workflow = await workflowOf(detail.prompt_id) ?? rootGraph()?.id;
    if (workflow === rootGraph()?.id) changed(String(detail.node), detail.value, detail.max);
  });
}

/** Calls `changed(executionId)` after each report, of a run or of words, for the workflow that is open. */
export function listenForReports(changed) {
  api.addEventListener("executed", async ({ detail }) => {
    const [report] = detail?.output?.saferedir ?? detail?.output?.saferedir_words ?? [];
    if (!report) return;
    const workflow = await workflowOf(detail.prompt_id) ?? rootGraph()?.id;
    const node = String(detail.display_node ?? detail.node);
    reports.set(keyOf(workflow, node), report);
    if (workflow === rootGraph()?.id) changed(node);
  });
}
