import { expect, test } from "vitest";
import { differences, flat, wordsApart } from "./differences";
import { between, gridOf, moved, rowsInView } from "./grid";
import { comparedOf, labelOf, type Metadata } from "./metadata";
import { ALL, PART, Pages, type Ask, type LibraryPicture, type Page } from "./pages.svelte";

const picture = (number: number): LibraryPicture => ({ id: `p${number}` }) as LibraryPicture;

/** A server with so many pictures, and what it was asked. */
function server(count: number): {
  asked: number[];
  ask: Ask;
} {
  const asked: number[] = [];
  return {
    asked,
    ask: async (_wanted, skip, limit) => {
      asked.push(skip);
      const images = Array.from({ length: Math.min(limit, Math.max(count - skip, 0)) }, (_, index) =>
        picture(skip + index),
      );
      return { images, total: count, top: "top" };
    },
  };
}

test("cells fill the width, and the height is that of all rows", () => {
  const grid = gridOf(1000, 50_001, 180, 10);
  expect(grid.columns).toBe(5);
  expect(grid.columns * grid.cell + 4 * 10).toBeCloseTo(1000);
  expect(grid.rows).toBe(10_001);
  expect(grid.height).toBeCloseTo(10_001 * grid.pitch - 10);
  expect(gridOf(328, 3, 180, 8).columns).toBe(2);
  expect(gridOf(200, 3, 180, 8).columns).toBe(1);
  expect(gridOf(800, 0, 180, 8).height).toBe(0);
});

test("only rows in view are drawn", () => {
  const grid = gridOf(1000, 50_000, 180, 10);
  const [first, last] = rowsInView(grid, 5000 * grid.pitch, 800, 2);
  expect(first).toBe(4998);
  expect(last - first).toBeLessThan(10);
  expect(rowsInView(grid, -500, 800)[0]).toBe(0);
  expect(rowsInView(grid, 1e9, 800)).toEqual([10_000, 10_000]);
});

test("keys lead along the grid, and not out of it", () => {
  const to = (key: string, from: number): number | null => moved(key, from, 23, 5, 3);
  expect(to("ArrowRight", 4)).toBe(5);
  expect(to("ArrowLeft", 0)).toBe(0);
  expect(to("ArrowUp", 3)).toBe(3);
  expect(to("ArrowDown", 18)).toBe(22); // there is none below in the last row, so the last picture
  expect(to("ArrowDown", 21)).toBe(21);
  expect(to("End", 3)).toBe(22);
  expect(to("Home", 20)).toBe(0);
  expect(to("PageDown", 2)).toBe(17);
  expect(to("x", 2)).toBeNull();
  expect(moved("End", 0, 0, 5, 3)).toBeNull();
  expect(between(5, 2)).toEqual([2, 3, 4, 5]);
});

test("parts are asked for once, when they are looked at, and forgotten in the end", async () => {
  const { asked, ask } = server(50_000);
  const pages = new Pages(ask);
  await pages.open(ALL);
  expect([pages.total, pages.at(3)?.id, pages.at(PART)]).toEqual([50_000, "p3", undefined]);
  await Promise.all([pages.need(25_000, 25_020), pages.need(25_000, 25_020)]);
  expect(pages.at(25_007)?.id).toBe("p25007");
  expect(asked).toEqual([0, 25_000]);
  await pages.need(99, 101);
  expect(asked).toEqual([0, 25_000, 100]);
  for (let part = 10; part < 50; part++) await pages.need(part * PART, part * PART + 1);
  expect(pages.at(3)).toBeUndefined();
  expect(pages.find("p4905")).toBe(4905);
  await pages.need(49_990, 60_000);
  expect(pages.at(49_999)?.id).toBe("p49999");
});

test("what has changed elsewhere is no news", async () => {
  let count = 500;
  const pages = new Pages((...given) => server(count).ask(...given));
  await pages.open(ALL);
  expect(await pages.isCurrent()).toBe(true);
  count = 501;
  expect(await pages.isCurrent()).toBe(false);
  await pages.open(ALL, 300);
  expect([pages.total, pages.at(300)?.id, await pages.isCurrent()]).toEqual([501, "p300", true]);
});

test("an answer that is late does not replace the list that is wanted now", async () => {
  const answers: ((page: Page) => void)[] = [];
  const pages = new Pages(() => new Promise((resolve) => answers.push(resolve)));
  const first = pages.open({ ...ALL, q: "a" });
  const second = pages.open({ ...ALL, q: "ab" });
  answers[1]?.({ images: [picture(2)], total: 1, top: "" });
  await second;
  answers[0]?.({ images: [picture(1)], total: 9, top: "" });
  await first;
  expect([pages.total, pages.at(0)?.id]).toEqual([1, "p2"]);
});

test("a list that cannot be had says why, and can be asked for again", async () => {
  let fails = true;
  const { ask } = server(3);
  const pages = new Pages(async (...given) => {
    if (fails) throw new Error("offline");
    return await ask(...given);
  });
  await pages.open(ALL);
  expect(String(pages.error)).toContain("offline");
  fails = false;
  await pages.open(ALL);
  expect([pages.error, pages.total]).toEqual([null, 3]);
  pages.update([{ ...picture(1), starred: true }]);
  expect(pages.at(1)?.starred).toBe(true);
});

test("settings differ where they say other things", () => {
  const a = { prompt: "a cat", num_steps: 20, seed: 1, loras: [], source: { image: null, strength: null } };
  const b = { prompt: "a dog", num_steps: 20, seed: 1, loras: [{ name: "ink", weight: 0.70000001 }] };
  expect(differences(a, b)).toEqual([
    { path: "prompt", a: "a cat", b: "a dog" },
    { path: "loras[0].name", a: null, b: "ink" },
    { path: "loras[0].weight", a: null, b: "0.7" },
  ]);
  expect(differences(a, { ...a, schema: "x", version: 4 })).toEqual([]);
  expect(flat({ sigmas: [1, 0.5, 0] }).get("sigmas")).toBe("1, 0.5, 0");
});

test("of two pictures of one job their place in the seed differs", () => {
  const one = (first_index: number | null, index: number): Metadata =>
    ({
      library: { model: "m", seed: 7 },
      picture: { index },
      settings: first_index === null ? null : { prompt: "a cat", seed: 7, first_index },
      submitted: { prompt: "a cat", seed: 7, num_images: 4, first_index: 2 },
    }) as unknown as Metadata;
  const number = { path: "number", a: "3", b: "5" };
  expect(differences(comparedOf(one(2, 0)), comparedOf(one(4, 2)))).toEqual([number]);
  expect(differences(comparedOf(one(null, 0)), comparedOf(one(null, 2)))).toEqual([number]);
  expect(differences(comparedOf(one(2, 0)), comparedOf(one(2, 1)))).toEqual([]);
});

test("words that both have are told from those that one has", () => {
  const [left, right] = wordsApart("a red cat on grass", "a blue cat on the grass");
  const apart = (words: typeof left): string[] =>
    words.filter((one) => !one.same).map((one) => one.text.trim());
  expect([apart(left), apart(right)]).toEqual([["red"], ["blue", "the"]]);
  expect(left.map((one) => one.text).join("")).toBe("a red cat on grass");
  expect(wordsApart("", "x")).toEqual([[], [{ text: "x", same: false }]]);
});

test("fields within others have names for people, and new ones their own", () => {
  expect(labelOf("num_steps")).toBe("Steps");
  expect(labelOf("mask.blur")).toBe("Mask · Soft edge");
  expect(labelOf("loras[1].weight")).toBe("LoRA 2 · Weight");
  expect(labelOf("brand_new.thing[0]")).toBe("brand new · thing 1");
});
