// 'Guard this sampler': Load SafeRedir, or SafeRedir Words, and Guard before a sampler's model, Report behind its latent.
import { app } from "../../scripts/app.js";
import { text } from "./texts.js";

const GAP = 60;

const slot = (slots, type) => (slots ?? []).findIndex((each) => String(each.type).split(",").includes(type));

/** Whether a node samples with a model: a sampler, or a guider that a sampler takes. */
export function isSampler(node) {
  const conditioned = (node.inputs ?? []).some((input) => input.type === "CONDITIONING");
  const gives = slot(node.outputs, "LATENT") >= 0 || slot(node.outputs, "GUIDER") >= 0;
  return conditioned && gives && slot(node.inputs, "MODEL") >= 0;
}

/** The node behind an input, and its slot, or null. */
function sourceOf(node, index) {
  const link = node.graph.links.get?.(node.inputs[index].link) ?? node.graph.links[node.inputs[index].link];
  return link ? { node: node.graph.getNodeById(link.origin_id), slot: link.origin_slot } : null;
}

/** Whether a Guard stands somewhere before this sampler's model. */
export function isGuarded(sampler) {
  const seen = new Set();
  for (let node = sampler; node && !seen.has(node);) {
    seen.add(node);
    const model = slot(node.inputs, "MODEL");
    node = model < 0 ? null : sourceOf(node, model)?.node;
    if (node?.type === "SafeRedirGuard") return true;
  }
  return false;
}

function add(graph, type, x, y) {
  const node = window.LiteGraph.createNode(type);
  node.pos = [x, y];
  graph.add(node);
  return node;
}

/** Below every node between two places across. */
function below(graph, left, right) {
  const there = graph.nodes.filter((node) => node.pos[0] < right && node.pos[0] + node.size[0] > left);
  return Math.max(...there.map((node) => node.pos[1] + node.size[1]));
}

/** What gives the CLIP that encodes this sampler's prompt: { node, slot }, or null. */
function clipOf(sampler) {
  const inputs = sampler.inputs ?? [];
  const positive = inputs.findIndex((input) => input.name === "positive");
  const way = [[sampler, positive >= 0 ? positive : slot(inputs, "CONDITIONING")]];
  const seen = new Set();
  while (way.length) {
    const node = sourceOf(...way.shift())?.node;
    if (!node || seen.has(node)) continue;
    seen.add(node);
    const clip = slot(node.inputs, "CLIP");
    const source = clip < 0 ? null : sourceOf(node, clip);
    if (source?.node) return source;
    (node.inputs ?? []).forEach((input, index) => {
      if (["CONDITIONING", "*"].includes(input.type)) way.push([node, index]);
    });
  }
  return null;
}

/** A SafeRedir Words that reads the sampler's CLIP: one that is there already, or a new one. */
function wordsFor(sampler, x, y) {
  const { graph } = sampler;
  const clip = clipOf(sampler);
  const known = graph.nodes.find((node) => {
    if (node.type !== "SafeRedirWords") return false;
    const source = sourceOf(node, slot(node.inputs, "CLIP"));
    return source?.node === clip?.node && source?.slot === clip?.slot;
  });
  if (known) return known;
  const words = add(graph, "SafeRedirWords", x, y);
  words.pos = [x - words.size[0], y];
  if (clip) clip.node.connect(clip.slot, words, slot(words.inputs, "CLIP"));
  return words;
}

function loaderFor(sampler, x, y) {
  const known = sampler.graph.nodes.find((node) => node.type === "SafeRedirLoader" || node.type === "SafeRedirHubLoader");
  return known ?? add(sampler.graph, "SafeRedirLoader", x - 300, y);
}

/** Inserts the nodes and wires them; one step of undo.  redirectorFor: gives the node with the redirector. */
export function guardSampler(sampler, redirectorFor = loaderFor) {
  const { graph } = sampler;
  const model = slot(sampler.inputs, "MODEL");
  const source = sourceOf(sampler, model);
  app.canvas?.emitBeforeChange?.();
  graph.beforeChange?.();
  try {
    const top = below(graph, sampler.pos[0] - 800, sampler.pos[0] + 480) + 2 * GAP;
    const redirector = redirectorFor(sampler, sampler.pos[0] - 400, top);
    const guard = add(graph, "SafeRedirGuard", sampler.pos[0] - 340, top);
    if (source) source.node.connect(source.slot, guard, slot(guard.inputs, "MODEL"));
    redirector.connect(0, guard, slot(guard.inputs, "SAFEREDIR"));
    guard.connect(0, sampler, model);
    const latent = slot(sampler.outputs, "LATENT");
    if (latent >= 0) addReport(graph, sampler, latent, guard, top);
  } finally {
    graph.afterChange?.();
    app.canvas?.emitAfterChange?.();
    graph.setDirtyCanvas(true, true);
  }
}

function addReport(graph, sampler, latent, guard, top) {
  const followers = (sampler.outputs[latent].links ?? []).map((id) => {
    const link = graph.links.get?.(id) ?? graph.links[id];
    return { node: graph.getNodeById(link.target_id), slot: link.target_slot };
  });
  const report = add(graph, "SafeRedirReport", sampler.pos[0] + 40, top);
  sampler.connect(latent, report, 0);
  guard.connect(1, report, slot(report.inputs, "SAFEREDIR_TRAJECTORY"));
  for (const follower of followers) report.connect(0, follower.node, follower.slot);
}

/** What the right-click menu of a node offers; both renderers ask. */
export function menuItems(node) {
  if (!node.graph || !isSampler(node) || isGuarded(node)) return [];
  return [
    { content: text("guard_this_sampler"), callback: () => guardSampler(node) },
    { content: text("guard_with_words"), callback: () => guardSampler(node, wordsFor) },
  ];
}
