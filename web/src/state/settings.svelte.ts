// How the page looks and works for this user, on this machine.

import { keep, keptJson } from "./store";

type Theme = "auto" | "light" | "dark";

interface Settings {
  theme: Theme;
  /** Groups of settings that are open, by their names. */
  open: Record<string, boolean>;
  /** Whether a sound or a notification tells that pictures are ready while the page is not in view. */
  notify: boolean;
  format: "png" | "jpeg" | "webp";
  /** Whether Draw makes drafts while one writes. */
  drafts: boolean;
}

const PLACE = "gesso.settings";
const START: Settings = { theme: "auto", open: {}, notify: false, format: "png", drafts: false };

const load = (): Settings => ({ ...START, ...(keptJson(PLACE, {}) as Partial<Settings>) });

export const settings = $state<Settings>(load());

/** Write settings down; call after a change. */
export function keepSettings(): void {
  keep(PLACE, JSON.stringify(settings));
}

export function applyTheme(): void {
  if (settings.theme === "auto") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = settings.theme;
}

window.addEventListener("storage", (event) => {
  if (event.key !== PLACE) return;
  Object.assign(settings, load());
  applyTheme();
});
