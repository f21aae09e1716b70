// Editing a prompt by keys: the weight of what is selected, the place of an element between commas.

export interface Edit {
  /** What is replaced, as offsets into the text. */
  from: number;
  to: number;
  by: string;
  /** The selection afterwards. */
  start: number;
  end: number;
}

const TAG = /<(lora|lyco|hypernet):([^:>]+)(?::(-?\d*\.?\d+))?((?::[^>]*)?)>/gi;
const STEP = 0.1;
const STEP_LORA = 0.05;

/** Make what is selected count more (`up`) or less: `(red car:1.1)`. Without a selection it is the word at the caret;
 * inside `<lora:name:1>` it is the weight of the LoRA. null where there is nothing to weigh. */
export function weigh(text: string, start: number, end: number, up: boolean): Edit | null {
  for (const tag of text.matchAll(TAG)) {
    const from = tag.index;
    const to = from + tag[0].length;
    if (start < from || end > to) continue;
    const weight = round(Number(tag[3] ?? 1) + (up ? STEP_LORA : -STEP_LORA));
    const by = `<${tag[1]}:${tag[2]}:${weight}${tag[4] ?? ""}>`;
    return { from, to, by, start: from, end: from + by.length };
  }
  if (start === end) [start, end] = wordAt(text, start);
  while (start < end && /\s/.test(text.charAt(start))) start += 1;
  while (end > start && /[\s,]/.test(text.charAt(end - 1))) end -= 1;
  if (start === end) return null;

  const around = groupAround(text, start, end);
  const inner = around ? text.slice(around.from + 1, around.colon) : text.slice(start, end);
  const weight = round((around?.weight ?? 1) + (up ? STEP : -STEP));
  const { from, to } = around ?? { from: start, to: end };
  if (weight === 1) return { from, to, by: inner, start: from, end: from + inner.length };
  const by = `(${inner}:${weight})`;
  return { from, to, by, start: from + 1, end: from + 1 + inner.length };
}

/** A LoRA that a prompt names. */
export interface Named {
  name: string;
  weight: number;
  from: number;
  to: number;
}

/** The LoRA that a prompt names, in their order. */
export function named(text: string): Named[] {
  return [...text.matchAll(TAG)]
    .filter((tag) => tag[1]?.toLowerCase() !== "hypernet")
    .map((tag) => ({
      name: (tag[2] ?? "").trim(),
      weight: Number(tag[3] ?? 1),
      from: tag.index,
      to: tag.index + tag[0].length,
    }));
}

/** `(inner:1.2)` around or at a selection, or null. */
function groupAround(
  text: string,
  start: number,
  end: number,
): { from: number; to: number; colon: number; weight: number } | null {
  for (let from = Math.min(start, text.length - 1); from >= 0; from -= 1) {
    if (text.charAt(from) !== "(" || text.charAt(from - 1) === "\\") continue;
    let depth = 0;
    for (let at = from; at < text.length; at += 1) {
      const letter = text.charAt(at);
      if (text.charAt(at - 1) === "\\") continue;
      if (letter === "(") depth += 1;
      if (letter === ")") depth -= 1;
      if (depth > 0) continue;
      const found = /:\s*(-?\d*\.?\d+)\s*$/.exec(text.slice(from + 1, at));
      const holds = from <= start && end <= at + 1;
      // A selection of a part is weighed by itself; of the whole content, or of all with its parentheses, by the number.
      if (found && holds) {
        const colon = from + 1 + found.index;
        const isWhole =
          (start <= from + 1 && end >= colon) ||
          text.slice(start, end).trim() === text.slice(from + 1, colon).trim();
        if (isWhole) return { from, to: at + 1, colon, weight: Number(found[1]) };
      }
      break;
    }
  }
  return null;
}

function wordAt(text: string, at: number): [number, number] {
  // Inside `(two words:1.2)` the group is meant, as after the first press.
  const open = text.lastIndexOf("(", at - 1);
  const close = text.indexOf(")", at);
  if (open >= 0 && close >= 0 && !text.slice(open + 1, close).includes("(")) {
    const colon = /:\s*-?\d*\.?\d+\s*$/.exec(text.slice(open + 1, close));
    if (colon && !text.slice(open + 1, at).includes(")")) return [open + 1, open + 1 + colon.index];
  }
  let start = at;
  let end = at;
  const isWord = (letter: string): boolean => /[\p{L}\p{N}'’_-]/u.test(letter);
  while (start > 0 && isWord(text.charAt(start - 1))) start -= 1;
  while (end < text.length && isWord(text.charAt(end))) end += 1;
  return [start, end];
}

const round = (value: number): number => Math.round(value * 100) / 100;

/** Move the element between commas in which the caret is one place ahead (`by` 1) or back (-1). null at an end. */
export function moveElement(text: string, caret: number, by: 1 | -1): Edit | null {
  const parts = text.split(",");
  let offset = 0;
  const at = parts.findIndex((part) => {
    const holds = caret <= offset + part.length;
    if (!holds) offset += part.length + 1;
    return holds;
  });
  const other = at + by;
  if (at < 0 || other < 0 || other >= parts.length) return null;
  const trimmed = parts.map((part) => part.trim());
  [trimmed[at], trimmed[other]] = [trimmed[other] as string, trimmed[at] as string];
  const whole = trimmed.join(", ");
  const start = trimmed.slice(0, other).reduce((sum, part) => sum + part.length + 2, 0);
  return { from: 0, to: text.length, by: whole, start, end: start + (trimmed[other]?.length ?? 0) };
}
