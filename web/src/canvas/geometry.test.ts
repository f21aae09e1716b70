import { expect, test } from "vitest";
import {
  around,
  fit,
  intersect,
  joined,
  keptInSight,
  nextBrush,
  rectToScreen,
  toPicture,
  toScreen,
  union,
  zoomAt,
  type Rect,
} from "./geometry";

test("rectangles meet and join", () => {
  const a = { x: 0, y: 0, w: 10, h: 10 };
  expect(intersect(a, { x: 5, y: -5, w: 10, h: 10 })).toEqual({ x: 5, y: 0, w: 5, h: 5 });
  expect(intersect(a, { x: 10, y: 0, w: 5, h: 5 })).toEqual({ x: 0, y: 0, w: 0, h: 0 });
  expect(union(a, { x: 20, y: 5, w: 1, h: 1 })).toEqual({ x: 0, y: 0, w: 21, h: 10 });
  expect(union({ x: 3, y: 3, w: 0, h: 0 }, a)).toEqual(a);
  expect(around({ x: 7.5, y: 1 }, { x: 2.2, y: 3 })).toEqual({ x: 2, y: 1, w: 6, h: 2 });
});

test("the point under the pointer stays there when the scale changes", () => {
  let view = fit({ x: 0, y: 0, w: 256, h: 256 }, { width: 800, height: 600 });
  const at = { x: 123, y: 321 };
  const before = toPicture(view, at);
  for (const scale of [2, 0.3, 99, 0.001]) {
    view = zoomAt(view, at, scale);
    expect(toPicture(view, at).x).toBeCloseTo(before.x, 6);
    expect(toPicture(view, at).y).toBeCloseTo(before.y, 6);
  }
  expect(view.scale).toBe(0.05);
});

test("fit shows the whole picture in the middle", () => {
  const view = fit({ x: -64, y: 0, w: 512, h: 256 }, { width: 1000, height: 600 });
  const left = toScreen(view, { x: -64, y: 0 });
  const right = toScreen(view, { x: 448, y: 256 });
  expect(left.x).toBeCloseTo(1000 - right.x, 6);
  expect(left.y).toBeCloseTo(600 - right.y, 6);
  expect(left.x).toBeGreaterThan(0);
  expect(fit({ x: 0, y: 0, w: 16, h: 16 }, { width: 1000, height: 600 }).scale).toBe(8);
  expect(fit({ x: 0, y: 0, w: 16, h: 16 }, { width: 1000, height: 600 }, 2).scale).toBe(2);
});

test("the picture can't be lost", () => {
  const rect = { x: 0, y: 0, w: 256, h: 256 };
  const screen = { width: 800, height: 600 };
  const view = keptInSight({ scale: 1, x: 5000, y: -5000 }, rect, screen);
  const seen = intersect(rectToScreen(view, rect), { x: 0, y: 0, w: 800, h: 600 });
  expect(seen.w).toBeGreaterThanOrEqual(64);
  expect(seen.h).toBeGreaterThanOrEqual(64);
});

test("brush sizes go up and come back", () => {
  let size = 1;
  const up = [size];
  while (size < 512) up.push((size = nextBrush(size, 1)));
  expect(up.length).toBeLessThan(50);
  const down = [size];
  while (size > 1) down.push((size = nextBrush(size, -1)));
  expect(down[0]).toBe(512);
  expect(down.at(-1)).toBe(1);
  expect(nextBrush(1, -1)).toBe(1);
});

test("pieces of a stroke are joined where they lie over one another, and stay apart where they do not", () => {
  const pieces = (size: number, step: number): Rect[] =>
    Array.from({ length: 10 }, (_, i) => ({ x: i * step, y: i * step, w: size + step, h: size + step }));
  const work = (rects: Rect[]): number => rects.reduce((sum, one) => sum + one.w * one.h, 0);
  // A wide brush, ten places in one frame: once around all of them.
  expect(joined(pieces(512, 4))).toEqual([{ x: 0, y: 0, w: 552, h: 552 }]);
  // A narrow one that flies over the picture: no more than its pieces, where around all of them there are ten times as many.
  const flight = joined(pieces(20, 100));
  expect(work(flight)).toBeLessThanOrEqual(work(pieces(20, 100)));
  expect(joined([])).toEqual([]);
});
