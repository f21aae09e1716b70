// How two pictures differ in their settings.

export type Settings = Record<string, unknown>;

export interface Difference {
  /** Path of the field: "num_steps", "source.strength". */
  path: string;
  a: string | null;
  b: string | null;
}

const SILENT = new Set(["schema", "version", "num_images", "first_index"]); // `number` of those that are compared says more

/** The settings that say something, by their paths, as text. */
export function flat(value: unknown, path = ""): Map<string, string> {
  const found = new Map<string, string>();
  if (value === null || value === undefined || value === "") return found;
  if (Array.isArray(value)) {
    if (value.length === 0) return found;
    if (value.every((one) => one === null || typeof one !== "object")) {
      found.set(path, value.map(text).join(", "));
      return found;
    }
    value.forEach((one, index) => merge(found, flat(one, `${path}[${index}]`)));
    return found;
  }
  if (typeof value === "object") {
    for (const [name, one] of Object.entries(value)) {
      if (path === "" && SILENT.has(name)) continue;
      merge(found, flat(one, path ? `${path}.${name}` : name));
    }
    return found;
  }
  found.set(path, text(value));
  return found;
}

function merge(into: Map<string, string>, from: Map<string, string>): void {
  for (const [path, value] of from) into.set(path, value);
}

const text = (value: unknown): string =>
  typeof value === "number" && !Number.isInteger(value)
    ? String(Number(value.toPrecision(6)))
    : String(value);

/** What people look for first; all else follows in the order of the first picture. */
const FIRST = [
  "prompt",
  "negative_prompt",
  "model",
  "seed",
  "number",
  "width",
  "height",
  "num_steps",
  "guidance_scale",
];

export function inOrder(paths: Iterable<string>): string[] {
  const rank = (path: string): number => (FIRST.includes(path) ? FIRST.indexOf(path) : FIRST.length);
  return [...paths].sort((a, b) => rank(a) - rank(b));
}

/** What differs, what matters most first. */
export function differences(a: Settings, b: Settings): Difference[] {
  const [left, right] = [flat(a), flat(b)];
  return inOrder(new Set([...left.keys(), ...right.keys()]))
    .map((path) => ({ path, a: left.get(path) ?? null, b: right.get(path) ?? null }))
    .filter((one) => one.a !== one.b);
}

/** The words of both texts, each with whether the other has it at that place too (longest common subsequence). */
export function wordsApart(a: string, b: string): [Word[], Word[]] {
  const [left, right] = [split(a), split(b)];
  if (left.length * right.length > 250_000) return [left.map(other), right.map(other)];
  const table = Array.from({ length: left.length + 1 }, () => new Uint16Array(right.length + 1));
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      const [row, below] = [table[i] as Uint16Array, table[i + 1] as Uint16Array];
      row[j] =
        left[i] === right[j]
          ? (below[j + 1] as number) + 1
          : Math.max(below[j] as number, row[j + 1] as number);
    }
  }
  const found: [Word[], Word[]] = [[], []];
  let [i, j] = [0, 0];
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      found[0].push({ text: left[i++] as string, same: true });
      found[1].push({ text: right[j++] as string, same: true });
    } else if (
      j >= right.length ||
      (i < left.length && (table[i + 1]?.[j] as number) >= (table[i]?.[j + 1] as number))
    ) {
      found[0].push(other(left[i++] as string));
    } else {
      found[1].push(other(right[j++] as string));
    }
  }
  return found;
}

export interface Word {
  text: string;
  same: boolean;
}

const other = (one: string): Word => ({ text: one, same: false });
const split = (one: string): string[] => one.match(/\s*\S+/g) ?? [];
