// Where what arrives at an input comes from: past reroutes, bypassed nodes and the borders of subgraphs, as the host resolves it.
//
// A source is { node, slot }: an output of a node, or of the subgraph's own input node, in the graph of the node that it feeds.
import { rootGraph } from "./runs.js";

const MUTED = 2, BYPASSED = 4;

/** Index of the first slot of a type, or -1. */
export const slotOf = (slots, type) => (slots ?? []).findIndex((each) => String(each.type).split(",").includes(type));

export const isOff = (node) => node.mode === MUTED || node.mode === BYPASSED;

export const sameSource = (one, other) => one?.node === other?.node && one?.slot === other?.slot;

/** The graph of a node; a subgraph's input and output node are no nodes of it. */
const graphOf = (node) => node.graph ?? node.subgraph;

const linkOf = (graph, id) => (id === null || id === undefined ? null : graph.links.get?.(id) ?? graph.links[id] ?? null);

/** The node at one end of a link.  A newer host writes ids as texts. */
function endOf(graph, id) {
  return [graph.inputNode, graph.outputNode].find((each) => each && String(each.id) === String(id)) ?? graph.getNodeById(id);
}

/** What an input, or an output of a subgraph, is linked to, or null. */
export function sourceOf(node, index) {
  const graph = graphOf(node);
  const link = linkOf(graph, node.inputs ? node.inputs[index]?.link : node.slots[index]?.linkIds[0]);
  const origin = link && endOf(graph, link.origin_id);
  return origin ? { node: origin, slot: link.origin_slot } : null;
}

/** Every { node, slot } that an output is linked to. */
export function followersOf(node, index) {
  return (node.outputs[index].links ?? []).map((id) => linkOf(node.graph, id)).filter(Boolean)
    .map((link) => ({ node: endOf(node.graph, link.target_id), slot: link.target_slot })).filter((each) => each.node);
}

/** Links a source to an input, or to an output of the subgraph; false where a node does not take it. */
export function link(source, node, index) {
  if (source.node === graphOf(node).inputNode) return Boolean(source.node.slots[source.slot].connect(node.inputs[index], node));
  if (!node.inputs) return Boolean(node.slots[index].connect(source.node.outputs[source.slot], source.node));
  return Boolean(source.node.connect(source.slot, node, index));
}

/** The nodes that a subgraph stands in for, in every graph of the workflow. */
export function instancesOf(graph) {
  const root = rootGraph();
  return [root, ...(root.subgraphs?.values() ?? [])].flatMap((each) => [...each.nodes])
    .filter((node) => node.subgraph?.id === graph.id);
}

/** What a bypassed node hands on at an output: the index of an input, or -1. */
function bypassIndex(node, slot) {
  const { type } = node.outputs[slot];
  return node.inputs?.[slot]?.type === type ? slot : slotOf(node.inputs, type);
}

/**
 * The nodes that really give what arrives at an input: [{ node, slot, way }]; several where a subgraph is used several times,
 * none where nothing arrives.  way: the subgraph nodes that were entered on the way there.
 */
export function giversOf(node, index, way = [], seen = new Set()) {
  const source = sourceOf(node, index);
  const key = [...way, node].map((each) => `${graphOf(each).id}/${each.id}`).join(" ") + ` ${index}`;
  if (!source || seen.has(key)) return [];
  seen.add(key);
  if (source.node !== graphOf(node).inputNode) return behind(source, way, seen);
  const outer = way.length ? [way.at(-1)] : instancesOf(node.graph);
  return outer.flatMap((each) => giversOf(each, source.slot, way.slice(0, -1), seen));
}

function behind({ node, slot }, way, seen) {
  if (node.mode === MUTED) return [];
  if (node.mode === BYPASSED) return giversOf(node, bypassIndex(node, slot), way, seen);
  if (node.subgraph) return giversOf(node.subgraph.outputNode, slot, [...way, node], seen);
  if (!node.isVirtualNode) return [{ node, slot, way }];
  const other = node.resolveVirtualOutput?.(slot);       // a node of another graph, without a link
  if (other) return behind(other, way, seen);
  const handedOn = node.getInputLink?.(slot);
  return handedOn ? giversOf(endOf(node.graph, handedOn.target_id), handedOn.target_slot, way, seen) : [];
}
