import { expect, test } from "vitest";
import { fit } from "./fitting";

const options = { gap: 16, below: 40, most: 10_000 };

test("pictures are as large as they fit", () => {
  expect(fit(1, 1, { width: 1000, height: 740 }, options)).toEqual({ columns: 1, width: 700 });
  expect(fit(4, 1, { width: 1000, height: 1000 }, options)).toEqual({ columns: 2, width: 452 });
  expect(fit(4, 1, { width: 2000, height: 400 }, options).columns).toBe(4);
  expect(fit(4, 1, { width: 300, height: 2000 }, options).columns).toBe(1);
});

test("no picture is larger than it may be, and none leaves the stage", () => {
  for (const count of [1, 2, 3, 4, 5, 8, 16]) {
    for (const ratio of [0.5, 1, 16 / 9]) {
      const stage = { width: 900, height: 700 };
      const { columns, width } = fit(count, ratio, stage, { ...options, most: 512 });
      const rows = Math.ceil(count / columns);
      expect(width).toBeLessThanOrEqual(512);
      expect(columns * width + (columns - 1) * 16).toBeLessThanOrEqual(stage.width);
      expect(rows * (width / ratio + 40) + (rows - 1) * 16).toBeLessThanOrEqual(stage.height + rows);
    }
  }
});
