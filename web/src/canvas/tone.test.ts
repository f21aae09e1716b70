import { expect, test } from "vitest";
import { blended, looked, mirrored, scaled, shifted, toned } from "./tone";

const SIZE = { width: 3, height: 2 };
const levels = (...values: number[]): Uint8ClampedArray =>
  new Uint8ClampedArray(values.flatMap((value) => [value, value, value, 255]));
const greys = (rgba: Uint8ClampedArray): number[] => [...rgba].filter((_, i) => i % 4 === 0);
const PICTURE = levels(10, 20, 30, 40, 50, 60);

test("a shift repeats the edge", () => {
  expect(greys(shifted(PICTURE, SIZE, 1, 0))).toEqual([10, 10, 20, 40, 40, 50]);
  expect(greys(shifted(PICTURE, SIZE, -1, 1))).toEqual([20, 30, 30, 20, 30, 30]);
  expect(greys(shifted(PICTURE, SIZE, 0, 0))).toEqual(greys(PICTURE));
});

test("a mirror twice is nothing", () => {
  expect(greys(mirrored(PICTURE, SIZE, "x"))).toEqual([30, 20, 10, 60, 50, 40]);
  expect(greys(mirrored(PICTURE, SIZE, "y"))).toEqual([40, 50, 60, 10, 20, 30]);
  expect(mirrored(mirrored(PICTURE, SIZE, "x"), SIZE, "x")).toEqual(PICTURE);
});

test("scaling keeps the middle", () => {
  const size = { width: 9, height: 9 };
  const dot = new Uint8ClampedArray(81 * 4).fill(255);
  dot.fill(0, 4 * 40, 4 * 40 + 3);
  expect(greys(scaled(dot, size, 2))[40]).toBe(0);
  const larger = greys(scaled(dot, size, 2)).reduce((sum, level) => sum + 255 - level, 0);
  const smaller = greys(scaled(dot, size, 0.5)).reduce((sum, level) => sum + 255 - level, 0);
  expect(larger).toBeGreaterThan(3 * 255);
  expect(smaller).toBeLessThanOrEqual(255);
  expect(scaled(dot, size, 1)).toEqual(dot);
});

test("tones do what they say, and keep alpha", () => {
  const red = new Uint8ClampedArray([200, 40, 40, 77]);
  const sum = (pixel: Uint8ClampedArray): number =>
    (pixel[0] as number) + (pixel[1] as number) + (pixel[2] as number);
  expect(sum(toned(red, "night", 1))).toBeLessThan(sum(red) / 2);
  expect(sum(toned(red, "brighter", 1))).toBeGreaterThan(sum(red));
  expect(sum(toned(red, "darker", 0.5))).toBeGreaterThan(sum(toned(red, "darker", 1)));
  const grey = toned(red, "grey", 1);
  expect(grey[0]).toBe(grey[1]);
  expect(toned(red, "warmer", 1)[2]).toBeLessThan(40);
  for (const name of ["night", "vivid", "pale", "sepia", "contrast", "softer", "cooler"] as const) {
    expect(toned(red, name, 1)[3]).toBe(77);
    expect(toned(red, name, 1)).not.toEqual(red);
  }
});

test("changes follow each other", () => {
  const both = looked(PICTURE, SIZE, [
    { op: "mirror", axis: "x" },
    { op: "shift", x: 1 / 3, y: 0 },
  ]);
  expect(greys(both)).toEqual([30, 30, 20, 60, 60, 50]);
  expect(looked(PICTURE, SIZE, [])).toBe(PICTURE);
});

test("a change keeps to the mask", () => {
  const mask = { width: 3, height: 2, data: new Uint8Array([0, 255, 128, 0, 0, 255]) };
  expect(greys(blended(PICTURE, levels(0, 0, 0, 0, 0, 0), mask))).toEqual([10, 0, 15, 40, 50, 0]);
});
