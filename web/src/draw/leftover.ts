// What a request sets that no field of the form shows, as one that was restored from a picture may. It is drawn with, so it
// is shown, and can be taken away.

import type { Rest } from "../state/form.svelte";

export interface Leftover {
  /** Names on the way to it: `["hires", "num_steps"]`. */
  path: string[];
  value: string;
}

/** What the form shows by itself; true is the whole of it. */
const SHOWN: Record<string, true | readonly string[]> = {
  loras: true, // a weight in the text encoder and points are of one with a switch of its own
  hires: ["scale", "strength", "upscaler"],
  variation: ["strength", "seed"],
  clip_skip: true,
  eta: true,
  guidance_rescale: true,
  tiling: true,
  preset: true,
  noise: true,
  conventions: true,
  tiles: true,
  source: ["strength", "image"],
  mask: ["image"],
};

export function leftovers(rest: Rest): Leftover[] {
  return Object.entries(rest).flatMap(([name, value]) => {
    const shown = SHOWN[name];
    if (shown === true || value === null || value === undefined) return [];
    if (shown === undefined || typeof value !== "object") return [{ path: [name], value: inWords(value) }];
    return Object.entries(value)
      .filter(([inner, one]) => one !== null && one !== undefined && !shown.includes(inner))
      .map(([inner, one]) => ({ path: [name, inner], value: inWords(one) }));
  });
}

/** The request without one of them. */
export function without(rest: Rest, { path: [name = "", inner] }: Leftover): Rest {
  const all: Record<string, unknown> = { ...rest };
  if (inner === undefined) {
    delete all[name];
  } else {
    const side = { ...(all[name] as Record<string, unknown>) };
    delete side[inner];
    all[name] = side;
  }
  return all as Rest;
}

function inWords(value: unknown): string {
  const text =
    JSON.stringify(value, (_, one: unknown) => (typeof one === "bigint" ? String(one) : one)) ?? "";
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}
