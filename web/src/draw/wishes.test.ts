import { expect, test } from "vitest";
import type { Job, Picture } from "../api";
import { again, bestSize, larger } from "./wishes";

const model = (side: number) => ({
  defaults: {
    width: side,
    height: side,
    size_multiple: 16,
    num_steps: 20,
    guidance_scale: 7,
    sampler: "euler",
    schedule: "karras",
    max_clip_skip: 2,
  },
});
const job = (request: object, assets = {}): Job =>
  ({
    model: "m",
    assets,
    front: {},
    request: { prompt: "a cat", num_images: 4, seed: 7, ...request },
  }) as unknown as Job;
const picture = { id: "j-2", index: 2, seed: 7, width: 256, height: 256, url: "/v1/images/j-2" } as Picture;

test("again is the same with a seed that is open", () => {
  expect(again(job({ first_index: 3 })).request).toEqual({
    prompt: "a cat",
    num_images: 4,
    seed: null,
    first_index: 0,
  });
});

test("larger draws the same noise once more, in two passes", async () => {
  const { request } = await larger(job({ first_index: 3 }), picture, false);
  expect(request).toMatchObject({ seed: 7, first_index: 5, num_images: 1, hires: { scale: 2 } });
  const twice = await larger(job({ hires: { scale: 2 } }), picture, true);
  expect(twice.request.hires).toMatchObject({ scale: 4, strength: 0.05 });
});

test("an enlarged picture is drawn from at the model's own size, in its shape", () => {
  expect(bestSize({ width: 256, height: 256 }, model(256))).toEqual([256, 256]);
  expect(bestSize({ width: 512, height: 512 }, model(256))).toEqual([256, 256]);
  expect(bestSize({ width: 640, height: 384 }, model(256))).toEqual([336, 192]);
  expect(bestSize({ width: 512, height: 768 }, model(512))).toEqual([512, 768]);
});
