// Changes of a picture's pixels before it is drawn from: moved, scaled, mirrored, darker, warmer. rgba [H * W * 4].

import type { Size } from "./geometry";
import type { Mask } from "./mask";

export type ToneName =
  | "night"
  | "darker"
  | "brighter"
  | "warmer"
  | "cooler"
  | "contrast"
  | "softer"
  | "vivid"
  | "pale"
  | "grey"
  | "sepia";

export type Look =
  | { op: "shift"; x: number; y: number } // shares of the width and height; right and down are positive
  | { op: "scale"; by: number } // around the middle
  | { op: "mirror"; axis: "x" | "y" } // x: left and right change places
  | { op: "tone"; name: ToneName; amount: number }; // 1 is the usual amount

/** The picture after each of the changes, in their order. Sizes stay. */
export function looked(rgba: Uint8ClampedArray, size: Size, looks: readonly Look[]): Uint8ClampedArray {
  return looks.reduce((pixels, look) => {
    switch (look.op) {
      case "shift":
        return shifted(pixels, size, Math.round(look.x * size.width), Math.round(look.y * size.height));
      case "scale":
        return scaled(pixels, size, look.by);
      case "mirror":
        return mirrored(pixels, size, look.axis);
      case "tone":
        return toned(pixels, look.name, look.amount);
    }
  }, rgba);
}

/** The second picture where a mask is white, the first where it is black. */
export function blended(from: Uint8ClampedArray, to: Uint8ClampedArray, mask: Mask): Uint8ClampedArray {
  return from.map((level, i) => {
    const share = (mask.data[i >> 2] as number) / 255;
    return Math.round(level + ((to[i] as number) - level) * share);
  });
}

/** Moved by whole pixels; what becomes free repeats the edge. */
export function shifted(
  rgba: Uint8ClampedArray,
  { width, height }: Size,
  dx: number,
  dy: number,
): Uint8ClampedArray {
  const from = new Uint32Array(rgba.slice().buffer);
  const to = new Uint32Array(from.length);
  for (let y = 0; y < height; y++) {
    const row = Math.min(Math.max(y - dy, 0), height - 1) * width;
    for (let x = 0; x < width; x++) {
      to[y * width + x] = from[row + Math.min(Math.max(x - dx, 0), width - 1)] as number;
    }
  }
  return new Uint8ClampedArray(to.buffer);
}

/** Larger or smaller around the middle, by bilinear interpolation; what becomes free repeats the edge. */
export function scaled(rgba: Uint8ClampedArray, { width, height }: Size, by: number): Uint8ClampedArray {
  const out = new Uint8ClampedArray(rgba.length);
  const at = (value: number, side: number): [number, number, number] => {
    const place = Math.min(Math.max((value + 0.5 - side / 2) / by + side / 2 - 0.5, 0), side - 1);
    const low = Math.floor(place);
    return [low, Math.min(low + 1, side - 1), place - low];
  };
  for (let y = 0; y < height; y++) {
    const [top, bottom, down] = at(y, height);
    for (let x = 0; x < width; x++) {
      const [left, right, across] = at(x, width);
      for (let channel = 0; channel < 4; channel++) {
        const level = (row: number, column: number): number =>
          rgba[4 * (row * width + column) + channel] as number;
        const above = level(top, left) * (1 - across) + level(top, right) * across;
        const below = level(bottom, left) * (1 - across) + level(bottom, right) * across;
        out[4 * (y * width + x) + channel] = Math.round(above * (1 - down) + below * down);
      }
    }
  }
  return out;
}

export function mirrored(
  rgba: Uint8ClampedArray,
  { width, height }: Size,
  axis: "x" | "y",
): Uint8ClampedArray {
  const from = new Uint32Array(rgba.slice().buffer);
  const to = new Uint32Array(from.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const source = axis === "x" ? y * width + (width - 1 - x) : (height - 1 - y) * width + x;
      to[y * width + x] = from[source] as number;
    }
  }
  return new Uint8ClampedArray(to.buffer);
}

type Pixel = [number, number, number];
const brightness = ([r, g, b]: Pixel): number => 0.299 * r + 0.587 * g + 0.114 * b;
const mixed = (from: Pixel, to: Pixel, share: number): Pixel => [
  from[0] + (to[0] - from[0]) * share,
  from[1] + (to[1] - from[1]) * share,
  from[2] + (to[2] - from[2]) * share,
];
const grey = (pixel: Pixel): Pixel => {
  const level = brightness(pixel);
  return [level, level, level];
};
const times = ([r, g, b]: Pixel, [x, y, z]: Pixel): Pixel => [r * x, g * y, b * z];

const TONES: Record<ToneName, (pixel: Pixel, amount: number) => Pixel> = {
  night: (pixel, amount) =>
    mixed(pixel, times(mixed(pixel, grey(pixel), 0.35), [0.22, 0.27, 0.5]), Math.min(amount, 1.2)),
  darker: (pixel, amount) => times(pixel, [1 - 0.35 * amount, 1 - 0.35 * amount, 1 - 0.35 * amount]),
  brighter: (pixel, amount) => mixed(pixel, [255, 255, 255], 0.3 * amount),
  warmer: (pixel, amount) => times(pixel, [1 + 0.1 * amount, 1, 1 - 0.2 * amount]),
  cooler: (pixel, amount) => times(pixel, [1 - 0.2 * amount, 1, 1 + 0.1 * amount]),
  contrast: (pixel, amount) => mixed([128, 128, 128], pixel, 1 + 0.35 * amount),
  softer: (pixel, amount) => mixed(pixel, [128, 128, 128], 0.3 * amount),
  vivid: (pixel, amount) => mixed(grey(pixel), pixel, 1 + 0.5 * amount),
  pale: (pixel, amount) => mixed(pixel, grey(pixel), Math.min(0.5 * amount, 1)),
  grey: (pixel) => grey(pixel),
  sepia: (pixel) => times(grey(pixel), [1.08, 0.93, 0.72]),
};

export function toned(rgba: Uint8ClampedArray, name: ToneName, amount: number): Uint8ClampedArray {
  const out = new Uint8ClampedArray(rgba.length);
  const tone = TONES[name];
  for (let i = 0; i < rgba.length; i += 4) {
    const [r, g, b] = tone([rgba[i] as number, rgba[i + 1] as number, rgba[i + 2] as number], amount);
    out[i] = Math.round(r);
    out[i + 1] = Math.round(g);
    out[i + 2] = Math.round(b);
    out[i + 3] = rgba[i + 3] as number;
  }
  return out;
}
