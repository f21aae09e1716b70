import { expect, test } from "vitest";
import { markAt, marksOf, named } from "./days";

const DAYS = [
  { day: "2026-11-30", images: 3 },
  { day: "2026-11-02", images: 2 },
  { day: "2026-10-31", images: 5 },
  { day: "2025-10-31", images: 10 },
];
const MARKS = marksOf(DAYS);
const daysOf = (found: ReturnType<typeof named>): string[] => found.map((one) => one.mark.day);

test("a day begins where those before it end", () => {
  expect(MARKS.map((one) => one.at)).toEqual([0, 3, 5, 10]);
  expect([0, 2, 3, 4, 5, 9, 10, 19, 99].map((place) => markAt(MARKS, place))).toEqual([
    0, 0, 1, 1, 2, 2, 3, 3, 3,
  ]);
  expect(markAt([], 5)).toBe(0);
});

test("months have names where there is room, years where months are too many, days where there are few", () => {
  expect(daysOf(named(MARKS, 20, 0.1))).toEqual(["2026-11-30", "2026-10-31", "2025-10-31"]);
  expect(daysOf(named(MARKS, 20, 0.3))).toEqual(["2026-11-30", "2025-10-31"]);
  expect(named(MARKS, 20, 0.4)).toEqual([
    { mark: MARKS[0], isYear: true },
    { mark: MARKS[3], isYear: true },
  ]);
  expect(daysOf(named(MARKS.slice(0, 3), 10, 0.1))).toEqual(["2026-11-30", "2026-11-02", "2026-10-31"]);
});
