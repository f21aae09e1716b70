// Models and adapters as one list of cards.

import type { Adapter, Model } from "../api";

export type CardKind = "model" | "lora" | "embedding" | "control" | "upscaler" | "image_encoder";
export const KINDS: readonly CardKind[] = [
  "model",
  "lora",
  "embedding",
  "control",
  "upscaler",
  "image_encoder",
];

/** What a card shows, of a model or an adapter. */
export interface Card {
  readonly key: string;
  readonly name: string;
  readonly kind: CardKind;
  readonly family: string | null;
  readonly title: string;
  readonly author: string;
  readonly description: string;
  readonly licence: string;
  readonly sha256: string | null;
  readonly bytes: number;
  readonly triggers: readonly string[];
  /** What its author sorted it under. */
  readonly tags: readonly string[];
  /** When it came into the library; null for what is built in. */
  readonly added: string | null;
  readonly thumbnail: string | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly builtin: boolean;
  readonly model: Model | null;
}

export function cardsOf(models: readonly Model[], adapters: readonly Adapter[]): Card[] {
  return [...models.map((one) => cardOf(one, "model")), ...adapters.map((one) => cardOf(one, one.kind))];
}

function cardOf(one: Model | Adapter, kind: CardKind): Card {
  return {
    key: `${kind}:${one.name}`,
    name: one.name,
    kind,
    family: one.family,
    title: one.title && one.title !== one.name ? one.title : "",
    author: one.author ?? "",
    description: one.description,
    licence: one.license ?? "",
    sha256: one.sha256,
    bytes: one.size_bytes,
    triggers: one.trigger_words,
    tags: (one.metadata["modelspec.tags"] ?? "")
      .split(",")
      .map((tag) => tag.trim())
      .filter(Boolean),
    added: one.added_at,
    thumbnail: one.thumbnail_url,
    metadata: one.metadata,
    builtin: one.builtin,
    model: "defaults" in one ? one : null,
  };
}

/** Cards in which every word occurs somewhere, and of one kind where that is asked for. */
export function found(cards: readonly Card[], words: string, kind: CardKind | "all"): Card[] {
  const wanted = words.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  return cards.filter((card) => {
    if (kind !== "all" && card.kind !== kind) return false;
    const text = [
      card.name,
      card.title,
      card.author,
      card.family ?? "",
      card.licence,
      card.description,
      card.sha256 ?? "",
      ...card.triggers,
      ...card.tags,
    ]
      .join("\n")
      .toLocaleLowerCase();
    return wanted.every((word) => text.includes(word));
  });
}

export type Order = "kind" | "used" | "added" | "name";

/** Cards in another order, those that say nothing about it at the end. `used`: when each was last drawn with. */
export function ordered(
  cards: readonly Card[],
  order: Order,
  used: Readonly<Record<string, number>>,
): Card[] {
  const of = {
    kind: () => 0,
    name: (a: Card, b: Card) => a.name.localeCompare(b.name, undefined, { numeric: true }),
    added: (a: Card, b: Card) => (b.added ?? "").localeCompare(a.added ?? ""),
    used: (a: Card, b: Card) => (used[b.name] ?? 0) - (used[a.name] ?? 0),
  };
  return [...cards].sort(of[order]);
}

/** A prompt with one thing more at its end, unless it is there already. */
export function withWord(prompt: string, word: string): string {
  const text = prompt.trimEnd();
  if (!text) return word;
  const isThere = word.startsWith("<")
    ? text.includes(word.slice(0, word.lastIndexOf(":") + 1))
    : text.split(/[,\n]/).some((one) => one.trim() === word);
  return isThere ? prompt : `${text}${/[,.]$/.test(text) || word.startsWith("<") ? "" : ","} ${word}`;
}

/** How a prompt names an adapter; null where it has no name there. */
export function inPrompt(card: Card): string | null {
  if (card.kind === "embedding") return card.name;
  return card.kind === "lora" && !/[<>:]/.test(card.name) ? `<lora:${card.name}:1>` : null;
}
