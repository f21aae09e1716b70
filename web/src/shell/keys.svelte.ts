// Keys: every view says which it has, and the list of keys (?) shows them all, so that it is complete by itself. Whoever
// wants others chooses them there; they are kept by the browser.

import { untrack } from "svelte";

import { keep as keepText, kept, keptJson } from "../state/store";
import { language } from "../text/index.svelte";

export interface Shortcut {
  /** As in "Mod+Enter", "Escape", "]", "Shift+D"; other ways to the same behind a space. Mod is Ctrl, or Cmd on a Mac.
   * With the name of its group it is also the name under which another key is kept, so it is once in a group. */
  keys: string;
  /** What it does, in the user's language. */
  label: () => string;
  run: (event: KeyboardEvent) => void;
  /** Also works while typing in a field. Those with Mod do by default. */
  typing?: boolean;
  /** Only shown in the list: the element that has the focus handles it, with `isPressed`. */
  shown?: boolean;
  /** Goes on while it is held; others act once, or a finger that rests on a key draws a hundred pictures. */
  repeats?: boolean;
  /** Cannot be another, as what every program has: Escape, and arrows that move. */
  fixed?: boolean;
  /** Whether it works now. */
  when?: () => boolean;
}

export interface ShortcutGroup {
  /** Of the view, as in its address. */
  name: string;
  title: () => string;
  shortcuts: Shortcut[];
}

let groups = $state.raw<ShortcutGroup[]>([]);
const PLACE = "gesso.keys";
let chosen = $state.raw<Record<string, string>>(load()); // "draw:Mod+Enter" -> "Mod+d"
let single = $state(kept("gesso.single-keys") !== "off");

function load(): Record<string, string> {
  const pairs = Object.entries(keptJson(PLACE, {}) as object);
  return Object.fromEntries(pairs.filter((pair): pair is [string, string] => typeof pair[1] === "string"));
}
window.addEventListener("storage", (event) => {
  if (event.key === PLACE) chosen = load();
});
function keep(next: Record<string, string>): void {
  chosen = next;
  keepText(PLACE, JSON.stringify(next));
}

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
    keepText("gesso.single-keys", value ? "on" : "off");
  },
  /** Whether any key is another than it was made. */
  get isChanged(): boolean {
    return Object.keys(chosen).length > 0;
  },
  reset(): void {
    keep({});
  },
};

// ---- other keys ------------------------------------------------------------------------------------------------------

const idOf = (group: ShortcutGroup, one: Shortcut): string => `${group.name}:${one.keys}`;

/** The keys of a shortcut as they are now, by its group and those that it was made with; "" for none. */
export const keysOf = (group: string, keys: string): string => chosen[`${group}:${keys}`] ?? keys;

/** What works now besides a shortcut and has one of these keys. */
export function clashing(group: ShortcutGroup, one: Shortcut, keys: string): Shortcut[] {
  const wanted = keys.split(" ").filter(Boolean);
  return groups.flatMap((other) =>
    other.shortcuts.filter(
      (each) =>
        idOf(other, each) !== idOf(group, one) &&
        keysOf(other.name, each.keys)
          .split(" ")
          .some((key) => wanted.includes(key)),
    ),
  );
}

/** Give a shortcut other keys: "" for none, null for those that it was made with. */
export function assign(group: ShortcutGroup, one: Shortcut, keys: string | null): void {
  const { [idOf(group, one)]: _, ...others } = chosen;
  keep(keys === null || keys === one.keys ? others : { ...others, [idOf(group, one)]: keys });
}

/** Keys that browsers do not let go: new and closed tabs and windows. */
export const isBrowsers = (keys: string): boolean => /^Mod\+(Shift\+)?[twnq]$|^F(5|11|12)$/.test(keys);

/** Whether an event is the key of a shortcut that an element handles itself. */
export const isPressed = (event: KeyboardEvent, group: string, keys: string): boolean =>
  keysOf(group, keys).split(" ").includes(nameOf(event));

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
  const inSheet = event.target instanceof Element && event.target.closest("dialog[open]") !== null;
  for (const group of [...groups].reverse()) {
    for (const one of group.shortcuts) {
      if (one.shown || !isPressed(event, group.name, one.keys) || one.when?.() === false) continue;
      const withMod = name.startsWith("Mod+");
      if (isTyping && (writes(name) || !(one.typing ?? withMod))) continue;
      if (inSheet && !withMod) continue;
      if (!withMod && !single && name !== "Escape") continue;
      event.preventDefault();
      if (event.repeat && !one.repeats) return;
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

/** Whether a key puts a character where one is typing. */
const writes = (name: string): boolean => /^(Shift\+)?(.|Space|Enter|Backspace|Delete)$/u.test(name);

/** The name of what is pressed; that of Shift is left out where it makes another character, as with "?". */
export function nameOf(event: KeyboardEvent): string {
  const mod = isMac ? event.metaKey : event.ctrlKey;
  // With Alt a Mac types other characters; what is printed on the key counts.
  const letter = event.altKey ? /^Key([A-Z])$/.exec(event.code)?.[1] : undefined;
  const key = letter?.toLowerCase() ?? (event.key.length === 1 ? event.key.toLowerCase() : event.key);
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
    .filter(Boolean)
    .map((one) => names[one] ?? (one.length === 1 ? one.toUpperCase() : one));
}
