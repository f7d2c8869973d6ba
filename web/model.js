// What is drawn, as plain objects: from messages of a run that goes on, and from finished reports.  No drawing here.
//
// Finished are runs, and what SafeRedir Words understood.
// curves: [{item, conditioning, points: [{at, step, probability, redirected}]}], `at` counting the model calls from 0
// pictures: [{item, points: [{at, step, probability, moved}]}] of what the picture judges saw; attempts: the first look of each

const VERSION = 1;
const USUAL_THRESHOLD = 0.5;     // where every redirector from words has its line
const TOUCHED = 0.01;            // of prompts that are to be kept: more than this is told
const OTHERWISE = ["stopped", "blanked", "observed"];       // what a guard does that does not redirect alone
const STATUSES = ["safe", "redirected", "stopped", "blanked", "observed", "not_evaluated"];

/** Curves of decisions as a message has them. */
export function curvesOf(decisions) {
  const curves = new Map();
  const calls = new Map();
  for (const decision of decisions) {
    const { conditioning, step } = decision;
    const at = calls.get(conditioning) ?? 0;
    calls.set(conditioning, at + 1);
    decision.unsafe_probability.forEach((probability, item) => {
      const key = `${conditioning}/${item}`;
      if (!curves.has(key)) curves.set(key, { item, conditioning, points: [] });
      curves.get(key).points.push({ at, step: step ?? at, probability, redirected: decision.redirected[item] });
    });
  }
  return [...curves.values()];
}

/** Curves of what the picture judges saw. */
function picturesOf(looks) {
  return (looks[0]?.probability ?? []).map((_, item) => ({ item, points: looks.map((look, at) =>
    ({ at, step: look.step ?? at, probability: look.probability[item], moved: look.pushed[item] })) }));
}

/** The looks with which the batch was begun again. */
function attemptsOf(looks) {
  return looks.map((look, at) => (at && look.attempt !== looks[at - 1].attempt ? at : null)).filter((at) => at !== null);
}

/** Numbers of a report's part on pictures, for sentences in any language, or null. */
export function pictureOf(told) {
  if (!told) return null;
  const { items, attempts, concepts } = told;
  const probabilities = items.map((item) => item.probability).filter((each) => each !== null);
  return {
    verdict: told.verdict,
    items: items.length,
    count: items.filter((item) => item.verdict === "remains").length,
    blanked: items.filter((item) => item.done === "blanked").length,
    stopped: items.some((item) => item.done === "stopped"),
    moved: items.filter((item) => item.pushed > 0).length,
    attempts: attempts.length,
    highest: probabilities.length ? Math.max(...probabilities) : null,
    threshold: concepts.length ? Math.min(...concepts.map((each) => each.threshold)) : null,
  };
}

/** The picture of a run that goes on; message: all of it so far. */
export function ofMessage(message) {
  if (message?.version !== VERSION) return null;
  return {
    name: message.name,
    steps: message.steps,
    threshold: message.threshold,
    curves: curvesOf(message.decisions),
    pictures: picturesOf(message.looks ?? []),
    attempts: attemptsOf(message.looks ?? []),
    again: message.finished ? 0 : message.looks?.at(-1)?.attempt ?? 0,
    finished: message.finished,
  };
}

/** The picture of a report. */
export function ofReport(report) {
  if (report?.version !== VERSION) return null;
  const parts = [report, ...(report.other_conditionings ?? [])];
  return {
    name: report.redirector?.metadata?.concept ?? (report.concepts ?? []).map((part) => part.concept).join(" + "),
    steps: report.decisions.length,
    threshold: report.policy.threshold,
    curves: curvesOf(parts.flatMap((part, conditioning) => part.decisions.map((each) => ({ ...each, conditioning })))),
    pictures: picturesOf(report.picture?.looks ?? []),
    attempts: attemptsOf(report.picture?.looks ?? []),
    finished: { completed: true, status: report.status, verdict: report.verdict },
  };
}

/** The last point of a curve that the redirector was asked for. */
export function lastKnown(curve) {
  return curve.points.findLast((point) => point.probability !== null);
}

/** Numbers of a report's verdict, for a sentence in any language.  seen: what was seen of its concept in pictures. */
export function verdictOf(report, seen = report.picture?.seen?.[0]) {
  const probabilities = report.items.map((item) => item.highest_unsafe_probability).filter((each) => each !== null);
  const highest = probabilities.length ? Math.max(...probabilities) : null;
  // Of the prompt: an item's status also tells of its picture.
  const unsafe = report.items.filter((item) => item.first_unsafe !== null && item.first_unsafe !== undefined);
  const first = unsafe.reduce((best, item) => (best && best.first_unsafe <= item.first_unsafe ? best : item), null);
  // What the guard did with an unsafe run, where it can do something else than redirect.
  const { taken = "none", errors = [] } = report.reaction ?? {};
  const own = report.status === "redirected" && !unsafe.length ? "safe" : report.status;
  const done = unsafe.length && OTHERWISE.includes(taken) ? taken : own;
  const numbers = {
    status: errors.length ? "not_guarded" : STATUSES.includes(done) ? done : "other",
    error: errors[0] ?? "",
    unsafe: unsafe.length,
    items: report.items.length,
    step: first ? first.first_unsafe_step ?? first.first_unsafe : null,
    highest,
    threshold: report.policy.threshold,
  };
  if (!seen || errors.length || highest === null || (unsafe.length && highest >= report.policy.threshold)) return numbers;
  // The prompt was not unsafe by itself: what its picture showed.
  const moved = OTHERWISE.includes(taken) ? taken : seen.moved || report.policy.mode === "guard" ? "redirected" : "observed";
  return { ...numbers, status: `picture_${seen.looks ? moved : "finished"}`, unsafe: seen.images, step: seen.first_step,
    looks: seen.looks, of: seen.of };
}

/** What SafeRedir Words found out, or null: shares from 0 to 1, and each of the nearest words with whether it triggers. */
export function ofWords(told) {
  const report = told?.report;
  if (!report || !Array.isArray(report.nearest)) return null;
  const threshold = told.threshold ?? USUAL_THRESHOLD;
  return {
    ...report,
    threshold,
    nearest: report.nearest.map(([word, probability]) => ({ word, probability, triggers: probability >= threshold })),
    touched: Object.entries(report.kept ?? {}).filter(([, share]) => share > TOUCHED),
  };
}
