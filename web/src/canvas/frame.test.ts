import { describe, expect, test } from "vitest";
import { dragged, frameOf, handleAt, isCrop, mapFrame, sidesOf } from "./frame";

const PICTURE = { width: 256, height: 256 };

describe("mapFrame", () => {
  test("borders on all sides", () => {
    const frame = frameOf(PICTURE, [32, 16, 48, 0]);
    expect(mapFrame(PICTURE, frame, 16)).toEqual({
      crop: { x: 0, y: 0, w: 256, h: 256 },
      borders: [32, 16, 48, 0],
      frame,
      widened: false,
    });
  });

  test("sides become multiples by wider borders, on the side that was dragged", () => {
    expect(mapFrame(PICTURE, frameOf(PICTURE, [0, 0, 30, 0]), 16)).toMatchObject({
      borders: [0, 0, 32, 0],
      widened: true,
    });
    expect(mapFrame(PICTURE, frameOf(PICTURE, [30, 0, 0, 0]), 16)).toMatchObject({ borders: [32, 0, 0, 0] });
    expect(mapFrame(PICTURE, frameOf(PICTURE, [30, 5, 1, 5]), 16)).toMatchObject({ borders: [30, 5, 2, 11] });
  });

  test("an odd picture grows on its other side, rather than being squeezed", () => {
    const odd = { width: 250, height: 100 };
    expect(mapFrame(odd, frameOf(odd, [0, 0, 6, 0]), 16)).toMatchObject({ borders: [0, 0, 6, 12] });
  });

  test("inwards crops, outwards extends", () => {
    const mapped = mapFrame(PICTURE, { x: 64, y: -32, w: 256, h: 288 }, 16);
    expect(mapped).toMatchObject({
      crop: { x: 64, y: 0, w: 192, h: 256 },
      borders: [0, 32, 64, 0],
      frame: { x: 64, y: -32, w: 256, h: 288 },
    });
  });

  test("what cannot be drawn", () => {
    expect(mapFrame(PICTURE, { x: 300, y: 0, w: 64, h: 64 }, 16)).toBe("outside");
    expect(mapFrame(PICTURE, frameOf(PICTURE, [0, 0, 0, 0]), 16)).toBe("unchanged");
    expect(mapFrame(PICTURE, frameOf(PICTURE, [4000, 0, 0, 0]), 16)).toBe("too-large");
  });
});

test("sides and frame are the same thing", () => {
  expect(sidesOf(PICTURE, frameOf(PICTURE, [3, -4, 5, 0]))).toEqual([3, -4, 5, 0]);
});

test("handles move their sides only, and never through the other", () => {
  const frame = { x: 0, y: 0, w: 100, h: 100 };
  expect(dragged(frame, "e", 20.4, 99)).toEqual({ x: 0, y: 0, w: 120, h: 100 });
  expect(dragged(frame, "nw", -10, -20)).toEqual({ x: -10, y: -20, w: 110, h: 120 });
  expect(dragged(frame, "w", 500, 0)).toEqual({ x: 84, y: 0, w: 16, h: 100 });
  expect(dragged(frame, "move", 5, 6)).toEqual({ x: 5, y: 6, w: 100, h: 100 });
});

test("the handle under the pointer", () => {
  const frame = { x: 100, y: 100, w: 200, h: 100 };
  expect(handleAt(frame, { x: 105, y: 98 })).toBe("nw");
  expect(handleAt(frame, { x: 300, y: 150 })).toBe("e");
  expect(handleAt(frame, { x: 200, y: 203 })).toBe("s");
  expect(handleAt(frame, { x: 200, y: 150 })).toBeNull();
  expect(handleAt(frame, { x: 400, y: 150 })).toBeNull();
});

test("a frame that only cuts off", () => {
  expect(isCrop(PICTURE, { x: 10, y: 10, w: 100, h: 100 })).toBe(true);
  expect(isCrop(PICTURE, { x: 10, y: 10, w: 300, h: 100 })).toBe(false);
  expect(isCrop(PICTURE, { x: 0, y: 0, w: 256, h: 256 })).toBe(false);
});
