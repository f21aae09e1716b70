// One press for what a network would be asked for elsewhere, where the picture makes it easy: what lies behind an object on
// a plain background, and filling a hole from what is around it.

import type { Size } from "./geometry";
import { newMask, type Mask } from "./mask";

const NEAR = 40; // levels of a channel by which a background may differ from its colour
const PLAIN = 0.5; // share of the rim that must have that colour

/** What lies behind an object: all that is alike and hangs together with the rim. null where the rim is of many colours.
 *
 * rgba [height * width * 4] */
export function backgroundOf(rgba: Uint8ClampedArray, { width, height }: Size): Mask | null {
  const rim: number[] = [];
  for (let x = 0; x < width; x++) rim.push(x, (height - 1) * width + x);
  for (let y = 1; y < height - 1; y++) rim.push(y * width, y * width + width - 1);
  const colour = [0, 1, 2].map((channel) => {
    const levels = rim.map((at) => rgba[4 * at + channel] as number).sort((a, b) => a - b);
    return levels[levels.length >> 1] as number;
  });
  const isAlike = (at: number): boolean =>
    colour.every((level, channel) => Math.abs((rgba[4 * at + channel] as number) - level) <= NEAR);
  const mask = newMask(width, height);
  const { data } = mask;
  const open: number[] = [];
  const take = (at: number): void => {
    if (data[at] !== 0 || !isAlike(at)) return;
    data[at] = 255;
    open.push(at);
  };
  rim.forEach(take);
  if (open.length < PLAIN * rim.length) return null;
  while (open.length > 0) {
    const at = open.pop() as number;
    const x = at % width;
    if (x > 0) take(at - 1);
    if (x < width - 1) take(at + 1);
    if (at >= width) take(at - width);
    if (at < width * (height - 1)) take(at + width);
  }
  return mask;
}

interface Level extends Size {
  /** Colours times how much is known of them, and how much that is: four numbers a pixel. */
  data: Float32Array;
}

/** Pixels with what the mask covers filled in from around it, smoothly: a pyramid in which each level knows the mean of
 * what the finer one knows (pull), and gives it to where that knows nothing (push).
 *
 * Gortler et al. 1996, "The Lumigraph", section 3.4. rgba [height * width * 4] -> the same, opaque */
export function filled(rgba: Uint8ClampedArray, mask: Mask): Uint8ClampedArray {
  const { width, height } = mask;
  const finest: Level = { width, height, data: new Float32Array(4 * width * height) };
  for (let at = 0; at < width * height; at++) {
    const known = 1 - (mask.data[at] as number) / 255;
    for (let one = 0; one < 3; one++) finest.data[4 * at + one] = known * (rgba[4 * at + one] as number);
    finest.data[4 * at + 3] = known;
  }
  const levels = [finest];
  for (let last = finest; last.width > 1 || last.height > 1;) levels.push((last = pulled(last)));
  for (let i = levels.length - 2; i >= 0; i--) push(levels[i + 1] as Level, levels[i] as Level);
  const out = new Uint8ClampedArray(rgba.length);
  for (let at = 0; at < width * height; at++) {
    const known = finest.data[4 * at + 3] || 1;
    for (let one = 0; one < 3; one++) out[4 * at + one] = (finest.data[4 * at + one] as number) / known;
    out[4 * at + 3] = 255;
  }
  return out;
}

function pulled(from: Level): Level {
  const size = { width: (from.width + 1) >> 1, height: (from.height + 1) >> 1 };
  const data = new Float32Array(4 * size.width * size.height);
  for (let y = 0; y < from.height; y++)
    for (let x = 0; x < from.width; x++) {
      const to = 4 * ((y >> 1) * size.width + (x >> 1));
      const at = 4 * (y * from.width + x);
      for (let one = 0; one < 4; one++)
        data[to + one] = (data[to + one] as number) + (from.data[at + one] as number);
    }
  for (let at = 0; at < data.length; at += 4) {
    const known = data[at + 3] as number;
    if (known > 1) for (let one = 0; one < 4; one++) data[at + one] = (data[at + one] as number) / known;
  }
  return { ...size, data };
}

/** Where the finer level knows less than all, the rest is what the coarser has there, between its pixels. */
function push(coarse: Level, fine: Level): void {
  for (let y = 0; y < fine.height; y++)
    for (let x = 0; x < fine.width; x++) {
      const at = 4 * (y * fine.width + x);
      const lacks = 1 - (fine.data[at + 3] as number);
      if (lacks <= 0) continue;
      const [cx, cy] = [(x - 0.5) / 2, (y - 0.5) / 2];
      const [left, top] = [Math.floor(cx), Math.floor(cy)];
      const sum = [0, 0, 0, 0];
      for (const [dx, dy] of [
        [0, 0],
        [1, 0],
        [0, 1],
        [1, 1],
      ] as const) {
        const share = (dx ? cx - left : 1 - cx + left) * (dy ? cy - top : 1 - cy + top);
        const px = Math.min(Math.max(left + dx, 0), coarse.width - 1);
        const py = Math.min(Math.max(top + dy, 0), coarse.height - 1);
        const from = 4 * (py * coarse.width + px);
        for (let one = 0; one < 4; one++)
          sum[one] = (sum[one] as number) + share * (coarse.data[from + one] as number);
      }
      const known = sum[3] || 1;
      for (let one = 0; one < 3; one++)
        fine.data[at + one] = (fine.data[at + one] as number) + (lacks * (sum[one] as number)) / known;
      fine.data[at + 3] = 1;
    }
}
