// Keys: every view says which it has, and the list of keys (?) shows them all, so that it is complete by itself.

import { untrack } from "svelte";

import { language } from "../text/index.svelte";

export interface Shortcut {
  /** As in "Mod+Enter", "Escape", "]", "Shift+D". Mod is Ctrl, or Cmd on a Mac. */
  keys: string;
  /** What it does, in the user's language. */
  label: () => string;
  run: (event: KeyboardEvent) => void;
  /** Also works while typing in a field. Those with Mod do by default. */
  typing?: boolean;
  /** Only shown in the list: the element that has the focus handles it. */
  shown?: boolean;
  /** Whether it works now. */
  when?: () => boolean;
}

export interface ShortcutGroup {
  title: () => string;
  shortcuts: Shortcut[];
}

let groups = $state.raw<ShortcutGroup[]>([]);
let single = $state(localStorage.getItem("gesso.single-keys") !== "off");

export const isMac = /Mac|iP(hone|ad)/.test(navigator.platform);

export const shortcuts = {
  get groups(): ShortcutGroup[] {
    return groups;
  },
  /** Whether keys without Ctrl or Cmd work (WCAG 2.1.4: they can be switched off). */
  get single(): boolean {
    return single;
  },
  set single(value: boolean) {
    single = value;
    localStorage.setItem("gesso.single-keys", value ? "on" : "off");
  },
};

/** Have keys while a component is there: call it in the component's script. */
export function useKeys(group: ShortcutGroup): void {
  $effect(() => {
    const others = untrack(() => groups).filter((one) => one !== group); // read without it, this would run for ever
    groups = [...others, group];
    return () => {
      groups = groups.filter((one) => one !== group);
    };
  });
}

const TYPING =
  "input:not([type=range], [type=checkbox], [type=radio]), textarea, select, [contenteditable=true]";

export function handleKey(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.isComposing) return;
  const name = nameOf(event);
  const isTyping = event.target instanceof Element && event.target.closest(TYPING) !== null;
  const inSheet = event.target instanceof Element && event.target.closest("dialog") !== null;
  for (const group of [...groups].reverse()) {
    for (const one of group.shortcuts) {
      if (one.shown || !one.keys.split(" ").includes(name) || one.when?.() === false) continue;
      const withMod = one.keys.startsWith("Mod+");
      if (isTyping && !(one.typing ?? withMod)) continue;
      if (inSheet && !withMod) continue;
      if (!withMod && !single && one.keys !== "Escape") continue;
      event.preventDefault();
      if (withMod) commit(event.target);
      one.run(event);
      return;
    }
  }
}

/** What is half-typed in a field counts, as if the field was left; the focus stays. */
function commit(target: EventTarget | null): void {
  if (target instanceof HTMLInputElement) target.dispatchEvent(new Event("change", { bubbles: true }));
}

function nameOf(event: KeyboardEvent): string {
  const mod = isMac ? event.metaKey : event.ctrlKey;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const shift = event.shiftKey && (event.key.length > 1 || /[a-z]/.test(key));
  return `${mod ? "Mod+" : ""}${event.altKey ? "Alt+" : ""}${shift ? "Shift+" : ""}${key === " " ? "Space" : key}`;
}

/** A key as it is printed on this machine. */
export function printed(keys: string): string[] {
  const german: Record<string, string> =
    language.code === "de" ? { Mod: "Strg", Shift: "Umschalt", Space: "Leertaste" } : {};
  const names: Record<string, string> = isMac
    ? {
        Mod: "⌘",
        Alt: "⌥",
        Shift: "⇧",
        Enter: "↩",
        ArrowUp: "↑",
        ArrowDown: "↓",
        ArrowLeft: "←",
        ArrowRight: "→",
      }
    : { Mod: "Ctrl", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", ...german };
  return (keys.split(" ")[0] ?? "")
    .split(/\+(?=.)/)
    .map((one) => names[one] ?? (one.length === 1 ? one.toUpperCase() : one));
}
