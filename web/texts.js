// The pack's own words in the editor's language, from locales/<language>/main.json.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

let catalogue = {};

export async function loadTexts() {
  try {
    catalogue = await (await api.fetchApi("/i18n")).json();
  } catch (error) {
    console.warn("SafeRedir: the texts could not be loaded; keys are shown instead.", error);
  }
}

export function language() {
  return app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
}

/** The text of a key; {names} in it are replaced by values. */
export function text(key, values = {}) {
  const template = catalogue[language()]?.saferedir?.[key] ?? catalogue.en?.saferedir?.[key] ?? key;
  return template.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** A number as people of this language write it, with two decimals or as many as asked for. */
export function number(value, digits = 2) {
  return Number(value).toLocaleString(language(), { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A share from 0 to 1 as people of this language write it; near 0 and 1 with two decimals, where they matter. */
export function percent(share) {
  const digits = share > 0.1 && share < 0.95 ? 0 : 2;
  return Number(share).toLocaleString(language(), { style: "percent", maximumFractionDigits: digits });
}
