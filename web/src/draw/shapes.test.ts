import { expect, test } from "vitest";
import { SHAPES, sizeOf } from "./shapes";

const model = (side: number, multiple: number) => ({
  defaults: {
    width: side,
    height: side,
    size_multiple: multiple,
    num_steps: 20,
    guidance_scale: 7,
    sampler: "euler",
    schedule: "karras",
    max_clip_skip: 2,
  },
});

test.each([
  [256, 16],
  [512, 8],
  [1024, 64],
])("shapes of a model of %d pixels keep area and ratio within its multiples of %d", (side, multiple) => {
  for (const shape of SHAPES) {
    const [w, h] = sizeOf(shape, model(side, multiple));
    expect(w % multiple).toBe(0);
    expect(h % multiple).toBe(0);
    expect(Math.abs((w * h) / side ** 2 - 1)).toBeLessThan(0.13);
    expect(Math.abs(w / h / (shape.ratio[0] / shape.ratio[1]) - 1)).toBeLessThan(0.13);
  }
  expect(sizeOf({ ratio: [1, 1] }, model(side, multiple))).toEqual([side, side]);
});
