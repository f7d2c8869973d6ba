// What a node shows: a line of text, the curve, and (Report) the prompt's words.  Plain DOM, the same in both renderers.
import { colourOf, describe, describeCall, drawChart } from "./chart.js";
import { styleElement } from "./style.js";
import { text, number } from "./texts.js";
import { ofMessage, ofReport, pictureOf, verdictOf } from "./model.js";

const MOST_IN_LEGEND = 12;
const HARDLY = 0.005;       // a mask or strength that nobody would see

export function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Curve, keyboard cursor and text alternative; `show(picture)` draws, `clear()` empties. */
class Chart {
  constructor() {
    this.picture = null;
    this.cursor = null;
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("tabindex", "0");
    this.told = make("p", { className: "saferedir-unheard" });
    this.told.setAttribute("aria-live", "polite");
    this.svg.addEventListener("keydown", (event) => this.move(event));
    this.svg.addEventListener("blur", () => this.put(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  show(picture) {
    this.picture = picture;
    this.svg.setAttribute("aria-label", `${describe(picture)} ${text("keys")}`);
    this.draw();
  }

  clear() {
    this.picture = null;
    this.svg.replaceChildren();
    this.svg.setAttribute("aria-label", text("no_run"));
  }

  draw() {
    const { clientWidth, clientHeight } = this.svg;
    if (this.picture && clientWidth > 60 && clientHeight > 60) {
      drawChart(this.svg, this.picture, clientWidth, clientHeight, this.cursor);
    }
  }

  move(event) {
    const calls = Math.max(0, ...(this.picture?.curves ?? []).map((curve) => curve.points.length));
    const to = { ArrowLeft: (this.cursor ?? calls) - 1, ArrowRight: (this.cursor ?? -1) + 1, Home: 0, End: calls - 1 }[event.key];
    if (to === undefined || !calls) return;
    event.preventDefault();
    event.stopPropagation();    // the canvas has arrow keys of its own
    this.put(Math.min(Math.max(to, 0), calls - 1));
  }

  put(cursor) {
    this.cursor = cursor;
    this.told.textContent = cursor === null ? "" : describeCall(this.picture, cursor);
    this.draw();
  }
}

function legend(picture) {
  const items = [...new Set(picture.curves.map((curve) => curve.item))];
  const made = make("p", { className: "saferedir-legend saferedir-muted" });
  if (picture.pictures.length) made.append(text("picture_legend"), " ");
  if (items.length < 2 || items.length > MOST_IN_LEGEND) return made;
  for (const item of items) {
    const entry = make("span", { textContent: text("image", { number: item + 1 }) });
    entry.style.setProperty("--saferedir-colour", colourOf(item));
    made.append(entry);
  }
  return made;
}

/** An empty panel: the frame that all of them have. */
export function panel(label) {
  const root = make("section", { className: "saferedir-panel" });
  root.setAttribute("aria-label", label);
  root.append(styleElement());
  // Scrolling and selecting text here must not move the canvas.
  for (const kind of ["pointerdown", "pointermove", "wheel"]) root.addEventListener(kind, (event) => {
    if (kind !== "wheel" || root.scrollHeight > root.clientHeight) event.stopPropagation();
  });
  return root;
}

/** A verdict in the editor's language; what this page does not know is shown as the server wrote it. */
export function verdictText(report, seen) {
  const verdict = verdictOf(report, seen);
  if (verdict.status === "other") return report.verdict;
  if (verdict.highest === null || verdict.status === "not_guarded") {
    return text(`verdict_${verdict.status === "not_guarded" ? "not_guarded" : "not_evaluated"}`, verdict);
  }
  const numbers = { ...verdict, highest: number(verdict.highest), threshold: number(verdict.threshold) };
  return text(`verdict_${verdict.status}`, numbers);
}

const SERVER_DID = { redirected: "server_redirected", blanked: "server_blanked", observed: "server_observed" };

/** What one of the server's own guards did in the same run. */
function serverText(told) {
  const said = [text("server_guard", told)];
  if (SERVER_DID[told.taken]) said.push(text(SERVER_DID[told.taken]));
  if (told.blanked && told.taken !== "blanked") said.push(text("picture_blanked", { blanked: told.blanked, items: told.images }));
  return said.join(" ");
}

const PICTURE_VERDICTS = { clean: "picture_clean", remains: "picture_remains", not_looked_at: "picture_not_looked_at" };

/** What is said of the pictures, in the editor's language; "" where there are no picture judges. */
export function pictureText(told) {
  const picture = pictureOf(told);
  if (!picture) return "";
  const numbers = { ...picture, highest: number(picture.highest ?? 0), threshold: number(picture.threshold ?? 0) };
  const said = [text(PICTURE_VERDICTS[picture.verdict], numbers)];
  if (picture.attempts > 1) said.push(text("picture_again", numbers));
  if (picture.blanked) said.push(text("picture_blanked", numbers));
  if (picture.stopped) said.push(text("picture_stopped"));
  if (picture.moved) said.push(text("picture_moved", numbers));
  return said.join(" ");
}

/** A line for the pictures' verdict, coloured by it. */
function verdictLine() {
  return make("p", { className: "saferedir-verdict", hidden: true });
}

function showVerdict(line, told, said = pictureText(told)) {
  line.textContent = said;
  line.hidden = !said;
  line.dataset.verdict = told?.verdict ?? "again";
}

/** What SafeRedir Guard shows. */
export class LivePanel {
  constructor() {
    this.line = make("p", { className: "saferedir-line" });
    this.news = make("p", { className: "saferedir-unheard" });      // start, first redirection and end are told; steps not
    this.news.setAttribute("role", "status");
    this.chart = new Chart();
    this.legend = make("p");
    this.verdict = verdictLine();
    this.element = panel(text("live_label"));
    this.element.append(this.line, this.verdict, this.chart.svg, this.legend, this.chart.told, this.news);
    this.clear();
  }

  clear() {
    this.line.textContent = text("no_run");
    showVerdict(this.verdict, null, "");
    this.chart.clear();
  }

  /** message: all of a run so far */
  show(message) {
    const picture = ofMessage(message);
    if (!picture) return;
    const line = picture.finished
      ? `${text(picture.finished.completed ? "finished" : "stopped")} ${describe(picture)}`
      : describe(picture);
    this.line.textContent = line;
    if (picture.again) showVerdict(this.verdict, null, text("picture_attempt", { number: picture.again + 1 }));
    else showVerdict(this.verdict, picture.finished?.picture);
    this.chart.show(picture);
    const made = legend(picture);
    this.legend.replaceWith(made);
    this.legend = made;
    this.element.dataset.state = picture.finished ? "finished" : "running";
    const redirected = picture.curves.some((curve) => curve.points.some((point) => point.redirected));
    const stage = `${message.run} ${Boolean(picture.finished)} ${redirected} ${picture.again}`;
    if (stage !== this.stage) this.news.textContent = [line, this.verdict.textContent].filter(Boolean).join(" ");
    this.stage = stage;
  }
}

/** What SafeRedir Report shows. */
export class ReportPanel {
  constructor() {
    this.line = make("p", { className: "saferedir-line" });
    this.line.setAttribute("role", "status");
    this.verdict = verdictLine();
    this.verdict.setAttribute("role", "status");
    this.chart = new Chart();
    this.legend = make("p");
    this.words = make("div");
    this.element = panel(text("report_label"));
    this.element.append(this.line, this.verdict, this.chart.svg, this.legend, this.words, this.chart.told);
    this.item = 0;
    this.clear();
  }

  clear() {
    this.line.textContent = text("no_report");
    showVerdict(this.verdict, null, "");
    this.chart.clear();
  }

  show(report) {
    const picture = ofReport(report);
    if (!picture) {
      this.line.textContent = text("unknown_version", { version: report?.version });
      return;
    }
    const concepts = report.concepts ?? [];
    const seenOf = ({ concept }) => (report.picture?.seen ?? []).find((each) => each.concept === concept) ?? null;
    const own = concepts.length && !report.reaction?.errors?.length
      ? concepts.map((part) => `${part.concept}: ${verdictText({ ...part, reaction: report.reaction }, seenOf(part))}`).join(" ")
      : verdictText(report);
    const servers = (report.enforced ?? []).map(serverText);
    this.line.textContent = servers.length ? [...servers, text("graphs_guard", { verdict: own })].join(" ") : own;
    showVerdict(this.verdict, report.picture);
    this.chart.show(picture);
    const made = legend(picture);
    this.legend.replaceWith(made);
    this.legend = made;
    this.report = report;
    this.showWords();
    this.element.dataset.state = report.status;
  }

  showWords() {
    const items = this.report.items.filter((item) => item.tokens);
    this.words.replaceChildren();
    if (!items.length) return;
    const shown = items.find((item) => item.item === this.item) ?? items[0];
    const head = make("p", { className: "saferedir-muted" }, text("words_legend"));
    if (items.length > 1) head.append(" ", this.chooser(items, shown));
    this.words.append(head, wordsOf(shown.tokens, this.report.prompt));
    if (!this.report.prompt) this.words.append(make("p", { className: "saferedir-muted", textContent: text("words_unknown") }));
  }

  chooser(items, shown) {
    const select = make("select");
    select.setAttribute("aria-label", text("choose_image"));
    for (const { item } of items) {
      select.append(make("option", { value: item, textContent: text("image", { number: item + 1 }), selected: item === shown.item }));
    }
    select.addEventListener("change", () => {
      this.item = Number(select.value);
      this.showWords();
      this.words.querySelector("select")?.focus();
    });
    return select;
  }
}

/** The prompt, each token on a ground as strong as its mask and over a bar as thick as its strength. */
function wordsOf(scores, prompt) {
  const made = make("p", { className: "saferedir-words" });
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", text("words_label"));
  let rest = null;
  scores.token_mask.forEach((mask, position) => {
    const strength = scores.alpha[position];
    const token = prompt ? prompt.tokens[position] : `${position} `;
    if (token === "") {
      if (!rest || mask > rest.mask) rest = { mask, strength };
    } else if (prompt || mask >= 0.1) {
      made.append(...word(token, mask, strength));
    }
  });
  if (rest) made.append(...word(`${text("padding")} `, rest.mask, rest.strength, "saferedir-muted"));
  return made;
}

function word(token, mask, strength, className = "") {
  const told = text("token", { token: token.trim(), mask: number(mask), strength: number(strength) });
  const made = make("span", { textContent: token.trimEnd(), title: told, className });
  made.style.setProperty("--saferedir-mask", `${mask < HARDLY ? 0 : Math.round(mask * 100)}%`);
  made.style.setProperty("--saferedir-strength", `${(strength < HARDLY ? 0 : strength * 4).toFixed(1)}px`);
  const unseen = make("span", { className: "saferedir-unheard", textContent: ` (${number(mask)}, ${number(strength)})` });
  unseen.style.border = "0";
  return token.endsWith(" ") ? [made, unseen, " "] : [made, unseen];
}
