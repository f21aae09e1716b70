import { expect, test } from "vitest";
import { backgroundOf, filled } from "./cutting";
import { newMask, rectangle } from "./mask";

const SIZE = { width: 40, height: 30 };

/** A picture by the colour of each pixel. */
function picture(colour: (x: number, y: number) => [number, number, number]): Uint8ClampedArray {
  const rgba = new Uint8ClampedArray(4 * SIZE.width * SIZE.height);
  for (let y = 0; y < SIZE.height; y++)
    for (let x = 0; x < SIZE.width; x++) rgba.set([...colour(x, y), 255], 4 * (y * SIZE.width + x));
  return rgba;
}
const inside = (x: number, y: number, by = 0): boolean =>
  x >= 10 + by && x < 30 - by && y >= 8 + by && y < 22 - by;

test("a background is what hangs together with the rim, not a hole of its colour", () => {
  const rgba = picture((x, y) => (inside(x, y) && !inside(x, y, 5) ? [200, 30, 30] : [240, 250, 245]));
  const mask = backgroundOf(rgba, SIZE);
  expect(mask).not.toBeNull();
  for (let y = 0; y < SIZE.height; y++)
    for (let x = 0; x < SIZE.width; x++) expect(mask?.data[y * SIZE.width + x]).toBe(inside(x, y) ? 0 : 255);
});

test("a rim of many colours is no background", () => {
  expect(
    backgroundOf(
      picture((x, y) => [(x * 37) % 256, (y * 91) % 256, (x * y) % 256]),
      SIZE,
    ),
  ).toBeNull();
});

test("a hole is filled with what is around it, and the rest stays", () => {
  const mask = newMask(SIZE.width, SIZE.height);
  rectangle(mask, { x: 10, y: 8, w: 20, h: 14 }, "add");
  const plain = filled(
    picture((x, y) => (inside(x, y) ? [255, 0, 0] : [20, 130, 240])),
    mask,
  );
  expect(plain).toEqual(picture(() => [20, 130, 240]));
  // Between a dark and a light side it runs from one to the other.
  const ramp = filled(
    picture((x, y) => (inside(x, y) ? [255, 0, 0] : x < 20 ? [40, 40, 40] : [200, 200, 200])),
    mask,
  );
  const along = [...Array(20).keys()].map((x) => ramp[4 * (15 * SIZE.width + 10 + x)] as number);
  expect(along.every((level, i) => level >= (along[i - 1] ?? 0) - 2)).toBe(true);
  expect(along[0]).toBeLessThan(80);
  expect(along.at(-1)).toBeGreaterThan(160);
  expect(
    filled(
      picture(() => [1, 2, 3]),
      newMask(SIZE.width, SIZE.height),
    ),
  ).toEqual(picture(() => [1, 2, 3]));
});
