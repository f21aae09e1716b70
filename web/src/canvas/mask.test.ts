import { describe, expect, test } from "vitest";
import {
  alikeInMask,
  alikeInPicture,
  bounds,
  combined,
  ellipse,
  feather,
  flood,
  framed,
  growBy,
  invert,
  newMask,
  ofPicture,
  polygon,
  rectangle,
  share,
  stroke,
  strokeBounds,
  type Brush,
  type Mask,
} from "./mask";

/** Typed arrays are compared by hand: `toEqual` takes seconds for them. */
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
const HARD: Brush = { size: 21, hardness: 1, level: 255 };
const at = (mask: Mask, x: number, y: number): number => mask.data[y * mask.width + x] as number;

/** What a stroke should be, pixel by pixel, from the distance to the line. */
function naive(
  size: number,
  from: { x: number; y: number },
  to: { x: number; y: number },
  brush: Brush,
): Mask {
  const mask = newMask(size, size);
  const radius = brush.size / 2;
  const core = Math.min(radius * brush.hardness, radius - 0.5);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const [px, py] = [x + 0.5, y + 0.5];
      const [dx, dy] = [to.x - from.x, to.y - from.y];
      const length2 = dx * dx + dy * dy;
      const t =
        length2 === 0 ? 0 : Math.min(Math.max(((px - from.x) * dx + (py - from.y) * dy) / length2, 0), 1);
      const distance = Math.hypot(px - from.x - t * dx, py - from.y - t * dy);
      const part = Math.min(Math.max((radius + 0.5 - distance) / (radius + 0.5 - core), 0), 1);
      mask.data[y * size + x] = Math.round(
        brush.level * (brush.hardness >= 1 ? part : part * part * (3 - 2 * part)),
      );
    }
  }
  return mask;
}

describe("stroke", () => {
  const brushes: Brush[] = [
    HARD,
    { size: 1, hardness: 1, level: 255 },
    { size: 30, hardness: 0, level: 255 },
    { size: 33, hardness: 0.5, level: 200 },
    { size: 70, hardness: 0.9, level: 255 },
  ];
  const lines: [number, number, number, number][] = [
    [30, 30, 30, 30],
    [10, 50, 80, 50],
    [50, 5, 50, 90],
    [12.3, 80.1, 77.7, 20.9],
    [-20, -20, 40, 30],
    [95, 95, 130, 60],
  ];
  test.each(brushes.flatMap((brush) => lines.map((line) => [brush, line] as const)))(
    "%o %o",
    (brush, line) => {
      const [from, to] = [
        { x: line[0], y: line[1] },
        { x: line[2], y: line[3] },
      ];
      const mask = newMask(100, 100);
      stroke(mask, from, to, brush, "add");
      expect(same(mask.data, naive(100, from, to, brush).data)).toBe(true);
    },
  );

  test("the same piece twice changes nothing, and erasing takes it all away", () => {
    const mask = newMask(100, 100);
    const [from, to] = [
      { x: 20, y: 20 },
      { x: 70, y: 60 },
    ];
    stroke(mask, from, to, HARD, "add");
    const once = mask.data.slice();
    stroke(mask, from, to, HARD, "add");
    expect(same(mask.data, once)).toBe(true);
    stroke(mask, from, to, { ...HARD, size: 25 }, "remove");
    expect(share(mask)).toBe(0);
  });

  test("nothing outside its bounds changes", () => {
    const mask = newMask(100, 100);
    const rect = strokeBounds({ x: 33.4, y: 20 }, { x: 50, y: 61.2 }, HARD);
    stroke(mask, { x: 33.4, y: 20 }, { x: 50, y: 61.2 }, HARD, "add");
    const found = bounds(mask);
    expect(found.x).toBeGreaterThanOrEqual(rect.x);
    expect(found.y).toBeGreaterThanOrEqual(rect.y);
    expect(found.x + found.w).toBeLessThanOrEqual(rect.x + rect.w);
    expect(found.y + found.h).toBeLessThanOrEqual(rect.y + rect.h);
  });

  test("is quick at 2048 pixels with the widest brush", () => {
    const mask = newMask(2048, 2048);
    const times: number[] = [];
    for (let i = 0; i < 40; i++) {
      const start = performance.now();
      const x = 300 + 30 * i;
      stroke(
        mask,
        { x, y: 900 + 10 * i },
        { x: x + 30, y: 910 + 10 * i },
        { size: 512, hardness: 1, level: 255 },
        "add",
      );
      times.push(performance.now() - start);
    }
    times.sort((a, b) => a - b);
    expect(times[20]).toBeLessThan(15);
  });
});

describe("shapes", () => {
  test("a rectangle is exact, and clipped", () => {
    const mask = newMask(10, 8);
    expect(rectangle(mask, { x: -2, y: 3, w: 5, h: 20 }, "add")).toEqual({ x: 0, y: 3, w: 3, h: 5 });
    expect([...mask.data].filter((level) => level === 255)).toHaveLength(15);
    rectangle(mask, { x: 0, y: 3, w: 3, h: 1 }, "remove");
    expect(at(mask, 0, 3)).toBe(0);
    expect(at(mask, 0, 4)).toBe(255);
  });

  test("an ellipse has its area and touches its rectangle", () => {
    const mask = newMask(100, 80);
    ellipse(mask, { x: 10, y: 20, w: 60, h: 40 }, "add");
    expect(share(mask) * 8000).toBeCloseTo(Math.PI * 30 * 20, -1);
    expect(bounds(mask)).toEqual({ x: 10, y: 20, w: 60, h: 40 });
    expect(at(mask, 40, 40)).toBe(255);
    expect(at(mask, 11, 21)).toBe(0);
  });

  test("an outline has its area, holes by the even-odd rule", () => {
    const mask = newMask(50, 50);
    const square = (x: number, y: number, side: number) => [
      { x, y },
      { x: x + side, y },
      { x: x + side, y: y + side },
      { x, y: y + side },
    ];
    polygon(mask, square(5, 5, 30.5), "add");
    expect(at(mask, 5, 5)).toBe(255);
    expect(at(mask, 35, 10)).toBe(128);
    expect(share(mask) * 2500).toBeCloseTo(30.5 * 30.5, 0);
    const triangle = newMask(50, 50);
    polygon(
      triangle,
      [
        { x: 0, y: 0 },
        { x: 40, y: 0 },
        { x: 0, y: 40 },
      ],
      "add",
    );
    expect(share(triangle) * 2500).toBeCloseTo(800, 0);
    const ring = newMask(50, 50);
    polygon(ring, [...square(5, 5, 40), { x: 5, y: 5 }, ...square(15, 15, 20), { x: 15, y: 15 }], "add");
    expect(at(ring, 25, 25)).toBe(0);
    expect(at(ring, 10, 25)).toBe(255);
  });

  test("two points are no outline", () => {
    const mask = newMask(9, 9);
    polygon(
      mask,
      [
        { x: 0, y: 0 },
        { x: 9, y: 9 },
      ],
      "add",
    );
    expect(share(mask)).toBe(0);
  });
});

describe("flood", () => {
  test("fills the inside of an outline and stays there", () => {
    const mask = newMask(60, 60);
    rectangle(mask, { x: 10, y: 10, w: 30, h: 30 }, "add");
    rectangle(mask, { x: 12, y: 12, w: 26, h: 26 }, "remove");
    const area = flood(mask, { x: 20, y: 20 }, alikeInMask(mask), "add");
    expect(area).toEqual({ x: 12, y: 12, w: 26, h: 26 });
    expect(share(mask) * 3600).toBeCloseTo(900, 6);
  });

  test("follows a winding path", () => {
    const mask = newMask(40, 40);
    for (let i = 0; i < 40; i += 4) {
      rectangle(mask, { x: 0, y: i, w: 40, h: 1 }, "add");
      rectangle(mask, { x: i % 8 === 0 ? 0 : 39, y: i, w: 1, h: 1 }, "remove");
    }
    flood(mask, { x: 5, y: 2 }, alikeInMask(mask), "add");
    expect(share(mask)).toBe(1);
  });

  test("takes one colour of a picture, with a tolerance", () => {
    const rgba = new Uint8ClampedArray(4 * 9);
    [10, 12, 90, 10, 30, 90, 10, 11, 10].forEach((level, i) => rgba.fill(level, 4 * i, 4 * i + 4));
    const mask = newMask(3, 3);
    flood(mask, { x: 0, y: 0 }, alikeInPicture(rgba, 5), "add");
    expect([...mask.data].map((level) => level / 255)).toEqual([1, 1, 0, 1, 0, 0, 1, 1, 1]);
  });

  test("beyond the picture there is nothing", () => {
    const mask = newMask(4, 4);
    expect(flood(mask, { x: 4, y: 0 }, alikeInMask(mask), "add")).toEqual({ x: 0, y: 0, w: 0, h: 0 });
  });
});

describe("the whole mask", () => {
  test("inverting twice is nothing", () => {
    const mask = newMask(20, 20);
    ellipse(mask, { x: 3, y: 3, w: 9, h: 9 }, "add");
    const before = mask.data.slice();
    invert(mask);
    expect(share(mask)).toBeGreaterThan(0.5);
    invert(mask);
    expect(same(mask.data, before)).toBe(true);
  });

  test("feathering keeps the amount, softens the edge, and keeps the border full", () => {
    const mask = newMask(100, 60);
    rectangle(mask, { x: 0, y: 0, w: 50, h: 60 }, "add");
    feather(mask, 10);
    expect(share(mask)).toBeCloseTo(0.5, 2);
    expect(at(mask, 0, 30)).toBe(255);
    expect(at(mask, 99, 0)).toBe(0);
    expect(at(mask, 49, 30)).toBeGreaterThan(115);
    expect(at(mask, 50, 30)).toBeLessThan(140);
    const row = [...mask.data.subarray(0, 100)];
    expect(row.every((level, i) => i === 0 || level <= (row[i - 1] as number))).toBe(true);
    // The standard deviation of the softened edge is half of the asked radius.
    const steps = row.slice(1).map((level, i) => (row[i] as number) - level);
    const mean = steps.reduce((sum, step, i) => sum + step * (i + 1), 0) / 255;
    const variance = steps.reduce((sum, step, i) => sum + step * (i + 1 - mean) ** 2, 0) / 255;
    expect(Math.sqrt(variance)).toBeCloseTo(5, 0);
  });

  test("growing and shrinking move the edge", () => {
    const mask = newMask(80, 80);
    rectangle(mask, { x: 30, y: 30, w: 20, h: 20 }, "add");
    growBy(mask, 5);
    expect(bounds(mask)).toEqual({ x: 25, y: 25, w: 30, h: 30 });
    expect(at(mask, 25, 25)).toBe(0); // round corners
    growBy(mask, -5);
    expect(bounds(mask)).toEqual({ x: 30, y: 30, w: 20, h: 20 });
    expect(at(mask, 30, 40)).toBe(255);
    growBy(mask, 0.5);
    expect(at(mask, 29, 40)).toBe(128);
  });

  test("bounds and share of an empty mask", () => {
    expect(bounds(newMask(5, 5))).toEqual({ x: 0, y: 0, w: 0, h: 0 });
    expect(share(newMask(5, 5))).toBe(0);
  });

  test("several masks are one", () => {
    const [a, b] = [newMask(4, 1), newMask(4, 1)];
    a.data.set([0, 100, 200, 0]);
    b.data.set([50, 50, 255, 0]);
    expect([...combined([a, b], { width: 4, height: 1 }).data]).toEqual([50, 100, 255, 0]);
  });

  test("a part of a mask, and beyond", () => {
    const mask = newMask(3, 3);
    mask.data.set([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect([...framed(mask, { x: 1, y: -1, w: 3, h: 3 }).data]).toEqual([0, 0, 0, 2, 3, 0, 5, 6, 0]);
  });

  test("brightness as a mask", () => {
    const rgba = new Uint8ClampedArray([255, 255, 255, 255, 0, 0, 0, 255, 255, 255, 255, 0]);
    expect([...ofPicture(rgba, { width: 3, height: 1 }).data]).toEqual([255, 0, 0]);
  });
});
