import { expect, test } from "vitest";
import type { Rest } from "../state/form.svelte";
import { leftovers, without } from "./leftover";

const rest = {
  clip_skip: 2,
  sigmas: [14, 7, 0],
  hires: { scale: 2, num_steps: 12, prompt: null },
  variation: { seed: 3, strength: 0.2, width: 512 },
} as unknown as Rest;

test("what no field shows is told, and nothing else", () => {
  expect(leftovers(rest).map((one) => `${one.path.join(".")} ${one.value}`)).toEqual([
    "sigmas [14,7,0]",
    "hires.num_steps 12",
    "variation.width 512",
  ]);
  expect(leftovers({ clip_skip: 2 })).toEqual([]);
});

test("each can be taken away", () => {
  const [sigmas, steps] = leftovers(rest);
  expect(without(rest, sigmas!)).not.toHaveProperty("sigmas");
  expect(without(rest, steps!).hires).toEqual({ scale: 2, prompt: null });
});
