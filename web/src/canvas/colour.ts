// Painting with a colour: what a stroke covers, laid over what was there before it.

import type { Rect } from "./geometry";
import type { Mask } from "./mask";

export type Colour = readonly [red: number, green: number, blue: number];

/** "#d64545" as three bytes. Raises RangeError for anything else. */
export function colourOf(text: string): Colour {
  const found = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(text);
  if (!found) throw new RangeError(`not a colour: ${text}`);
  return [1, 2, 3].map((group) => parseInt(found[group] as string, 16)) as unknown as Colour;
}

export const textOf = (colour: ArrayLike<number>): string =>
  `#${[0, 1, 2].map((one) => (colour[one] ?? 0).toString(16).padStart(2, "0")).join("")}`;

/** Lay a colour over pixels, as far as the mask covers them, in a rectangle within both; null takes colour away.
 *
 * out, before  four bytes a pixel, alpha not multiplied in: what is written, and what was there before the stroke began,
 *              so that a stroke that crosses itself does not grow darker there */
export function laid(
  out: Uint8ClampedArray,
  before: Uint8ClampedArray,
  cover: Mask,
  area: Rect,
  colour: Colour | null,
): void {
  for (let y = area.y; y < area.y + area.h; y++) {
    for (let x = area.x; x < area.x + area.w; x++) {
      const at = y * cover.width + x;
      const share = (cover.data[at] as number) / 255;
      const i = 4 * at;
      const was = (before[i + 3] as number) / 255;
      if (colour === null) {
        out[i + 3] = 255 * was * (1 - share);
        continue;
      }
      const alpha = share + was * (1 - share);
      if (alpha === 0) continue;
      for (let one = 0; one < 3; one++)
        out[i + one] =
          ((colour[one] as number) * share + (before[i + one] as number) * was * (1 - share)) / alpha;
      out[i + 3] = 255 * alpha;
    }
  }
}
