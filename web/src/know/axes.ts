/** The axes of a sheet as the server reads them: NAME=VALUES, with lists, ranges and quotes as in A1111's X/Y/Z plot.
 *
 *  The server has the last word; what is here shows while it is typed what will be drawn. */

export type Kind = "whole" | "number" | "choice" | "words" | "size";

/** A setting that can be varied.
 *
 *  name     as the server takes it
 *  kind     what its values are
 *  example  values that are worth a first try
 */
export interface Setting {
  readonly name: string;
  readonly kind: Kind;
  readonly example: string;
}

export const SETTINGS: readonly Setting[] = [
  { name: "steps", kind: "whole", example: "4, 8, 20" },
  { name: "guidance", kind: "number", example: "1-7 (+2)" },
  { name: "prompt", kind: "words", example: "" },
  { name: "seed", kind: "whole", example: "1-4" },
  { name: "sampler", kind: "choice", example: "euler, dpmpp_2m" },
  { name: "schedule", kind: "choice", example: "karras, sgm_uniform" },
  { name: "model", kind: "choice", example: "" },
  { name: "size", kind: "size", example: "256, 384x256" },
  { name: "strength", kind: "number", example: "0.4-0.8 (+0.2)" },
  { name: "clip_skip", kind: "whole", example: "1, 2" },
  { name: "guidance_rescale", kind: "number", example: "0, 0.35, 0.7" },
  { name: "eta", kind: "number", example: "0, 0.5, 1" },
];

export const MAX_VALUES = 256; // of one axis
export const MAX_CELLS = 1000; // of a sheet: as many jobs as the server takes in one batch

/** What stands in the form for one axis. */
export interface AxisText {
  name: string;
  values: string;
}

/** Why an axis cannot be read: a key of the catalogue of texts, and what goes into it. */
export class AxisError extends Error {
  constructor(
    readonly reason: "empty" | "gap" | "quote" | "number" | "whole" | "range" | "many" | "size",
    readonly found = "",
  ) {
    super(reason);
  }
}

const NUMBER = "[-+]?(?:[0-9]+\\.?[0-9]*|\\.[0-9]+)";
const STEPPED = new RegExp(`^(${NUMBER})\\s*-\\s*(${NUMBER})(?:\\s*\\(\\s*(${NUMBER})\\s*\\))?$`);
const COUNTED = new RegExp(`^(${NUMBER})\\s*-\\s*(${NUMBER})\\s*\\[\\s*([0-9]{1,4})\\s*\\]$`);
const PLAIN = new RegExp(`^${NUMBER}$`);

export function kindOf(name: string): Kind {
  if (name.startsWith("lora:")) return "number";
  return SETTINGS.find((one) => one.name === name)?.kind ?? "words";
}

/** The values of a list, ranges written out. Throws AxisError. */
export function valuesOf(axis: AxisText): string[] {
  const kind = kindOf(axis.name);
  const listed = split(axis.values);
  const values =
    kind === "whole" || kind === "number" ? listed.flatMap((one) => ranged(one, kind === "whole")) : listed;
  if (kind === "size" && values.some((one) => !/^\d{1,6}(x\d{1,6})?$/i.test(one)))
    throw new AxisError(
      "size",
      values.find((one) => !/^\d{1,6}(x\d{1,6})?$/i.test(one)),
    );
  if (values.length > MAX_VALUES) throw new AxisError("many", String(values.length));
  return values;
}

/** As the server takes it. Values are written out, so that what was seen is what is drawn. Throws AxisError. */
export function axisText(axis: AxisText): string {
  return `${axis.name}=${valuesOf(axis).map(quoted).join(",")}`;
}

/** How many pictures a sheet of these axes has. Throws AxisError. */
export function countOf(axes: readonly AxisText[]): number {
  return axes.reduce((count, axis) => count * valuesOf(axis).length, 1);
}

/** A value for a list: in quotes where it holds a comma or a quote. */
export function quoted(value: string): string {
  return /[",]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** The words between commas; what stands in quotes may hold commas, and a quote twice is one. Throws AxisError. */
export function split(listed: string): string[] {
  if (!listed.trim()) throw new AxisError("empty");
  const values: string[] = [];
  let at = 0;
  for (;;) {
    while (listed[at] === " ") at += 1;
    let value = "";
    if (listed[at] === '"') {
      at += 1;
      for (;;) {
        if (at >= listed.length) throw new AxisError("quote", listed);
        if (listed[at] !== '"') value += listed[at++];
        else if (listed[at + 1] === '"') {
          value += '"';
          at += 2;
        } else {
          at += 1;
          break;
        }
      }
      while (listed[at] === " ") at += 1;
      if (at < listed.length && listed[at] !== ",") throw new AxisError("quote", listed);
    } else {
      const end = listed.indexOf(",", at);
      value = listed.slice(at, end < 0 ? listed.length : end);
      at = end < 0 ? listed.length : end;
    }
    value = value.trim();
    if (!value) throw new AxisError("gap", listed);
    values.push(value);
    if (at >= listed.length) return values;
    at += 1;
  }
}

function ranged(text: string, whole: boolean): string[] {
  const counted = COUNTED.exec(text);
  if (counted) {
    const [first, last, count] = [number(counted[1]!, whole), number(counted[2]!, whole), Number(counted[3])];
    if (count < 1 || count > MAX_VALUES) throw new AxisError("range", text);
    return Array.from({ length: count }, (_, k) =>
      shown(first + ((last - first) * k) / Math.max(count - 1, 1), whole),
    );
  }
  const stepped = STEPPED.exec(text);
  if (!stepped) {
    // A seed may have more digits than a number of JavaScript holds: one alone stays as it was typed.
    if (!PLAIN.test(text)) throw new AxisError("number", text);
    if (whole && !/^[-+]?\d+$/.test(text)) throw new AxisError("whole", text);
    return [text];
  }
  const [first, last] = [number(stepped[1]!, whole), number(stepped[2]!, whole)];
  const step = stepped[3] === undefined ? (last >= first ? 1 : -1) : number(stepped[3], whole);
  if (step === 0 || (last - first) / step < 0 || (last - first) / step > MAX_VALUES)
    throw new AxisError("range", text);
  return Array.from({ length: Math.floor((last - first) / step + 1e-9) + 1 }, (_, k) =>
    shown(first + k * step, whole),
  );
}

function number(text: string, whole: boolean): number {
  const read = Number(text);
  if (whole && !Number.isSafeInteger(read)) throw new AxisError("range", text);
  return read;
}

/** As the server writes it: six digits that count. */
function shown(value: number, whole: boolean): string {
  return whole ? String(Math.round(value)) : String(Number(value.toPrecision(6)));
}
