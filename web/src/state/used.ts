// When models and adapters were last drawn with, in this browser.

const PLACE = "gesso.used";
const MOST = 500;

function load(): Record<string, number> {
  try {
    const saved: unknown = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    const pairs = saved !== null && typeof saved === "object" ? Object.entries(saved) : [];
    return Object.fromEntries(pairs.filter((pair): pair is [string, number] => typeof pair[1] === "number"));
  } catch {
    return {};
  }
}

/** Milliseconds since 1970 by name; what is not here was not used. */
export const lastUsed = load;

export function markUsed(names: Iterable<string>): void {
  const all = load();
  for (const name of names) all[name] = Date.now();
  const newest = Object.entries(all)
    .sort((a, b) => b[1] - a[1])
    .slice(0, MOST);
  localStorage.setItem(PLACE, JSON.stringify(Object.fromEntries(newest)));
}
