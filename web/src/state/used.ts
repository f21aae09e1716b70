// When models and adapters were last drawn with, in this browser.

import { keep, keptJson } from "./store";

const PLACE = "gesso.used";
const MOST = 500;

function load(): Record<string, number> {
  const pairs = Object.entries(keptJson(PLACE, {}) as object);
  return Object.fromEntries(pairs.filter((pair): pair is [string, number] => typeof pair[1] === "number"));
}

/** Milliseconds since 1970 by name; what is not here was not used. */
export const lastUsed = load;

export function markUsed(names: Iterable<string>): void {
  const all = load();
  for (const name of names) all[name] = Date.now();
  const newest = Object.entries(all)
    .sort((a, b) => b[1] - a[1])
    .slice(0, MOST);
  keep(PLACE, JSON.stringify(Object.fromEntries(newest)));
}
