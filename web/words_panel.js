// What SafeRedir Words shows after a run: how well it tells its words apart, and the everyday words next to the line.
import { make, panel } from "./panel.js";
import { ofWords } from "./model.js";
import { number, percent, text } from "./texts.js";

/** What SafeRedir Words shows. */
export class WordsPanel {
  constructor() {
    this.line = make("p", { className: "saferedir-line", textContent: text("concept_none") });
    this.line.setAttribute("role", "status");
    this.rest = make("div", { className: "saferedir-rest" });
    this.element = panel(text("concept_label"));
    this.element.append(this.line, this.rest);
  }

  /** While the prompts of the words are read. */
  reading(done, total) {
    this.line.textContent = text("concept_reading", { done: number(done, 0), total: number(total, 0) });
    this.rest.replaceChildren();
    delete this.element.dataset.state;
  }

  /** told: what the node's output has, the report and the concept */
  show(told) {
    const words = ofWords(told);
    if (!words) return;
    const unseen = words.unseen === null ? "" : ` ${text("concept_unseen", { unseen: percent(words.unseen) })}`;
    this.line.textContent = text("concept_line", { held_out: percent(words.held_out) })
      + unseen + ` ${text("concept_everyday", { everyday: percent(words.everyday) })}`;
    this.rest.replaceChildren();
    if (words.touched.length) this.rest.append(touchedOf(words.touched));
    if (words.nearest.length) this.rest.append(muted(text("concept_nearest")), nearestOf(words));
    const seconds = number(words.seconds, 1);
    this.rest.append(muted(text("concept_time", { prompts: number(words.prompts, 0), seconds })));
    this.element.dataset.state = words.nearest.some((each) => each.triggers) ? "close" : "clear";
  }
}

function muted(content) {
  return make("p", { className: "saferedir-muted", textContent: content });
}

function touchedOf(touched) {
  const list = touched.map(([line, share]) => `${line} (${percent(share)})`).join(", ");
  return make("p", { textContent: text("concept_touched", { list }) });
}

/** A row for each word: the word, a bar as long as its probability with the line dashed across, and what comes of it. */
function nearestOf({ nearest, threshold }) {
  const made = make("ul", { className: "saferedir-nearest" });
  made.style.setProperty("--saferedir-line", `${threshold * 100}%`);
  for (const { word, probability, triggers } of nearest) {
    const bar = make("span", { className: "saferedir-bar" }, make("span"));
    bar.firstChild.style.width = `${Math.min(1, probability) * 100}%`;
    const what = make("span", { textContent: text(triggers ? "concept_triggers" : "concept_untouched") });
    made.append(make("li", { title: `${word}: ${number(probability)}`, className: triggers ? "saferedir-triggers" : "" },
      make("span", { textContent: word }), bar, what));
  }
  return made;
}
