// Which parts of a prompt are marked while it is typed.

export interface Part {
  text: string;
  /** A word that the model does not know. */
  unknown: boolean;
}

/** The text in parts, with each place of an unknown word apart. Adapters and wildcards are left alone. */
export function parted(text: string, unknown: readonly string[]): Part[] {
  if (unknown.length === 0 || text === "") return [{ text, unknown: false }];
  const words = [...new Set(unknown)].sort((a, b) => b.length - a.length).map(escaped);
  const any = new RegExp(
    `(<[^<>]*>|__[^\\s]+?__)|(?<![\\p{L}\\p{N}])(${words.join("|")})(?![\\p{L}\\p{N}])`,
    "giu",
  );
  const parts: Part[] = [];
  let at = 0;
  for (const found of text.matchAll(any)) {
    if (found[2] === undefined) continue;
    if (found.index > at) parts.push({ text: text.slice(at, found.index), unknown: false });
    parts.push({ text: found[2], unknown: true });
    at = found.index + found[2].length;
  }
  if (at < text.length) parts.push({ text: text.slice(at), unknown: false });
  return parts;
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
