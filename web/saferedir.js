// SafeRedir in the editor: live curve on Guard, verdict, curve and words on Report, what Words understood, menu entries,
// settings.
// Everything shown was decided and computed by the server.
import { app } from "../../scripts/app.js";
import { menuItems } from "./guard_sampler.js";
import { LivePanel, ReportPanel } from "./panel.js";
import { WordsPanel } from "./words_panel.js";
import { catchUp, listen, listenForProgress, listenForReports, nodesWithIds, reportOf, runOf } from "./runs.js";
import { loadTexts } from "./texts.js";

const WIDGET = "saferedir_panel";
const MARGIN = 10;      // of the host's around an element, in Nodes 1.0
const LIVE = "SafeRedir.LiveDisplay";
const PANELS = {
  SafeRedirGuard: [LivePanel, 190, 330], SafeRedirReport: [ReportPanel, 280, 420], SafeRedirWords: [WordsPanel, 225, 360],
};
const DEFAULTS = { name: "SafeRedir.Redirector", alpha_scale: "SafeRedir.AlphaScale", threshold: "SafeRedir.Threshold" };
const FOR_DEFAULTS = ["SafeRedirLoader", "SafeRedirGuard", "SafeRedirConditioning"];

const panels = new WeakMap();
let started = false;
const setting = (id) => app.extensionManager?.setting?.get(id);
const typeOf = (node) => node.comfyClass ?? node.type;

function addPanel(node) {
  const [Panel, height, width] = PANELS[typeOf(node)];
  const panel = new Panel();
  panel.element.style.minHeight = `${height - 2 * MARGIN}px`;     // Nodes 2.0 does not ask for getMinHeight
  const widget = node.addDOMWidget(WIDGET, "saferedir", panel.element, {
    serialize: false, hideOnZoom: false, getMinHeight: () => height, getValue: () => "", setValue: () => {},
  });
  widget.serialize = false;       // nothing of it belongs into the workflow's values
  panels.set(node, panel);
  const [needed, tall] = node.computeSize();
  node.setSize([Math.max(node.size[0], needed, width), Math.max(node.size[1], tall)]);
}

function removePanel(node) {
  const widget = node.widgets?.find((each) => each.name === WIDGET);
  if (widget) node.removeWidget(widget);
  panels.delete(node);
  node.setSize([node.size[0], node.computeSize()[1]]);
}

/** Shows what is known of every node with a panel in the open workflow, or of one. */
function showKnown(only) {
  for (const [id, node] of nodesWithIds()) {
    if (only !== undefined && id !== only) continue;
    const known = panels.has(node) && (typeOf(node) === "SafeRedirGuard" ? runOf(id) : reportOf(id));
    if (known) panels.get(node).show(known);
  }
}

function showProgress(id, done, total) {
  for (const [each, node] of nodesWithIds()) if (each === id) panels.get(node)?.reading?.(done, total);
}

function switchLive(on) {
  for (const [, node] of nodesWithIds()) {
    if (typeOf(node) !== "SafeRedirGuard" || panels.has(node) === on) continue;
    if (on) addPanel(node);
    else removePanel(node);
  }
  showKnown();
  app.canvas?.setDirty?.(true, true);
}

/** Writes a text box's name into the margin above it in Nodes 1.0, which has it nowhere once there is text in the box. */
function nameTextBoxes(node) {
  for (const widget of node.widgets ?? []) {
    if (widget.type !== "customtext" || !widget.draw) continue;
    const { draw } = widget;
    widget.draw = function (context, owner, width, y, height, lowQuality) {
      draw.apply(this, arguments);
      if (lowQuality) return;
      context.save();
      context.font = "10px Inter, system-ui, sans-serif";
      context.fillStyle = window.LiteGraph.WIDGET_SECONDARY_TEXT_COLOR;
      context.fillText(this.label ?? this.name, MARGIN + 2, y + MARGIN - 2);
      context.restore();
    };
  }
}

function redirectorNames() {
  const name = window.LiteGraph?.registered_node_types?.SafeRedirLoader?.nodeData?.input?.required?.name;
  const names = Array.isArray(name?.[0]) ? name[0] : name?.[1]?.options ?? [];
  return [{ text: "-", value: "" }, ...names.map((each) => ({ text: each, value: each }))];
}

/** A new node starts with what the person has chosen in the settings; a loaded one gets its own values afterwards. */
function applyDefaults(node) {
  for (const widget of node.widgets ?? []) {
    const id = Object.hasOwn(DEFAULTS, widget.name) ? DEFAULTS[widget.name] : null;
    const chosen = id ? setting(id) : undefined;
    if (chosen === undefined || chosen === "") continue;
    if (widget.name === "name" && !redirectorNames().some((each) => each.value === chosen)) continue;
    widget.value = chosen;
  }
}

app.registerExtension({
  name: "saferedir.panels",
  settings: [
    { id: LIVE, category: ["SafeRedir", "Display", "LiveDisplay"], name: "Live curve on SafeRedir Guard", type: "boolean",
      defaultValue: true, tooltip: "Shows the unsafe probability on the node while sampling.",
      onChange: (on) => { if (started) switchLive(on); } },
    { id: DEFAULTS.threshold, category: ["SafeRedir", "Defaults", "Threshold"], name: "Threshold of new nodes",
      type: "number", defaultValue: 0, attrs: { min: 0, max: 0.999, step: 0.01, maxFractionDigits: 3 },
      tooltip: "0: the redirector's own threshold." },
    { id: DEFAULTS.alpha_scale, category: ["SafeRedir", "Defaults", "AlphaScale"], name: "alpha_scale of new nodes",
      type: "number", defaultValue: 1.25, attrs: { min: 0, max: 10, step: 0.05, maxFractionDigits: 2 },
      tooltip: "How far unsafe tokens are moved, in units of their own length." },
    { id: DEFAULTS.name, category: ["SafeRedir", "Defaults", "Redirector"], name: "Redirector of new Load SafeRedir nodes",
      type: "combo", defaultValue: "", options: redirectorNames,
      tooltip: "-: the first of the list." },
  ],
  async init() {
    await loadTexts();
  },
  async setup() {
    started = true;
    listen(showKnown);
    listenForReports(showKnown);
    listenForProgress(showProgress);
    await catchUp();
    showKnown();
  },
  nodeCreated(node) {
    if (FOR_DEFAULTS.includes(typeOf(node))) applyDefaults(node);
    const hidden = typeOf(node) === "SafeRedirGuard" && setting(LIVE) === false;
    if (Object.hasOwn(PANELS, typeOf(node)) && !hidden) addPanel(node);
    if (typeOf(node)?.startsWith("SafeRedir")) nameTextBoxes(node);
  },
  afterConfigureGraph() {
    showKnown();
  },
  getNodeMenuItems: menuItems,
});
