// A mask: one byte a pixel, 255 is redrawn, 0 stays. Everything here writes into it and tells which rectangle changed.

import { EMPTY, grown, intersect, isEmpty, union, whole, type Point, type Rect, type Size } from "./geometry";

export interface Mask extends Size {
  data: Uint8Array;
}

export function newMask(width: number, height: number): Mask {
  return { width, height, data: new Uint8Array(width * height) };
}

export function copied(mask: Mask): Mask {
  return { width: mask.width, height: mask.height, data: mask.data.slice() };
}

/** How a shape changes what is there: "add" never lowers a level, "remove" never raises one. */
export type Mode = "add" | "remove";

export interface Brush {
  /** Width of the stroke in pixels. */
  size: number;
  /** Share of the radius that is at full strength, 0 to 1. */
  hardness: number;
  /** Level of the middle, 0 to 255. */
  level: number;
}

function put(data: Uint8Array, index: number, coverage: number, mode: Mode): void {
  const old = data[index] as number;
  if (mode === "add") {
    if (coverage > old) data[index] = coverage;
  } else if (255 - coverage < old) {
    data[index] = 255 - coverage;
  }
}

/** The rectangle that `stroke` may change. */
export function strokeBounds(from: Point, to: Point, brush: Brush): Rect {
  const reach = brush.size / 2 + 1;
  const x = Math.floor(Math.min(from.x, to.x) - reach);
  const y = Math.floor(Math.min(from.y, to.y) - reach);
  return {
    x,
    y,
    w: Math.ceil(Math.max(from.x, to.x) + reach) - x + 1,
    h: Math.ceil(Math.max(from.y, to.y) + reach) - y + 1,
  };
}

/** One piece of a stroke: a round brush moved from a point to another. The same piece twice changes nothing. */
export function stroke(mask: Mask, from: Point, to: Point, brush: Brush, mode: Mode): Rect {
  const area = intersect(strokeBounds(from, to, brush), whole(mask));
  if (isEmpty(area)) return { ...EMPTY };
  const { data, width } = mask;
  const { size, hardness, level } = brush; // once: reading them may be watched, which costs more than a pixel does
  const radius = size / 2;
  // A soft edge reaches from the hard core outwards; a hard one is a pixel wide, for smooth borders.
  const core = Math.min(radius * hardness, radius - 0.5);
  const edge = radius + 0.5;
  const ramp = edge - core;
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const length2 = dx * dx + dy * dy;
  const full = mode === "add" ? level : 255 - level;
  for (let row = area.y; row < area.y + area.h; row++) {
    const outer = span(row + 0.5, from, to, edge);
    if (outer === null) continue;
    const low = Math.max(Math.floor(outer[0] - 0.5), area.x);
    const high = Math.min(Math.ceil(outer[1] + 0.5), area.x + area.w);
    const inner = core > 0 ? span(row + 0.5, from, to, core) : null;
    const start = inner === null ? high : Math.min(Math.max(Math.ceil(inner[0] + 0.5), low), high);
    const end = inner === null ? high : Math.min(Math.max(Math.floor(inner[1] - 0.5), start), high);
    const line = row * width;
    for (let x = low; x < high; x++) {
      if (x === start && end > start) {
        solid(data, line + start, line + end, full, mode);
        x = end - 1;
        continue;
      }
      const px = x + 0.5 - from.x;
      const py = row + 0.5 - from.y;
      let along = length2 > 0 ? (px * dx + py * dy) / length2 : 0;
      along = along < 0 ? 0 : along > 1 ? 1 : along;
      const ex = px - along * dx;
      const ey = py - along * dy;
      const distance = Math.sqrt(ex * ex + ey * ey);
      if (distance >= edge) continue;
      const share = distance <= core ? 1 : (edge - distance) / ramp;
      const coverage = Math.round(level * (hardness >= 1 ? share : share * share * (3 - 2 * share)));
      put(data, line + x, coverage, mode);
    }
  }
  return area;
}

function solid(data: Uint8Array, start: number, end: number, full: number, mode: Mode): void {
  if ((mode === "add" && full === 255) || (mode === "remove" && full === 0)) {
    data.fill(full, start, end);
    return;
  }
  for (let i = start; i < end; i++) {
    const old = data[i] as number;
    if (mode === "add" ? full > old : full < old) data[i] = full;
  }
}

/** Where a horizontal line cuts a capsule: an interval, since a capsule is convex. Null where it misses. */
function span(y: number, from: Point, to: Point, radius: number): [number, number] | null {
  let low = Infinity;
  let high = -Infinity;
  for (const end of [from, to]) {
    const off = y - end.y;
    if (Math.abs(off) > radius) continue;
    const half = Math.sqrt(radius * radius - off * off);
    low = Math.min(low, end.x - half);
    high = Math.max(high, end.x + half);
  }
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const length = Math.hypot(dx, dy);
  if (length > 0) {
    // The band between the ends: its four corners, edge by edge.
    const nx = (-dy / length) * radius;
    const ny = (dx / length) * radius;
    const corners: Point[] = [
      { x: from.x + nx, y: from.y + ny },
      { x: to.x + nx, y: to.y + ny },
      { x: to.x - nx, y: to.y - ny },
      { x: from.x - nx, y: from.y - ny },
    ];
    for (let i = 0; i < 4; i++) {
      const a = corners[i] as Point;
      const b = corners[(i + 1) % 4] as Point;
      if ((a.y <= y && y <= b.y) || (b.y <= y && y <= a.y)) {
        if (a.y === b.y) {
          low = Math.min(low, a.x, b.x);
          high = Math.max(high, a.x, b.x);
        } else {
          const x = a.x + ((y - a.y) / (b.y - a.y)) * (b.x - a.x);
          low = Math.min(low, x);
          high = Math.max(high, x);
        }
      }
    }
  }
  return low <= high ? [low, high] : null;
}

/** All pixels of a rectangle. */
export function rectangle(mask: Mask, rect: Rect, mode: Mode, level = 255): Rect {
  const area = intersect(rect, whole(mask));
  const value = mode === "add" ? level : 255 - level;
  for (let row = area.y; row < area.y + area.h; row++) {
    const start = row * mask.width + area.x;
    solid(mask.data, start, start + area.w, value, mode);
  }
  return area;
}

/** The ellipse within a rectangle; its edge is smooth. */
export function ellipse(mask: Mask, rect: Rect, mode: Mode, level = 255): Rect {
  const area = intersect(rect, whole(mask));
  if (isEmpty(area)) return area;
  const rx = rect.w / 2;
  const ry = rect.h / 2;
  const cx = rect.x + rx;
  const cy = rect.y + ry;
  for (let row = area.y; row < area.y + area.h; row++) {
    for (let x = area.x; x < area.x + area.w; x++) {
      let inside = 0;
      const far = Math.hypot((Math.abs(x + 0.5 - cx) + 0.5) / rx, (Math.abs(row + 0.5 - cy) + 0.5) / ry);
      if (far <= 1) {
        inside = 16;
      } else {
        for (let sample = 0; sample < 16; sample++) {
          const px = (x + ((sample & 3) + 0.5) / 4 - cx) / rx;
          const py = (row + ((sample >> 2) + 0.5) / 4 - cy) / ry;
          if (px * px + py * py <= 1) inside++;
        }
      }
      if (inside > 0) put(mask.data, row * mask.width + x, Math.round((level * inside) / 16), mode);
    }
  }
  return area;
}

const SUB = 4; // lines a pixel

/** The inside of an outline (lasso), by the even-odd rule; its edge is smooth. Fewer than three points are nothing. */
export function polygon(mask: Mask, points: readonly Point[], mode: Mode, level = 255): Rect {
  if (points.length < 3) return { ...EMPTY };
  let low: Point = { x: Infinity, y: Infinity };
  let high: Point = { x: -Infinity, y: -Infinity };
  for (const point of points) {
    low = { x: Math.min(low.x, point.x), y: Math.min(low.y, point.y) };
    high = { x: Math.max(high.x, point.x), y: Math.max(high.y, point.y) };
  }
  const x = Math.floor(low.x);
  const y = Math.floor(low.y);
  const area = intersect({ x, y, w: Math.ceil(high.x) - x, h: Math.ceil(high.y) - y }, whole(mask));
  if (isEmpty(area)) return area;
  const line = new Float64Array(area.w);
  for (let row = area.y; row < area.y + area.h; row++) {
    line.fill(0);
    for (let sub = 0; sub < SUB; sub++) {
      const cut = row + (sub + 0.5) / SUB;
      const at: number[] = [];
      for (let i = 0; i < points.length; i++) {
        const a = points[i] as Point;
        const b = points[(i + 1) % points.length] as Point;
        if (a.y <= cut !== b.y <= cut) at.push(a.x + ((cut - a.y) / (b.y - a.y)) * (b.x - a.x));
      }
      at.sort((one, other) => one - other);
      for (let i = 0; i + 1 < at.length; i += 2) {
        const from = Math.max(at[i] as number, area.x);
        const to = Math.min(at[i + 1] as number, area.x + area.w);
        for (let px = Math.floor(from); px < to; px++) {
          const share = Math.min(px + 1, to) - Math.max(px, from);
          if (share > 0) line[px - area.x] = (line[px - area.x] as number) + share / SUB;
        }
      }
    }
    for (let i = 0; i < area.w; i++) {
      const coverage = Math.round(level * Math.min(line[i] as number, 1));
      if (coverage > 0) put(mask.data, row * mask.width + area.x + i, coverage, mode);
    }
  }
  return area;
}

/** What a flood may enter, by the index of the start and of the pixel looked at. */
export type Alike = (start: number, index: number) => boolean;

/** Levels of the mask alike: both above the middle, or both not. */
export function alikeInMask(mask: Mask): Alike {
  return (start, index) => (mask.data[start] as number) > 127 === (mask.data[index] as number) > 127;
}

/** Colours of a picture alike: no channel differs by more than the tolerance. rgba [H * W * 4]. */
export function alikeInPicture(rgba: Uint8ClampedArray, tolerance: number): Alike {
  return (start, index) => {
    for (let channel = 0; channel < 3; channel++) {
      const difference = (rgba[4 * start + channel] as number) - (rgba[4 * index + channel] as number);
      if (Math.abs(difference) > tolerance) return false;
    }
    return true;
  };
}

/** Fills what is connected with a point and alike. `before` is told the rows that will change, before they do. */
export function flood(
  mask: Mask,
  at: Point,
  alike: Alike,
  mode: Mode,
  before: (rect: Rect) => void = () => undefined,
): Rect {
  const { width, height, data } = mask;
  const x0 = Math.floor(at.x);
  const y0 = Math.floor(at.y);
  if (x0 < 0 || y0 < 0 || x0 >= width || y0 >= height) return { ...EMPTY };
  const start = y0 * width + x0;
  const seen = new Uint8Array(width * height);
  const stack = [start];
  let area: Rect = { ...EMPTY };
  const spans: [number, number, number][] = [];
  const open = (index: number): boolean => seen[index] === 0 && alike(start, index);
  while (stack.length > 0) {
    const index = stack.pop() as number;
    if (!open(index)) continue;
    const row = Math.floor(index / width);
    const line = row * width;
    let left = index;
    while (left > line && open(left - 1)) left--;
    let right = index;
    while (right < line + width - 1 && open(right + 1)) right++;
    seen.fill(1, left, right + 1);
    spans.push([row, left - line, right - line + 1]);
    for (const next of [row - 1, row + 1]) {
      if (next < 0 || next >= height) continue;
      let inside = false;
      for (let i = left - line + next * width; i <= right - line + next * width; i++) {
        const enters = open(i);
        if (enters && !inside) stack.push(i);
        inside = enters;
      }
    }
  }
  for (const [row, left, right] of spans) area = union(area, { x: left, y: row, w: right - left, h: 1 });
  before(area);
  for (const [row, left, right] of spans)
    data.fill(mode === "add" ? 255 : 0, row * width + left, row * width + right);
  return area;
}

export function invert(mask: Mask): Rect {
  for (let i = 0; i < mask.data.length; i++) mask.data[i] = 255 - (mask.data[i] as number);
  return whole(mask);
}

export function fillAll(mask: Mask, level: number): Rect {
  mask.data.fill(level);
  return whole(mask);
}

/** Softens the edges by about this many pixels: three running means, which are close to a Gaussian. Beyond the border
 * the mask goes on as it ends, so that what touches the border stays full there. */
export function feather(mask: Mask, radius: number): Rect {
  if (radius <= 0) return { ...EMPTY };
  const sigma = radius / 2;
  const { width, height } = mask;
  const levels = Float32Array.from(mask.data);
  const spare = new Float32Array(levels.length);
  for (const half of boxes(sigma)) {
    means(levels, spare, width, height, half, 1, width);
    means(spare, levels, height, width, half, width, 1);
  }
  for (let i = 0; i < levels.length; i++) mask.data[i] = Math.round(levels[i] as number);
  return whole(mask);
}

/** Half widths of three boxes whose repeated mean has a standard deviation near sigma. */
function boxes(sigma: number): number[] {
  const ideal = Math.sqrt((12 * sigma * sigma) / 3 + 1);
  let low = Math.floor(ideal);
  if (low % 2 === 0) low--;
  const split = Math.round((12 * sigma * sigma - 3 * low * low - 12 * low - 9) / (-4 * low - 4));
  return [0, 1, 2].map((i) => ((i < split ? low : low + 2) - 1) / 2);
}

/** Running means of `count` lines of `length` numbers: along, the distance of two in a line; across, of two lines. */
function means(
  from: Float32Array,
  to: Float32Array,
  length: number,
  count: number,
  half: number,
  along: number,
  across: number,
): void {
  const size = 2 * half + 1;
  for (let line = 0; line < count; line++) {
    const start = line * across;
    const end = start + (length - 1) * along;
    let sum = (from[start] as number) * half;
    for (let i = 0; i <= half; i++) sum += from[start + Math.min(i, length - 1) * along] as number;
    for (let i = 0; i < length; i++) {
      to[start + i * along] = sum / size;
      const enters = i + half + 1;
      const leaves = i - half;
      sum += (enters < length ? from[start + enters * along] : from[end]) as number;
      sum -= (leaves > 0 ? from[start + leaves * along] : from[start]) as number;
    }
  }
}

/** Moves the edge outwards by so many pixels, or inwards if negative; the result is black and white but for a smooth
 * edge of a pixel. */
export function growBy(mask: Mask, by: number): Rect {
  const inside = by > 0;
  const squared = distances(mask, inside);
  const reach = Math.abs(by);
  for (let i = 0; i < squared.length; i++) {
    // The first pixel beyond the edge is at a distance of 1, and covered by a reach of 1.
    const share = Math.min(Math.max(reach + 1 - Math.sqrt(squared[i] as number), 0), 1);
    mask.data[i] = Math.round(255 * (inside ? share : 1 - share));
  }
  return whole(mask);
}

/** Squared distances to the nearest pixel that is in the mask (or that is not): Felzenszwalb & Huttenlocher 2012. */
function distances(mask: Mask, toInside: boolean): Float64Array {
  const { width, height, data } = mask;
  const far = 1e12;
  const out = new Float64Array(width * height);
  for (let i = 0; i < out.length; i++) out[i] = (data[i] as number) > 127 === toInside ? 0 : far;
  const longest = Math.max(width, height);
  const place = new Int32Array(longest);
  const border = new Float64Array(longest + 1);
  const line = new Float64Array(longest);
  const pass = (start: number, step: number, length: number): void => {
    for (let i = 0; i < length; i++) line[i] = out[start + i * step] as number;
    let last = 0;
    place[0] = 0;
    border[0] = -Infinity;
    border[1] = Infinity;
    for (let q = 1; q < length; q++) {
      let s: number;
      for (;;) {
        const v = place[last] as number;
        s = ((line[q] as number) + q * q - ((line[v] as number) + v * v)) / (2 * q - 2 * v);
        if (s > (border[last] as number)) break;
        last--;
      }
      last++;
      place[last] = q;
      border[last] = s;
      border[last + 1] = Infinity;
    }
    let k = 0;
    for (let q = 0; q < length; q++) {
      while ((border[k + 1] as number) < q) k++;
      const v = place[k] as number;
      out[start + q * step] = (q - v) * (q - v) + (line[v] as number);
    }
  };
  for (let x = 0; x < width; x++) pass(x, width, height);
  for (let y = 0; y < height; y++) pass(y * width, 1, width);
  return out;
}

/** The smallest rectangle around all that is not 0. */
export function bounds(mask: Mask): Rect {
  const { width, height, data } = mask;
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    const line = y * width;
    for (let x = 0; x < width; x++) {
      if (data[line + x] === 0) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  return right < 0 ? { ...EMPTY } : { x: left, y: top, w: right - left + 1, h: bottom - top + 1 };
}

/** How much of the picture is redrawn, 0 to 1. */
export function share(mask: Mask): number {
  let sum = 0;
  for (const level of mask.data) sum += level;
  return mask.data.length === 0 ? 0 : sum / (255 * mask.data.length);
}

/** The lightest of several masks of one size, pixel by pixel. */
export function combined(masks: readonly Mask[], size: Size): Mask {
  const out = newMask(size.width, size.height);
  for (const { data } of masks) {
    for (let i = 0; i < data.length; i++) {
      if ((data[i] as number) > (out.data[i] as number)) out.data[i] = data[i] as number;
    }
  }
  return out;
}

/** The part of a mask in a rectangle, which may reach beyond it; there nothing is masked. */
export function framed(mask: Mask, rect: Rect): Mask {
  const out = newMask(rect.w, rect.h);
  const part = intersect(rect, whole(mask));
  for (let row = 0; row < part.h; row++) {
    const from = (part.y + row) * mask.width + part.x;
    out.data.set(mask.data.subarray(from, from + part.w), (part.y + row - rect.y) * rect.w + part.x - rect.x);
  }
  return out;
}

/** A mask of the brightness of a picture. rgba [H * W * 4]; what is clear counts as black. */
export function ofPicture(rgba: Uint8ClampedArray, size: Size): Mask {
  const out = newMask(size.width, size.height);
  for (let i = 0; i < out.data.length; i++) {
    const [r, g, b, a] = rgba.subarray(4 * i, 4 * i + 4) as unknown as [number, number, number, number];
    out.data[i] = Math.round(((0.299 * r + 0.587 * g + 0.114 * b) * a) / 255);
  }
  return out;
}

export { grown };
