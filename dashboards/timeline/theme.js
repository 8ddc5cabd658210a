// The page's colours, read from Streamlit's own variables, so that light, dark and a person's theme all fit.

import { rgb } from "./palette.js";

export function readTheme(node) {
  const style = getComputedStyle(node), read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const background = read("--st-background-color", "#ffffff"), backgroundRgb = rgb(background);
  const dark = backgroundRgb[0] + backgroundRgb[1] + backgroundRgb[2] < 382;
  return {
    background, backgroundRgb, dark, text: read("--st-text-color", dark ? "#fafafa" : "#1f2328"),
    band: dark ? "rgba(255,255,255,0.045)" : "rgba(27,39,51,0.045)", grid: dark ? "rgba(255,255,255,0.07)" : "rgba(27,39,51,0.08)",
    faint: dark ? "rgba(255,255,255,0.55)" : "rgba(27,39,51,0.6)", veil: dark ? "rgba(14,17,23,0.62)" : "rgba(255,255,255,0.66)",
    idle: dark ? "rgba(230,159,0,0.20)" : "rgba(230,159,0,0.20)", idleText: dark ? "#ffce6b" : "#7a5200",
    accent: read("--st-primary-color", "#0072B2"), measure: dark ? "rgba(120,170,255,0.16)" : "rgba(0,90,200,0.10)",
    pointer: dark ? "rgba(255,255,255,0.35)" : "rgba(27,39,51,0.35)", clock: dark ? "#ffb454" : "#b35900", arrow: dark ? "#ffd166" : "#c2410c", failed: dark ? "#ff6b5e" : "#c0392b",
    throttled: dark ? "#ffb454" : "#b35900", throttledFaint: dark ? "rgba(255,180,84,0.22)" : "rgba(230,159,0,0.25)",
  };
}
