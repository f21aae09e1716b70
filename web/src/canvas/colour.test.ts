import { describe, expect, it } from "vitest";
import { colourOf, laid, textOf } from "./colour";

const area = { x: 0, y: 0, w: 1, h: 1 };
const one = (level: number) => ({ width: 1, height: 1, data: new Uint8Array([level]) });

function after(before: number[], level: number, colour: [number, number, number] | null): number[] {
  const out = new Uint8ClampedArray(before);
  laid(out, new Uint8ClampedArray(before), one(level), area, colour);
  return [...out];
}

describe("a colour laid over pixels", () => {
  it("covers wholly, in part, and not at all", () => {
    expect(after([10, 20, 30, 255], 255, [200, 100, 50])).toEqual([200, 100, 50, 255]);
    expect(after([0, 0, 0, 255], 51, [100, 200, 255])).toEqual([20, 40, 51, 255]);
    expect(after([10, 20, 30, 40], 0, [200, 100, 50])).toEqual([10, 20, 30, 40]);
  });

  it("is itself where nothing was, as strong as the brush", () => {
    expect(after([0, 0, 0, 0], 51, [100, 200, 255])).toEqual([100, 200, 255, 51]);
  });

  it("is taken away without its hue changing", () => {
    expect(after([100, 200, 255, 200], 255, null)).toEqual([100, 200, 255, 0]);
    expect(after([100, 200, 255, 100], 51, null)).toEqual([100, 200, 255, 80]);
  });

  it("is written as in CSS", () => {
    expect(textOf(colourOf("#0aFF7b"))).toBe("#0aff7b");
    expect(() => colourOf("red")).toThrow(RangeError);
  });
});
