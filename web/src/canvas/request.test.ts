import { describe, expect, test } from "vitest";
import type { Model } from "../api";
import { bodyOf, drawnSize, isClose, settingsOf, startSettings, usualStrength, type Plan } from "./request";

const DEFAULTS = { width: 256, height: 256, size_multiple: 16 };
const MINI = { name: "gesso-mini", family: "gesso-mini", needs: [], defaults: DEFAULTS } as unknown as Model;
const SIZE = { width: 256, height: 256 };

function plan(values: Partial<Plan> = {}): Plan {
  return {
    mode: "part",
    settings: { ...startSettings(), prompt: "a green car", count: 2 },
    model: MINI,
    size: SIZE,
    borders: null,
    assets: { image: "IMAGE", mask: "MASK", hints: [] },
    controls: [],
    ...values,
  };
}

test("a part", () => {
  expect(bodyOf(plan())).toEqual({
    model: "gesso-mini",
    request: { prompt: "a green car", num_images: 2, source: { strength: 0.75 }, mask: { blur: 6 } },
    assets: { image: "IMAGE", mask: "MASK" },
  });
});

test("a part of a large picture is drawn alone, and put back", () => {
  const large = { width: 2048, height: 1024 };
  const body = bodyOf(plan({ size: large }));
  expect(body.request).toMatchObject({ mask: { area: "masked", padding: 32 } });
  expect(body.request).not.toHaveProperty("width");
  const settings = { ...plan().settings, close: false };
  const whole = bodyOf(plan({ size: large, settings }));
  expect(whole.request).toMatchObject({ width: 368, height: 176 });
  expect(whole.request).not.toHaveProperty("mask.area");
});

test("borders go with no mask and no size", () => {
  const body = bodyOf(
    plan({ mode: "extend", borders: [0, 0, 32, 0], assets: { image: "IMAGE", mask: null, hints: [] } }),
  );
  expect(body.request).toMatchObject({
    source: { strength: 0.3, outpaint: [0, 0, 32, 0] },
    mask: { blur: 8 },
  });
  expect(body.assets).toEqual({ image: "IMAGE" });
});

test("the whole takes no mask, even where one is painted", () => {
  const body = bodyOf(plan({ mode: "whole" }));
  expect(body.request).not.toHaveProperty("mask");
  expect(body.assets).toEqual({ image: "IMAGE" });
  expect(body.request.source).toEqual({ strength: 0.6 });
});

test("hints are the pictures that were seen: no preprocessor is named", () => {
  const body = bodyOf(
    plan({
      mode: "guide",
      assets: { image: "IMAGE", mask: null, hints: ["HINT"] },
      controls: [{ model: "gesso-edges", weight: 0.8, start: 0, end: 1 }],
    }),
  );
  expect(body.request.controls).toEqual([{ model: "gesso-edges", weight: 0.8, start: 0, end: 1 }]);
  expect(body.assets).toEqual({ image: "IMAGE", "hint:0": "HINT" });
  expect(body.request.source).toEqual({ strength: 1 });
});

test("what is set goes along, what is not is left to the model", () => {
  const settings = {
    ...plan().settings,
    negative: "blurry",
    num_steps: 9,
    seed: 2n ** 63n,
    content: "noise" as const,
    strength: { ...startSettings().strength, part: 1 },
    rest: { sampler: "euler" },
  };
  expect(bodyOf(plan({ settings })).request).toEqual({
    sampler: "euler",
    prompt: "a green car",
    negative_prompt: "blurry",
    num_steps: 9,
    seed: 2n ** 63n,
    num_images: 2,
    source: { strength: 1 },
    mask: { blur: 6, content: "noise" },
  });
});

test("models that edit by instruction take no strength", () => {
  const model = { ...MINI, needs: ["image"] } as unknown as Model;
  expect(bodyOf(plan({ mode: "whole", model })).request).not.toHaveProperty("source");
});

describe("sizes", () => {
  test("up to twice the pixels are drawn as they are", () => {
    expect(drawnSize({ width: 320, height: 320 }, DEFAULTS)).toBeNull();
    expect(drawnSize({ width: 1024, height: 512 }, DEFAULTS)).toEqual({ width: 368, height: 176 });
    expect(drawnSize({ width: 4096, height: 16 }, { ...DEFAULTS, width: 64, height: 64 })).toEqual({
      width: 1024,
      height: 16,
    });
  });

  test("drawing the part alone follows the size, unless it is chosen", () => {
    const settings = startSettings();
    expect(isClose(settings, SIZE, DEFAULTS)).toBe(false);
    expect(isClose(settings, { width: 1024, height: 1024 }, DEFAULTS)).toBe(true);
    expect(isClose({ ...settings, close: true }, SIZE, DEFAULTS)).toBe(true);
  });
});

test("the settings of a picture, without what says nothing", () => {
  const request = {
    prompt: "a red car",
    negative_prompt: "",
    num_steps: 20,
    sampler: "dpmpp_2m",
    clip_skip: 1,
    loras: [],
    preset: "gesso" as const,
    conventions: { syntax: "a1111" as const },
    seed: 7,
    width: 256,
  };
  expect(settingsOf({ request: request as never, model: "gesso-mini" }, () => true)).toEqual({
    prompt: "a red car",
    negative: "",
    num_steps: 20,
    model: "gesso-mini",
    rest: { sampler: "dpmpp_2m" },
  });
  expect(settingsOf({ request: request as never, model: "gone" }, () => false)).not.toHaveProperty("model");
  expect(settingsOf({}, () => true)).toEqual({ rest: {} });
});

test("the small model extends with little strength", () => {
  expect(usualStrength("extend", "gesso-mini")).toBe(0.3);
  expect(usualStrength("extend", "sd15")).toBe(0.75);
});
