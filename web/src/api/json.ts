// JSON with whole numbers beyond 2^53, which JavaScript would round: they become BigInt, and go out as digits.

interface WithSource {
  source?: string;
}
interface JsonWithRaw {
  rawJSON?: (text: string) => unknown;
}

/** JSON -> values. Whole numbers that a number cannot hold are BigInt, where the browser tells how they were written. */
export function readJson(text: string): unknown {
  const revive = (_: string, value: unknown, context?: WithSource): unknown => {
    if (typeof value !== "number" || Number.isSafeInteger(value) || !context?.source) return value;
    return /^-?\d+$/.test(context.source) ? BigInt(context.source) : value;
  };
  return text === "" ? undefined : JSON.parse(text, revive as (key: string, value: unknown) => unknown);
}

/** Characters that no text of the API may have, and that only come by pasting: NUL, and halves of surrogate pairs. */
const BROKEN = /\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Values -> JSON, with BigInt as a number, and texts without broken characters. */
export function exactJson(value: unknown): string {
  const raw = (JSON as JsonWithRaw).rawJSON;
  return JSON.stringify(value, (_, one: unknown) => {
    if (typeof one === "string") return one.replace(BROKEN, "");
    return typeof one === "bigint" ? (raw ? raw(one.toString()) : Number(one)) : one;
  });
}
