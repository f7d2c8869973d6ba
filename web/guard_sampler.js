// 'Guard this sampler': Load SafeRedir, or SafeRedir Words, and Guard before a sampler's model, Report behind its latent.
import { app } from "../../scripts/app.js";
import { followersOf, giversOf, instancesOf, isOff, link, sameSource, slotOf, sourceOf } from "./sources.js";
import { text } from "./texts.js";

const GAP = 40, TITLE = 30;     // pixels of the canvas, between nodes and above a node's position
const BARS = [90, 110];     // pixels of the window at each side, across and down, where the editor's bars may be
const ORDER = ["SafeRedirLoader", "SafeRedirWords", "SafeRedirGuard", "SafeRedirReport"];   // from left to right
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

  add(graph, type) {
    const node = window.LiteGraph.createNode(type);
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

/** Left, top, right and bottom of a node with its title. */
function boxOf({ pos, size }) {
  return [pos[0], pos[1] - TITLE, pos[0] + size[0], pos[1] + size[1]];
}

/** Puts new nodes side by side where no node is, as near as that goes to below the sampler, Guard at its left. */
function place(nodes, sampler) {
  const row = [...nodes].sort((one, other) => ORDER.indexOf(one.type) - ORDER.indexOf(other.type));
  const before = row.filter((node) => node.type !== "SafeRedirReport").reduce((sum, node) => sum + node.size[0] + GAP, 0);
  const width = row.reduce((sum, node) => sum + node.size[0] + GAP, -GAP);
  const height = Math.max(...row.map((node) => node.size[1])) + TITLE;
  const { graph } = sampler;
  const others = [...graph.nodes, graph.inputNode, graph.outputNode].filter((node) => node && !nodes.includes(node));
  const there = others.map(boxOf);
  const isFree = ([x, y]) => there.every(([left, top, right, bottom]) =>
    x >= right + GAP || x + width + GAP <= left || y >= bottom + GAP || y + height + GAP <= top);
  const [left, , , bottom] = boxOf(sampler);
  const wanted = [left - before, bottom + GAP];
  const across = [wanted[0], ...there.flatMap((box) => [box[2] + GAP, box[0] - GAP - width])];
  const down = [wanted[1], ...there.flatMap((box) => [box[3] + GAP, box[1] - GAP - height])];
  const far = ([x, y]) => Math.hypot(x - wanted[0], y - wanted[1]);
  const places = across.flatMap((x) => down.map((y) => [x, y])).sort((one, other) => far(one) - far(other));
  let [x, y] = places.find(isFree);
  for (const node of row) {
    node.pos = [x, y + TITLE];
    x += node.size[0] + GAP;
  }
}

/** Moves the canvas, and makes it smaller where it must be, when not all of these nodes are in view. */
function bringIntoView(nodes) {
  const { ds, canvas } = app.canvas ?? {};
  if (!ds || !canvas?.clientWidth) return;
  const boxes = nodes.map(boxOf);
  const ends = [0, 1].map((axis) => [Math.min(...boxes.map((box) => box[axis])), Math.max(...boxes.map((box) => box[axis + 2]))]);
  const view = [canvas.clientWidth, canvas.clientHeight];
  const seen = ends.every(([first, last], axis) => (first + ds.offset[axis]) * ds.scale >= BARS[axis]
    && (last + ds.offset[axis]) * ds.scale <= view[axis] - BARS[axis]);
  if (seen) return;
  ds.scale = Math.min(ds.scale, ...ends.map(([first, last], axis) => (view[axis] - 2 * BARS[axis]) / (last - first)));
  ds.offset = ends.map(([first, last], axis) => view[axis] / 2 / ds.scale - (first + last) / 2);
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
function wordsFor(sampler, insertion) {
  const { graph, inputs } = sampler;
  const positive = inputs.findIndex((input) => input.name === "positive");
  const clip = clipOf(sampler, positive >= 0 ? positive : slotOf(inputs, "CONDITIONING"), insertion);
  const known = graph.nodes.find((node) => node.type === "SafeRedirWords" && !isOff(node)
    && sameSource(sourceOf(node, slotOf(node.inputs, "CLIP")), clip));
  if (known) return known;
  const words = insertion.add(graph, "SafeRedirWords");
  if (clip) insertion.link(clip, words, slotOf(words.inputs, "CLIP"));
  return words;
}

function loaderFor(sampler, insertion) {
  const known = sampler.graph.nodes.find((node) => ["SafeRedirLoader", "SafeRedirHubLoader"].includes(node.type) && !isOff(node));
  return known ?? insertion.add(sampler.graph, "SafeRedirLoader");
}

/** Inserts the nodes and wires them; one step of undo.  redirectorFor: gives the node with the redirector. */
export function guardSampler(sampler, redirectorFor = loaderFor) {
  const { graph } = sampler;
  const insertion = new Insertion();
  app.canvas?.emitBeforeChange?.();
  graph.beforeChange?.();
  try {
    insert(sampler, redirectorFor, insertion);
    if (insertion.nodes.length) place(insertion.nodes, sampler);
  } catch (error) {
    insertion.takeBack();
    app.extensionManager?.toast?.add?.({ severity: "error", summary: text("guard_this_sampler"), detail: error.message });
    return;
  } finally {
    graph.afterChange?.();
    app.canvas?.emitAfterChange?.();
    graph.setDirtyCanvas(true, true);
  }
  bringIntoView([sampler, ...insertion.nodes]);
  keepOneStep(insertion.nodes);
}

function insert(sampler, redirectorFor, insertion) {
  const { graph } = sampler;
  const known = guardThatIsOff(sampler);
  const guard = known ?? insertion.add(graph, GUARD);
  const redirected = slotOf(guard.inputs, "SAFEREDIR");
  if (known) switchOn(known, redirected, insertion);
  if (redirectorFor !== loaderFor || !sourceOf(guard, redirected)) {
    insertion.link({ node: redirectorFor(sampler, insertion), slot: 0 }, guard, redirected);
  }
  if (!known) {
    const model = slotOf(sampler.inputs, "MODEL");
    const source = sourceOf(sampler, model);
    if (source) insertion.link(source, guard, slotOf(guard.inputs, "MODEL"));
    insertion.link({ node: guard, slot: 0 }, sampler, model);
  }
  const latent = slotOf(sampler.outputs, "LATENT");
  if (latent >= 0 && !followersOf(guard, 1).length) addReport(graph, sampler, latent, guard, insertion);
}

/** Switches a Guard on, with what gives its redirector and its Reports. */
function switchOn(guard, redirected, insertion) {
  const ours = [guard, sourceOf(guard, redirected)?.node, ...followersOf(guard, 1).map((each) => each.node)];
  for (const node of ours) if (node && isOff(node) && node.type.startsWith("SafeRedir")) insertion.switchOn(node);
}

function addReport(graph, sampler, latent, guard, insertion) {
  const followers = followersOf(sampler, latent);
  const report = insertion.add(graph, "SafeRedirReport");
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
