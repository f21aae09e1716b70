import { expect, test } from "vitest";
import type { DrawRequest } from "../api";
import { jobOf, read, simpleOf, written } from "./simple";

const BODY = {
  model: "gesso-mini",
  request: {
    prompt: "ein rotes Auto – 車",
    seed: 7,
    num_images: 4,
    num_steps: 9,
    variation: { seed: 2n ** 63n, strength: 0.1 },
    source: { strength: 0.5 },
  } as unknown as DrawRequest,
  assets: { image: "01ABC" },
  front: { styles: ["ink"] },
};
const MADE = simpleOf(BODY, { title: "Cars", behind: ", at night", choices: ["count"] });
const chosen = { words: " a boat ", negative: "no", count: 2, size: null, seed: null };

test("what is fixed goes into the address and out of it again", () => {
  const back = read(written(MADE));
  expect(back).toEqual(MADE);
  expect(written(MADE)).toMatch(/^[\w-]+$/);
  expect(jobOf(MADE, chosen)).toEqual({
    model: "gesso-mini",
    front: { styles: ["ink"] },
    request: {
      prompt: "a boat, at night",
      num_images: 2,
      num_steps: 9,
      variation: { seed: 2n ** 63n, strength: 0.1 },
    },
  });
});

test("what is no such address is none", () => {
  const wrong = [null, "", "%%%", "e30", btoa("null"), btoa('{"title":1}'), "A".repeat(9000)];
  expect(wrong.map(read)).toEqual(wrong.map(() => null));
  const strange = { ...MADE, choices: ["count", "evil"] };
  expect(read(btoa(JSON.stringify({ ...strange, request: {}, example: "" })))?.choices).toEqual(["count"]);
});
