// Rectangles of pixels, and the view that maps the picture to the screen.

/** A rectangle of whole pixels: x and y of its corner, its width and height. Empty if a side is 0. */
export interface Rect {
  x: number;
  y: number;
  w: number;
  h: number;
}

export interface Size {
  width: number;
  height: number;
}

export interface Point {
  x: number;
  y: number;
}

export const EMPTY: Rect = { x: 0, y: 0, w: 0, h: 0 };

export function isEmpty(rect: Rect): boolean {
  return rect.w <= 0 || rect.h <= 0;
}

export function intersect(a: Rect, b: Rect): Rect {
  const x = Math.max(a.x, b.x);
  const y = Math.max(a.y, b.y);
  const w = Math.min(a.x + a.w, b.x + b.w) - x;
  const h = Math.min(a.y + a.h, b.y + b.h) - y;
  return w > 0 && h > 0 ? { x, y, w, h } : { ...EMPTY };
}

export function union(a: Rect, b: Rect): Rect {
  if (isEmpty(a)) return { ...b };
  if (isEmpty(b)) return { ...a };
  const x = Math.min(a.x, b.x);
  const y = Math.min(a.y, b.y);
  return { x, y, w: Math.max(a.x + a.w, b.x + b.w) - x, h: Math.max(a.y + a.h, b.y + b.h) - y };
}

/** The smallest rectangle of whole pixels around two corners, in any order. */
export function around(a: Point, b: Point): Rect {
  const x = Math.floor(Math.min(a.x, b.x));
  const y = Math.floor(Math.min(a.y, b.y));
  return { x, y, w: Math.ceil(Math.max(a.x, b.x)) - x, h: Math.ceil(Math.max(a.y, b.y)) - y };
}

export function grown(rect: Rect, by: number): Rect {
  return { x: rect.x - by, y: rect.y - by, w: rect.w + 2 * by, h: rect.h + 2 * by };
}

export function whole(size: Size): Rect {
  return { x: 0, y: 0, w: size.width, h: size.height };
}

/** Screen = picture * scale + (x, y), in CSS pixels. */
export interface View {
  scale: number;
  x: number;
  y: number;
}

export const MIN_SCALE = 0.05;
export const MAX_SCALE = 8;
/** The scales of the keys 1 to 4. */
export const SCALES = [1, 2, 4, 8] as const;
const MARGIN = 24;

export function clampScale(scale: number): number {
  return Math.min(Math.max(scale, MIN_SCALE), MAX_SCALE);
}

/** The whole rectangle in the middle of the screen, never larger than `most`. */
export function fit(rect: Rect, screen: Size, most = MAX_SCALE): View {
  const room = (side: number): number => Math.max(side - 2 * Math.min(MARGIN, side / 10), 1);
  const scale = Math.min(
    clampScale(Math.min(room(screen.width) / rect.w, room(screen.height) / rect.h)),
    most,
  );
  return centred(rect, screen, scale);
}

/** The middle of a rectangle in the middle of the screen. */
export function centred(rect: Rect, screen: Size, scale: number): View {
  return {
    scale,
    x: screen.width / 2 - (rect.x + rect.w / 2) * scale,
    y: screen.height / 2 - (rect.y + rect.h / 2) * scale,
  };
}

/** Another scale, with the point of the picture that is at `at` on the screen staying there. */
export function zoomAt(view: View, at: Point, scale: number): View {
  const next = clampScale(scale);
  const point = toPicture(view, at);
  return { scale: next, x: at.x - point.x * next, y: at.y - point.y * next };
}

export function toPicture(view: View, at: Point): Point {
  return { x: (at.x - view.x) / view.scale, y: (at.y - view.y) / view.scale };
}

export function toScreen(view: View, at: Point): Point {
  return { x: at.x * view.scale + view.x, y: at.y * view.scale + view.y };
}

/** A rectangle of the picture on the screen, grown to whole screen pixels. */
export function rectToScreen(view: View, rect: Rect): Rect {
  const x = Math.floor(rect.x * view.scale + view.x);
  const y = Math.floor(rect.y * view.scale + view.y);
  const right = Math.ceil((rect.x + rect.w) * view.scale + view.x);
  const bottom = Math.ceil((rect.y + rect.h) * view.scale + view.y);
  return { x, y, w: right - x, h: bottom - y };
}

/** The view moved as little as needed so that a part of the rectangle stays on the screen. */
export function keptInSight(view: View, rect: Rect, screen: Size): View {
  const sight = Math.min(64, screen.width / 4, screen.height / 4);
  const left = rect.x * view.scale;
  const top = rect.y * view.scale;
  const x = Math.min(Math.max(view.x, sight - left - rect.w * view.scale), screen.width - sight - left);
  const y = Math.min(Math.max(view.y, sight - top - rect.h * view.scale), screen.height - sight - top);
  return { scale: view.scale, x, y };
}

/** The next size of a brush: steps that feel even, from 1 to 512 pixels across. */
export function nextBrush(size: number, direction: 1 | -1): number {
  const step = size < 10 ? 1 : size < 40 ? 4 : size < 120 ? 10 : 32;
  const next = direction > 0 ? size + step : size - (size <= 10 ? 1 : size <= 40 ? 4 : size <= 120 ? 10 : 32);
  return Math.min(Math.max(Math.round(next), 1), 512);
}

/** Rectangles one after the other, as few as cost no more than they do alone: the pieces of a wide brush lie over one another
 * and become one, those of a narrow one that flies stay apart. */
export function joined(rects: Iterable<Rect>): Rect[] {
  const found: Rect[] = [];
  const area = (one: Rect): number => one.w * one.h;
  for (const one of rects) {
    const last = found.at(-1);
    const both = last && union(last, one);
    if (last && both && area(both) <= area(last) + area(one)) found[found.length - 1] = both;
    else found.push(one);
  }
  return found;
}
