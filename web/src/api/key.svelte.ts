// The API key, where the server wants one. It is kept as long as the tab is, and goes nowhere but into requests.

import { keep, kept } from "../state/store";

const PLACE = "gesso.key";

let key = $state(kept(PLACE, "tab") ?? "");
let wanted = $state(false);

export const keyOf = (): string => key;

export const access = {
  get hasKey(): boolean {
    return key !== "";
  },
  /** Whether the server refused what we asked for want of a key. */
  get isWanted(): boolean {
    return wanted;
  },
};

export function askForKey(): void {
  wanted = true;
}

/** The question was closed without an answer: the next refusal asks again. */
export function leaveKey(): void {
  wanted = false;
}

export function setKey(text: string): void {
  key = text.trim();
  wanted = false;
  keep(PLACE, key || null, "tab");
}
