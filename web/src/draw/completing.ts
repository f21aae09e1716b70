// What may be completed at the caret: `<` begins a LoRA, `(` a weight or other syntax, `__` a wildcard; Ctrl+Space, or
// two letters where a model has a closed list of what it draws, a word.

import type { components } from "../api/schema";

export type Completion = components["schemas"]["Completion"];

export interface Asked {
  /** Where what is completed begins. */
  from: number;
  /** What was typed of it. */
  typed: string;
  kind: "adapter" | "syntax" | "wildcard" | "word";
}

const MOST = 8;

/** What is being typed at the caret, or null where nothing can be completed. */
export function askedAt(text: string, caret: number, words: boolean): Asked | null {
  const before = text.slice(0, caret);
  const tag = /<([^<>\s,]*)$/.exec(before);
  if (tag) return { from: tag.index, typed: nameIn(tag[1] ?? ""), kind: "adapter" };
  const wildcard = /__([\p{L}\p{N}/-]*)$/u.exec(before);
  // The second pair of underscores closes a wildcard; an odd number of pairs is open.
  if (wildcard && before.split("__").length % 2 === 0) {
    return { from: wildcard.index, typed: wildcard[1] ?? "", kind: "wildcard" };
  }
  const syntax = /[([{]$/.exec(before);
  if (syntax) return { from: syntax.index, typed: syntax[0], kind: "syntax" };
  const word = /[\p{L}]{2,}$/u.exec(before);
  if (words && word && !/[\p{L}\p{N}]/u.test(text.charAt(caret)))
    return { from: word.index, typed: word[0], kind: "word" };
  return null;
}

/** What was typed of a name behind `<`; nothing while its kind is typed, as in `<lor`. */
function nameIn(tag: string): string {
  if (["lora:", "lyco:"].some((kind) => kind.startsWith(tag.toLowerCase()))) return "";
  return tag.replace(/^(lora|lyco):/i, "");
}

/** The best of what fits, first what begins with what was typed. */
export function matching(items: readonly Completion[], asked: Asked): Completion[] {
  const typed = asked.typed.toLowerCase();
  const names = (one: Completion): string[] =>
    [one.label, ...(one.aliases ?? [])].map((name) => name.toLowerCase());
  const fits: Record<Asked["kind"], (one: Completion) => boolean> = {
    adapter: (one) => one.kind === "lora" || one.kind === "embedding",
    wildcard: (one) => one.kind === "wildcard",
    syntax: (one) => one.kind === "syntax" && one.insert.trimStart().startsWith(asked.typed),
    word: (one) => one.kind === "object" || one.kind === "embedding",
  };
  const found = items.filter(fits[asked.kind]);
  if (asked.kind === "syntax") return found.slice(0, MOST);
  // A whole word needs none: Enter behind "car" begins a line, and makes no carrot of it.
  if (asked.kind === "word" && found.some((one) => names(one).includes(typed))) return [];
  const rank = (one: Completion): number => {
    if (typed === "") return 1;
    if (names(one).some((name) => name === typed)) return 0;
    if (names(one).some((name) => name.startsWith(typed))) return 1;
    return asked.kind !== "word" && names(one).some((name) => name.includes(typed)) ? 2 : -1;
  };
  return found
    .map((one) => ({ one, rank: rank(one) }))
    .filter((each) => each.rank >= 0)
    .sort((a, b) => a.rank - b.rank)
    .slice(0, MOST)
    .map((each) => each.one);
}

/** What is put in place of what was typed, and where the caret goes then. */
export function inserted(one: Completion): { text: string; caret: number } {
  if (one.kind !== "syntax") {
    const words = one.trigger_words?.join(", ");
    const text = words ? `${one.insert} ${words}` : one.insert;
    return { text, caret: text.length };
  }
  const at = one.insert.indexOf("|");
  // Alternatives such as [a|b] and {a|b} have bars of their own: the first is where the caret goes.
  const text = at < 0 ? one.insert : one.insert.slice(0, at) + one.insert.slice(at + 1);
  return { text, caret: at < 0 ? text.length : at };
}
