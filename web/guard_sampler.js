// 'Guard this sampler': Load SafeRedir, or SafeRedir Words, and Guard before a sampler's model, Report behind its latent.
import { app } from "../../scripts/app.js";
import { followersOf, giversOf, instancesOf, isOff, link, sameSource, slotOf, sourceOf } from "./sources.js";
import { text } from "./texts.js";

const GAP = 60;
const GUARD = "SafeRedirGuard";
const ALWAYS = 0;       // a node's mode when it is neither muted nor bypassed
const LAYOUT = { looks: 10, pause: 100 };    // milliseconds; Nodes 2.0 measures a new node some frames after it is there

/** Whether a node samples with a model: a sampler, a guider that a sampler takes, or a subgraph with one in it. */
export function isSampler(node) {
  const conditioned = (node.inputs ?? []).some((input) => input.type === "CONDITIONING");
  const gives = slotOf(node.outputs, "LATENT") >= 0 || slotOf(node.outputs, "GUIDER") >= 0;
  return conditioned && gives && slotOf(node.inputs, "MODEL") >= 0;
}

/** Whether a Guard that is switched on stands before this sampler's model, wherever its graph is used. */
export function isGuarded(sampler, way = [], trail = []) {
  if (trail.includes(sampler)) return false;
  const followed = [...trail, sampler];
  const inner = [...(sampler.subgraph?.nodes ?? [])].filter((each) => isSampler(each) && !isOff(each));
  if (inner.length && inner.every((each) => isGuarded(each, [...way, sampler], followed))) return true;
  const givers = giversOf(sampler, slotOf(sampler.inputs, "MODEL"), way);
  return givers.length > 0 && givers.every(({ node, way: there }) => node.type === GUARD || isGuarded(node, there, followed));
}

/** A Guard of the same graph before this sampler's model that is muted or bypassed, or null. */
function guardThatIsOff(sampler) {
  const seen = new Set();
  for (let node = sampler; node?.inputs && !seen.has(node);) {
    seen.add(node);
    const model = slotOf(node.inputs, "MODEL");
    node = sourceOf(node, model < 0 ? slotOf(node.inputs, "*") : model)?.node;
    if (node?.type === GUARD && isOff(node)) return node;
  }
  return null;
}

/** Nodes and links that are made together or not at all. */
class Insertion {
  nodes = [];
  taken = [];     // what takes each step back

  add(graph, type, x, y) {
    const node = window.LiteGraph.createNode(type);
    node.pos = [x, y];
    graph.add(node);
    this.nodes.push(node);
    this.taken.push(() => graph.remove(node));
    return node;
  }

  link(source, node, index) {
    const before = sourceOf(node, index);
    this.taken.push(() => {
      if (before) link(before, node, index);
      else node.disconnectInput?.(index);
    });
    if (!link(source, node, index)) throw new Error(text("not_inserted", { node: node.title ?? node.type }));
  }

  switchOn(node) {
    const { mode } = node;
    this.taken.push(() => { node.mode = mode; });
    node.mode = ALWAYS;
  }

  addInput(graph, name, type) {
    const input = graph.addInput(name, type);
    graph.inputNode.arrange?.();        // what the host would do when it draws, too late for the step of undo
    this.taken.push(() => graph.removeInput(input));
    return graph.inputs.indexOf(input);
  }

  takeBack() {
    while (this.taken.length) this.taken.pop()();
  }
}

/** Below every node between two places across. */
function below(graph, left, right) {
  const there = [...graph.nodes].filter((node) => node.pos[0] < right && node.pos[0] + node.size[0] > left);
  return Math.max(...there.map((node) => node.pos[1] + node.size[1]));
}

/** What gives the CLIP that encodes the prompt at an input, as a source in this node's graph, or null. */
function clipOf(node, index, insertion) {
  const way = [[node, index]];
  const seen = new Set();
  let outside = null;
  while (way.length) {
    const source = sourceOf(...way.shift());
    if (!source || seen.has(source.node)) continue;
    if (source.node === node.graph.inputNode) {
      outside ??= source.slot;
      continue;
    }
    seen.add(source.node);
    const clip = slotOf(source.node.inputs, "CLIP");
    const found = clip < 0 ? null : sourceOf(source.node, clip);
    if (found) return found;
    (source.node.inputs ?? []).forEach((input, at) => {
      if (["CONDITIONING", "*"].includes(input.type)) way.push([source.node, at]);
    });
  }
  return outside === null ? null : clipFromOutside(node.graph, outside, insertion);
}

/** Leads the CLIP of a prompt that enters a subgraph into it as well. */
function clipFromOutside(graph, index, insertion) {
  const clips = instancesOf(graph).map((node) => [node, clipOf(node, index, insertion)]).filter(([, clip]) => clip);
  if (!clips.length) return null;
  const known = graph.inputs.findIndex((input, at) =>
    input.type === "CLIP" && clips.every(([node, clip]) => sameSource(sourceOf(node, at), clip)));
  if (known >= 0) return { node: graph.inputNode, slot: known };
  const slot = insertion.addInput(graph, "clip", "CLIP");
  for (const [node, clip] of clips) insertion.link(clip, node, slot);
  return { node: graph.inputNode, slot };
}

/** A SafeRedir Words that reads the sampler's CLIP: one that is there already, or a new one. */
function wordsFor(sampler, x, y, insertion) {
  const { graph, inputs } = sampler;
  const positive = inputs.findIndex((input) => input.name === "positive");
  const clip = clipOf(sampler, positive >= 0 ? positive : slotOf(inputs, "CONDITIONING"), insertion);
  const known = graph.nodes.find((node) => node.type === "SafeRedirWords" && !isOff(node)
    && sameSource(sourceOf(node, slotOf(node.inputs, "CLIP")), clip));
  if (known) return known;
  const words = insertion.add(graph, "SafeRedirWords", x, y);
  words.pos = [x - words.size[0], y];
  if (clip) insertion.link(clip, words, slotOf(words.inputs, "CLIP"));
  return words;
}

function loaderFor(sampler, x, y, insertion) {
  const known = sampler.graph.nodes.find((node) => ["SafeRedirLoader", "SafeRedirHubLoader"].includes(node.type) && !isOff(node));
  return known ?? insertion.add(sampler.graph, "SafeRedirLoader", x - 300, y);
}

/** Inserts the nodes and wires them; one step of undo.  redirectorFor: gives the node with the redirector. */
export function guardSampler(sampler, redirectorFor = loaderFor) {
  const { graph } = sampler;
  const insertion = new Insertion();
  app.canvas?.emitBeforeChange?.();
  graph.beforeChange?.();
  try {
    insert(sampler, redirectorFor, insertion);
  } catch (error) {
    insertion.takeBack();
    app.extensionManager?.toast?.add?.({ severity: "error", summary: text("guard_this_sampler"), detail: error.message });
    return;
  } finally {
    graph.afterChange?.();
    app.canvas?.emitAfterChange?.();
    graph.setDirtyCanvas(true, true);
  }
  keepOneStep(insertion.nodes);
}

function insert(sampler, redirectorFor, insertion) {
  const { graph } = sampler;
  const top = below(graph, sampler.pos[0] - 800, sampler.pos[0] + 480) + 2 * GAP;
  const known = guardThatIsOff(sampler);
  const guard = known ?? insertion.add(graph, GUARD, sampler.pos[0] - 340, top);
  const redirected = slotOf(guard.inputs, "SAFEREDIR");
  if (known) switchOn(known, redirected, insertion);
  if (redirectorFor !== loaderFor || !sourceOf(guard, redirected)) {
    insertion.link({ node: redirectorFor(sampler, sampler.pos[0] - 400, top, insertion), slot: 0 }, guard, redirected);
  }
  if (!known) {
    const model = slotOf(sampler.inputs, "MODEL");
    const source = sourceOf(sampler, model);
    if (source) insertion.link(source, guard, slotOf(guard.inputs, "MODEL"));
    insertion.link({ node: guard, slot: 0 }, sampler, model);
  }
  const latent = slotOf(sampler.outputs, "LATENT");
  if (latent >= 0 && !followersOf(guard, 1).length) addReport(graph, sampler, latent, guard, top, insertion);
}

/** Switches a Guard on, with what gives its redirector and its Reports. */
function switchOn(guard, redirected, insertion) {
  const ours = [guard, sourceOf(guard, redirected)?.node, ...followersOf(guard, 1).map((each) => each.node)];
  for (const node of ours) if (node && isOff(node) && node.type.startsWith("SafeRedir")) insertion.switchOn(node);
}

function addReport(graph, sampler, latent, guard, top, insertion) {
  const followers = followersOf(sampler, latent);
  const report = insertion.add(graph, "SafeRedirReport", sampler.pos[0] + 40, top);
  insertion.link({ node: sampler, slot: latent }, report, 0);
  insertion.link({ node: guard, slot: 1 }, report, slotOf(report.inputs, "SAFEREDIR_TRAJECTORY"));
  for (const follower of followers) insertion.link({ node: report, slot: 0 }, follower.node, follower.slot);
}

/** The host takes what Nodes 2.0 measures afterwards for a change of the person's: it joins the insertion's step of undo. */
function keepOneStep(nodes) {
  const open = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  const tracker = open();
  const sizes = () => nodes.map((node) => node.size.join()).join(" ");
  const depth = tracker?.undoQueue?.length;
  let last = sizes(), looks = LAYOUT.looks;
  const look = () => {
    if (!looks-- || open() !== tracker || tracker.undoQueue.length < depth) return;
    if (sizes() !== last) {
      last = sizes();
      (tracker.captureCanvasState ?? tracker.checkState).call(tracker);
      tracker.undoQueue.length = depth;
    }
    setTimeout(look, LAYOUT.pause);
  };
  if (depth) setTimeout(look, LAYOUT.pause);
}

/** What the right-click menu of a node offers; both renderers ask. */
export function menuItems(node) {
  if (!node.graph || !isSampler(node) || isGuarded(node)) return [];
  return [
    { content: text("guard_this_sampler"), callback: () => guardSampler(node) },
    { content: text("guard_with_words"), callback: () => guardSampler(node, wordsFor) },
  ];
}
