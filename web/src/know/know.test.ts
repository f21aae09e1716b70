import { describe, expect, test } from "vitest";
import { AxisError, axisText, countOf, split, valuesOf } from "./axes";
import { isModelFile, modelName } from "./drop";
import { planOf, sheetOf, type SheetJob } from "./sheet";
import { bytes, day, duration, parameters, shortHash } from "./words";

function reason(name: string, values: string): string {
  try {
    valuesOf({ name, values });
  } catch (error) {
    if (error instanceof AxisError) return error.reason;
    throw error;
  }
  return "read";
}

describe("the values of an axis", () => {
  test.each([
    ["steps", "4, 8,20", ["4", "8", "20"]],
    ["steps", "1-5", ["1", "2", "3", "4", "5"]],
    ["steps", "10-4 (-3)", ["10", "7", "4"]],
    ["steps", "1-10 [4]", ["1", "4", "7", "10"]],
    ["guidance", "0-1 (+0.25)", ["0", "0.25", "0.5", "0.75", "1"]],
    ["guidance", "0.1-0.4(+0.1)", ["0.1", "0.2", "0.3", "0.4"]],
    ["guidance", "1-2 [3], 9", ["1", "1.5", "2", "9"]],
    ["lora:comic", "0-1 (+0.5)", ["0", "0.5", "1"]],
    ["seed", "18446744073709551615", ["18446744073709551615"]],
    ["prompt", 'red, "green, bright", "a ""quote"""', ["red", "green, bright", 'a "quote"']],
    ["size", "256, 384x256", ["256", "384x256"]],
    ["sampler", "euler, dpmpp_2m", ["euler", "dpmpp_2m"]],
  ])("%s=%s", (name, values, expected) => {
    expect(valuesOf({ name, values })).toEqual(expected);
  });

  test.each([
    ["steps", "  ", "empty"],
    ["steps", "4,,8", "gap"],
    ["steps", "4,8,", "gap"],
    ["steps", "many", "number"],
    ["steps", "1.5", "whole"],
    ["steps", "8-4 (+1)", "range"],
    ["steps", "1-4 (0)", "range"],
    ["guidance", "1-2 [0]", "range"],
    ["prompt", '"red', "quote"],
    ["prompt", '"red" green', "quote"],
    ["size", "wide", "size"],
    ["steps", "1-200,1-200", "many"],
  ])("%s=%s is refused: %s", (name, values, expected) => {
    expect(reason(name, values)).toBe(expected);
  });

  test("what is sent reads as what was shown", () => {
    const axis = { name: "prompt", values: 'red, "green, bright", "say ""hi"""' };
    const sent = axisText(axis);
    expect(split(sent.slice("prompt=".length))).toEqual(valuesOf(axis));
  });

  test("a sheet has the product of its axes", () => {
    expect(
      countOf([
        { name: "steps", values: "4,8,20" },
        { name: "guidance", values: "1-7 (+2)" },
      ]),
    ).toBe(12);
  });
});

function job(id: string, axes: Record<string, string>, status = "succeeded"): SheetJob {
  return { id, status, created_at: "2026-01-01T00:00:00Z", metadata: { axes }, outputs: [] };
}

describe("a sheet", () => {
  const drawn = [
    job("a", { steps: "4", guidance: "1" }),
    job("b", { steps: "4", guidance: "3" }),
    job("c", { steps: "8", guidance: "1" }),
    job("d", { steps: "8", guidance: "3" }, "failed"),
  ];
  const sheet = sheetOf([...drawn].reverse());

  test("has the axes in the order that its maker noted, where the server sorts their names", () => {
    const noted = drawn.map((one) => ({
      ...one,
      metadata: { ...one.metadata, order: ["guidance", "steps"] },
    }));
    const turned = sheetOf([...noted].reverse());
    expect([turned.x.label, turned.y.label]).toEqual(["guidance", "steps"]);
    expect(turned.at(0, 1, 0)?.id).toBe("c");
  });

  test("has columns and rows in the order in which they were asked for", () => {
    expect(sheet.x).toEqual({ label: "steps", values: ["4", "8"] });
    expect(sheet.y).toEqual({ label: "guidance", values: ["1", "3"] });
    expect(sheet.at(1, 0, 0)?.id).toBe("c");
    expect([sheet.size, sheet.done, sheet.failed]).toEqual([4, 3, 1]);
  });

  test("shows a job that was tried again instead of the one that failed", () => {
    const again = sheetOf([job("e", { steps: "8", guidance: "3" }), ...[...drawn].reverse()]);
    expect(again.at(1, 1, 0)?.id).toBe("e");
    expect([again.size, again.done, again.failed]).toEqual([4, 4, 0]);
  });

  test("has a hole where a job was deleted", () => {
    expect(sheetOf([drawn[3]!, drawn[1]!, drawn[0]!]).at(1, 0, 0)).toBeUndefined();
  });

  test("lays further axes out as pages", () => {
    const three = sheetOf([
      job("b", { steps: "4", guidance: "1", seed: "2", eta: "1" }),
      job("a", { steps: "4", guidance: "1", seed: "1", eta: "0" }),
    ]);
    expect(three.z).toEqual({ label: "seed, eta", values: ["1, 0", "2, 1"] });
    expect(three.at(0, 0, 1)?.id).toBe("b");
  });

  test("takes labels and values as text, whatever they are", () => {
    const odd = sheetOf([job("a", { __proto__x: "<img src=x>", constructor: "1" })]);
    expect(odd.at(0, 0, 0)?.id).toBe("a");
    expect(sheetOf([{ ...job("a", {}), metadata: { axes: [1] } }]).size).toBe(1);
  });

  test("its picture fits into what browsers can hold", () => {
    const wide = sheetOf(Array.from({ length: 100 }, (_, k) => job(String(k), { seed: String(k) })));
    const plan = planOf(wide, 1024, 1024);
    expect(plan.width).toBeLessThanOrEqual(16_000);
    expect(plan.cell.width).toBe(plan.cell.height);
    expect(planOf(sheet, 256, 256).cell).toEqual({ width: 256, height: 256 });
  });
});

describe("words", () => {
  test("bytes", () => {
    expect(bytes(0, "en")).toBe("0 bytes");
    expect(bytes(1_450_304, "en")).toBe("1.5 MB");
    expect(bytes(29_420_656, "en")).toBe("29 MB");
    expect(bytes(6_938_040_682, "de").replace(/\s/g, " ")).toBe("6,9 GB");
  });

  test("durations are as exact as an estimate is", () => {
    expect(duration(0.42, "en")).toBe("0.4 s");
    expect(duration(3.28, "en")).toBe("3 s");
    expect(duration(59.7, "en")).toBe("1 min");
    expect(duration(84, "en")).toBe("1 min 20 s");
    expect(duration(7500, "en")).toBe("2 h 5 min");
  });

  test("hashes, parameters, days", () => {
    expect(shortHash("0x6937e679bfc6b30b")).toBe("6937e679bf");
    expect(shortHash(null)).toBe("");
    expect(parameters(14_675_088, "en")).toBe("14.7 million");
    const now = new Date(2026, 10, 29, 12);
    expect(day(new Date(2026, 10, 29, 1), now, "en")).toBe("Today");
    expect(day(new Date(2026, 10, 28, 23), now, "de")).toBe("Gestern");
    expect(day(new Date(2026, 10, 20), now, "en")).toBe("Friday, November 20");
    expect(day(new Date(2025, 0, 1), now, "en-GB")).toMatch(/^Wednesday,? 1 January 2025$/);
  });
});

describe("files", () => {
  test("models are known by their endings", () => {
    expect(
      ["a.safetensors", "B.GGUF", "c.ckpt", "d.png", "safetensors"].map((name) => isModelFile({ name })),
    ).toEqual([true, true, true, false, false]);
    expect(modelName("my.model.safetensors")).toBe("my.model");
  });
});
