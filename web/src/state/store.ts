// What the browser keeps for the page: of this machine ("local"), or of this tab alone ("tab"). A browser may keep nothing,
// as where its storage is full or switched off; then everything is held until the page is closed.

export type Store = "local" | "tab";

const held: Record<Store, Map<string, string>> = { local: new Map(), tab: new Map() };
let isLost = false;
let ear: (() => void) | null = null;

/** The browser's own; null where it has none. To ask for it is enough to throw where it is switched off. */
function storage(store: Store): Storage | null {
  try {
    return store === "local" ? window.localStorage : window.sessionStorage;
  } catch {
    return null;
  }
}

/** What was written there; null for nothing. */
export function kept(place: string, store: Store = "local"): string | null {
  return held[store].get(place) ?? storage(store)?.getItem(place) ?? null;
}

/** What was written there as JSON; `otherwise` where there is nothing, or nothing that can be read. */
export function keptJson(place: string, otherwise: unknown, store: Store = "local"): unknown {
  try {
    return JSON.parse(kept(place, store) ?? "null") ?? otherwise;
  } catch {
    return otherwise; // what another version wrote
  }
}

/** Write down; null forgets. It never throws. */
export function keep(place: string, text: string | null, store: Store = "local"): void {
  held[store].delete(place);
  const own = storage(store);
  if (text === null) {
    own?.removeItem(place);
    return;
  }
  try {
    if (!own) throw new Error("no storage");
    own.setItem(place, text);
  } catch {
    held[store].set(place, text);
    if (isLost) return;
    isLost = true;
    ear?.();
  }
}

/** Be told, once, that the browser does not keep what was written down. */
export function onLost(hear: () => void): void {
  ear = hear;
  if (isLost) hear();
}
