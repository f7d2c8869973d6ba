// Looks of the panels.  Colours come from the editor's theme, so that light and dark themes both work.

const CSS = `
.saferedir-panel {
  box-sizing: border-box; width: 100%; height: 100%; padding: 6px 8px; overflow: auto;
  contain: size;    /* what a panel shows never moves or resizes it */
  display: flex; flex-direction: column; gap: 4px;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222);
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px;
  font: 12px/1.35 Inter, system-ui, sans-serif; text-align: start; user-select: text;
}
.saferedir-panel:focus-visible, .saferedir-panel svg:focus-visible, .saferedir-panel select:focus-visible {
  outline: 2px solid var(--p-primary-color, #4098ff); outline-offset: 1px;
}
.saferedir-panel p { margin: 0; }
.saferedir-line { font-weight: 600; }
.saferedir-verdict { font-weight: 600; padding-inline-start: 8px; border-inline-start: 4px solid var(--saferedir-verdict); }
.saferedir-verdict[data-verdict="clean"] { --saferedir-verdict: #009e73; }
.saferedir-verdict[data-verdict="remains"] { --saferedir-verdict: #d55e00; }
.saferedir-verdict[data-verdict="again"] { --saferedir-verdict: #e69f00; }
.saferedir-verdict[data-verdict="not_looked_at"] { --saferedir-verdict: #999; }
.saferedir-muted, .saferedir-panel .saferedir-muted { color: var(--descrip-text, #999); font-weight: 400; }
.saferedir-panel svg { flex: 1 1 90px; min-height: 90px; width: 100%; display: block; border-radius: 4px; }
.saferedir-panel svg text { fill: currentColor; font: 10px Inter, system-ui, sans-serif; opacity: 0.8; }
.saferedir-unheard {
  position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
.saferedir-legend { display: flex; flex-wrap: wrap; gap: 2px 10px; }
.saferedir-legend span::before {
  content: ""; display: inline-block; width: 10px; height: 10px; margin-inline-end: 4px; border-radius: 2px;
  background: var(--saferedir-colour);
}
.saferedir-words { line-height: 2; max-height: 8em; overflow: auto; }
.saferedir-words span {
  padding: 1px 0; border-bottom: var(--saferedir-strength) solid #d55e00;
  background: color-mix(in srgb, #e69f00 calc(var(--saferedir-mask) * 0.55), transparent);
}
.saferedir-rest { display: flex; flex-direction: column; gap: 4px; }
.saferedir-nearest {
  margin: 0; padding: 0; list-style: none;
  display: grid; grid-template-columns: fit-content(40%) 1fr max-content; gap: 2px 8px; align-items: center;
}
.saferedir-nearest li { display: contents; }
.saferedir-nearest li > :first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.saferedir-nearest li > :last-child { color: var(--descrip-text, #999); }
.saferedir-nearest .saferedir-triggers > :last-child { color: inherit; font-weight: 600; }
.saferedir-bar { position: relative; height: 10px; background: color-mix(in srgb, currentColor 10%, transparent); }
.saferedir-bar span {
  display: block; height: 100%; background: color-mix(in srgb, #0072b2 78%, currentColor);
}
.saferedir-triggers .saferedir-bar span { background: color-mix(in srgb, #d55e00 78%, currentColor); }
.saferedir-bar::after {
  content: ""; position: absolute; inset-block: -3px; inset-inline-start: var(--saferedir-line);
  border-inline-start: 1px dashed currentColor;
}
.saferedir-panel select {
  color: inherit; background: var(--comfy-menu-bg, #353535); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 4px; font: inherit; padding: 0 2px;
}
`;

/** The panels' stylesheet, for inside a panel: nothing of ours is put into the page around it. */
export function styleElement() {
  const style = document.createElement("style");
  style.textContent = CSS;
  return style;
}
